"""The outputs of a layout over DDS: what arrives, at which rate, and what a machine may lack."""

import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('rclpy')
from geometry_msgs.msg import PoseStamped, TwistStamped
from nav_msgs.msg import Path
from ros_lab import Lab, wait_for
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from qwen_vla_ros.clock_watch import ClockWatch
from qwen_vla_ros.embodiment import ActionGroup, Output
from qwen_vla_ros.nodes.motion import CHUNK, LOOKAHEAD, STOP, Motion
from qwen_vla_ros.nodes.outputs import Outputs
from qwen_vla_ros.nodes.qos import STREAM
from qwen_vla_ros.output_kinds import CommandRefused, OutputUnavailable
from qwen_vla_ros.types import ActionChunk

NAMES = ('waist', 'elbow', 'finger')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(31, tmp_path_factory.mktemp('outputs'))
    yield lab
    lab.close()


class Rig:
    """Outputs on topics of their own, and what arrives there, with its time in s."""

    def __init__(self, lab, *groups):
        self.node, self.groups, self.heard, self._ends = lab.node, groups, {}, []
        self.leap_ns = 0
        self.outputs = Outputs(lab.node, groups, NAMES, ClockWatch(self.now_ns))

    def listen(self, kind, topic):
        heard = self.heard.setdefault(topic, [])
        self._ends.append(
            self.node.create_subscription(
                kind, topic, lambda message: heard.append((time.monotonic(), message)), STREAM
            )
        )
        wait_for(lambda: self.node.count_publishers(topic), what=topic)
        ready = [o for o in self.outputs._outputs if o.group.output.topic == topic]
        publisher = ready[0]._publisher
        wait_for(publisher.get_subscription_count, what=f'match on {topic}')
        return heard

    def now_ns(self):
        return self.node.get_clock().now().nanoseconds + self.leap_ns

    def motion(self, part=LOOKAHEAD, ahead_s=0.3, broken=False):
        times = np.arange(0.05, ahead_s + 1e-9, 0.05)
        positions = np.outer(times, [1.0, 2.0, 0.1])
        if broken:
            positions[-1, 2] = np.nan
        return Motion(
            times, positions, np.tile([1.0, 2.0, 0.1], (len(times), 1)), self.now_ns(), part
        )

    def close(self):
        self.outputs.close()
        for subscription in self._ends:
            self.node.destroy_subscription(subscription)


@pytest.fixture
def rig(lab):
    made = []

    def make(*groups):
        made.append(Rig(lab, *groups))
        return made[-1]

    yield make
    for item in made:
        item.close()


def group(name, names, kind, topic, of='abs_joint', **options):
    units = ('rad',) * len(names)
    return ActionGroup(name, of, names, units, Output(kind, topic, options), frame='base_link')


def base(kind, topic, **options):
    return group('base', ('x', 'y', 'theta'), kind, topic, 'waypoint', **options)


def waypoints(rig, row, count=4, step_s=0.2):
    return ActionChunk(
        np.tile(np.float32(row), (count, 1)), ('x', 'y', 'theta'), rig.now_ns(), step_s
    )


def test_each_group_gets_its_joints_of_the_motion(rig):
    outputs = rig(
        group('arm', NAMES[:2], 'JointTrajectory', 'a/arm'),
        group('gripper', NAMES[2:], 'JointTrajectory', 'a/gripper'),
    )
    arm, gripper = (
        outputs.listen(JointTrajectory, 'a/arm'),
        outputs.listen(JointTrajectory, 'a/gripper'),
    )
    outputs.outputs.send(outputs.motion())
    wait_for(lambda: arm and gripper, what='two trajectories')
    assert arm[0][1].joint_names == ['waist', 'elbow']
    assert len(arm[0][1].points) == 6
    np.testing.assert_allclose(gripper[0][1].points[-1].positions, [0.03])
    assert list(gripper[0][1].points[-1].velocities) == [0.0]


def test_after_a_leap_of_the_clock_streams_go_on_and_controllers_begin_later(rig):
    outputs = rig(
        group('arm', NAMES[:2], 'Float64MultiArray', 'leap/arm'),
        group('gripper', NAMES[2:], 'JointTrajectory', 'leap/gripper'),
    )
    stream = outputs.listen(Float64MultiArray, 'leap/arm')
    points = outputs.listen(JointTrajectory, 'leap/gripper')
    motion = replace(outputs.motion(STOP, 0.3), lead_s=0.15)
    outputs.outputs.send(motion)
    wait_for(lambda: stream and stream[-1][1].data[0] == pytest.approx(0.3), what='the end')
    assert stream[0][1].data[0] < 0.1
    ahead = [point.time_from_start.nanosec for point in points[0][1].points]
    assert ahead == [150_000_000, 200_000_000, 250_000_000, 300_000_000]


