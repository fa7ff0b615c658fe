"""The simulated robot over DDS: rates, honest stamps, controller semantics, services, faults."""

import signal
import time

import numpy as np
import pytest

pytest.importorskip('rclpy')
from qwen_vla_ros.srv import ResetWorld, TaskResult
from ros_lab import Lab, wait_for
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from qwen_vla_ros.nodes.qos import COMMAND, SENSOR, STREAM

ARM = ['waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate']


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(0, tmp_path_factory.mktemp('sim'))
    lab.start_node('robot_sim_node', seed=3)
    lab.times, lab.last = {}, {}

    def listen(kind, topic):
        lab.times[topic] = []
        now = lab.node.get_clock().now

        def receive(message):
            lab.times[topic].append((now().nanoseconds, stamp_ns(message)))
            lab.last[topic] = message

        lab.node.create_subscription(kind, topic, receive, SENSOR)

    listen(JointState, 'joint_states')
    for camera in ('scene', 'wrist'):
        listen(Image, f'camera/{camera}/image_raw')
        listen(CameraInfo, f'camera/{camera}/camera_info')
    lab.trajectories = lab.node.create_publisher(
        JointTrajectory, 'arm_controller/joint_trajectory', COMMAND
    )
    wait_for(lambda: len(lab.last) == 5, 15.0, 'a message on every topic')
    wait_for(lab.trajectories.get_subscription_count, 5.0, 'match')
    yield lab
    lab.close()


