"""The policy node with other outputs than streamed trajectories, over DDS."""

import pytest

pytest.importorskip('rclpy')
from fake_robot import FakeRobot, small_contract
from qwen_vla_ros.msg import PolicyStatus
from ros_lab import Lab, wait_for
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import LATCHED, STREAM
from qwen_vla_ros.output_kinds import OutputUnavailable, message_class
from qwen_vla_ros.policy import ConstantPolicy
from qwen_vla_ros.remote import PolicyServer

ARM = '{type: JointTrajectory, topic: arm_controller/joint_trajectory}'
GRIPPER = '{type: JointTrajectory, topic: gripper_controller/joint_trajectory}'
CHUNK = ARM.replace('}', ', mode: chunk}')
FORWARD = '{type: Float64MultiArray, topic: gripper_controller/commands}'
INTERBOTIX = '{type: JointSingleCommand, topic: commands/joint_single, joint: gripper}'


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(33, tmp_path_factory.mktemp('node_outputs'))
    lab.status = PolicyStatus()
    lab.node.create_subscription(
        PolicyStatus, 'policy/status', lambda m: setattr(lab, 'status', m), LATCHED
    )
    robot = FakeRobot(lab.node)
    yield lab
    robot.stop()
    lab.close()


def start(lab, server, contract, **more):
    address = server.address.removeprefix('ws://')
    words = {'robot': contract, 'autostart': True, 'instruction': 'wait', 'address': address}
    lab.start_node('policy_node', **words, **more)


def test_whole_chunks_and_a_forward_controller(lab):
    contract = small_contract(lab.folder, (ARM, CHUNK), (GRIPPER, FORWARD))
    arm, finger = [], []
    lab.node.create_subscription(
        JointTrajectory, 'arm_controller/joint_trajectory', arm.append, STREAM
    )
    lab.node.create_subscription(
        Float64MultiArray, 'gripper_controller/commands', finger.append, STREAM
    )
    with PolicyServer(ConstantPolicy(Embodiment.load(contract)), port=0) as server:
        start(lab, server, contract)
        wait_for(lambda: len(arm) >= 3 and len(finger) > 20, 30.0, f'commands ({lab.status})')
        chunks = lab.status.chunks
        assert len(arm) <= chunks + 2, 'more trajectories than chunks'
        ends = [message.points[-1].time_from_start for message in arm[:3]]
        assert all(end.sec + end.nanosec * 1e-9 > 1.5 for end in ends)
        assert all(list(message.points[-1].velocities) == [0.0] * 6 for message in arm[:3])
        assert all(list(message.data) == pytest.approx([0.03]) for message in finger)
        assert lab.stop('policy_node') == 0
    assert 'Traceback' not in lab.log('policy_node')


def test_a_type_that_is_absent_is_told_at_configure(lab):
    try:
        message_class('interbotix_xs_msgs/msg/JointSingleCommand')
    except OutputUnavailable:
        pass
    else:
        pytest.skip('interbotix_xs_msgs is installed here')
    contract = small_contract(lab.folder, (GRIPPER, INTERBOTIX))
    with PolicyServer(ConstantPolicy(Embodiment.load(contract)), port=0) as server:
        start(lab, server, contract)
        words = 'gripper (JointSingleCommand): the type interbotix_xs_msgs/msg/JointSingleCommand'
        wait_for(lambda: words in lab.status.reason, 20.0, f'{words} ({lab.status})')
        assert 'interbotix_ros_core' in lab.status.reason
        assert lab.status.stage == 'INACTIVE'
        assert lab.stop('policy_node') == 0
