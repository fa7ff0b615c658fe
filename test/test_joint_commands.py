"""Rows -> messages for joints: exact fields, accepted by three controllers, nothing half-valid."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from qwen_vla_ros.command import output_of
from qwen_vla_ros.joint_commands import gripper_value, joint_trajectory
from qwen_vla_ros.nodes import robot_kinds, robot_sim_node
from qwen_vla_ros.output_kinds import CommandRefused, JointRows
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.trajectory_controller import DISTRIBUTIONS, TrajectoryController

pytest.importorskip('trajectory_msgs.msg')
NAMES = ('waist', 'elbow')
TIMES = np.array([0.05, 1.25])
ROWS = np.array([[0.1, 0.2], [0.3, 0.4]])
S = 1_000_000_000


def rows(velocities=None, stamp_ns=0, names=NAMES):
    return JointRows(names, TIMES, ROWS, velocities, stamp_ns)


def plan(name, part, **options):
    return output_of(name).plan(part, options)


def test_points_names_and_stamp():
    message = joint_trajectory(rows(2 * ROWS, 12_000_000_345))
    assert message.joint_names == ['waist', 'elbow']
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 345)
    assert [list(point.positions) for point in message.points] == ROWS.tolist()
    seconds = [(p.time_from_start.sec, p.time_from_start.nanosec) for p in message.points]
    assert seconds == [(0, 50_000_000), (1, 250_000_000)]


def test_last_velocity_is_zero_and_the_argument_is_untouched():
    velocities = 2 * ROWS
    message = joint_trajectory(rows(velocities))
    assert list(message.points[0].velocities) == [0.2, 0.4]
    assert list(message.points[1].velocities) == [0.0, 0.0]
    np.testing.assert_array_equal(velocities, 2 * ROWS)


def test_velocities_may_be_left_out():
    assert [len(point.velocities) for point in joint_trajectory(rows()).points] == [0, 0]


def test_a_trajectory_without_stamp_starts_on_receipt():
    (timed,) = plan('JointTrajectory', rows(ROWS, 12 * S), stamped=False).timed
    assert timed.at_ns == 12 * S
    assert (timed.message.header.stamp.sec, timed.message.header.stamp.nanosec) == (0, 0)


def test_two_points_within_a_nanosecond_are_refused():
    close = JointRows(NAMES, np.array([0.1, 0.1 + 1e-10]), ROWS, None, 0)
    with pytest.raises(CommandRefused, match='within one nanosecond'):
        joint_trajectory(close)


KEYS = ('positions', 'velocities')


@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
@pytest.mark.parametrize('stamped', [True, False])
@pytest.mark.parametrize('count', [1, 2, 6, 80])
def test_every_trajectory_is_accepted_by_every_distribution(distribution, stamped, count):
    """Through the message: what is sent is what the controller reads, in its order of joints."""
    controller = TrajectoryController(NAMES[::-1], [0.0, 0.0], distribution=distribution)
    rng = np.random.default_rng(count)
    part = JointRows(
        NAMES,
        np.cumsum(rng.uniform(0.005, 0.2, count)),
        rng.uniform(-1, 1, (count, 2)),
        rng.uniform(-1, 1, (count, 2)),
        50 * S,
    )
    (timed,) = plan('JointTrajectory', part, stamped=stamped).timed
    points, stamp = timed.message.points, timed.message.header.stamp
    names, stamp_ns = list(timed.message.joint_names), stamp.sec * S + stamp.nanosec
    times = [point.time_from_start.sec + point.time_from_start.nanosec * 1e-9 for point in points]
    positions, velocities = ([getattr(point, what) for point in points] for what in KEYS)
    assert stamp_ns == (50 * S if stamped else 0)
    assert controller.accept(names, times, positions, velocities, stamp_ns, 50 * S) is None
    end = controller.sample(50 * S + round(times[-1] * 1e9) + 1)
    np.testing.assert_array_equal(end[0], part.positions[-1][::-1])


def test_streamed_positions_lie_on_the_cubics_at_the_rate_and_end_at_the_last_row():
    velocities = np.array([[0.5, -0.5], [0.2, -0.1]])
    part = JointRows(NAMES, np.array([0.1, 0.3]), ROWS, velocities, 10 * S)
    timed = plan('Float64MultiArray', part, rate_hz=20.0).timed
    sent_ms = [(item.at_ns - 10 * S) / 1e6 for item in timed]
    assert sent_ms == [100, 150, 200, 250, 300]
    assert list(timed[0].message.data) == ROWS[0].tolist()
    assert list(timed[-1].message.data) == ROWS[1].tolist()
    middle = 0.5 * (ROWS[0] + ROWS[1]) + 0.2 / 8 * (velocities[0] - velocities[1])
    np.testing.assert_allclose(timed[2].message.data, middle, atol=1e-12)


def test_positions_without_velocities_are_joined_linearly():
    part = JointRows(NAMES, np.array([0.1, 0.3]), ROWS, None, 10 * S)
    timed = plan('Float64MultiArray', part, rate_hz=20.0).timed
    np.testing.assert_allclose(timed[1].message.data, ROWS[0] + 0.25 * (ROWS[1] - ROWS[0]))


def test_a_forward_controller_gets_its_own_order_of_joints():
    timed = plan('Float64MultiArray', rows(), joints=('elbow', 'waist')).timed
    assert list(timed[-1].message.data) == [0.4, 0.3]
    with pytest.raises(CommandRefused, match="elbow, wrist are not the group's waist, elbow"):
        plan('Float64MultiArray', rows(), joints=('elbow', 'wrist'))


@pytest.fixture
def interbotix(monkeypatch):
    """interbotix_xs_msgs as its .msg files say: name and cmd."""
    package, module = ModuleType('interbotix_xs_msgs'), ModuleType('interbotix_xs_msgs.msg')
    module.JointGroupCommand = module.JointSingleCommand = SimpleNamespace
    monkeypatch.setitem(sys.modules, 'interbotix_xs_msgs', package)
    monkeypatch.setitem(sys.modules, 'interbotix_xs_msgs.msg', module)


def test_a_group_of_motors_gets_positions_at_50_hz(interbotix):
    timed = plan('JointGroupCommand', rows(ROWS), group='arm').timed
    assert np.diff([item.at_ns for item in timed[:-1]]).tolist() == [20_000_000] * (len(timed) - 2)
    assert (timed[-1].message.name, timed[-1].message.cmd) == ('arm', [0.3, 0.4])


@pytest.mark.parametrize(
    ('conversion', 'value'), [('none', 0.02), ('opening', 0.04), ('crank', 0.0357219)]
)
def test_the_gripper_is_told_in_what_its_driver_wants(interbotix, conversion, value):
    part = JointRows(('left_finger',), TIMES, np.array([[0.03], [0.02]]), None, 0)
    timed = plan('JointSingleCommand', part, joint='gripper', conversion=conversion).timed
    assert timed[-1].message.name == 'gripper'
    assert timed[-1].message.cmd == pytest.approx(value, abs=1e-6)


def test_the_crank_angle_is_that_of_the_simulated_driver():
    options = {'conversion': 'crank', 'horn_m': 0.014, 'rod_m': 0.024}
    positions = np.array([0.0] * 6 + [0.031])
    model = robot_kinds.ArmModel('wx250s', arm.WX250S, options['horn_m'], options['rod_m'])
    crank = robot_sim_node._joint_state(0, model, positions, np.zeros(7)).position[6]
    assert gripper_value(0.031, options) == crank


def test_a_finger_beyond_the_crank_is_refused(interbotix):
    far = JointRows(('left_finger',), TIMES, np.array([[0.03], [0.05]]), None, 0)
    with pytest.raises(CommandRefused, match='horn 0.014 m and rod 0.024 m do not reach'):
        plan('JointSingleCommand', far, joint='gripper', conversion='crank', rate_hz=1.0)
    with pytest.raises(CommandRefused, match='one joint is wanted, the group has waist, elbow'):
        plan('JointSingleCommand', rows(), joint='gripper')