def stamp_ns(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def joints(lab):
    message = lab.last['joint_states']
    return dict(zip(message.name, message.position, strict=True))


def trajectory(names, rows, times_s, velocities=None):
    message = JointTrajectory(joint_names=list(names))
    for index, (row, time_s) in enumerate(zip(rows, times_s, strict=True)):
        point = JointTrajectoryPoint(positions=[float(value) for value in row])
        if velocities is not None:
            point.velocities = [float(value) for value in velocities[index]]
        point.time_from_start.sec = int(time_s)
        point.time_from_start.nanosec = round(time_s % 1 * 1e9)
        message.points.append(point)
    return message


def test_joint_states_and_pictures_come_at_their_rates_with_honest_stamps(lab):
    begin = {topic: len(times) for topic, times in lab.times.items()}
    time.sleep(2.0)
    for topic, rate in (
        ('joint_states', 50),
        ('camera/scene/image_raw', 20),
        ('camera/wrist/image_raw', 20),
    ):
        received, stamps = np.array(lab.times[topic][begin[topic] :]).T
        assert 0.4 * rate * 2 < len(stamps) < 1.1 * rate * 2 + 3, topic
        ages = received - stamps
        assert (np.diff(stamps) > 0).all()
        assert ages.min() > -1e7
        assert np.median(ages) < 0.1e9


def test_joint_states_name_all_joints_in_the_driver_s_order(lab):
    message = lab.last['joint_states']
    assert list(message.name) == [*ARM, 'gripper', 'left_finger', 'right_finger']
    position = joints(lab)
    assert position['right_finger'] == -position['left_finger']
    assert len(message.velocity) == 9


def test_images_are_rgb_and_come_with_their_camera_info(lab):
    for camera in ('scene', 'wrist'):
        image = lab.last[f'camera/{camera}/image_raw']
        assert (image.width, image.height, image.encoding, image.step) == (640, 480, 'rgb8', 1920)
        assert image.header.frame_id == f'camera_{camera}_optical_frame'
        assert np.frombuffer(image.data, np.uint8).reshape(480, 640, 3).std() > 5
        info = lab.last[f'camera/{camera}/camera_info']
        assert info.k[0] == info.k[4] > 300
        assert (info.k[2], info.k[5]) == (320.0, 240.0)
        stamps = [stamp for _, stamp in lab.times[f'camera/{camera}/image_raw'][-3:]]
        assert stamp_ns(info) in stamps


def test_a_trajectory_moves_the_arm_and_a_newer_one_replaces_it(lab):
    start = joints(lab)
    row = [start[name] for name in ARM]
    far = [row[0] + 1.0, *row[1:]]
    lab.trajectories.publish(trajectory(ARM, [far], [2.0]))
    wait_for(lambda: joints(lab)['waist'] > row[0] + 0.1, 3.0, 'motion')
    lab.trajectories.publish(trajectory(reversed(ARM), [row[::-1]], [0.4]))
    wait_for(lambda: abs(joints(lab)['waist'] - row[0]) < 0.02, 3.0, 'return')
    time.sleep(0.3)
    assert abs(joints(lab)['waist'] - row[0]) < 0.02


@pytest.mark.parametrize(
    ('message', 'reason'),
    [
        (trajectory(ARM[:5], [[0.0] * 5], [1.0]), 'do not match'),
        (trajectory(ARM, [[0.0] * 6], [1.0], [[1.0] * 6]), 'velocity of the last point'),
        (trajectory(ARM, [[0.0] * 6] * 2, [1.0, 0.5]), 'not strictly increasing'),
        (trajectory(ARM, [[float('nan')] * 6], [1.0]), 'not finite'),
    ],
)
def test_a_bad_trajectory_is_rejected_with_its_reason(lab, message, reason):
    before = joints(lab)
    lab.trajectories.publish(message)
    wait_for(lambda: reason in lab.log('robot_sim_node'), 3.0, 'the reason in the log')
    assert abs(joints(lab)['waist'] - before['waist']) < 0.01


def test_reset_lays_out_a_scene_and_result_tells_the_task(lab):
    answer = lab.call(ResetWorld, 'robot_sim/reset', ResetWorld.Request(seed=7))
    assert answer.success
    assert len(answer.objects) == 3
    assert answer.target in answer.objects
    assert answer.instruction == f'touch the {answer.target}'
    again = lab.call(ResetWorld, 'robot_sim/reset', ResetWorld.Request(seed=7))
    assert (again.target, again.objects) == (answer.target, answer.objects)
    other = next(name for name in answer.objects if name != answer.target)
    publisher = lab.node.create_publisher(String, 'robot_sim/target', STREAM)
    wait_for(publisher.get_subscription_count, 5.0, 'match')
    publisher.publish(String(data=other))
    wait_for(lambda: lab.call(TaskResult, 'robot_sim/result').target == other, 5.0, 'target')
    outcome = lab.call(TaskResult, 'robot_sim/result')
    assert (outcome.success, outcome.done, outcome.first_touched) == (False, False, '')
    assert 0 < outcome.elapsed_s < 10


def test_a_task_that_names_nothing_on_the_table_is_refused(lab):
    request = ResetWorld.Request(seed=7, task='touch the moon')
    answer = lab.call(ResetWorld, 'robot_sim/reset', request)
    assert not answer.success
    assert 'no object' in answer.message


def test_faults_can_be_switched_while_it_runs(lab):
    lab.set_parameter('robot_sim', 'nan_joints', True)
    wait_for(lambda: np.isnan(joints(lab)['elbow']), 2.0, 'NaN')
    lab.set_parameter('robot_sim', 'nan_joints', False)
    lab.set_parameter('robot_sim', 'mute_camera_wrist', True)
    time.sleep(0.2)
    count = len(lab.times['camera/wrist/image_raw'])
    scene = len(lab.times['camera/scene/image_raw'])
    time.sleep(0.3)
    assert len(lab.times['camera/wrist/image_raw']) == count
    assert len(lab.times['camera/scene/image_raw']) > scene
    lab.set_parameter('robot_sim', 'mute_camera_wrist', False)
    wait_for(lambda: len(lab.times['camera/wrist/image_raw']) > count, 2.0, 'pictures')
    assert not np.isnan(joints(lab)['elbow'])


def test_interrupt_ends_it_with_code_0_and_no_traceback(lab):
    assert lab.stop('robot_sim_node', signal.SIGINT) == 0
    assert 'Traceback' not in lab.log('robot_sim_node')
