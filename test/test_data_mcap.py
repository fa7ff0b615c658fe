"""MCAP by its index: what is read, in which order, and what is left of a file that was cut."""

import lz4.frame
import numpy as np
import pytest

pytest.importorskip('rosbags')
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from qwen_vla_ros.data.bag_files import open_bag
from qwen_vla_ros.data.mcap import CHUNK, HEAD, McapError, McapFile
from qwen_vla_ros.errors import QwenVlaError

STORE = get_typestore(Stores.ROS2_JAZZY)
STRING, BYTES = 'std_msgs/msg/String', 'std_msgs/msg/UInt8MultiArray'
MS = 1_000_000


def write(folder, mode=None, times=range(40), noise=100_000):
    """A word every 10 ms on /word, and 100 kB of noise beside it."""
    rng = np.random.default_rng(0)
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    if mode:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    layout = STORE.types['std_msgs/msg/MultiArrayLayout']([], 0)
    with writer:
        word = writer.add_connection('/word', STRING, typestore=STORE)
        big = writer.add_connection('/big', BYTES, typestore=STORE)
        for tick in times:
            text = STORE.types[STRING](f'word {tick}')
            writer.write(word, tick * 10 * MS, STORE.serialize_cdr(text, STRING))
            data = STORE.types[BYTES](layout, rng.integers(0, 256, noise, np.uint8))
            writer.write(big, tick * 10 * MS, STORE.serialize_cdr(data, BYTES))
    return folder


def words(path, start=None, stop=None):
    with open_bag(path) as reader:
        wanted = [c for c in reader.connections if c.topic == '/word']
        found = reader.messages(wanted, start, stop)
        return [(time, reader.deserialize(data, STRING).data) for _, time, data in found]


def everything(reader):
    found = {}
    for connection, time, data in reader.messages():
        found.setdefault(connection.topic, []).append((time, bytes(data)))
    return found


@pytest.mark.parametrize('mode', [None, CompressionMode.STORAGE, CompressionMode.FILE])
def test_it_gives_what_rosbags_gives(tmp_path, mode):
    folder = write(tmp_path / 'bag', mode)
    with open_bag(folder) as ours, AnyReader([folder]) as theirs:
        assert everything(ours) == everything(theirs)
        assert (ours.start_time, ours.end_time) == (theirs.start_time, theirs.end_time)
        assert ours.message_count == theirs.message_count == 80


def test_a_stretch_reads_its_own_chunks_only(tmp_path):
    folder = write(tmp_path / 'bag', CompressionMode.STORAGE)
    with open_bag(folder) as reader:
        assert reader.chunks_loaded == 0
        wanted = [c for c in reader.connections if c.topic == '/word']
        found = [time for _, time, _ in reader.messages(wanted, 200 * MS, 220 * MS)]
        assert found == [200 * MS, 210 * MS]
        assert reader.chunks_loaded <= 2 < len(reader._files[0].chunks)


def test_messages_that_were_written_late_come_in_their_time(tmp_path):
    times = [*range(0, 30, 2), *range(1, 30, 2)]  # chunks that overlap
    folder = write(tmp_path / 'bag', times=times)
    assert [time for time, _ in words(folder)] == [tick * 10 * MS for tick in range(30)]


def test_the_files_of_a_split_bag_are_one(tmp_path):
    whole = write(tmp_path / 'bag', times=range(12))
    (whole / 'bag.mcap').rename(whole / 'bag_2.mcap')
    later = write(tmp_path / 'later', times=range(12, 20))
    (later / 'later.mcap').rename(whole / 'bag_10.mcap')
    metadata = (whole / 'metadata.yaml').read_text()
    named = metadata.replace('  - bag.mcap', '  - bag_2.mcap\n  - bag_10.mcap')
    (whole / 'metadata.yaml').write_text(named)
    assert [text for _, text in words(whole)] == [f'word {tick}' for tick in range(20)]
    (whole / 'metadata.yaml').unlink()
    assert [text for _, text in words(whole)] == [f'word {tick}' for tick in range(20)]


def test_a_file_of_a_split_bag_that_is_not_there_is_named(tmp_path):
    folder = write(tmp_path / 'bag', times=range(3))
    (folder / 'bag.mcap').rename(folder / 'other.mcap')
    with pytest.raises(QwenVlaError, match=r'bag\.mcap: named in metadata.yaml and not'):
        words(folder)


@pytest.mark.parametrize('mode', [None, CompressionMode.STORAGE])
@pytest.mark.parametrize('share', [0.3, 0.6, 0.95])
def test_a_cut_file_keeps_all_whole_chunks(tmp_path, mode, share):
    folder = write(tmp_path / 'bag', mode)
    before = words(folder)
    file = folder / 'bag.mcap'
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    after = words(folder)
    assert after == before[: len(after)]
    assert len(after) > share * len(before) - 12  # a chunk of 1 MB holds 11 of them
    with open_bag(folder) as reader:
        assert f'{reader.message_count} messages of' in reader.lost
        assert len(everything(reader)['/big']) == len(after)


def test_a_file_cut_within_the_indices_of_a_chunk_loses_none_of_it(tmp_path):
    folder = write(tmp_path / 'bag')
    chunk = McapFile(folder / 'bag.mcap').chunks[1]
    data = (folder / 'bag.mcap').read_bytes()
    (folder / 'bag.mcap').write_bytes(data[: chunk.at + chunk.length + 40])
    assert len(words(folder)) == 22


def test_lz4_chunks(tmp_path):
    folder = write(tmp_path / 'bag', times=range(5), noise=10)
    file = folder / 'bag.mcap'
    data = file.read_bytes()
    before = words(folder)
    at = 8
    while data[at] != CHUNK:
        at += HEAD.size + HEAD.unpack_from(data, at)[1]
    size = HEAD.unpack_from(data, at)[1]
    body = data[at + HEAD.size : at + HEAD.size + size]
    packed = lz4.frame.compress(body[28 + 4 + 8 :])
    chunk = body[:28] + b'\x03\0\0\0lz4' + len(packed).to_bytes(8, 'little') + packed
    file.write_bytes(data[:at] + HEAD.pack(CHUNK, len(chunk)) + chunk)  # and no footer
    assert words(folder) == before


@pytest.mark.parametrize(
    ('content', 'told'),
    [(b'', 'the file is empty'), (b'SQLite format 3\0' * 9, 'not an MCAP file')],
)
def test_what_is_no_mcap_is_told(tmp_path, content, told):
    (tmp_path / 'x.mcap').write_bytes(content)
    with pytest.raises(McapError, match=f'x.mcap: {told}'):
        words(tmp_path / 'x.mcap')


def test_a_damaged_chunk_is_told_by_its_place(tmp_path):
    folder = write(tmp_path / 'bag', CompressionMode.STORAGE)
    file = folder / 'bag.mcap'
    data = bytearray(file.read_bytes())
    data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
    file.write_bytes(data)
    with pytest.raises(McapError, match='damaged inside: the chunk at byte'):
        words(folder)
