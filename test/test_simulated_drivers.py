"""robot_sim behind each driver whose messages are on this machine, over DDS."""

import pytest

pytest.importorskip('rclpy')
from ros_lab import Lab, wait_for
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.qos import COMMAND, SENSOR
from qwen_vla_ros.output_kinds import OutputUnavailable, message_class
from qwen_vla_ros.sim.arm import ARM_JOINTS


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(71, tmp_path_factory.mktemp('drivers'))
    lab.waist = []
    lab.node.create_subscription(JointState, 'joint_states', lambda m: hear(lab, m), SENSOR)
    yield lab
    lab.close()


def hear(lab, message):
    lab.waist.append(message.position[message.name.index('waist')])


@pytest.fixture
def robot(lab, request):
    lab.waist.clear()
    lab.start_node('robot_sim_node', driver=request.param, camera_rate=1.0)
    wait_for(lambda: lab.waist, 15.0, 'joint states')
    yield lab
    lab.stop('robot_sim_node')


def sender(lab, kind, topic):
    publisher = lab.node.create_publisher(kind, topic, COMMAND)
    wait_for(publisher.get_subscription_count, what=f'a subscription of {topic}')
    return publisher


def moving_end():
    """A second's motion of the waist to 0.3 rad that ends with 0.1 rad/s."""
    row = [0.3, -0.6, 0.6, 0.0, 0.9, 0.0]
    point = JointTrajectoryPoint(positions=row, velocities=[0.1, *[0.0] * 5])
    point.time_from_start.sec = 1
    return JointTrajectory(joint_names=list(ARM_JOINTS), points=[point])


@pytest.mark.parametrize('robot', ['jtc-humble'], indirect=True)
def test_humble_takes_an_end_in_motion(robot):
    publisher = sender(robot, JointTrajectory, 'arm_controller/joint_trajectory')
    publisher.publish(moving_end())
    wait_for(lambda: abs(robot.waist[-1] - 0.3) < 0.02, what='the waist at 0.3 rad')


@pytest.mark.parametrize('robot', ['jtc-kilted'], indirect=True)
def test_kilted_does_not(robot):
    publisher = sender(robot, JointTrajectory, 'arm_controller/joint_trajectory')
    publisher.publish(moving_end())
    words = 'rejected: the velocity of the last point is not zero'
    wait_for(lambda: words in robot.log('robot_sim_node'), what='the reason')
    assert abs(robot.waist[-1] - robot.waist[0]) < 0.02


@pytest.mark.parametrize('robot', ['forward-kilted'], indirect=True)
def test_a_forward_controller_dies_of_a_wrong_size(robot):
    publisher = sender(robot, Float64MultiArray, 'arm_position_controller/commands')
    publisher.publish(Float64MultiArray(data=[0.2, -0.6, 0.6, 0.0, 0.9, 0.0]))
    wait_for(lambda: abs(robot.waist[-1] - 0.2) < 0.02, what='the waist at 0.2 rad')
    publisher.publish(Float64MultiArray(data=[0.1] * 7))
    wait_for(lambda: 'is deactivated' in robot.log('robot_sim_node'), what='the reason')
    publisher.publish(Float64MultiArray(data=[0.4, -0.6, 0.6, 0.0, 0.9, 0.0]))
    wait_for(lambda: 'not active' in robot.log('robot_sim_node'), what='the next reason')
    assert abs(robot.waist[-1] - 0.2) < 0.02


def test_an_unknown_driver_is_told(lab):
    child = lab.start_node('robot_sim_node', driver='jtc-iron')
    assert child.wait(timeout=15) == 2
    lab.children.pop('robot_sim_node')
    assert "parameter driver: 'jtc-iron' is not one of jtc-humble" in lab.log('robot_sim_node')


def test_interbotix_without_its_messages_says_what_to_install(lab):
    try:
        message_class('interbotix_xs_msgs/msg/JointGroupCommand')
    except OutputUnavailable as error:
        assert isinstance(error, QwenVlaError)
    else:
        pytest.skip('interbotix_xs_msgs is installed here')
    child = lab.start_node('robot_sim_node', driver='interbotix')
    assert child.wait(timeout=15) == 2
    lab.children.pop('robot_sim_node')
    assert "install Interbotix's interbotix_ros_core" in lab.log('robot_sim_node')
