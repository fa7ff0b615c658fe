"""A base that is held up gets off by itself, obeys a STOP at once, and is the policy's else."""

import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.navigation_commands import base_speeds, limited_speeds, waypoint_poses
from qwen_vla_ros.nodes.base_part import BasePart
from qwen_vla_ros.nodes.motion import Follow
from qwen_vla_ros.output_kinds import BaseRows
from qwen_vla_ros.recovery import Recovery
from qwen_vla_ros.sim.rooms.drive import DifferentialBase
from qwen_vla_ros.types import ActionChunk

BASE = Embodiment.load('mobile_base')
NAMES = ('dx', 'dy', 'dtheta')
STEPS = np.arange(1, 9)[:, None]
AHEAD, LEFT, STOP = STEPS * [0.15, 0, 0], STEPS * [0, 0, 0.3], STEPS * [0.001, 0, 0]
PERIOD_NS = 500_000_000


def recovery(**changed):
    options = {'relative_to': 'first', 'stop_m': 0.05, 'stop_rad': 0.1, **changed}
    return Recovery(NAMES, options)


def chunk(rows, number=0):
    return ActionChunk(np.asarray(rows, np.float32), NAMES, number * PERIOD_NS, 0.5)


def answers(own, asked, poses, speed=1.0):
    """What the base follows of one demand, said twice a second while it is at these poses."""
    given = [own.chunk(chunk(asked, n), pose, speed) for n, pose in enumerate(poses)]
    return ['policy' if (one.actions == np.float32(asked)).all() else one for one in given]


def drive(own, base, rows, seconds, free):
    """Let a base follow what becomes of the same waypoints, as cmd_vel would; its track [N, 3]."""
    options, speed, track = BASE.action_groups()[0].output.options, np.zeros(3), []
    options = {**options, 'holonomic': False, 'max_sideways_m': 0.3}
    for number in range(round(seconds / 0.5)):
        asked = chunk(rows, number)
        followed = (own.chunk(asked, base.odometry) if own else asked).actions.astype(float)
        base_rows = BaseRows(
            'odom', base.odometry, 0.5 * np.arange(1, 9), followed, 0, 0, tuple(speed)
        )
        poses = waypoint_poses(base_rows, 'first')
        wanted = np.repeat(base_speeds(base_rows, poses, options), 10, axis=0)
        for row in limited_speeds(wanted, speed, 0.05, options)[:10]:
            speed = row
            base.command(speed[0], speed[2])
            for _ in range(5):
                base.step(0.01, free)
            track.append(base.pose)
    return np.array(track)


def test_a_base_that_drives_or_turns_or_stands_as_it_is_told_is_the_policys():
    moving = [(0.06 * n, 0.0, 0.0) for n in range(20)]
    standing = [(0.0, 0.0, 0.0)] * 20
    assert set(answers(recovery(), AHEAD, moving)) == {'policy'}
    assert set(answers(recovery(), LEFT, standing)) == {'policy'}
    assert set(answers(recovery(), STOP, standing)) == {'policy'}


def test_one_that_is_told_to_drive_and_stands_turns_then_drives_on_then_obeys():
    own = recovery()
    held_up = answers(own, AHEAD, [(1.0, 2.0, 3.0)] * 3)
    assert held_up[:2] == ['policy', 'policy']
    assert own.begun == 1 and 'held up' in own.notice
    np.testing.assert_allclose(held_up[2].actions[:2], [[0, 0, 0.6], [0, 0, 1.2]], atol=1e-6)
    assert held_up[2].actions[:, 2].max() == 1.5
    assert (held_up[2].start_ns, held_up[2].names) == (2 * PERIOD_NS, NAMES)
    turned = own.chunk(chunk(AHEAD, 4), (1.0, 2.0, 3.0 + 1.1 - 2 * np.pi))  # past the cut of yaw
    np.testing.assert_allclose(turned.actions[:3, 0], [0.15, 0.3, 0.3], atol=1e-6)
    assert not turned.actions[:, 1:].any()
    off = own.chunk(chunk(LEFT, 6), (1.3, 2.0, -2.2))
    np.testing.assert_array_equal(off.actions, np.float32(LEFT))
    assert own.notice == ''


