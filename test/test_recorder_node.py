"""The recorder over DDS: bytes as sent, a bag that others read, proper ends."""

import array
import signal
import time

import numpy as np
import pytest

pytest.importorskip('rclpy')
pytest.importorskip('rosbags')
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from rclpy.serialization import serialize_message
from ros_lab import Lab, wait_for
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.qos import LATCHED, SENSOR, STREAM
from qwen_vla_ros.nodes.recorder_node import _topics


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(2, tmp_path_factory.mktemp('recorder'))
    lab.senders = {
        'joint_states': lab.node.create_publisher(JointState, 'joint_states', SENSOR),
        'image': lab.node.create_publisher(Image, 'camera/scene/image_raw', SENSOR),
        'chunk': lab.node.create_publisher(ActionChunk, 'policy/chunk', STREAM),
        'status': lab.node.create_publisher(PolicyStatus, 'policy/status', LATCHED),
        'instruction': lab.node.create_publisher(String, 'policy/instruction', LATCHED),
    }
    yield lab
    lab.close()


def picture(seed):
    data = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), np.uint8)
    message = Image(height=480, width=640, encoding='rgb8', step=1920)
    message.header.stamp.sec = seed + 1
    message.data = array.array('B', data.tobytes())
    return message


def record(lab, bag, **parameters):
    """Start a recorder and send one second of everything; return the pictures."""
    lab.start_node('recorder_node', output=bag, **parameters)
    for sender in lab.senders.values():
        wait_for(sender.get_subscription_count, 10.0, 'match')
    pictures = [picture(seed) for seed in range(10)]
    lab.senders['instruction'].publish(String(data='touch the red block'))
    lab.senders['status'].publish(PolicyStatus(stage='RUNNING', missing=['a', 'b']))
    chunk = ActionChunk(names=['waist'], step_s=0.2, horizon=3, actions=[0.1, 0.2, 0.3])
    for message in pictures:
        lab.senders['image'].publish(message)
        lab.senders['joint_states'].publish(JointState(name=['waist'], position=[0.5]))
        lab.senders['chunk'].publish(chunk)
        time.sleep(0.05)
    return pictures


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_bag_is_closed_properly_and_holds_the_bytes_as_sent(lab, tmp_path, number):
    bag = tmp_path / 'bag'
    pictures = record(lab, bag)
    assert lab.stop('recorder_node', number) == 0
    assert 'Traceback' not in lab.log('recorder_node')
    with AnyReader([bag]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        assert counts['/camera/scene/image_raw'] >= 5  # best effort: a busy machine may lose some
        assert counts['/policy/chunk'] == 10
        assert counts['/policy/instruction'] >= 1
        raw = {}
        for connection, _, data in reader.messages():
            raw.setdefault(connection.topic, []).append((connection, bytes(data)))
        for connection, data in raw['/camera/scene/image_raw']:
            image = reader.deserialize(data, connection.msgtype)
            sent = pictures[image.header.stamp.sec - 1]
            assert len(data) == len(serialize_message(sent))
            assert image.encoding == 'rgb8'
            np.testing.assert_array_equal(image.data, np.asarray(sent.data))
        connection, data = raw['/policy/chunk'][0]
        assert reader.deserialize(data, connection.msgtype).actions.tolist() == [0.1, 0.2, 0.3]
        connection, data = raw['/policy/status'][0]
        assert reader.deserialize(data, connection.msgtype).missing == ['a', 'b']
        connection, data = raw['/qwen_vla/contract'][0]
        text = reader.deserialize(data, connection.msgtype).data
        assert text == Embodiment.load('widowx').text
    assert 'qwen_vla_contract' in (bag / 'metadata.yaml').read_text()


def test_it_stops_at_max_gb(lab, tmp_path):
    bag = tmp_path / 'bag'
    record(lab, bag, max_gb=0.003)
    wait_for(lambda: 'bag has reached max_gb' in lab.log('recorder_node'), 3.0, 'the warning')
    assert lab.stop('recorder_node') == 0
    (file,) = bag.glob('*.mcap')
    assert 0.002 * 2**30 < file.stat().st_size < 0.007 * 2**30
    assert ' dropped' in lab.log('recorder_node').splitlines()[-1]


def test_an_existing_folder_or_none_is_refused_in_one_line(lab, tmp_path):
    (tmp_path / 'bag').mkdir()
    for output, words in ((tmp_path / 'bag', 'exists already'), ("''", 'say where to')):
        child = lab.start_node('recorder_node', output=output)
        assert child.wait(timeout=15) == 2
        assert words in lab.log('recorder_node')
        assert 'Traceback' not in lab.log('recorder_node')


def complete_chunks(data):
    """Count the complete chunk records (0x06) at the front of an MCAP file."""
    at, chunks = 8, 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 9], 'little')
        if at + 9 + size > len(data):
            break
        chunks += data[at] == 0x06
        at += 9 + size
    return chunks


def test_after_a_kill_the_complete_chunks_are_on_the_disk(lab, tmp_path):
    bag = tmp_path / 'bag'
    record(lab, bag)
    wait_for(lambda: sum(file.stat().st_size for file in bag.glob('*.mcap')) > 5e6, 5.0, 'data')
    lab.stop('recorder_node', signal.SIGKILL)
    (file,) = bag.glob('*.mcap')
    assert complete_chunks(file.read_bytes()) >= 4


@pytest.mark.parametrize('robot', ['mobile_base', 'widowx', 'aloha'])
def test_a_topic_whose_type_differs_between_layouts_is_recorded_as_the_default_sends_it(robot):
    warned, embodiment = [], Embodiment.load(robot)
    found = [(topic, kind) for kind, topic, _ in _topics(embodiment, 'policy', warned.append)]
    assert len({topic for topic, _ in found}) == len(set(found))
    if robot == 'mobile_base':
        assert dict(found)['cmd_vel'].__name__ == 'TwistStamped'
        assert warned == [
            'cmd_vel is recorded as geometry_msgs/msg/TwistStamped, not as geometry_msgs/msg/Twist'
        ]
