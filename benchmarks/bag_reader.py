"""
All messages of a raw 3-camera bag, decoded: rosbags' AnyReader against our reader.

Three 640x480 cameras at 20 Hz (noise, uncompressed MCAP) and joints at 50 Hz, 5 s. Every picture
is decoded and copied into an array, every joint row read, on both sides; all outputs are compared
first. The file is in the page cache. The same with zstd chunks stands in the note.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from benchmarks import Result, main
from qwen_vla_ros.data.bag_files import open_bag
from qwen_vla_ros.image_decoding import decode_image

SECONDS, ROUNDS, HEIGHT, WIDTH, GOAL = 5, 5, 480, 640, 2.0
IMAGE, JOINTS = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/JointState'
NAMES = [f'joint{number}' for number in range(7)]
STORE = get_typestore(Stores.ROS2_JAZZY)


def write(folder: Path, compressed: bool) -> Path:
    """Write the bag; compressed pictures have grain in their low bits only, as cameras' have."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 8 if compressed else 256, HEIGHT * WIDTH * 3 + 1000, np.uint8)
    types = STORE.types
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    if compressed:
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        cameras = [writer.add_connection(f'/c{i}', IMAGE, typestore=STORE) for i in range(3)]
        joints = writer.add_connection('/joint_states', JOINTS, typestore=STORE)
        for tick in range(SECONDS * 100):
            stamp = types['builtin_interfaces/msg/Time'](1 + tick // 100, tick % 100 * 10_000_000)
            header, time_ns = types['std_msgs/msg/Header'](stamp, 'x'), (100 + tick) * 10_000_000
            for number, camera in enumerate(cameras if tick % 5 == 0 else ()):
                data = noise[tick + number : tick + number + HEIGHT * WIDTH * 3]
                image = types[IMAGE](header, HEIGHT, WIDTH, 'rgb8', 0, WIDTH * 3, data)
                writer.write(camera, time_ns, STORE.serialize_cdr(image, IMAGE))
            if tick % 2 == 0:
                row = np.full(7, tick / 100)
                state = types[JOINTS](header, NAMES, row, np.zeros(7), np.zeros(7))
                writer.write(joints, time_ns, STORE.serialize_cdr(state, JOINTS))
    return folder


def theirs(folder: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield every message by AnyReader."""
    with AnyReader([folder]) as reader:
        for connection, time_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            yield connection.topic, time_ns, message


def ours(folder: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield every message by our reader."""
    with open_bag(folder) as reader:
        for connection, time_ns, data in reader.messages():
            yield connection.topic, time_ns, reader.deserialize(data, connection.msgtype)


def outputs(messages: Iterator[tuple[str, int, Any]]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield what is wanted of each message; the picture in one array that is used again."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for topic, time_ns, message in messages:
        if hasattr(message, 'encoding'):
            np.copyto(picture, decode_image(message, topic))
            yield topic, time_ns, picture
        else:
            yield topic, time_ns, np.array(message.position)


def same(folder: Path) -> bool:
    """Tell whether both give the same, topic by topic."""
    sums: list[dict[str, list[Any]]] = [{}, {}]
    for side, read in zip(sums, (theirs, ours), strict=True):
        for topic, time_ns, value in outputs(read(folder)):
            side.setdefault(topic, []).append((time_ns, hash(value.tobytes())))
    return sums[0] == sums[1] and len(sums[0]) == 4


def seconds(read: Callable[[Path], Iterator[tuple[str, int, Any]]], folder: Path) -> float:
    """Return how long all outputs take, the opening included."""
    begin = time.perf_counter()
    for _ in outputs(read(folder)):
        pass
    return time.perf_counter() - begin


def measure(folder: Path) -> tuple[float, float]:
    """Return the best of each side in s, in turns."""
    rounds = [(seconds(theirs, folder), seconds(ours, folder)) for _ in range(ROUNDS)]
    return min(first for first, _ in rounds), min(second for _, second in rounds)


def run() -> Result:
    """Compare, then measure both sides in turns, raw and compressed."""
    with tempfile.TemporaryDirectory() as root:
        raw = write(Path(root) / 'raw', compressed=False)
        packed = write(Path(root) / 'packed', compressed=True)
        equal = same(raw) and same(packed)
        baseline, mine = measure(raw)
        before, after = measure(packed)
    count = SECONDS * (3 * 20 + 50)
    return Result(
        'bag_reader',
        baseline,
        mine,
        GOAL,
        's',
        f'{count} messages, {SECONDS * 60 * HEIGHT * WIDTH * 3 / 2**20:.0f} MB of pictures, '
        f'uncompressed; with zstd chunks {before:.2f} / {after:.2f} s = {before / after:.1f}',
        equal,
    )


if __name__ == '__main__':
    main(run)
