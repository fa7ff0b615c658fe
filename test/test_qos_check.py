"""Why a topic is silent, asked of a real graph: both sides, the remedy, and where it is told."""

import pytest

pytest.importorskip('rclpy')
import rclpy
from fake_robot import FakeRobot, small_contract
from qwen_vla_ros.msg import PolicyStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_lab import Lab, domain, wait_for
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import LATCHED, SENSOR, STREAM
from qwen_vla_ros.nodes.qos_check import GraphCheck, Wanted
from qwen_vla_ros.policy import ConstantPolicy
from qwen_vla_ros.remote import PolicyServer

CAMERA = 'camera/scene/image_raw'


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(11, tmp_path_factory.mktemp('qos'))
    yield lab
    lab.close()


@pytest.fixture
def publish(lab):
    """Make publishers that live for one test."""
    made = []

    def make(kind, topic, qos):
        made.append(lab.node.create_publisher(kind, topic, qos))
        return made[-1]

    yield make
    for publisher in made:
        lab.node.destroy_publisher(publisher)


@pytest.fixture
def strangers():
    """A participant of its own: one participant has one type a topic."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain(11))
    yield context
    context.try_shutdown()


def check(lab, topic, qos=SENSOR, kind=Image, optional=False):
    return GraphCheck(lab.node, [Wanted('ego', kind, topic, qos, optional)])


def test_a_publisher_that_offers_less_is_named_with_both_sides(lab, publish):
    publish(Image, 'a/image', SENSOR)
    wanted = check(lab, 'a/image', STREAM)
    told = wait_for(lambda: wanted.problems().get('ego'))
    assert told == (
        'publisher /lab offers BEST_EFFORT, this node asks RELIABLE; '
        'let the publisher offer RELIABLE'
    )


def test_a_publisher_that_keeps_nothing_for_late_subscribers_is_named(lab, publish):
    publish(String, 'b/instruction', STREAM)
    wanted = check(lab, 'b/instruction', LATCHED, String, optional=True)
    told = wait_for(lambda: wanted.problems().get('ego'))
    assert 'offers VOLATILE, this node asks TRANSIENT_LOCAL' in told


def test_another_type_on_the_topic_is_named(lab, publish):
    publish(CompressedImage, 'c/image', SENSOR)
    wanted = check(lab, 'c/image')
    told = wait_for(lambda: wanted.problems().get('ego'))
    assert told.startswith(
        'publisher /lab sends sensor_msgs/msg/CompressedImage, this node reads '
        'sensor_msgs/msg/Image; '
    )


def test_nobody_on_the_topic_is_told_with_the_topics_of_that_type(lab, publish):
    publish(Image, 'd/other', SENSOR)
    told = wait_for(lambda: check(lab, 'd/image').problems().get('ego'))
    assert told.startswith('no publisher on /d/image')
    wait_for(lambda: '/d/other' in check(lab, 'd/image').problems()['ego'])
    assert check(lab, 'd/image', optional=True).problems() == {}


def test_a_publisher_that_fits_is_no_problem_also_beside_one_that_does_not(lab, publish):
    publish(Image, 'e/image', STREAM)
    wanted = check(lab, 'e/image', STREAM)
    wait_for(lambda: wanted.problems() == {})
    publish(Image, 'e/image', SENSOR)
    wait_for(lambda: len(lab.node.get_publishers_info_by_topic('e/image')) == 2)
    assert wanted.problems() == {}


def test_the_policy_node_tells_why_an_input_is_silent_within_two_seconds(
    lab, publish, strangers, tmp_path
):
    """A camera of another type and an instruction nobody keeps: both stand in the status."""
    contract = small_contract(tmp_path)
    lab.status = PolicyStatus()
    lab.node.create_subscription(
        PolicyStatus, 'policy/status', lambda m: setattr(lab, 'status', m), LATCHED
    )
    with PolicyServer(ConstantPolicy(Embodiment.load(contract)), port=0) as server:
        address = server.address.removeprefix('ws://')
        lab.start_node('policy_node', autostart=True, robot=contract, address=address)
        camera = rclpy.create_node('camera', context=strangers)
        camera.create_publisher(CompressedImage, CAMERA, SENSOR)
        publish(JointState, 'joint_states', SENSOR)
        wait_for(lambda: lab.status.stage == 'WAITING', 15.0, f'WAITING, not {lab.status}')
        words = f'ego ({CAMERA}): never received'
        wait_for(lambda: words in lab.status.reason, 1.0, words)
        for words in (
            'publisher /camera sends sensor_msgs/msg/CompressedImage, this node reads',
            'cam_right_wrist: never received; no publisher on /camera/wrist/image_raw',
        ):
            wait_for(lambda words=words: words in ' '.join(lab.status.missing), 2.0, words)

        camera.destroy_node()
        robot = FakeRobot(lab.node)
        volatile = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        publish(String, 'policy/instruction', volatile)
        words = 'offers VOLATILE, this node asks TRANSIENT_LOCAL'
        wait_for(lambda: words in lab.status.reason, 3.0, f'{words}, not {lab.status}')
        publish(String, 'policy/instruction', LATCHED).publish(String(data='hold'))
        wait_for(lambda: lab.status.stage == 'RUNNING', 5.0, f'RUNNING, not {lab.status}')
        assert lab.log('policy_node').count('] [policy]: ego: publisher') == 1
        robot.stop()
        assert lab.stop('policy_node') == 0
