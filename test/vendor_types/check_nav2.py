"""Our base outputs against Nav2 in rehearsal, over DDS. Run by test_vendor_drivers.py."""

import threading

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from ros_lab import Lab, wait_for

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.outputs import Outputs
from qwen_vla_ros.nodes.qos import SENSOR, STREAM
from qwen_vla_ros.types import ActionChunk

NAMES = ('dx', 'dy', 'dtheta')


class Base:
    """A base that does at once what cmd_vel says, at 50 Hz."""

    def __init__(self, node):
        self.pose, self.speed, self._lock = np.zeros(3), (0.0, 0.0), threading.Lock()
        node.create_subscription(TwistStamped, 'cmd_vel', self._hear, STREAM)
        self._odom = node.create_publisher(Odometry, 'odom', SENSOR)
        node.create_timer(0.02, self._step)

    def _hear(self, message):
        self.speed = message.twist.linear.x, message.twist.angular.z

    def _step(self):
        forward, turn = self.speed
        x, y, theta = self.pose
        way = np.array([forward * np.cos(theta), forward * np.sin(theta), turn])
        self.pose = self.pose + 0.02 * way
        message = Odometry()
        message.header.frame_id = 'odom'
        message.pose.pose.position.x, message.pose.pose.position.y = x, y
        message.pose.pose.orientation.z = float(np.sin(theta / 2))
        message.pose.pose.orientation.w = float(np.cos(theta / 2))
        self._odom.publish(message)


@pytest.fixture
def base(tmp_path, request):
    groups = Embodiment.load('mobile_base').layouts[request.param]
    lab = Lab(83, tmp_path)
    try:
        lab.start_node('nav2_sim_node', linear=0.5)
        lab.base = Base(lab.node)
        lab.outputs = Outputs(lab.node, groups, NAMES)
        client = lab.outputs._outputs[0].goals._client
        wait_for(client.server_is_ready, 15.0, 'the server')
        yield lab
        lab.outputs.close()
    finally:
        lab.close()


def chunk(lab, metres):
    """Eight waypoints straight ahead, relative to the pose now."""
    rows = np.zeros((8, 3), np.float32)
    rows[:, 0] = np.linspace(metres / 8, metres, 8)
    now_ns = lab.node.get_clock().now().nanoseconds
    return ActionChunk(rows, NAMES, now_ns, 0.5), now_ns


@pytest.mark.parametrize('base', ['follow_path', 'navigate'], indirect=True)
def test_a_chunk_is_driven_replaced_and_stopped(base):
    base.outputs.follow(*chunk(base, 1.0), tuple(base.base.pose))
    wait_for(lambda: base.base.pose[0] > 0.3, what='a base on its way')
    base.outputs.follow(*chunk(base, 1.0), tuple(base.base.pose))
    wait_for(lambda: base.base.pose[0] > 0.8, what='the next chunk')
    assert base.outputs.failures == 0 and base.outputs.problem == ''
    base.outputs.follow(*chunk(base, 0.0), tuple(base.base.pose))  # STOP
    wait_for(lambda: base.base.speed == (0.0, 0.0), what='a stand')
    at = base.base.pose.copy()
    wait_for(lambda: not base.outputs._outputs[0].goals.running, what='the end of the goal')
    assert np.abs(base.base.pose - at).max() < 0.02 and base.outputs.failures == 0
    assert base.outputs.problem.startswith('STOP')


@pytest.mark.parametrize('base', ['navigate'], indirect=True)
def test_a_server_that_is_not_active_is_told(base):
    base.set_parameter('nav2_sim', 'active', False)
    base.outputs.follow(*chunk(base, 1.0), tuple(base.base.pose))
    wait_for(lambda: 'rejected' in base.outputs.problem, what='the reason')
    base.set_parameter('nav2_sim', 'active', True)
    base.outputs.follow(*chunk(base, 1.0), tuple(base.base.pose), 'mars')
    wait_for(lambda: base.outputs.failures == 1, what='the failure')
    assert 'TF_ERROR' in base.outputs.problem
