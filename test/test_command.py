"""Rows -> JointTrajectory: exact fields, rest at the end, nothing half-valid."""

import numpy as np
import pytest

from qwen_vla_ros import command
from qwen_vla_ros.command import (
    OUTPUTS,
    CommandRefused,
    OutputUnavailable,
    hold_trajectory,
    joint_trajectory,
    output_of,
)

pytest.importorskip('trajectory_msgs.msg')
NAMES = ('waist', 'elbow')
TIMES = np.array([0.05, 1.25])
ROWS = np.array([[0.1, 0.2], [0.3, 0.4]])


def test_points_names_and_stamp() -> None:
    message = joint_trajectory(NAMES, TIMES, ROWS, 2 * ROWS, 12_000_000_345)
    assert message.joint_names == ['waist', 'elbow']
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 345)
    assert [list(point.positions) for point in message.points] == ROWS.tolist()
    seconds = [(p.time_from_start.sec, p.time_from_start.nanosec) for p in message.points]
    assert seconds == [(0, 50_000_000), (1, 250_000_000)]


def test_last_velocity_is_zero_and_the_argument_is_untouched() -> None:
    velocities = 2 * ROWS
    message = joint_trajectory(NAMES, TIMES, ROWS, velocities, 0)
    assert list(message.points[0].velocities) == [0.2, 0.4]
    assert list(message.points[1].velocities) == [0.0, 0.0]
    np.testing.assert_array_equal(velocities, 2 * ROWS)


def test_velocities_may_be_left_out() -> None:
    message = joint_trajectory(NAMES, TIMES, ROWS, None, 0)
    assert [len(point.velocities) for point in message.points] == [0, 0]


def test_hold_is_one_point_at_rest() -> None:
    message = hold_trajectory(NAMES, np.array([0.5, -0.5]), 0, time_s=0.2)
    (point,) = message.points
    assert list(point.positions) == [0.5, -0.5]
    assert list(point.velocities) == [0.0, 0.0]
    assert point.time_from_start.nanosec == 200_000_000


@pytest.mark.parametrize(
    ('times', 'positions', 'velocities', 'words'),
    [
        (TIMES, [[0, 0], [0, np.nan]], None, 'positions of joint 1 in point 1 is nan'),
        (TIMES, ROWS, [[np.inf, 0], [0, 0]], 'velocities of joint 0 in point 0 is inf'),
        (TIMES, ROWS[:, :1], None, r'positions \[2, 1\] for 2 joints'),
        (TIMES[:1], ROWS, None, '1 times for 2 points'),
        ([0.1, 0.1], ROWS, None, 'must rise'),
        ([-0.1, 0.1], ROWS, None, 'must rise'),
        ([0.1, np.nan], ROWS, None, 'must rise'),
        (TIMES, ROWS, ROWS[:1], '1 velocities for 2 positions'),
        ([], np.zeros((0, 2)), None, 'points >= 1'),
    ],
)
def test_what_no_controller_may_get_is_refused(times, positions, velocities, words) -> None:
    with pytest.raises(CommandRefused, match=words):
        joint_trajectory(NAMES, np.asarray(times), positions, velocities, 0)


def test_outputs_name_their_message_class() -> None:
    from trajectory_msgs.msg import JointTrajectory

    assert output_of('JointTrajectory').message_class() is JointTrajectory


def test_unknown_output_lists_the_known_ones() -> None:
    with pytest.raises(OutputUnavailable, match=r"'Twist' is unknown; .* JointTrajectory"):
        output_of('Twist')


def test_missing_package_is_named_with_how_to_install_it(monkeypatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(command, 'import_module', absent)
    with pytest.raises(OutputUnavailable, match=r'apt install .*trajectory-msgs.* pip install'):
        OUTPUTS['JointTrajectory'].message_class()
