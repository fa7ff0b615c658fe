"""Robot and policy node on simulated time: the arm moves, and every stamp is of /clock."""

import pytest

pytest.importorskip('rclpy')
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from ros_lab import Lab, SwingPolicy, wait_for
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import COMMAND, LATCHED, SENSOR, STREAM
from qwen_vla_ros.remote import PolicyServer

TOPICS = {
    '/clock': (Clock, STREAM),
    'joint_states': (JointState, SENSOR),
    'camera/scene/image_raw': (Image, SENSOR),
    'arm_controller/joint_trajectory': (JointTrajectory, COMMAND),
    'policy/status': (PolicyStatus, LATCHED),
    'policy/chunk': (ActionChunk, STREAM),
}


def seconds(time):
    return time.sec + time.nanosec * 1e-9


@pytest.fixture
def lab(tmp_path):
    lab = Lab(6, tmp_path)
    lab.last = {}

    def keep(topic):
        return lambda message: lab.last.__setitem__(topic, message)

    for topic, (kind, qos) in TOPICS.items():
        lab.node.create_subscription(kind, topic, keep(topic), qos)
    yield lab
    lab.close()


def test_the_arm_moves_on_simulated_time_and_every_stamp_is_of_it(lab):
    with PolicyServer(SwingPolicy(Embodiment.load('widowx')), port=0) as server:
        lab.start_node('robot_sim_node', seed=1, use_clock=True)
        lab.start_node(
            'policy_node',
            use_sim_time=True,
            autostart=True,
            instruction='swing',
            address=server.address.removeprefix('ws://'),
        )
        wait_for(lambda: 'policy/chunk' in lab.last, 25.0, f'a chunk ({lab.last.keys()})')
        wait_for(lambda: len(lab.last) == len(TOPICS), 15.0, 'every topic')
        wait_for(lambda: abs(lab.last['joint_states'].velocity[0]) > 0.1, 10.0, 'motion')
        last = dict(lab.last)
        now = seconds(last.pop('/clock').clock)
        assert 1.0 < now < 600.0, 'time begins with the simulation'
        for topic, message in last.items():
            assert abs(now - seconds(message.header.stamp)) < 1.0, topic
        assert last['policy/status'].stage == 'RUNNING'
        assert 0.0 <= last['policy/status'].observation_age_s < 1.0
        assert lab.stop('policy_node') == 0
        assert lab.stop('robot_sim_node') == 0
