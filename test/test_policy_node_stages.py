"""Staged arming over DDS: each stage lets through what it may, stops latch, parking is checked."""

import time

import numpy as np
import pytest

pytest.importorskip('rclpy')
from fake_robot import FakeRobot, small_contract
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry, Path
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from qwen_vla_ros.srv import SetStage
from ros_lab import Lab, wait_for
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from test_policy_node import Watch

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import LATCHED, SENSOR, STREAM
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.remote import PolicyServer
from qwen_vla_ros.types import ActionChunk as Chunk


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    """The simulated arm and a policy node that begins in dry-run."""
    lab = Lab(31, tmp_path_factory.mktemp('stages'))
    lab.start_node('robot_sim_node', seed=1)
    lab.start('server', 'test/ros_lab.py', str(47311))
    parameters = {'autostart': True, 'address': '127.0.0.1:47311', 'instruction': 'swing'}
    lab.start_node('policy_node', stage='dry-run', speed=0.3, ramp=1.0, **parameters)
    lab.watch = Watch(lab)
    wait_for(lambda: lab.watch.chunks, 20.0, f'chunks ({lab.watch.status})')
    yield lab
    lab.close()


def stage(lab, wanted, reason='a test', force=False):
    request = SetStage.Request(stage=wanted, reason=reason, force=force)
    return lab.call(SetStage, 'policy/set_stage', request)


def climb(lab, wanted):
    """Bring the node to a stage from wherever it is."""
    for name in ('dry-run', 'shadow', 'scaled', 'full'):
        wait_for(lambda name=name: stage(lab, name, force=True).success, 5.0, f'stage {name}')
        if name == wanted:
            return


def released(lab):
    lab.call(SetBool, 'policy/estop', SetBool.Request(data=False))
    answer = lab.call(Trigger, 'policy/reset_safety')
    assert answer.success, answer.message


@pytest.mark.parametrize('name', ['dry-run', 'shadow'])
def test_a_stage_without_commands_commands_nothing_while_chunks_run(lab, name):
    climb(lab, name)
    time.sleep(0.5)
    lab.watch.commands.clear()
    chunks = len(lab.watch.chunks)
    time.sleep(3.0)
    assert not lab.watch.commands
    assert len(lab.watch.chunks) > chunks + 5
    status = lab.watch.status
    assert (status.stage, status.arming, status.speed_scale) == ('WATCHING', name, 0.0)


def test_the_shadow_compares_with_the_robot_and_must_have_done_so_before_it_is_left(lab):
    climb(lab, 'dry-run')
    assert stage(lab, 'shadow').success
    refused = stage(lab, 'scaled')
    assert not refused.success
    assert 'shadow' in refused.message
    wait_for(lambda: 'rows over' in lab.watch.status.shadow, 8.0, 'a comparison')
    assert 'worst waist' in lab.watch.status.shadow


def test_steps_are_not_skipped_and_need_a_reason(lab):
    climb(lab, 'dry-run')
    assert 'one step at a time' in stage(lab, 'full').message
    assert 'reason' in stage(lab, 'shadow', '').message
    assert 'unknown' in stage(lab, 'turbo').message
    assert lab.watch.status.arming == 'dry-run'


def fastest(lab, seconds):
    begin = time.monotonic()
    time.sleep(seconds)
    return max(abs(speed) for at, speed, _ in list(lab.watch.joints) if at > begin)


