"""Planted mismatches over DDS: the doctor's listener names them, the policy node refuses them."""

import copy
import json
import time

import pytest

pytest.importorskip('rclpy')
from fake_robot import FakeRobot, small_contract
from lifecycle_msgs.srv import ChangeState
from qwen_vla_ros.msg import PolicyStatus
from qwen_vla_ros.srv import SetStage
from ros_lab import Lab, SwingPolicy, wait_for
from sensor_msgs.msg import Image, JointState

from qwen_vla_ros.compatibility.finding import PASS, REFUSE, WARN
from qwen_vla_ros.compatibility.training import Pairing, read_training
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
from qwen_vla_ros.nodes.live_listener import LiveListener
from qwen_vla_ros.nodes.qos import LATCHED
from qwen_vla_ros.remote import PolicyServer

METADATA = read_training(bundled_checkpoint(), 'widowx')
CONFIGURE, CLEAN_UP, ACTIVATE = 1, 2, 3


@pytest.fixture(scope='module')
def contract(tmp_path_factory):
    """The fake robot's contract; its cameras run at 16.7 Hz at best."""
    return small_contract(tmp_path_factory.mktemp('contract'), ('rate_hz: 20.0', 'rate_hz: 15.0'))


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(83, tmp_path_factory.mktemp('listener'))
    yield lab
    lab.close()


@pytest.fixture
def robot(lab):
    robot = FakeRobot(lab.node)
    yield robot
    robot.stop()


def joints(change):
    """Change the positions of joint states by name."""

    def spoil(message):
        if isinstance(message, JointState):
            told = dict(zip(message.name, message.position, strict=True))
            told = change(told)
            message.name, message.position = list(told), list(told.values())

    return spoil


def earlier(message):
    """Stamp pictures 150 ms before what they show."""
    if isinstance(message, Image):
        stamp = message.header.stamp
        ns = stamp.sec * 1_000_000_000 + stamp.nanosec - 150_000_000
        stamp.sec, stamp.nanosec = divmod(ns, 1_000_000_000)


PLANTED = {
    'flipped': (joints(lambda q: {**q, 'wrist_angle': -q['wrist_angle']}), 'the joint is flipped'),
    'swapped': (
        joints(lambda q: {**q, 'shoulder': q['wrist_angle'], 'wrist_angle': q['shoulder']}),
        'the names wrist_angle and shoulder are swapped',
    ),
    'degrees': (
        joints(lambda q: {n: v * 57.3 if 'finger' not in n else v for n, v in q.items()}),
        'published in degrees',
    ),
    'renamed': (
        joints(lambda q: {n.replace('elbow', 'elbow_joint'): v for n, v in q.items()}),
        'elbow not among',
    ),
    'offset': (earlier, 'stamped 0.1'),
}


def heard(lab, contract):
    """(subject, level) -> what was found, after two seconds of listening."""
    embodiment = Embodiment.load(contract)
    listener = LiveListener(lab.node, Pairing(METADATA, embodiment, 'abs_joint'))
    wait_for(listener.complete, 10.0, 'every topic')
    time.sleep(2.0)
    found = [finding for finding in listener.findings() if finding.level != PASS]
    return {(finding.subject, finding.level): finding.found for finding in found}


def test_a_robot_that_fits_is_not_accused(lab, contract, robot):
    found = heard(lab, contract)
    assert set(found) <= {('camera_info', WARN), ('live rates', WARN)}
    assert 'nothing arrives' in found['camera_info', WARN]  # the fake robot has none


@pytest.mark.parametrize('name', PLANTED)
def test_a_planted_mismatch_is_named(lab, contract, robot, name):
    robot.spoil, words = PLANTED[name]
    refused = {s: text for (s, level), text in heard(lab, contract).items() if level == REFUSE}
    assert any(words in text for text in refused.values()), refused


