"""Displacements of a tip -> TwistStamped for MoveIt Servo: differenced, zero at the end."""

import numpy as np
import pytest

from qwen_vla_ros.cartesian_commands import tip_twists
from qwen_vla_ros.command import output_of
from qwen_vla_ros.output_kinds import CommandRefused, TipRows
from qwen_vla_ros.rotations import euler_matrix

pytest.importorskip('geometry_msgs.msg')
S = 1_000_000_000
STEP = np.array([0.01, -0.02, 0.03, 0.0, 0.0, 0.1])
TIMES = 0.2 * np.arange(4)


STEADY = np.arange(4)[:, None] * STEP


def plan(displacements=STEADY, now_ns=10 * S, **options):
    rows = TipRows('base_link', TIMES, displacements, 10 * S, now_ns)
    return output_of('ServoTwist').plan(rows, options).timed


def twist(message):
    linear, angular = message.twist.linear, message.twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]


def test_a_steady_displacement_is_a_steady_velocity_and_ends_at_zero():
    timed = plan(rate_hz=20.0)
    assert [(item.at_ns - 10 * S) / 1e6 for item in timed] == list(range(0, 601, 50))
    for item in timed[:-1]:
        np.testing.assert_allclose(twist(item.message), STEP / 0.2, atol=1e-12)
        assert item.message.header.frame_id == 'base_link'
    assert twist(timed[-1].message) == [0.0] * 6
    stamp = timed[1].message.header.stamp
    assert (stamp.sec, stamp.nanosec) == (10, 50_000_000)


def test_velocities_of_a_chunk_lead_to_its_poses():
    rng = np.random.default_rng(4)
    rows = rng.uniform(-0.5, 0.5, (6, 6))
    times = np.cumsum(rng.uniform(0.1, 0.4, 6))
    position, rotation = rows[0, :3], euler_matrix(*rows[0, 3:])
    for index, twist in enumerate(tip_twists(times, rows)):
        span = times[index + 1] - times[index]
        position = position + twist[:3] * span
        x, y, z = twist[3:] * span
        angle = float(np.linalg.norm(twist[3:] * span))
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) / angle
        turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        rotation = turn @ rotation
        np.testing.assert_allclose(position, rows[index + 1, :3], atol=1e-12)
        np.testing.assert_allclose(rotation, euler_matrix(*rows[index + 1, 3:]), atol=1e-9)


def test_what_lies_in_the_past_is_not_commanded():
    timed = plan(now_ns=10 * S + 310_000_000, rate_hz=10.0)
    assert [(item.at_ns - 10 * S) / 1e6 for item in timed] == [400, 500, 600]
    (only,) = plan(now_ns=12 * S)
    assert (only.at_ns, twist(only.message)) == (12 * S, [0.0] * 6)


def test_a_single_row_is_a_stand():
    rows = TipRows('base_link', np.zeros(1), np.zeros((1, 6)), 10 * S, 10 * S)
    (only,) = output_of('ServoTwist').plan(rows, {}).timed
    assert twist(only.message) == [0.0] * 6


@pytest.mark.parametrize(
    ('column', 'value', 'words'),
    [
        (0, 0.1, r'way to row 2 asks for 0\.505 m/s, more than max_linear 0\.25'),
        (4, 0.5, r'way to row 2 asks for 2\.\d+ rad/s, more than max_angular 1'),
        (5, 3.1, 'half a turn'),
    ],
)
def test_rows_that_are_too_fast_are_refused(column, value, words):
    rows = np.arange(4)[:, None] * STEP * 0.1
    rows[2:, column] += value
    with pytest.raises(CommandRefused, match=words):
        plan(rows)
