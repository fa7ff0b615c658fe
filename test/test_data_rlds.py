"""RLDS shards that tensorflow-datasets wrote (write_rlds_fixture.py), and each damage of them."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

crc32c = pytest.importorskip('google_crc32c')

from qwen_vla_ros.data.open import open_dataset  # noqa: E402
from qwen_vla_ros.data.tfrecord import features, records, value  # noqa: E402
from qwen_vla_ros.errors import QwenVlaError  # noqa: E402

WRITTEN = Path(__file__).parent / 'rlds_own_small_set' / '1.0.0'
LENGTHS = {'task 0': 5, 'task 1': 3, 'task 2': 4}
OPTIONS = {'rate_hz': 5, 'embodiment': 'widowx', 'horizon': 3}
SHARD = 'own_small_set-train.tfrecord-00001-of-00002'


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(WRITTEN, tmp_path / '1.0.0'))


def test_what_the_library_wrote_reads_the_same():
    episodes = open_dataset(WRITTEN, **OPTIONS)
    assert episodes.source == 'own_small_set/1.0.0'
    seen = {}
    for episode in range(len(episodes)):
        found = list(episodes.stream(episode))
        number = int(found[0].instruction.split()[1])
        seen[found[0].instruction] = len(found)
        rows = np.float32([10 * number + row + np.arange(7) / 100 for row in range(len(found))])
        np.testing.assert_array_equal(episodes.columns(episode)['action'], rows)
        for row, sample in enumerate(found):
            assert sample.stamp_ns == row * 200_000_000
            np.testing.assert_array_equal(sample.actions[sample.mask[:, 0]], rows[row : row + 3])
            np.testing.assert_array_equal(sample.state, rows[row] + np.float32(0.5))
            assert np.all(sample.images['image_0'] == 40 + 60 * number + 10 * row)
            assert np.all(sample.images['image_1'] == 45 + 60 * number + 10 * row)
    assert seen == LENGTHS


def test_fields_of_a_description():
    actions = {
        'split_action/world_vector': ['dx', 'dy', 'dz'],
        'split_action/open_gripper': ['gripper'],
        'split_action/count': ['count'],
        'observation/raw': [],
    }
    told = {**OPTIONS, 'actions': actions, 'views': {'ego': 'image_1'}, 'instruction': 'lift'}
    episodes = open_dataset(WRITTEN, **told)
    sample = episodes.sample(1, 3)  # task 2
    assert sample.action_names[:5] == ('dx', 'dy', 'dz', 'gripper', 'count')
    assert sample.action_names[5:] == tuple(f'observation/raw.{i}' for i in range(12))
    assert sample.actions[0].tolist() == [2, 3, -1, 0, -3, *[3] * 12]
    assert (list(sample.images), sample.instruction) == (['ego'], 'lift')


def test_a_known_set_needs_no_description(folder):
    edit(folder / 'dataset_info.json', name='bridge_dataset')
    for path in folder.glob('*.tfrecord*'):
        path.rename(path.with_name(path.name.replace('own_small_set', 'bridge_dataset')))
    sample = open_dataset(folder).sample(0, 1)
    assert (sample.embodiment, sample.stamp_ns) == ('widowx', 200_000_000)
    assert sample.action_names == ('dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw', 'gripper')
    assert list(sample.images) == ['ego']


def edit(path, **changed):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def rewrite(folder, change):
    """Write the second shard again with changed bytes and right checksums."""
    path = folder / SHARD
    (content,) = [bytes(content) for _, content in records(path)]
    content = change(content)
    path.write_bytes(framed(content))


def framed(content):
    head = struct.pack('<Q', len(content))
    return head + masked(head) + content + masked(content)


def masked(data):
    check = crc32c.value(data)
    return struct.pack('<I', ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def flip(folder, at):
    data = bytearray((folder / SHARD).read_bytes())
    data[at] ^= 1
    (folder / SHARD).write_bytes(data)


ACTION = np.float32(10 + np.arange(7) / 100).tobytes()
NAN = np.float32([10, np.nan]).tobytes()
SPLITS = [{'name': 'test', 'shardLengths': ['1']}]
DAMAGES = {
    'no features': (lambda f: (f / 'features.json').unlink(), 'rlds: no features.json in it'),
    'features cut': (lambda f: (f / 'features.json').write_text('{'), 'json: cannot be read'),
    'no steps': (lambda f: (f / 'features.json').write_text('{}'), 'steps with their features'),
    'format': (
        lambda f: edit(f / 'dataset_info.json', fileFormat='array_record'),
        "fileFormat 'array_record'; tfrecord can be read",
    ),
    'split': (lambda f: edit(f / 'dataset_info.json', splits=SPLITS), "no split 'train'; it has"),
    'no shard': (lambda f: (f / SHARD).unlink(), '00001-of-00002: it is missing'),
    'cut': (
        lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-9]),
        'it ends inside the record at byte 0',
    ),
    'length': (lambda f: flip(f, 1), 'no record begins at byte 0 (its checksum is wrong)'),
    'content': (lambda f: flip(f, -9), 'record at byte 0 is damaged (its checksum is wrong)'),
    'no example': (lambda f: rewrite(f, lambda c: c[:-5]), 'is no Example (a field that is'),
    'nan': (
        lambda f: rewrite(f, lambda c: c.replace(ACTION[:8], NAN)),
        'episode 2, frame 0: actions.action.1: row 0 is nan',
    ),
    'key': (
        lambda f: rewrite(f, lambda c: c.replace(b'steps/action', b'steps/axtion')),
        'no steps/action in it, though features.json has it',
    ),
    'picture': (
        lambda f: rewrite(f, lambda c: c.replace(b'\xff\xd8\xff', b'\xff\xd9\xff')),
        'episode 2, frame 0: images.image_0: ',
    ),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_damage_is_told_in_one_line(folder, name):
    damage, words = DAMAGES[name]
    damage(folder)
    with pytest.raises(QwenVlaError) as told:
        open_dataset(folder, **OPTIONS).sample(2, 0)
    assert words in str(told.value)
    assert '\n' not in str(told.value)


def test_what_a_description_must_tell(folder):
    for left_out, words in (
        ('rate_hz', 'tells no times; say rate_hz'),
        ('embodiment', 'say embodiment'),
    ):
        with pytest.raises(QwenVlaError, match=f'{words}: write .*`{left_out}:` into a YAML'):
            open_dataset(folder, **{k: v for k, v in OPTIONS.items() if k != left_out})
    with pytest.raises(QwenVlaError, match="no image 'top'; there are: observation/image_0"):
        open_dataset(folder, **OPTIONS, views={'ego': 'top'})
    with pytest.raises(QwenVlaError, match='action: 7 channels, but 2 names'):
        open_dataset(folder, **OPTIONS, actions={'action': ['a', 'b']}).sample(0, 0)


def test_any_bytes_are_an_example_or_an_error(folder):
    """Random damage with right checksums: an answer or one clear error, never anything else."""
    (content,) = [bytes(content) for _, content in records(folder / SHARD)]
    rng, refused = np.random.default_rng(0), 0
    for _ in range(150):
        changed = bytearray(content)
        for at in rng.integers(0, len(content), 20):
            changed[at] = rng.integers(256)
        (folder / SHARD).write_bytes(framed(bytes(changed)))
        try:
            list(open_dataset(folder, **OPTIONS).stream(2))
        except QwenVlaError:
            refused += 1
    assert refused > 50


def test_numbers_packed_or_not():
    def message(number, body):
        return bytes([number << 3 | 2, len(body)]) + body

    packed = message(3, message(1, b'\x01\xac\x02' + b'\xff' * 9 + b'\x01'))
    single = message(3, b'\x08\x01\x08\xac\x02')
    assert value(memoryview(packed)).tolist() == [1, 300, -1]
    assert value(memoryview(single)).tolist() == [1, 300]
    floats = message(2, b'\x0d' + struct.pack('<f', 2.5) + b'\x0d' + struct.pack('<f', -1))
    assert value(memoryview(floats)).tolist() == [2.5, -1]
    entry = message(1, message(1, b'key') + message(2, packed))
    assert [name for name, _ in features(memoryview(message(1, entry)))] == ['key']
