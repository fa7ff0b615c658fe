"""In the shadow: predicted rows against what was commanded or measured, and against no motion."""

import numpy as np
import pytest

from qwen_vla_ros.shadow import Shadow
from qwen_vla_ros.types import ActionChunk

NAMES, STEP = ('a', 'b'), 100_000_000


def driven(time_ns: int) -> np.ndarray:
    """Return where the other driver has the joints: one moves, one rests."""
    return np.array([time_ns * 1e-9, 0.5])


def follow(shadow: Shadow, offset: float, reference: str = 'measured', until: int = 40) -> None:
    """Let a policy predict the driver's motion with an error in joint a."""
    for tick in range(until):
        now = tick * STEP
        if tick % 5 == 0:
            rows = np.array([driven(now + row * STEP) for row in range(6)]) + [offset, 0]
            shadow.expect(ActionChunk(rows.astype(np.float32), NAMES, now, 0.1), driven(now))
        shadow.saw(reference, now, driven(now))


def test_a_perfect_policy_has_skill_one():
    shadow = Shadow(NAMES)
    follow(shadow, 0.0)
    found = shadow.agreement()
    assert found.skill == pytest.approx(1.0, abs=1e-6)
    assert max(found.rms.values()) < 1e-6
    assert found.seconds > 3
    assert found.reference == 'measured'


def test_errors_are_told_by_joint():
    shadow = Shadow(NAMES)
    follow(shadow, 0.2)
    found = shadow.agreement()
    assert found.rms['a'] == pytest.approx(0.2, abs=1e-6)
    assert found.most['a'] == pytest.approx(0.2, abs=1e-6)
    assert found.rms['b'] == pytest.approx(0.0, abs=1e-6)
    assert 'worst a 0.200' in str(found)
    assert found.skill < 1


def test_the_other_way_is_worse_than_standing_still():
    shadow = Shadow(NAMES)
    for tick in range(30):
        now = tick * STEP
        rows = np.array([2 * driven(now) - driven(now + row * STEP) for row in range(6)])
        shadow.expect(ActionChunk(rows.astype(np.float32), NAMES, now, 0.1), driven(now))
        shadow.saw('measured', now, driven(now))
    assert shadow.agreement().skill == pytest.approx(-3.0, abs=1e-3)


def test_commands_come_before_measurements():
    shadow = Shadow(NAMES)
    shadow.saw('commands', 0, driven(0))
    follow(shadow, 0.0, 'commands')
    assert shadow.agreement().reference == 'commands'


def test_an_arm_that_rests_gives_no_skill():
    shadow = Shadow(NAMES)
    rows = np.zeros((4, 2), np.float32)
    for tick in range(10):
        shadow.expect(ActionChunk(rows, NAMES, tick * STEP, 0.1), np.zeros(2))
        shadow.saw('measured', tick * STEP, np.zeros(2))
    found = shadow.agreement()
    assert found.skill is None
    assert 'nothing moved' in str(found)


def test_rows_whose_instant_has_not_come_or_was_not_seen_are_not_compared():
    shadow = Shadow(NAMES)
    assert str(shadow.agreement()) == 'nothing compared yet'
    rows = np.zeros((4, 2), np.float32)
    shadow.expect(ActionChunk(rows, NAMES, 0, 0.1), np.zeros(2))
    shadow.saw('measured', 0, np.zeros(2))
    assert shadow.agreement().rows == 0
    shadow.saw('measured', 10**10, np.zeros(2))
    assert shadow.agreement().rows == 0
