"""Which episodes are left out, and for which reason."""

import numpy as np
import pytest

from qwen_vla_ros.data.cleaning import (
    EpisodeFacts,
    Thresholds,
    contradiction,
    facts_of,
    is_displacement,
    judge,
)

NAMES = ('waist', 'gripper')
SPREAD = {'waist': 1.0, 'gripper': 0.04}


def moving(count=50, waist=1.0, gripper=0.04, **known):
    ramp = np.linspace(0, 1, count)[:, None]
    rows = (ramp * [waist, gripper]).astype(np.float32)
    known = {'source': 's', 'episode': 0, 'frames': count, 'rate_hz': 10.0, **known}
    return facts_of(rows, NAMES, **known)


def reasons(*facts, **thresholds):
    report = judge(facts, SPREAD, Thresholds(**thresholds))
    return [item.reason for item in report.rejected]


def test_facts():
    facts = moving(waist=-2.0)
    assert facts.frames == 50
    np.testing.assert_allclose(facts.span, [2.0, 0.04], rtol=1e-6)
    np.testing.assert_allclose(facts.net, [-2.0, 0.04], rtol=1e-6)
    np.testing.assert_allclose(facts.way, [2.0, 0.04], rtol=1e-6)
    assert EpisodeFacts.from_dict({**facts.as_dict(), 'names': list(NAMES)}) == facts


def test_steps_are_summed_and_positions_are_not():
    facts = facts_of(np.float32([[0.1], [-0.3], [0.1]]), ['arm.dx'], source='s', episode=0)
    np.testing.assert_allclose([facts.net[0], facts.way[0]], [-0.1, 0.5], rtol=1e-6)
    assert [is_displacement(n) for n in ('dx', 'left.dyaw', 'x', 'dexterity', 'adx')] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ('facts', 'wanted'),
    [
        (moving(), []),
        (EpisodeFacts('s', 0, unreadable='damaged'), ['unreadable']),
        (moving(lost=5, of=55), []),
        (moving(lost=6, of=56), ['missing frames']),
        (moving(7), ['too short']),
        (moving(6001), ['too long']),
        (moving(6001, rate_hz=0.0), []),
        (moving(waist=0.03, gripper=0.001), ['still']),
        (moving(waist=0.03, gripper=0.02), []),
        (EpisodeFacts('s', 0, frames=1), []),
    ],
)
def test_reasons(facts, wanted):
    assert reasons(facts) == wanted


def test_noise_is_no_motion_however_small_the_range_of_the_set():
    noise = moving(waist=1e-3, gripper=0.0)
    report = judge([noise], {'waist': 1e-3, 'gripper': 0.04}, Thresholds())
    assert [item.reason for item in report.rejected] == ['still']


def test_lengths_far_from_the_median():
    usual = [moving(100, episode=i) for i in range(5)]
    assert reasons(*usual, moving(9), moving(1001)) == ['too short', 'too long']
    assert reasons(*usual, moving(10), moving(1000)) == []


@pytest.mark.parametrize(
    ('sentence', 'gripper', 'wanted'),
    [
        ('pick up the cup', 0.04, ''),
        ('pick up the cup', 0.003, 'the gripper moves by 0.075 of its range only'),
        ('Stack the blocks.', 0.0, 'the gripper moves by 0 of its range only'),
        ('push the cup', 0.0, ''),
    ],
)
def test_who_grasps_moves_the_gripper(sentence, gripper, wanted):
    assert contradiction(sentence, moving(gripper=gripper), SPREAD) == wanted


@pytest.mark.parametrize(
    ('sentence', 'step', 'wanted'),
    [
        ('move left', 0.1, ''),
        ('move left', -0.1, 'dy goes the other way'),
        ('Move the arm to the right.', 0.1, 'dy goes the other way'),
        ('move the cup left', -0.1, ''),
        ('move left and then right', -0.1, ''),
        ('go forward', -0.1, ''),
    ],
)
def test_who_is_sent_left_does_not_go_right(sentence, step, wanted):
    facts = facts_of(np.full((9, 1), step), ['dy'], source='s', episode=0, frames=9)
    assert contradiction(sentence, facts, {'dy': 0.2}) == wanted


def test_the_report_names_and_counts():
    report = judge([moving(), moving(7, episode=3)], SPREAD, Thresholds())
    assert report.counts() == {'too short': 1}
    assert str(report).splitlines() == [
        'kept 1 of 2 episodes (1 too short)',
        '  s: episode 3: too short: 7 frames, 8 are the least',
    ]
    assert report.as_dict()['thresholds']['min_frames'] == 8
