"""Waypoints -> paths, goals and velocities of a base: SE(2) exact, limits held, STOP at zero."""

import numpy as np
import pytest

from qwen_vla_ros.command import OUTPUTS, output_of
from qwen_vla_ros.navigation_commands import STOP, limited_speeds, waypoint_poses
from qwen_vla_ros.output_kinds import BASE, BaseRows, CommandRefused

pytest.importorskip('nav_msgs.msg')
S = 1_000_000_000
QUARTER = np.pi / 2
LEFT_TURN = np.array([[1.0, 0.0, QUARTER], [2.0, 0.0, 0.0]])


def rows(waypoints, pose=(0.0, 0.0, 0.0), step_s=0.5, now_ns=10 * S, speed=(0.0, 0.0, 0.0)):
    times = step_s * np.arange(1, len(waypoints) + 1)
    return BaseRows('odom', pose, times, np.asarray(waypoints), 10 * S, now_ns, speed)


def plan(name, part, **options):
    return output_of(name).plan(part, options)


def test_waypoints_relative_to_the_one_before_turn_with_the_base():
    poses = waypoint_poses(rows(LEFT_TURN, (5.0, 6.0, QUARTER)), 'previous')
    np.testing.assert_allclose(poses, [[5, 7, np.pi], [3, 7, np.pi]], atol=1e-12)


def test_waypoints_relative_to_the_first_lie_in_the_axes_of_the_pose():
    poses = waypoint_poses(rows(LEFT_TURN, (5.0, 6.0, QUARTER)), 'first')
    np.testing.assert_allclose(poses, [[5, 7, np.pi], [5, 8, QUARTER]], atol=1e-12)


def test_a_path_has_all_waypoints_in_the_frame_of_the_pose():
    (timed,) = plan('Path', rows(LEFT_TURN)).timed
    message = timed.message
    assert (message.header.frame_id, message.header.stamp.sec) == ('odom', 10)
    places = [(pose.pose.position.x, pose.pose.position.y) for pose in message.poses]
    np.testing.assert_allclose(places, [(1, 0), (1, 2)], atol=1e-12)
    turn = message.poses[1].pose.orientation
    np.testing.assert_allclose([turn.z, turn.w], [np.sqrt(0.5)] * 2)
    assert [pose.header.frame_id for pose in message.poses] == ['odom', 'odom']


def test_a_goal_is_the_last_waypoint():
    (timed,) = plan('PoseStamped', rows(LEFT_TURN), relative_to='first').timed
    assert timed.message.pose.position.x == pytest.approx(2.0)
    assert timed.message.header.frame_id == 'odom'


@pytest.mark.parametrize('name', [name for name, kind in OUTPUTS.items() if kind.rows == BASE])
def test_a_chunk_that_hardly_moves_is_stop(name):
    found = plan(name, rows([[0.005, 0.0, 0.01], [0.005, 0.0, 0.01]], (1.0, 2.0, 0.0)))
    assert found.said == STOP
    if output_of(name).is_action:
        assert (found.cancel, found.timed) == (True, ())
    elif name == 'Path':
        assert [pose.pose.position.y for pose in found.timed[0].message.poses] == [2.0]
    elif name == 'PoseStamped':
        assert found.timed[0].message.pose.position.x == 1.0
    else:
        assert [item.speed for item in found.timed] == [(0.0, 0.0, 0.0)]


def test_a_loop_back_to_the_start_is_no_stop():
    there_and_back = [[0.3, 0.0, 0.0], [-0.3, 0.0, 0.0]]
    assert plan('Twist', rows(there_and_back)).said == ''
    assert plan('Twist', rows(there_and_back), stop_m=0.5).said == STOP


def test_turning_on_the_spot_is_no_stop():
    assert plan('Twist', rows([[0.0, 0.0, 0.2]])).said == ''


def drive(timed, pose=(0.0, 0.0, 0.0), until_ns=0):
    """Integrate what the base is told, exactly, message by message."""
    x, y, theta = pose
    ends = [item.at_ns for item in timed[1:]] + [max(until_ns, timed[-1].at_ns)]
    for item, end_ns in zip(timed, ends, strict=True):
        forward, left, turn = np.array(item.speed) * (end_ns - item.at_ns) * 1e-9
        half = turn / 2
        shrink = np.sinc(half / np.pi)
        angle = theta + half
        x += shrink * (np.cos(angle) * forward - np.sin(angle) * left)
        y += shrink * (np.sin(angle) * forward + np.cos(angle) * left)
        theta += turn
    return np.array([x, y, theta])


SLOW_ARC = np.tile([0.1 * np.sin(0.2) / 0.2, 0.1 * (1 - np.cos(0.2)) / 0.2, 0.2], (6, 1))
FREE = {'max_linear_acceleration': 10.0, 'max_angular_acceleration': 20.0, 'rate_hz': 50.0}


def test_an_arc_is_driven_to_its_end():
    part = rows(SLOW_ARC)
    timed = plan('Twist', part, **FREE).timed
    end = waypoint_poses(part, 'previous')[-1]
    np.testing.assert_allclose(drive(timed), end, atol=0.02)
    np.testing.assert_allclose(timed[20].speed, [0.2, 0.0, 0.4], atol=1e-9)