def test_a_scaled_arm_moves_slower_ramped_in_and_full_speed_follows(lab):
    climb(lab, 'scaled')
    begin = time.monotonic()
    wait_for(lambda: lab.watch.status.stage == 'RUNNING', 8.0, 'RUNNING')
    time.sleep(2.5)
    early = [abs(v) for at, v, _ in list(lab.watch.joints) if at < begin + 0.3 and at > begin]
    assert max(early, default=0.0) < 0.1
    slow = fastest(lab, 6.0)
    assert 0.02 < slow < 0.16  # the swing reaches 0.26 rad/s at full speed
    # A hold, for a late picture, ramps it in anew: the share is what it comes to again.
    wait_for(lambda: abs(lab.watch.status.speed_scale - 0.3) < 1e-6, 10.0, 'the share of 0.3')
    assert stage(lab, 'full').success
    time.sleep(1.5)
    assert fastest(lab, 6.0) > 0.2
    wait_for(lambda: lab.watch.status.speed_scale == 1.0, 10.0, 'full speed')


@pytest.mark.parametrize('way', ['service', 'topic'])
def test_an_emergency_stop_rests_latches_and_leaves_no_commanding_stage(lab, way):
    climb(lab, 'full')
    lab.watch.moving()
    publisher = lab.node.create_publisher(Bool, 'estop', LATCHED)
    wait_for(lambda: publisher.get_subscription_count() or way == 'service', 5.0, 'the node')
    pressed = time.monotonic()
    if way == 'service':
        lab.call(SetBool, 'policy/estop', SetBool.Request(data=True))
    else:
        publisher.publish(Bool(data=True))
    assert lab.watch.holding(pressed, 'emergency stop') < 0.5
    assert lab.watch.last_command(pressed) < 0.6
    assert lab.watch.at_rest(pressed) < 0.8
    assert lab.watch.status.arming == 'shadow'
    refused = lab.call(Trigger, 'policy/reset_safety')
    assert not refused.success
    assert 'emergency stop' in refused.message
    if way == 'topic':
        publisher.publish(Bool(data=False))
        wait_for(
            lambda: lab.call(Trigger, 'policy/reset_safety').success, 3.0, 'the topic released'
        )
    released(lab)
    lab.node.destroy_publisher(publisher)


def test_parking_ends_at_the_posture_without_a_jump(lab):
    climb(lab, 'full')
    wait_for(lambda: lab.watch.status.stage == 'RUNNING', 8.0, 'RUNNING')
    lab.watch.instruction.publish(String(data=''))
    wait_for(lambda: lab.watch.status.stage in ('HOLDING', 'WAITING'), 5.0, 'rest')
    time.sleep(1.0)
    lab.watch.commands.clear()
    answer = lab.call(Trigger, 'policy/park')
    assert answer.success, answer.message
    wait_for(lambda: lab.watch.status.reason.startswith('parked'), 25.0, 'parked')
    wanted = Embodiment.load('widowx').park.positions
    at = dict(zip(lab.watch.commands[-1][1].joint_names, last_positions(lab), strict=True))
    for joint, position in wanted.items():
        if joint in at:
            assert at[joint] == pytest.approx(position, abs=0.02), joint
    rows = np.array([message.points[0].positions for _, message in list(lab.watch.commands)])
    times = np.array([moment for moment, _ in list(lab.watch.commands)])
    speeds = np.abs(np.diff(rows, axis=0)) / np.maximum(np.diff(times), 0.04)[:, None]
    assert speeds.max() < 0.2 * 3.14159 * 1.6  # a fifth of the limit, with the timer's jitter
    lab.watch.instruction.publish(String(data='swing'))


def last_positions(lab):
    return lab.watch.commands[-1][1].points[-1].positions


def test_parking_is_refused_where_nothing_may_be_commanded(lab):
    climb(lab, 'shadow')
    answer = lab.call(Trigger, 'policy/park')
    assert not answer.success
    assert 'shadow commands nothing' in answer.message


# A base -----------------------------------------------------------------------------------------

BASE_STATE = """state:
  type: Odometry
  topic: odom
  rate_hz: 50.0
  fields: {x: m, y: m, yaw: rad}

"""
BASE_LAYOUTS = """layouts:
  waypoints:
    path:
      kind: waypoint
      names: {dx: m, dy: m, dtheta: rad}
      output: {type: Path, topic: plan}
    wheels:
      kind: waypoint
      names: {dx2: m, dy2: m, dtheta2: rad}
      output: {type: TwistStamped, topic: cmd_vel, recovery: true}

"""