def test_a_missing_wrist_camera_is_named_with_what_is_there(lab, tmp_path, robot):
    path = small_contract(tmp_path, ('camera/wrist/image_raw', 'camera/hand/image_raw'))
    pair = Pairing(METADATA, Embodiment.load(path), 'abs_joint')
    listener = LiveListener(lab.node, pair)
    text = wait_for(
        lambda: next((f.found for f in listener.findings() if 'is published on' in f.found), ''),
        8.0,
        'the reason',
    )
    assert text.startswith('cam_right_wrist (camera/hand/image_raw): no publisher on /camera/hand')
    assert '/camera/wrist/image_raw' in text


def test_the_command_passes_the_simulated_widowx_and_the_bundled_checkpoint(tmp_path):
    lab = Lab(89, tmp_path)
    try:
        lab.start_node('robot_sim_node', seed=1)
        lab.start('doctor', '-m', 'qwen_vla_ros.cli', 'doctor', '--live', '1', '--json')
        assert lab.children['doctor'].wait(60.0) in (0, 2)
        report = json.loads(lab.log('doctor'))
    finally:
        lab.close()
    levels = {row['check']: row['level'] for row in report['findings']}
    for load in ('live rates', 'memory', 'disk'):  # of a machine that others use too
        levels.pop(load)
    assert {name for name, level in levels.items() if level != PASS} == set()
    assert levels['clocks'] == levels['camera_info'] == levels['actions and state'] == PASS


class Node:
    """The policy node of a lab, its status, and what its services answer."""

    def __init__(self, lab):
        self._lab, self.status = lab, PolicyStatus()
        lab.node.create_subscription(PolicyStatus, 'policy/status', self._take, LATCHED)

    def _take(self, message):
        self.status = message

    def change(self, transition):
        request = ChangeState.Request()
        request.transition.id = transition
        return self._lab.call(ChangeState, 'policy/change_state', request, 15.0).success

    def stage(self, wanted):
        request = SetStage.Request(stage=wanted, reason='a test', force=True)
        return self._lab.call(SetStage, 'policy/set_stage', request)


def test_the_node_refuses_what_is_planted_before_anything_moves(lab, contract, robot):
    policy = SwingPolicy(Embodiment.load('widowx'))
    policy.metadata = {**METADATA, 'checkpoint': 'planted'}
    with PolicyServer(policy, port=0) as server:
        address = server.address.removeprefix('ws://')
        lab.start_node(
            'policy_node', robot=contract, stage='dry-run', address=address, instruction='swing'
        )
        node = Node(lab)
        wait_for(lambda: node.status.stage == 'INACTIVE', 15.0, 'the node')

        planted = copy.deepcopy(METADATA)
        ranges = planted['trained']['statistics']['actions']
        ranges['wrist_angle'] = [47.0, 84.0]
        policy.metadata = planted
        assert not node.change(CONFIGURE)
        wait_for(lambda: 'only as degrees' in node.status.reason, 4.0, 'the reason')
        assert 'statistics units: actions: wrist_angle [47, 84]' in node.status.reason

        planted = copy.deepcopy(METADATA)
        planted['trained']['prompt'] = 'Do {instruction}'
        policy.metadata = planted
        assert not node.change(CONFIGURE)
        wait_for(lambda: "prompt: trained with 'Do" in node.status.reason, 4.0, 'the reason')

        policy.metadata = METADATA
        assert node.change(CONFIGURE)
        assert node.change(ACTIVATE)
        wait_for(lambda: node.stage('shadow').success, 8.0, 'shadow')
        robot.spoil = PLANTED['flipped'][0]
        time.sleep(0.3)
        answer = node.stage('scaled')
        assert not answer.success
        assert 'live joint positions: wrist_angle reads -0.9' in answer.message
        assert 'the joint is flipped' in answer.message
        robot.spoil = lambda message: None
        wait_for(lambda: node.stage('scaled').success, 8.0, 'scaled')
        assert 'camera sizes: ego: trained on 640x480' in lab.log('policy_node')
        assert lab.stop('policy_node') == 0