def test_it_turns_further_while_the_way_is_blocked_and_to_the_other_side_the_next_time():
    own = recovery()
    sides = []
    for number in range(60):
        yaw = 0.6 * number  # the base turns, and nothing else
        followed = own.chunk(chunk(AHEAD, number), (0.0, 0.0, yaw)).actions
        sides.append('turn' if followed[0, 2] else 'ahead')
    assert own.begun == 1
    assert sides[2] == 'turn'
    assert sides.count('turn') > 20 and sides.count('ahead') > 20
    own.reset()
    own.chunk(chunk(STOP), (0.0, 0.0, 0.0))
    first = answers(own, AHEAD, [(0.0, 0.0, 0.0)] * 3)[-1].actions[0, 2]
    own.chunk(chunk(STOP, 3), (0.0, 0.0, 0.0))
    second = answers(own, AHEAD, [(0.0, 0.0, 0.0)] * 3)[-1].actions[0, 2]
    assert first == -second != 0


def test_a_base_that_cannot_even_turn_is_given_back_to_the_policy():
    own = recovery()
    found = answers(own, AHEAD, [(0.0, 0.0, 0.0)] * 17)
    assert found[16] == 'policy'
    assert 'policy' not in found[2:15]


def test_a_stop_of_the_policy_counts_at_once_also_amid_a_recovery():
    own = recovery()
    answers(own, AHEAD, [(0.0, 0.0, 0.0)] * 3)
    stop = chunk(STOP, 3)
    assert own.chunk(stop, (0.0, 0.0, 0.0)) is stop
    assert own.notice == ''


def test_a_slower_base_has_as_much_longer():
    creeping = [(0.0125 * n, 0.0, 0.0) for n in range(20)]  # a twelfth of what it was told
    assert set(answers(recovery(), AHEAD, creeping, speed=0.1)) == {'policy'}
    own = recovery()
    answers(own, AHEAD, [(0.0, 0.0, 0.0)] * 10, speed=0.25)
    assert own.begun == 1
    assert set(answers(recovery(), AHEAD, [(0.0, 0.0, 0.0)] * 8, speed=0.25)) == {'policy'}


def test_waypoints_that_are_told_from_one_to_the_next_are_so_in_a_recovery():
    own = recovery(relative_to='previous')
    steps = np.tile([0.15, 0.0, 0.0], (8, 1))
    assert answers(own, steps, [(0.06 * n, 0.0, 0.0) for n in range(9)]) == ['policy'] * 9
    own.reset()
    turn = answers(own, steps, [(0.0, 0.0, 0.0)] * 3)[-1].actions
    np.testing.assert_allclose(turn.sum(0), [0, 0, 1.5], atol=1e-6)
    np.testing.assert_allclose(turn[0], [0, 0, 0.6], atol=1e-6)


def test_a_base_against_a_wall_comes_off_it_and_without_a_recovery_does_not():
    wall = 0.5

    def free(pose):
        return pose[0] < wall

    track = drive(None, DifferentialBase(), AHEAD, 20.0, free)
    assert np.ptp(track[100:], axis=0).max() < 1e-6
    base, own = DifferentialBase(), recovery()
    track = drive(own, base, AHEAD, 20.0, free)
    assert own.begun >= 1
    assert track[:, 0].max() < wall
    assert np.hypot(*(track[-1] - track[100])[:2]) > 0.5


def test_it_is_asked_for_at_an_output_of_velocities_and_needs_odometry(tmp_path):
    has = {name: Recovery.of(BASE.action_groups(name)[0]) is not None for name in BASE.layouts}
    outputs = {'path': False, 'follow_path': False, 'navigate': False}
    assert has == {'cmd_vel': True, 'twist': True, **outputs}
    blind = Embodiment.load('widowx')
    assert [Recovery.of(group) for group in blind.action_groups()] == [None, None]
    part = BasePart(BASE, BASE.action_groups())
    with pytest.raises(QwenVlaError, match='recovery: true needs x, y and yaw of an Odometry'):
        BasePart(blind, BASE.action_groups())
    for number in range(4):
        part.lead(Follow(chunk(AHEAD, number), number * PERIOD_NS, (0.0, 0.0, 0.0), 'odom'), 1.0)
    assert 'held up' in part.notice
    assert part.take().chunk.actions[0, 2] > 0
    part.forget()
    assert part.notice == ''
