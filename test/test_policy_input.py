"""Bad input over DDS: the robot holds, one message says what is wrong, and it goes on after."""

import array
import time

import pytest

pytest.importorskip('rclpy')
from fake_robot import JOINTS, FakeRobot, small_contract
from qwen_vla_ros.msg import PolicyStatus
from ros_lab import Lab, wait_for
from sensor_msgs.msg import Image, JointState

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import LATCHED
from qwen_vla_ros.policy import ConstantPolicy
from qwen_vla_ros.remote import PolicyServer


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('input')
    lab = Lab(3, folder)
    contract = small_contract(folder)
    robot = FakeRobot(lab.node)
    lab.robot, lab.status = robot, PolicyStatus()
    lab.node.create_subscription(
        PolicyStatus, 'policy/status', lambda m: setattr(lab, 'status', m), LATCHED
    )
    with PolicyServer(ConstantPolicy(Embodiment.load(contract)), port=0) as server:
        address = server.address.removeprefix('ws://')
        parameters = {'robot': contract, 'address': address, 'instruction': 'hold'}
        lab.start_node('policy_node', autostart=True, **parameters)
        wait_for(lambda: lab.status.stage == 'RUNNING', 15.0, f'RUNNING, not {lab.status}')
        yield lab
        robot.stop()
        lab.close()


def change(kind, **fields):
    def spoil(message):
        if isinstance(message, kind):
            for name, value in fields.items():
                setattr(message, name, value)

    return spoil


def shift(kind, seconds):
    def spoil(message):
        if isinstance(message, kind):
            message.header.stamp.sec += seconds

    return spoil


SHORT = {name: value for name, value in JOINTS.items() if name != 'elbow'}
NAN = [float('nan') if name == 'wrist_angle' else value for name, value in JOINTS.items()]
BIG = {'width': 128, 'step': 384, 'data': array.array('B', bytes(128 * 48 * 3))}


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (change(Image, encoding='mono8', step=64), ('camera/scene/image_raw', 'mono8')),
        (change(Image, **BIG), ('camera/scene/image_raw', '128x48', '64x48')),
        (change(Image, data=array.array('B', b'12')), ('camera/scene/image_raw', 'bytes')),
        (change(JointState, position=NAN), ('joint_states', 'wrist_angle is nan')),
        (
            change(JointState, name=list(SHORT), position=[*SHORT.values()]),
            ('joint_states', "'elbow' is missing"),
        ),
        (change(JointState, position=[0.0]), ('joint_states', '1 positions for 7')),
        (shift(Image, -5), ('camera/wrist/image_raw', 'in the past')),
        (shift(JointState, 5), ('joint_states', 'in the future')),
    ],
    ids=['encoding', 'size', 'short data', 'nan', 'missing joint', 'short', 'past', 'future'],
)
def test_bad_input_holds_says_why_and_goes_on_after(lab, spoil, words):
    wait_for(lambda: lab.status.stage == 'RUNNING', 5.0, f'RUNNING, not {lab.status}')
    lab.robot.spoil = spoil
    begin = time.monotonic()
    wait_for(lambda: lab.status.stage == 'HOLDING', 2.0, 'HOLDING')
    assert time.monotonic() - begin < 0.35
    wait_for(lambda: all(word in lab.status.reason for word in words), 1.0, f'{words}')
    lab.robot.spoil = lambda message: None
    wait_for(lambda: lab.status.stage == 'RUNNING', 5.0, 'RUNNING again')


def test_joints_in_any_order_and_with_others_between_are_understood(lab):
    names = ['extra', *reversed(JOINTS)]
    positions = [9.0, *reversed(JOINTS.values())]
    lab.robot.spoil = change(JointState, name=names, position=positions)
    chunks = lab.status.chunks
    wait_for(lambda: lab.status.chunks >= chunks + 2, 3.0, 'chunks from such messages')
    assert lab.status.stage == 'RUNNING'
    lab.robot.spoil = lambda message: None
