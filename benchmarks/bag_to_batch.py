"""
Time from a bag to the first training batch: through LeRobot first / straight from the bag.

The bag has the WidowX contract's own streams (two cameras of 640x480 at 20 Hz, joints at 50 Hz, in
zstd chunks as our recorder writes them) for five minutes, pictures as JPEG: short for a recording,
and what a longer one adds, it adds to the conversion alone. The conversion is ours (AV1 while it
reads, no PNG files between), each side opens its data set and draws eight samples at random. The
note has the same for a bag of 20 s of uncompressed pictures, whose chunks around each sample cost
more to read.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from benchmarks import Result, main
from qwen_vla_ros.data.batch import stack
from qwen_vla_ros.data.conversion import Conversion, convert
from qwen_vla_ros.data.lerobot_writer import LeRobotTarget
from qwen_vla_ros.data.mixture import Mixture, Source
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.data.work_list import units_of
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.patches import resize

SECONDS, RAW_SECONDS, BATCH, PICTURES = 300, 20, 8, 40
S = 1_000_000_000
START = 1_000 * S
OPTIONS = {'embodiment': 'widowx', 'instruction': 'touch the red block'}
IMAGE, JOINTS = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/JointState'
JPEG = 'sensor_msgs/msg/CompressedImage'


def write_bag(folder: Path, seconds: int, kind: str) -> None:
    """Write a bag with pictures of a kind, IMAGE or JPEG; they move and have grain."""
    robot, store = Embodiment.load('widowx'), get_typestore(Stores.ROS2_JAZZY)
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    pictures, names = _pictures(kind), [field.name for field in robot.state.fields]
    due = [
        (START + tick * S // round(source.rate_hz), source)
        for source in (*robot.cameras, robot.state)
        for tick in range(round(seconds * source.rate_hz))
    ]
    with writer:
        topics = {
            source.topic: writer.add_connection(
                f'/{source.topic}', JOINTS if source is robot.state else kind, typestore=store
            )
            for source in (*robot.cameras, robot.state)
        }
        for tick, (time_ns, source) in enumerate(sorted(due, key=lambda item: item[0])):
            header = _header(store, time_ns)
            if source is robot.state:
                row = 0.3 * np.sin((time_ns - START) / S + np.arange(len(names)))
                empty = np.zeros(0)
                message = store.types[JOINTS](header, names, row, empty, empty)
                data = store.serialize_cdr(message, JOINTS)
            else:
                picture = pictures[tick % PICTURES]
                told = ('jpeg', picture) if kind == JPEG else (480, 640, 'rgb8', 0, 1920, picture)
                data = store.serialize_cdr(store.types[kind](header, *told), kind)
            writer.write(topics[source.topic], time_ns + 1_000_000, data)


def _pictures(kind: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    wide = resize(rng.integers(0, 256, (12, 16, 3), np.uint8), 480, 800).astype(np.int16)
    grain = rng.integers(-4, 5, (480, 640, 3), np.int16)
    found = [
        np.clip(wide[:, 4 * i : 4 * i + 640] + grain, 0, 255).astype(np.uint8)
        for i in range(PICTURES)
    ]
    if kind == IMAGE:
        return [picture.ravel() for picture in found]
    return [cv2.imencode('.jpg', picture[..., ::-1])[1].ravel() for picture in found]


def _header(store: Any, time_ns: int) -> Any:
    stamp = store.types['builtin_interfaces/msg/Time'](time_ns // S, time_ns % S)
    return store.types['std_msgs/msg/Header'](stamp, '')


def first_batch(path: Path, seed: int, **options: Any) -> float:
    """Open a data set, draw a batch, and return the seconds that it took."""
    began = time.perf_counter()
    mixture = iter(Mixture([Source(open_dataset(path, **options), 'robot manipulation')], seed))
    batch = stack([next(mixture) for _ in range(BATCH)])
    assert batch['images.ego'].shape == (BATCH, 480, 640, 3)
    return time.perf_counter() - began


def measure(seconds: int, kind: str) -> tuple[float, list[float], float, bool]:
    """Return s through LeRobot, s of some straight batches, GiB of the bag, and _same()."""
    with tempfile.TemporaryDirectory() as name:
        bag, out = Path(name) / 'bag', Path(name) / 'lerobot'
        write_bag(bag, seconds, kind)
        ours = [first_batch(bag, 0, **OPTIONS)]
        began = time.perf_counter()
        convert(Conversion(units_of([str(bag)], OPTIONS), LeRobotTarget()), out)
        converted = time.perf_counter() - began
        theirs = converted + first_batch(out, 0)
        ours += [first_batch(bag, seed, **OPTIONS) for seed in (1, 2)]
        size = sum(path.stat().st_size for path in bag.iterdir()) / 2**30
        return theirs, ours, size, _same(bag, out)


def run() -> Result:
    """Return the ratio, in s."""
    baseline, ours, size, same = measure(SECONDS, JPEG)
    raw, straight, raw_size, raw_same = measure(RAW_SECONDS, IMAGE)
    told = ', '.join(f'{seconds:.2f}' for seconds in ours)
    return Result(
        'bag_to_batch',
        baseline,
        min(ours),
        100.0,
        's',
        f'a bag of {SECONDS} s and {size:.2f} GiB, batch of {BATCH}; straight: {told} s. '
        f'Uncompressed pictures, {RAW_SECONDS} s and {raw_size:.2f} GiB: {raw:.2f} against '
        f'{min(straight):.2f} s ({raw / min(straight):.1f} times)',
        equal=same and raw_same,
    )


def _same(bag: Path, out: Path) -> bool:
    """Tell whether the conversion has the rows of the bag, and its pictures but for the codec."""
    wanted: Sample = next(open_dataset(bag, **OPTIONS).stream(0))
    found = open_dataset(out).sample(0, 0)
    away = np.abs(wanted.images['ego'].astype(int) - found.images['ego']).mean()
    assert wanted.state is not None and found.state is not None
    return (
        bool(away < 8)
        and np.array_equal(wanted.state, found.state)
        and np.array_equal(wanted.actions[0], found.actions[0])
        and wanted.instruction == found.instruction
    )


if __name__ == '__main__':
    main(run)