def test_a_motion_made_before_a_leap_keeps_its_pace_when_sent_after_it(rig):
    outputs = rig(group('arm', NAMES[:2], 'Float64MultiArray', 'late/arm'))
    stream = outputs.listen(Float64MultiArray, 'late/arm')
    motion = replace(outputs.motion(), leaps_ns=0)
    outputs.leap_ns = -5_000_000_000
    begin = time.monotonic()
    outputs.outputs.send(motion)
    wait_for(lambda: stream and stream[-1][1].data[0] == pytest.approx(0.3), what='the end')
    assert stream[-1][0] - begin > 0.25


def test_modes_take_their_part_and_a_stop_goes_to_both(rig):
    outputs = rig(
        group('arm', NAMES[:2], 'JointTrajectory', 'b/arm', mode='chunk'),
        group('gripper', NAMES[2:], 'JointTrajectory', 'b/gripper', mode='stream'),
    )
    arm, gripper = (
        outputs.listen(JointTrajectory, 'b/arm'),
        outputs.listen(JointTrajectory, 'b/gripper'),
    )
    assert outputs.outputs.takes_chunks
    outputs.outputs.send(outputs.motion(LOOKAHEAD))
    wait_for(lambda: len(gripper) == 1, what='the near future')
    outputs.outputs.send(outputs.motion(CHUNK, 2.0))
    wait_for(lambda: len(arm) == 1, what='the chunk')
    assert (len(arm[0][1].points), len(gripper)) == (40, 1)
    outputs.outputs.send(outputs.motion(STOP, 0.1))
    wait_for(lambda: len(arm) == 2 and len(gripper) == 2, what='the stop')


def test_when_one_message_is_refused_none_is_sent(rig):
    outputs = rig(
        group('arm', NAMES[:2], 'JointTrajectory', 'c/arm'),
        group('gripper', NAMES[2:], 'Float64MultiArray', 'c/gripper'),
    )
    arm = outputs.listen(JointTrajectory, 'c/arm')
    with pytest.raises(CommandRefused, match='positions of channel 0 in point 5 is nan'):
        outputs.outputs.send(outputs.motion(broken=True))
    assert 'point 5 is nan' in outputs.outputs.problem
    outputs.outputs.send(outputs.motion())
    assert outputs.outputs.problem == ''
    wait_for(lambda: arm, what='the good motion')
    assert len(arm) == 1


def test_positions_are_streamed_at_50_hz_across_motions_and_end_at_rest(rig):
    outputs = rig(group('arm', NAMES[:2], 'Float64MultiArray', 'd/arm', joints=('elbow', 'waist')))
    arm = outputs.listen(Float64MultiArray, 'd/arm')
    for _ in range(10):
        outputs.outputs.send(outputs.motion())
        time.sleep(0.05)
    last = outputs.motion(STOP, 0.4)
    outputs.outputs.send(last)
    wait_for(lambda: arm and list(arm[-1][1].data) == [0.8, 0.4], what='the end')
    count, span_s = len(arm), arm[-1][0] - arm[0][0]
    assert 0.8 * 50 * span_s < count < 1.1 * 50 * span_s + 2
    time.sleep(0.1)
    assert len(arm) == count


def test_a_cancelled_stream_sends_no_further_position(rig):
    outputs = rig(group('arm', NAMES[:2], 'Float64MultiArray', 'l/arm'))
    arm = outputs.listen(Float64MultiArray, 'l/arm')
    outputs.outputs.send(outputs.motion(ahead_s=1.0))
    wait_for(lambda: len(arm) > 3, what='positions')
    outputs.outputs.cancel(outputs.now_ns())
    time.sleep(0.05)
    count = len(arm)
    time.sleep(0.2)
    assert len(arm) == count < 40


def test_what_has_begun_to_stop_comes_to_rest_after_close(lab):
    outputs = Rig(lab, group('arm', NAMES[:2], 'Float64MultiArray', 'e/arm'))
    arm = outputs.listen(Float64MultiArray, 'e/arm')
    outputs.outputs.send(outputs.motion(STOP, 0.3))
    outputs.outputs.close()
    wait_for(lambda: arm and list(arm[-1][1].data) == [0.3, 0.6], what='rest')
    assert len(arm) > 5


