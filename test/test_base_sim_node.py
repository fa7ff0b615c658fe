"""The simulated base over DDS: rates, cmd_vel, watchdog, services, and the policy node on it."""

import signal
import time

import numpy as np
import pytest

pytest.importorskip('rclpy')
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from qwen_vla_ros.msg import PolicyStatus
from qwen_vla_ros.srv import ResetWorld, TaskResult
from ros_lab import Lab, wait_for
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import COMMAND, LATCHED, SENSOR
from qwen_vla_ros.sim.rooms.drive import MAX_LINEAR
from qwen_vla_ros.sim.rooms.tasks import sample_task

BASE = Embodiment.load('mobile_base')
SEED = 0


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(61, tmp_path_factory.mktemp('base'))
    lab.start_node('base_sim_node', seed=SEED)
    lab.heard = {Odometry: [], Image: [], CameraInfo: [], TwistStamped: []}
    camera = BASE.cameras[0]
    for kind, topic, qos in (
        (Odometry, 'odom', SENSOR),
        (Image, camera.topic, SENSOR),
        (CameraInfo, camera.info_topic, SENSOR),
        (TwistStamped, 'cmd_vel', COMMAND),
    ):
        lab.node.create_subscription(kind, topic, lab.heard[kind].append, qos)
    lab.status = PolicyStatus()
    lab.node.create_subscription(
        PolicyStatus, 'policy/status', lambda m: setattr(lab, 'status', m), LATCHED
    )
    lab.commands = lab.node.create_publisher(TwistStamped, 'cmd_vel', COMMAND)
    wait_for(lambda: lab.heard[Image] and lab.heard[Odometry], 20.0, 'a message on every topic')
    wait_for(lambda: lab.commands.get_subscription_count() >= 2, 5.0, 'match')
    yield lab
    lab.close()


def reset(lab, seed=SEED, task=''):
    answer = lab.call(ResetWorld, 'base_sim/reset', ResetWorld.Request(seed=seed, task=task))
    assert answer.success, answer.message
    lab.heard[Odometry].clear()
    wait_for(lambda: lab.heard[Odometry], 5.0, 'odometry after the reset')
    return answer


def speed(lab):
    return lab.heard[Odometry][-1].twist.twist.linear.x


