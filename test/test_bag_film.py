"""A recorded run becomes a film that shows what was intended and why the robot stopped."""

import av
import numpy as np
import pytest

pytest.importorskip('rclpy')  # the messages' definitions lie beside the compiled ones
pytest.importorskip('rosbags')
from rosbags.rosbag2 import StoragePlugin, Writer

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.bag_thread import bag_typestore
from qwen_vla_ros.seeing.bag_film import film_of_bag, main, moments
from qwen_vla_ros.sim import arm

S = 1_000_000_000
STORE = bag_typestore()
POSTURE = [0.0, -0.6, 0.6, 0.0, 0.9, 0.0, 0.03]


def made(name, /, **fields):
    """A message with the given fields, and zeros and empty words else."""
    kind = STORE.types[name]
    values = {}
    for field, (code, what) in STORE.get_msgdef(name).fields:
        if field in fields:
            values[field] = fields[field]
        elif code.name == 'NAME':
            values[field] = made(what)
        elif code.name == 'BASE':
            values[field] = '' if what[0] == 'string' else 0
        else:
            values[field] = []
    return kind(**values)


def header(time_ns):
    stamp = made('builtin_interfaces/msg/Time', sec=time_ns // S, nanosec=time_ns % S)
    return made('std_msgs/msg/Header', stamp=stamp)


@pytest.fixture
def bag(tmp_path):
    folder = tmp_path / 'bag'
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {
            '/qwen_vla/contract': 'std_msgs/msg/String',
            '/left/policy/status': 'qwen_vla_ros/msg/PolicyStatus',
            '/left/policy/chunk': 'qwen_vla_ros/msg/ActionChunk',
            '/left/policy/refused': 'qwen_vla_ros/msg/ActionChunk',
            '/left/joint_states': 'sensor_msgs/msg/JointState',
        }
        connections = {
            topic: writer.add_connection(topic, kind, typestore=STORE)
            for topic, kind in topics.items()
        }

        def say(topic, time_ns, /, **fields):
            kind = topics[topic]
            if kind != 'std_msgs/msg/String':
                fields['header'] = header(time_ns)
            data = STORE.serialize_cdr(made(kind, **fields), kind)
            writer.write(connections[topic], time_ns, data)

        say('/qwen_vla/contract', 10 * S, data=Embodiment.load('widowx').text)
        rows = np.tile(POSTURE, (16, 1))
        rows[:, 0] += 0.05 * np.arange(16)
        chunk = {'names': list(arm.JOINT_NAMES), 'step_s': 0.2, 'horizon': 16}
        chunk['actions'] = rows.ravel()
        for tick in range(20):
            time_ns = 10 * S + tick * 50_000_000
            positions = np.array(POSTURE)
            say(
                '/left/joint_states',
                time_ns,
                name=list(arm.JOINT_NAMES),
                position=positions,
                velocity=np.zeros(0),
                effort=np.zeros(0),
            )
            stage = 'RUNNING' if tick < 12 else 'HOLDING'
            say('/left/policy/status', time_ns, stage=stage, instruction='touch it', reason='why')
            if tick == 5:
                say('/left/policy/chunk', time_ns, **chunk)
            if tick == 14:
                say('/left/policy/refused', time_ns, refused='row 3: too fast', **chunk)
    return folder


def test_the_film_has_a_frame_a_tenth_of_a_second(bag, tmp_path):
    assert film_of_bag(bag, tmp_path / 'run.mp4') == 10
    with av.open(str(tmp_path / 'run.mp4')) as file:
        assert sum(1 for _ in file.decode(video=0)) == 10


def test_the_moments_tell_the_chunk_then_the_refusal(bag):
    told = []
    for intention, now_ns in moments(bag, 'policy', 10):
        picture = intention.picture(now_ns)
        names = {shape.name.partition('/')[0] for shape in picture.shapes}
        told.append((names & {'predicted', 'refused'}, picture.caption.alarm))
    assert told[0] == (set(), '')
    assert told[4] == ({'predicted'}, '')
    assert told[-1] == ({'refused'}, 'refused: row 3: too fast')


def test_what_is_no_bag_of_ours_is_told_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path / 'absent')]) == 2
    assert 'there is no such bag' in capsys.readouterr().err
    with Writer(tmp_path / 'other', version=9) as writer:
        writer.add_connection('/x', 'std_msgs/msg/String', typestore=STORE)
    with pytest.raises(QwenVlaError, match='record with recorder_node'):
        list(moments(tmp_path / 'other', 'policy', 10))