class Forward:
    """Drive 5 cm a step straight on."""

    def __init__(self, embodiment):
        self.metadata = {**describe_policy(embodiment), 'checkpoint': 'forward'}
        self._step_s = embodiment.step_s

    def infer(self, observation, prefix=None):
        rows = np.tile(np.array([0.05, 0, 0, 0.05, 0, 0], np.float32), (16, 1))
        names = tuple(self.metadata['action_names'])
        return Chunk(rows, names, observation.stamp_ns, self._step_s)

    def reset(self):
        pass


def base_contract(folder):
    """Write a contract of a base with odometry and the WidowX' cameras; its path."""
    text = Embodiment.load(small_contract(folder)).text
    head = text[: text.index('state:\n')]
    safety = text[text.index('safety:\n') :]
    path = folder / 'base.yaml'
    path.write_text(
        head.replace('name: widowx', 'name: base')
        + BASE_STATE
        + BASE_LAYOUTS.replace('layouts:\n', 'default_layout: waypoints\nlayouts:\n')
        + 'description: robots/base.urdf\nlimits: {}\n'
        + safety
    )
    return path


def _moves(twist):
    return twist.linear.x != 0.0 or twist.angular.z != 0.0


def test_a_base_follows_waypoints_by_path_and_velocity_recovers_and_stops(tmp_path):
    lab = Lab(33, tmp_path)
    path = base_contract(tmp_path)
    robot = server = None
    try:
        server = PolicyServer(Forward(Embodiment.load(path)), '127.0.0.1', 0)
        server.__enter__()
        publisher = lab.node.create_publisher(Odometry, 'odom', SENSOR)

        def odometry():
            message = Odometry()
            message.header.stamp = lab.node.get_clock().now().to_msg()
            message.pose.pose.position.x = 2.0
            message.pose.pose.orientation.w = 1.0
            publisher.publish(message)

        lab.node.create_timer(0.02, odometry)
        robot = FakeRobot(lab.node)
        paths, speeds, statuses = [], [], []
        lab.node.create_subscription(Path, 'plan', paths.append, STREAM)
        lab.node.create_subscription(TwistStamped, 'cmd_vel', speeds.append, STREAM)
        lab.node.create_subscription(PolicyStatus, 'policy/status', statuses.append, LATCHED)
        lab.node.create_subscription(ActionChunk, 'policy/chunk', lambda m: None, STREAM)
        address = server.address.removeprefix('ws://')
        lab.start_node(
            'policy_node', robot=path, autostart=True, address=address, instruction='go'
        )
        wait_for(lambda: paths and speeds, 20.0, f'commands ({statuses[-1:]})')
        assert paths[-1].header.frame_id == 'odom'
        assert paths[-1].poses[0].pose.position.x == pytest.approx(2.05, abs=1e-6)
        wait_for(lambda: speeds[-1].twist.linear.x > 0.15, 5.0, 'speed')
        assert max(message.twist.linear.x for message in speeds) <= 0.5
        # Its odometry stands: it turns by itself, and the status tells so.
        wait_for(lambda: 'held up' in statuses[-1].reason, 8.0, f'recovery ({statuses[-1:]})')
        wait_for(lambda: speeds[-1].twist.angular.z > 0.5, 3.0, 'a turn')
        stop = SetBool.Request(data=True)
        lab.call(SetBool, 'policy/estop', stop)
        wait_for(lambda: not _moves(speeds[-1].twist), 3.0, 'standstill')
        count = len(speeds)
        time.sleep(0.5)
        assert not any(_moves(message.twist) for message in speeds[count:])
        assert 'emergency stop' in statuses[-1].reason
    finally:
        if robot is not None:
            robot.stop()
        lab.close()
        if server is not None:
            server.__exit__(None, None, None)
