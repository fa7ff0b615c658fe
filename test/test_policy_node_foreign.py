"""The policy node over DDS with the servers of other projects."""

import numpy as np
import pytest

pytest.importorskip('rclpy')
from fake_robot import FakeRobot, small_contract
from foreign_servers import WebsocketDouble
from qwen_vla_ros.msg import PolicyStatus
from ros_lab import Lab, wait_for

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import LATCHED


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('foreign')
    lab = Lab(41, folder)
    lab.contract = small_contract(folder)
    lab.status = PolicyStatus()
    lab.node.create_subscription(
        PolicyStatus, 'policy/status', lambda m: setattr(lab, 'status', m), LATCHED
    )
    robot = FakeRobot(lab.node)
    yield lab
    robot.stop()
    lab.close()


@pytest.fixture
def node(lab):
    """Start the policy node with a policy; stop it at the end, whatever happened."""

    def start(policy):
        lab.status = PolicyStatus()
        common = {'robot': lab.contract, 'autostart': True, 'instruction': 'touch the red block'}
        lab.start_node('policy_node', **common, policy=policy)

    yield start
    assert lab.stop('policy_node') == 0
    assert 'Traceback' not in lab.log('policy_node')


def test_an_openpi_server_drives_the_robot(lab, node):
    horizon = Embodiment.load(lab.contract).horizon

    def hold(request):
        return {'actions': np.tile(request['observation/state'], (horizon, 1))}

    with WebsocketDouble(hold) as server:
        node(f'openpi://127.0.0.1:{server.port}')
        wait_for(lambda: lab.status.stage == 'RUNNING', 20.0, f'RUNNING ({lab.status})')
        wait_for(lambda: lab.status.chunks > 1, 5.0, 'chunks')
    assert server.seen[-1]['prompt'] == 'touch the red block'


def test_a_lerobot_server_is_refused_with_the_reason(lab, node):
    node('lerobot://127.0.0.1:8080')
    wait_for(lambda: 'pickles' in lab.status.reason, 20.0, f'the reason ({lab.status})')
    assert lab.status.stage == 'INACTIVE'
