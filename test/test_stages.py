"""Staged arming: one step up with a reason, any step down, one down for a fault."""

import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.stages import DRY_RUN, FULL, SCALED, SHADOW, STAGES, Stages


def test_stages_are_climbed_one_by_one():
    stages = Stages()
    for index, stage in enumerate(STAGES[1:], 1):
        assert stages.request(stage, 'looks right', index).granted
        assert stages.stage == stage
        assert stages.commands == (stage in (SCALED, FULL))
    assert [change.after for change in stages.history] == list(STAGES[1:])


def test_a_step_is_not_skipped():
    stages = Stages()
    change = stages.request(FULL, 'hurry', 0)
    assert not change.granted
    assert stages.stage == DRY_RUN
    assert 'shadow first' in str(change)


def test_what_stands_against_it_refuses_a_step_up_but_never_one_down():
    stages = Stages(SCALED)
    refused = stages.request(FULL, 'go', 0, ['safety: latched', 'camera ego missing'])
    assert not refused.granted
    assert 'safety: latched; camera ego missing' in refused.reason
    assert stages.request(DRY_RUN, 'lunch', 1, ['safety: latched']).granted
    assert stages.stage == DRY_RUN


def test_a_change_without_a_reason_is_refused():
    assert not Stages().request(SHADOW, '  ', 0).granted


@pytest.mark.parametrize(
    ('stage', 'after'), [(FULL, SCALED), (SCALED, SHADOW), (SHADOW, DRY_RUN), (DRY_RUN, DRY_RUN)]
)
def test_a_fault_falls_back_one_stage(stage, after):
    stages = Stages(stage)
    stages.fall_back('row refused', 5)
    assert stages.stage == after
    assert (stages.reason == 'row refused') == (stage != DRY_RUN)


def test_an_emergency_stop_leaves_no_stage_that_commands():
    stages = Stages(FULL)
    stages.fall_back('emergency stop', 5, SHADOW)
    assert stages.stage == SHADOW


def test_a_refused_request_is_kept_in_the_history():
    stages = Stages()
    stages.request(FULL, 'hurry', 7)
    (change,) = stages.history
    assert (change.granted, change.time_ns, change.after) == (False, 7, FULL)


def test_starting_anew_begins_where_the_node_began():
    stages = Stages(SHADOW)
    stages.request(SCALED, 'go', 1)
    stages.restart(2)
    assert stages.stage == SHADOW


def test_unknown_stages_are_refused():
    with pytest.raises(QwenVlaError, match='turbo'):
        Stages('turbo')
    with pytest.raises(QwenVlaError, match='dry-run, shadow, scaled, full'):
        Stages().request('armed', 'go', 0)