@pytest.mark.parametrize('seed', range(5))
def test_a_holonomic_base_follows_any_waypoints(seed):
    rng = np.random.default_rng(seed)
    part = rows(rng.uniform(-0.1, 0.1, (6, 3)) + [0.1, 0.0, 0.35], (1.0, -2.0, 0.7))
    timed = plan('Twist', part, holonomic=True, **FREE).timed
    end = waypoint_poses(part, 'previous')[-1]
    np.testing.assert_allclose(drive(timed, part.pose), end, atol=0.03)


def test_a_base_brakes_before_the_end_of_the_chunk():
    part = rows(np.tile([0.25, 0.0, 0.0], (6, 1)))
    timed = plan('Twist', part, rate_hz=10.0).timed
    assert max(item.speed[0] for item in timed) == pytest.approx(0.5)
    assert timed[-1].at_ns <= 10 * S + 3 * S
    assert drive(timed)[0] == pytest.approx(1.0, abs=0.06)  # of 1.5: two ramps of 1 s


def test_a_holonomic_base_goes_sideways_and_another_is_refused():
    aside = np.tile([0.0, 0.1, 0.0], (4, 1))
    timed = plan('Twist', rows(aside), holonomic=True, **FREE).timed
    np.testing.assert_allclose(timed[20].speed, [0.0, 0.2, 0.0], atol=1e-9)
    with pytest.raises(CommandRefused, match=r'0\.40 m sideways .*holonomic: true'):
        plan('Twist', rows(aside))


@pytest.mark.parametrize('seed', range(20))
def test_waypoints_that_waver_are_driven_beside(seed):
    rng = np.random.default_rng(seed)
    turn = rng.uniform(-0.25, 0.25)
    whole = rows(np.tile([0.12, 0.0, turn], (8, 1)))
    asked = waypoint_poses(whole, 'previous')
    wavering = asked + rng.normal(0.0, [0.03, 0.03, 0.05], (8, 3))
    timed = plan('Twist', rows(wavering), relative_to='first', **FREE).timed
    end = drive(timed)
    assert np.linalg.norm(end[:2] - asked[-1, :2]) < 0.15
    assert all(item.speed[1] == 0.0 for item in timed)


def test_what_lies_aside_is_turned_to():
    line = np.array([[0.15 * step, 0.1, 0.0] for step in range(1, 9)])
    end = drive(plan('Twist', rows(line), relative_to='first', **FREE).timed)
    np.testing.assert_allclose(end, [1.2, 0.1, 0.0], atol=0.03)


@pytest.mark.parametrize('seed', range(20))
def test_speeds_and_accelerations_are_within_the_limits_and_end_at_zero(seed):
    rng = np.random.default_rng(seed)
    waypoints = rng.uniform(-0.6, 0.6, (8, 3))
    start = (0.4, 0.0, -0.5)
    options = {'rate_hz': 20.0, 'holonomic': True}
    timed = plan('TwistStamped', rows(waypoints, step_s=0.3, speed=start), **options).timed
    speeds = np.array([start, *(item.speed for item in timed)])
    assert (np.hypot(speeds[1:, 0], speeds[1:, 1]) <= 0.5 + 1e-9).all()
    assert (np.abs(speeds[:, 2]) <= 1.0 + 1e-9).all()
    change = np.abs(np.diff(speeds, axis=0)) * 20.0
    assert (np.hypot(change[:, 0], change[:, 1]) <= 0.5 + 1e-9).all()
    assert (change[:, 2] <= 1.5 + 1e-9).all()
    assert timed[-1].speed == (0.0, 0.0, 0.0)
    assert (np.diff([item.at_ns for item in timed]) > 0).all()
    for item in timed:
        sent = item.message.twist
        assert (sent.linear.x, sent.linear.y, sent.angular.z) == item.speed


def test_a_speed_above_its_limit_keeps_its_curvature():
    options = output_of('Twist').filled({'max_linear': 0.5, 'max_angular': 1.0, **FREE})
    found = limited_speeds(np.tile([2.0, 0.0, 1.0], (200, 1)), np.zeros(3), 0.02, options)
    np.testing.assert_allclose(found[100], [0.5, 0.0, 0.25])


def test_a_hold_brakes_within_the_limits():
    part = rows([[0.0, 0.0, 0.0]], speed=(0.5, 0.0, 0.0))
    found = plan('TwistStamped', part, rate_hz=10.0, max_linear_acceleration=1.0)
    assert [item.speed[0] for item in found.timed] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert np.diff([item.at_ns for item in found.timed]).tolist() == [100_000_000] * 4
    assert found.timed[0].message.header.frame_id == 'base_link'


def test_a_chunk_that_is_over_brakes_at_once():
    timed = plan('Twist', rows(SLOW_ARC, now_ns=20 * S, speed=(0.02, 0.0, 0.0))).timed
    assert [item.speed[0] for item in timed] == pytest.approx([0.0])
    assert timed[0].at_ns == 20 * S
