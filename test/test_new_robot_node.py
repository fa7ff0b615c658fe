"""The made-up robot over DDS: the policy node itself, with scara.yaml and nothing else."""

from pathlib import Path

import pytest

pytest.importorskip('rclpy')
from nav_msgs.msg import Odometry
from qwen_vla_ros.msg import PolicyStatus
from ros_lab import Lab, wait_for
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import LATCHED, SENSOR, STREAM
from qwen_vla_ros.policy import ConstantPolicy
from qwen_vla_ros.remote import PolicyServer

CONTRACT = Path(__file__).with_name('scara.yaml')
POSTURE = {'shoulder': 0.3, 'elbow': -0.4, 'quill': 0.05, 'suction': 0.5}


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(77, tmp_path_factory.mktemp('new_robot'))
    lab.status = PolicyStatus()
    lab.node.create_subscription(
        PolicyStatus, 'policy/status', lambda m: setattr(lab, 'status', m), LATCHED
    )
    yield lab
    lab.close()


class Scara:
    """Its drivers: joints at 100 Hz, odometry at 40 Hz, pictures at 12 Hz."""

    def __init__(self, node):
        self._node = node
        self._joints = node.create_publisher(JointState, 'scara/joint_states', SENSOR)
        self._odometry = node.create_publisher(Odometry, 'cart/odom', SENSOR)
        self._camera = node.create_publisher(Image, 'overhead/image_raw', SENSOR)
        self.timers = [
            node.create_timer(1 / rate, say)
            for rate, say in ((100, self._say_joints), (40, self._say_pose), (12, self._show))
        ]

    def _stamped(self, message):
        message.header.stamp = self._node.get_clock().now().to_msg()
        return message

    def _say_joints(self):
        message = JointState(name=list(POSTURE), position=list(POSTURE.values()))
        self._joints.publish(self._stamped(message))

    def _say_pose(self):
        message = self._stamped(Odometry())
        message.pose.pose.orientation.w = 1.0
        self._odometry.publish(message)

    def _show(self):
        message = Image(encoding='bgr8', width=64, height=48, step=192, data=bytes(48 * 192))
        self._camera.publish(self._stamped(message))


def test_the_policy_node_drives_it(lab):
    scara, arm, cup = Scara(lab.node), [], []
    lab.node.create_subscription(JointTrajectory, 'scara/trajectory', arm.append, STREAM)
    lab.node.create_subscription(Float64MultiArray, 'suction/commands', cup.append, STREAM)
    with PolicyServer(ConstantPolicy(Embodiment.load(CONTRACT)), port=0) as server:
        words = {'robot': CONTRACT, 'autostart': True, 'instruction': 'wait'}
        lab.start_node('policy_node', address=server.address.removeprefix('ws://'), **words)
        wait_for(lambda: len(arm) > 3 and len(cup) > 3, 40.0, 'commands')
        assert arm[-1].joint_names == ['shoulder', 'elbow', 'quill']
        assert list(arm[-1].points[-1].positions) == pytest.approx([0.3, -0.4, 0.05])
        assert list(cup[-1].data) == pytest.approx([0.5])
        scara.timers[2].cancel()  # its camera
        wait_for(lambda: 'overhead' in lab.status.reason, 8.0, f'a hold ({lab.status})')
        assert lab.stop('policy_node') == 0
    assert 'Traceback' not in lab.log('policy_node')
