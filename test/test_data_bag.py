"""Bags through the live decode path: the same tensors, and one clear message for bad ones."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rosbags')
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from qwen_vla_ros.data.bag import BagEpisodes
from qwen_vla_ros.data.episode_notes import DISCARDED, FAULT, KEPT, EpisodeNotes, Finding
from qwen_vla_ros.data.sample import SampleError
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.observation import ObservationBuffer

S = 1_000_000_000
START = 100 * S
STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
WIDOWX = Embodiment.load('widowx')
ROBOT = replace(WIDOWX, cameras=tuple(replace(c, width=8, height=6) for c in WIDOWX.cameras))
NAMES = [field.name for field in ROBOT.state.fields]
TEXT = 'std_msgs/msg/String'
KINDS = {'image': 'sensor_msgs/msg/Image', 'joints': 'sensor_msgs/msg/JointState'}


def header(time_ns):
    stamp = TYPES['builtin_interfaces/msg/Time'](time_ns // S, time_ns % S)
    return TYPES['std_msgs/msg/Header'](stamp, '')


def recorded(without=''):
    """Two seconds of both cameras at 20 Hz and joints at 50 Hz: (time, source, kind, message)."""
    rng = np.random.default_rng(0)
    found = []
    for tick in range(40):
        time_ns = START + tick * S // 20
        for camera in ROBOT.cameras:
            data = rng.integers(0, 256, 6 * 8 * 3, np.uint8)
            message = TYPES[KINDS['image']](header(time_ns), 6, 8, 'rgb8', 0, 24, data)
            found.append((time_ns + 9_000_000, camera, 'image', message))
    for tick in range(100):
        time_ns = START + tick * S // 50
        row = np.full(len(NAMES), tick / 100)
        message = TYPES[KINDS['joints']](header(time_ns), NAMES, row, np.zeros(0), np.zeros(0))
        found.append((time_ns + 1_000_000, ROBOT.state, 'joints', message))
    kept = [item for item in found if name_of(item[1]) != without]
    return sorted(kept, key=lambda item: item[0])


def name_of(source):
    return getattr(source, 'view', None) or source.name


def write(folder, plugin=StoragePlugin.MCAP, mode=None, without='', extra=()):
    writer = Writer(folder, version=9, storage_plugin=plugin)
    if mode is not None:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        topics = {}
        for time_ns, source, kind, message in recorded(without):
            if source.topic not in topics:
                topics[source.topic] = writer.add_connection(
                    f'/left/{source.topic.lstrip("/")}', KINDS[kind], typestore=STORE
                )
            writer.write(topics[source.topic], time_ns, STORE.serialize_cdr(message, KINDS[kind]))
        for topic, text, *after_s in extra:
            string = TYPES['std_msgs/msg/String'](text)
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, TEXT, typestore=STORE)
            time_ns = START + round((after_s[0] if after_s else 1) * S)
            writer.write(topics[topic], time_ns, STORE.serialize_cdr(string, TEXT))
    return folder


def live():
    """What a running robot would have seen at 5 Hz: messages pushed as objects, never stored."""
    buffer, found = ObservationBuffer(ROBOT), []
    messages = recorded()
    first = messages[0][0]
    count = int((messages[-1][0] - first) * ROBOT.rate_hz / 1e9) + 1
    for frame in range(count):
        now_ns = first + round(frame * ROBOT.step_s * 1e9)
        while messages and messages[0][0] <= now_ns:
            time_ns, source, _, message = messages.pop(0)
            buffer.push(name_of(source), message, time_ns)
        found.append(buffer.sample(now_ns, 'touch it'))
    return found


@pytest.mark.parametrize(
    ('plugin', 'mode'),
    [
        (StoragePlugin.MCAP, None),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.SQLITE3, None),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    ],
)
def test_tensors_are_those_of_the_running_robot(tmp_path, plugin, mode):
    episodes = BagEpisodes([write(tmp_path / 'bag', plugin, mode)], ROBOT, 'touch it')
    wanted = {frame: seen for frame, seen in enumerate(live()) if seen is not None}
    streamed = {sample.place.frame: sample for sample in episodes.stream(0)}
    assert streamed.keys() == wanted.keys()
    assert len(streamed) >= 8
    for frame, seen in wanted.items():
        for sample in (streamed[frame], episodes.sample(0, frame)):
            assert sample.stamp_ns == seen.stamp_ns
            assert sample.sources_ns == seen.sources_ns
            np.testing.assert_array_equal(sample.state, seen.state)
            for view, image in seen.images.items():
                np.testing.assert_array_equal(sample.images[view], image)


def test_actions_are_the_joints_that_were_reached(tmp_path):
    episodes = BagEpisodes([write(tmp_path / 'bag')], ROBOT, 'touch it')
    sample = episodes.sample(0, 3)
    assert sample.action_names == ROBOT.action_names()
    seconds = (sample.stamp_ns - START) / S + np.arange(ROBOT.horizon) * ROBOT.step_s
    valid = seconds <= 99 / 50
    assert sample.mask[:, 0].tolist() == valid.tolist()
    np.testing.assert_allclose(sample.actions[valid, 0], seconds[valid] / 2, atol=1e-6)


def test_frames_without_an_observation_are_counted_and_refused_by_name(tmp_path):
    episodes = BagEpisodes([write(tmp_path / 'bag')], ROBOT, 'touch it')
    found = [sample.place.frame for sample in episodes.stream(0)]
    assert sum(episodes.skipped.values()) == episodes.frames(0) - len(found) > 0
    lost = min(set(range(episodes.frames(0))) - set(found))
    with pytest.raises(SampleError, match=f'^bag: episode 0, frame {lost}: '):
        episodes.sample(0, lost)


def test_contract_and_sentence_come_from_the_bag(tmp_path):
    extra = [('/qwen_vla/contract', WIDOWX.text), ('/left/policy/instruction', 'lift it')]
    episodes = BagEpisodes([write(tmp_path / 'bag', extra=extra)])
    assert len(episodes) == 1
    with pytest.raises(SampleError, match='the contract says 640x480'):
        episodes.sample(0, 3)


@pytest.mark.parametrize(
    ('changed', 'words'),
    [
        ({'without': 'ego'}, r'topic camera/.* \(ego\): is not in it'),
        ({'without': 'state'}, r'\(state\): is not in it'),
        ({'extra': [('/a/instruction', 'x'), ('/b/instruction', 'y')]}, '2 different instruc'),
        ({}, r'no instruction in it; give one .*`instruction:` into a YAML file'),
    ],
)
def test_what_a_bag_lacks_is_named(tmp_path, changed, words):
    with pytest.raises(QwenVlaError, match=words):
        BagEpisodes([write(tmp_path / 'bag', **changed)], ROBOT)


def test_displacements_are_not_invented(tmp_path):
    with pytest.raises(QwenVlaError, match='dx, dy.*: no measured joint'):
        BagEpisodes([write(tmp_path / 'bag')], ROBOT, 'touch it', 'delta_eef')


def cut(folder):
    (file,) = [*folder.glob('*.mcap'), *folder.glob('*.db3')]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    'damage',
    [
        cut,
        lambda folder: (folder / 'metadata.yaml').write_text('x: ['),
        lambda folder: [file.unlink() for file in folder.glob('*.mcap')],
    ],
)
def test_a_damaged_bag_is_told_in_one_line(tmp_path, damage):
    folder = write(tmp_path / 'bag')
    damage(folder)
    with pytest.raises(QwenVlaError) as told:
        BagEpisodes([folder], ROBOT, 'touch it')
    assert str(folder) in str(told.value)
    assert f"'qwen-vla record --mend {folder}'" in str(told.value)


def test_damage_inside_a_bag_is_told_in_one_line(tmp_path):
    folder = write(tmp_path / 'bag', mode=CompressionMode.STORAGE)
    (file,) = folder.glob('*.mcap')
    data = bytearray(file.read_bytes())
    data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
    file.write_bytes(data)
    with pytest.raises(QwenVlaError, match=f'^{folder}/bag.mcap: damaged inside'):
        list(BagEpisodes([folder], ROBOT, 'touch it').stream(0))


def test_a_bag_without_metadata_is_read_by_its_files(tmp_path):
    folder = write(tmp_path / 'bag')
    (folder / 'metadata.yaml').unlink()
    assert len(list(BagEpisodes([folder], ROBOT, 'touch it').stream(0))) >= 8


def test_what_the_recorder_marked_is_left_out_and_told(tmp_path):
    bags = [write(tmp_path / name) for name in ('kept', 'slow', 'away', 'cut')]
    faults = [Finding(FAULT, 'slow', 'camera', '9 Hz')]
    states = {bags[0]: KEPT, bags[1]: KEPT, bags[2]: DISCARDED, bags[3]: KEPT}
    for bag, state in states.items():
        found = faults if bag == bags[1] else []
        EpisodeNotes(0, 'widowx', 'lift it', None, state, findings=found).save(bag)
    cut(bags[3])
    episodes = BagEpisodes(bags, ROBOT)
    assert episodes.bags == (bags[0],)
    assert episodes.sample(0, 3).instruction == 'lift it'
    assert episodes.left_out[bags[1]] == 'the audit marked it (9 Hz)'
    assert episodes.left_out[bags[2]] == 'it was discarded'
    assert 'bytes at its end are lost' in episodes.left_out[bags[3]]
    assert BagEpisodes(bags, ROBOT, flawed=True).bags == tuple(bags[:2])
    with pytest.raises(QwenVlaError, match=f'^{bags[1]}: the audit marked it'):
        BagEpisodes([bags[1]], ROBOT)


def test_an_episode_without_a_sentence_does_not_stop_the_others(tmp_path):
    bags = [write(tmp_path / name) for name in ('told', 'silent')]
    for bag, words in zip(bags, ('lift it', ''), strict=True):
        EpisodeNotes(0, 'widowx', words, None, KEPT).save(bag)
    episodes = BagEpisodes(bags, ROBOT)
    assert episodes.bags == (bags[0],)
    assert 'no instruction in it; give one (--instruction)' in episodes.left_out[bags[1]]
    assert BagEpisodes(bags, ROBOT, 'touch it').bags == tuple(bags)


def test_an_empty_bag_is_told(tmp_path):
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP):
        pass
    with pytest.raises(QwenVlaError, match='bag: there is no message in it'):
        BagEpisodes([tmp_path / 'bag'], ROBOT)


def test_an_absent_bag(tmp_path):
    with pytest.raises(QwenVlaError, match='there is no such bag'):
        BagEpisodes([tmp_path / 'x'], SimpleNamespace())