@pytest.mark.parametrize('how', ['stop', 'cancel'])
def test_a_base_drives_and_a_hold_brings_it_to_zero(rig, how):
    outputs = rig(base('TwistStamped', f'f_{how}/cmd_vel', rate_hz=50.0))
    speeds = outputs.listen(TwistStamped, f'f_{how}/cmd_vel')
    outputs.outputs.follow(
        waypoints(outputs, [0.1, 0.0, 0.0], 20), outputs.now_ns(), (1.0, 2.0, 0.0), 'odom'
    )
    wait_for(lambda: speeds and speeds[-1][1].twist.linear.x > 0.1, what='speed')
    if how == 'stop':
        outputs.outputs.send(outputs.motion(STOP, 0.1))
    else:
        outputs.outputs.cancel(outputs.now_ns())
    assert outputs.outputs.problem == ''
    wait_for(lambda: speeds[-1][1].twist.linear.x == 0.0, what='zero')
    found = np.array([message.twist.linear.x for _, message in speeds])
    assert np.abs(np.diff(found)).max() <= 0.5 / 50.0 * 3.01  # two in three may be skipped


def test_stop_is_told_and_ends_with_the_next_motion(rig):
    outputs = rig(base('Path', 'g/plan'))
    paths = outputs.listen(Path, 'g/plan')
    outputs.outputs.follow(waypoints(outputs, [0.0, 0.0, 0.0]), outputs.now_ns(), (1.0, 2.0, 0.0))
    assert outputs.outputs.problem.startswith('STOP')
    wait_for(lambda: paths, what='the path')
    assert [pose.pose.position.x for pose in paths[0][1].poses] == [1.0]
    outputs.outputs.follow(waypoints(outputs, [0.2, 0.0, 0.0]), outputs.now_ns(), (1.0, 2.0, 0.0))
    assert outputs.outputs.problem == ''
    wait_for(lambda: len(paths) == 2, what='the second path')
    assert len(paths[1][1].poses) == 4


def test_a_goal_is_published_and_waypoints_without_a_pose_are_refused(rig):
    outputs = rig(base('PoseStamped', 'h/goal_pose'))
    goals = outputs.listen(PoseStamped, 'h/goal_pose')
    chunk = waypoints(outputs, [0.2, 0.0, 0.0])
    with pytest.raises(CommandRefused, match='base: waypoints need the pose of the base'):
        outputs.outputs.follow(chunk, outputs.now_ns())
    outputs.outputs.follow(chunk, outputs.now_ns(), (1.0, 2.0, 0.0), 'map')
    wait_for(lambda: goals, what='the goal')
    assert goals[0][1].header.frame_id == 'map'
    assert goals[0][1].pose.position.x == pytest.approx(1.8)


def test_a_tip_gets_velocities_and_zero_at_the_end(rig):
    names = ('dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw')
    outputs = rig(group('tip', names, 'ServoTwist', 'i/twist', 'delta_eef'))
    twists = outputs.listen(TwistStamped, 'i/twist')
    rows = np.outer(np.arange(4), [0.01, 0, 0, 0, 0, 0]).astype(np.float32)
    chunk = ActionChunk(rows, names, outputs.now_ns(), 0.1)
    outputs.outputs.follow(chunk, outputs.now_ns())
    wait_for(lambda: twists and twists[-1][1].twist.linear.x == 0.0, what='the end')
    assert twists[0][1].twist.linear.x == pytest.approx(0.1, abs=1e-6)
    assert twists[0][1].header.frame_id == 'base_link'


def test_all_types_that_are_absent_are_named_at_once(lab, monkeypatch):
    from qwen_vla_ros import output_kinds

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(output_kinds, 'import_module', absent)
    groups = (
        group('arm', NAMES[:2], 'FollowJointTrajectory', 'k/arm'),
        group('gripper', NAMES[2:], 'JointSingleCommand', 'k/gripper', joint='gripper'),
    )
    words = r'arm \(FollowJointTrajectory\): .*control-msgs; gripper \(JointSingle.*interbotix'
    with pytest.raises(OutputUnavailable, match=words):
        Outputs(lab.node, groups, NAMES)
    assert lab.node.count_publishers('k/gripper') == 0