def drive(lab, linear, angular, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        message = TwistStamped()
        message.header.stamp = lab.node.get_clock().now().to_msg()
        message.twist.linear.x, message.twist.angular.z = linear, angular
        lab.commands.publish(message)
        time.sleep(0.05)


def test_odometry_and_pictures_are_those_of_the_contract(lab):
    begin = {kind: len(found) for kind, found in lab.heard.items()}
    time.sleep(2.0)
    counts = {kind: len(found) - begin[kind] for kind, found in lab.heard.items()}
    assert 20 < counts[Odometry] <= 105
    assert 3 < counts[Image] <= 24
    image, info, odometry = (lab.heard[kind][-1] for kind in (Image, CameraInfo, Odometry))
    camera = BASE.cameras[0]
    assert (image.width, image.height, image.encoding) == (320, 240, 'rgb8')
    assert image.header.frame_id == info.header.frame_id == camera.frame_id
    assert np.frombuffer(image.data, np.uint8).std() > 10
    assert info.k[0] == pytest.approx(160 / np.tan(0.994837 / 2), rel=1e-3)
    assert (odometry.header.frame_id, odometry.child_frame_id) == ('odom', 'base_link')


def test_the_base_follows_cmd_vel_and_stops_when_it_goes_silent(lab):
    reset(lab)
    drive(lab, 0.0, 0.5, 1.0)
    begin = len(lab.heard[Odometry])
    wait_for(lambda: lab.heard[Odometry][-1].twist.twist.angular.z == 0.0, 3.0, 'a stop')
    turns = [message.twist.twist.angular.z for message in lab.heard[Odometry]]
    assert max(turns) == pytest.approx(0.5)
    assert max(turns[:begin]) == pytest.approx(0.5), 'it turned while it was told to'
    turned = lab.heard[Odometry][-1].pose.pose.orientation
    assert 0.2 < 2 * np.arctan2(turned.z, turned.w) < 1.5


def test_stale_and_unreal_commands_move_nothing(lab):
    reset(lab)
    old = TwistStamped()
    old.header.stamp.sec = int(time.time()) - 10
    old.twist.linear.x = 0.2
    unreal = TwistStamped()
    unreal.twist.linear.x = float('nan')
    for message in (old, unreal):
        lab.commands.publish(message)
        time.sleep(0.3)
    assert max(abs(m.twist.twist.linear.x) for m in lab.heard[Odometry]) == 0.0
    wait_for(lambda: 's ago is left out' in lab.log('base_sim_node'), 2.0, 'a warning')
    wait_for(lambda: 'are not finite' in lab.log('base_sim_node'), 2.0, 'an error')


def test_reset_takes_a_goal_by_name_and_refuses_an_unknown_one(lab):
    answer = reset(lab, 3)
    assert answer.target in answer.instruction or answer.target.split()[-1] in answer.instruction
    named = reset(lab, 3, answer.objects[0])
    assert named.target == answer.objects[0]
    request = ResetWorld.Request(seed=3, task='golden throne')
    refused = lab.call(ResetWorld, 'base_sim/reset', request)
    assert not refused.success
    assert 'names no goal' in refused.message
    outcome = lab.call(TaskResult, 'base_sim/result')
    assert (outcome.success, outcome.done) == (False, False)
    assert 'm from the goal' in outcome.message


def test_a_robot_that_is_no_base_is_refused_in_one_line(lab):
    node = ['-m', 'qwen_vla_ros.nodes.base_sim_node', '--ros-args']
    assert lab.start('wrong', *node, '-p', 'robot:=widowx').wait(20) == 2
    del lab.children['wrong']
    assert lab.log('wrong').startswith('error: base_sim: widowx is no base with odometry')


def test_it_takes_twist_keeps_a_clock_and_ends_cleanly_when_interrupted(lab):
    node = ['-m', 'qwen_vla_ros.nodes.base_sim_node', '--ros-args', '-r', '__ns:=/other']
    heard = []
    lab.node.create_subscription(Odometry, '/other/odom', heard.append, SENSOR)
    twists = lab.node.create_publisher(Twist, '/other/cmd_vel', COMMAND)
    lab.start('other', *node, '-p', 'stamped:=false', '-p', 'use_clock:=true', '-p', 'seed:=1')
    wait_for(lambda: heard and twists.get_subscription_count(), 20.0, 'odometry')
    twist = Twist()
    twist.angular.z = 0.4
    twists.publish(twist)
    wait_for(lambda: heard[-1].twist.twist.angular.z == pytest.approx(0.4), 3.0, 'a turn')
    assert heard[-1].header.stamp.sec < 1_000_000, 'simulated time'
    assert lab.stop('other') == 0
    assert 'Traceback' not in lab.log('other')


@pytest.fixture
def policy_node(lab):
    """The unchanged policy node with `qwen-vla serve --policy expert` behind it."""
    words = ['--policy', 'expert', '--robot', 'mobile_base', '--house', str(SEED), '--port', '0']
    lab.start('serve', '-m', 'qwen_vla_ros.cli', 'serve', *words)
    wait_for(lambda: ' on ws://' in lab.log('serve'), 30.0, 'the server')
    address = lab.log('serve').rpartition('ws://')[2].strip()
    lab.start_node('policy_node', robot='mobile_base', autostart=True, address=address)
    wait_for(lambda: lab.status.stage == 'WAITING', 30.0, f'WAITING, not {lab.status}')
    yield lab.node.create_publisher(String, 'policy/instruction', LATCHED)
    if 'policy_node' in lab.children:
        assert lab.stop('policy_node') == 0
    lab.stop('serve')


@pytest.mark.slow
def test_the_policy_node_drives_it_to_the_goal_and_stops(lab, policy_node):
    task = sample_task(SEED)
    answer = reset(lab)
    assert answer.instruction == task.instruction
    lab.heard[TwistStamped].clear()
    policy_node.publish(String(data=answer.instruction))
    wait_for(lambda: lab.status.stage == 'RUNNING', 8.0, f'RUNNING, not {lab.status}')
    outcomes, end = [], time.monotonic() + 90.0
    while time.monotonic() < end and not (outcomes and outcomes[-1].done):
        outcomes.append(lab.call(TaskResult, 'base_sim/result'))
        time.sleep(0.5)
    assert outcomes[-1].success, (outcomes[-1], lab.status, lab.log('policy_node')[-2000:])
    assert list(outcomes[-1].touched) == []
    speeds = np.array([m.twist.linear.x for m in lab.heard[TwistStamped]])
    assert speeds.max() <= MAX_LINEAR + 1e-6
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in lab.heard[TwistStamped]]
    allowed = 0.9 * (np.diff(stamps).clip(0.0) + 0.05) + 1e-6  # a late one leaves others out
    assert (np.abs(np.diff(speeds)) <= allowed).all()
    wait_for(lambda: 'STOP' in lab.status.reason, 3.0, f'STOP in words, not {lab.status}')


@pytest.mark.slow
def test_a_base_whose_policy_node_dies_in_motion_comes_to_rest(lab, policy_node):
    answer = reset(lab)
    policy_node.publish(String(data=answer.instruction))
    wait_for(lambda: lab.heard[Odometry] and speed(lab) > 0.2, 30.0, 'motion')
    assert lab.stop('policy_node', signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: speed(lab) == 0.0, 1.5, 'a stop')


@pytest.mark.slow
def test_a_silent_camera_stops_the_base_by_name(lab, policy_node):
    answer = reset(lab)
    policy_node.publish(String(data=answer.instruction))
    wait_for(lambda: lab.heard[Odometry] and speed(lab) > 0.2, 30.0, 'motion')
    lab.set_parameter('base_sim', 'mute_camera', True)
    try:
        wait_for(lambda: lab.status.stage == 'HOLDING', 2.0, f'HOLDING, not {lab.status}')
        assert any(text.startswith('ego') for text in lab.status.missing), lab.status
        wait_for(lambda: speed(lab) == 0.0, 3.0, 'a stop')
    finally:
        lab.set_parameter('base_sim', 'mute_camera', False)
