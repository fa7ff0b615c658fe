"""ALOHA over DDS: its own topics, and the unchanged policy node drives both arms to success."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy')
from qwen_vla_ros.msg import PolicyStatus
from qwen_vla_ros.srv import ResetWorld, TaskResult
from ros_lab import Lab, wait_for
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.choose_policy import choose_policy
from qwen_vla_ros.nodes.qos import COMMAND, LATCHED, SENSOR
from qwen_vla_ros.remote import PolicyServer

ALOHA = Embodiment.load('aloha')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(5, tmp_path_factory.mktemp('aloha'))
    # in slow motion: a busy test machine draws and carries three pictures late
    lab.start_node(
        'robot_sim_node', robot='aloha', seed=2, camera_rate=20.0, use_clock=True, pace=0.2
    )
    lab.last = {}

    def listen(kind, topic):
        lab.node.create_subscription(kind, topic, lambda m: lab.last.update({topic: m}), SENSOR)

    for source in (ALOHA.state, *ALOHA.further_states):
        listen(JointState, source.topic)
    for camera in ALOHA.cameras:
        listen(Image, camera.topic)
        listen(CameraInfo, camera.info_topic)
    wait_for(lambda: len(lab.last) == 8, 20.0, 'a message on every topic')
    yield lab
    lab.close()


def test_each_arm_and_camera_speaks_on_the_topics_of_its_contract(lab):
    for side in ('left', 'right'):
        message = lab.last[f'follower_{side}/joint_states']
        position = dict(zip(message.name, message.position, strict=True))
        assert list(message.name)[:2] == ['waist', 'shoulder'] and len(message.name) == 9
        assert position['right_finger'] == -position['left_finger']
        finger, angle = position['left_finger'], position['gripper']
        reach = 0.022 * np.sin(angle) + np.sqrt(0.036**2 - (0.022 * np.cos(angle)) ** 2)
        assert finger == pytest.approx(reach, abs=1e-6)  # the crank of a ViperX 300s
    for camera in ALOHA.cameras:
        image, info = lab.last[camera.topic], lab.last[camera.info_topic]
        assert (image.width, image.height, image.encoding) == (640, 480, 'rgb8')
        assert image.header.frame_id == info.header.frame_id == camera.frame_id


def test_a_task_is_laid_out_by_its_sentence_or_its_name(lab):
    answer = lab.call(ResetWorld, 'robot_sim/reset', ResetWorld.Request(seed=4, task='insertion'))
    assert answer.success and answer.target.endswith(' peg')
    assert answer.instruction.startswith(f'insert the {answer.target} into the ')
    assert len(answer.objects) == 3
    asked = ResetWorld.Request(seed=9, task='hand the pink cube to the left arm')
    answer = lab.call(ResetWorld, 'robot_sim/reset', asked)
    assert (
        not answer.success and "'hand the pink cube to the left arm' names none" in answer.message
    )


def test_a_trajectory_moves_the_arm_in_whose_namespace_it_is_sent(lab):
    sender = lab.node.create_publisher(
        JointTrajectory, 'follower_right/arm_controller/joint_trajectory', COMMAND
    )
    wait_for(sender.get_subscription_count, 5.0, 'match')

    def joints(side):
        message = lab.last[f'follower_{side}/joint_states']
        return dict(zip(message.name, message.position, strict=True))

    names = ['waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate']
    lab.last.clear()
    wait_for(lambda: len(lab.last) == 8, 20.0, 'news of the robot')
    begin, still = joints('right'), joints('left')
    goal = [begin[name] + 0.3 * (name == 'waist') for name in names]
    point = JointTrajectoryPoint(positions=goal)
    point.time_from_start.nanosec = 500_000_000
    sender.publish(JointTrajectory(joint_names=names, points=[point]))
    wait_for(lambda: abs(joints('right')['waist'] - goal[0]) < 0.01, 30.0, 'motion')
    assert joints('left')['waist'] == pytest.approx(still['waist'], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['transfer', 'insertion'])
def test_the_policy_node_drives_both_arms_to_success(lab, task):
    policy = choose_policy(SimpleNamespace(policy='expert', robot='aloha'))
    answer = lab.call(ResetWorld, 'robot_sim/reset', ResetWorld.Request(seed=2, task=task))
    said = []
    lab.node.create_subscription(PolicyStatus, 'policy/status', said.append, LATCHED)
    instruction = lab.node.create_publisher(String, 'policy/instruction', LATCHED)
    with PolicyServer(policy, port=0) as server:
        address = server.address.removeprefix('ws://')
        lab.start_node(
            'policy_node', autostart=True, robot='aloha', address=address, use_sim_time=True
        )
        wait_for(lambda: said and said[-1].stage == 'WAITING', 20.0, 'all inputs at the policy')
        instruction.publish(String(data=answer.instruction))

        def succeeded():
            time.sleep(0.2)
            return lab.call(TaskResult, 'robot_sim/result').success

        try:
            wait_for(succeeded, 240.0, f'{answer.instruction}: ({said[-1]})')
        finally:
            instruction.publish(String(data=''))
            assert lab.stop('policy_node') == 0
    assert {status.refusals for status in said} == {0}
