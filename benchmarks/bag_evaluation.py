"""
Seconds of record / seconds to evaluate it: raw bag, three cameras of 640x480 at 30 Hz, no model.

The bag goes through assembler, executor, safety gate, measures and doctor, as `qwen-vla eval bag
--no-film` has it, with a policy that swings about where the arm stands; pictures are random,
joints come at 50 Hz. A bag of a third of the length comes before it; the note tells by how much
the peak of anonymous memory is larger (the bag's own pages are mapped). Without film and plots.
"""

import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import Result, main
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.policy import ConstantPolicy
from qwen_vla_ros.types import ActionChunk, Observation

SECONDS, LONGER, CAMERAS_HZ, JOINTS_HZ = 5, 3, 30, 50
FLAT_MB = 48  # more than that between the bags is a leak
NS = 1_000_000_000
START = 100 * NS
HOME = np.array([0.0, -1.0, 0.9, 0.0, -0.3, 0.0, 0.03])


def robot() -> Embodiment:
    """Return the WidowX with a third camera, all at 30 Hz."""
    found = Embodiment.load('widowx')
    cameras = [replace(camera, rate_hz=float(CAMERAS_HZ)) for camera in found.cameras]
    third = replace(cameras[0], view='cam_high', topic='camera/high/image_raw')
    return replace(found, cameras=(*cameras, third))


class Swing(ConstantPolicy):
    """Rows that leave the observed joints and come back."""

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return the chunk."""
        chunk = super().infer(observation, prefix)
        wave = 0.1 * np.sin(np.linspace(0, np.pi, chunk.horizon))[:, None].astype(np.float32)
        still = [name.endswith('finger') for name in chunk.names]
        return replace(chunk, actions=chunk.actions + np.where(still, 0.0, wave).astype('f4'))


def write(folder: Path, seconds: int) -> Path:
    """Write the bag."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store, contract = get_typestore(Stores.ROS2_JAZZY), robot()
    types, rng = store.types, np.random.default_rng(0)
    names, empty = list(contract.state_names), np.zeros(0)

    def header(time_ns: int, frame: str) -> object:
        stamp = types['builtin_interfaces/msg/Time'](time_ns // NS, time_ns % NS)
        return types['std_msgs/msg/Header'](stamp, frame)

    image, joints = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/JointState'
    pixels = [rng.integers(0, 256, 640 * 480 * 3, np.uint8) for _ in range(8)]
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {
            c.topic: writer.add_connection(f'/{c.topic}', image, typestore=store)
            for c in contract.cameras
        }
        state = writer.add_connection(f'/{contract.state.topic}', joints, typestore=store)
        ticks = [(START + i * NS // CAMERAS_HZ, 1, i) for i in range(seconds * CAMERAS_HZ)]
        ticks += [(START + i * NS // JOINTS_HZ, 0, i) for i in range(seconds * JOINTS_HZ)]
        for at_ns, is_image, index in sorted(ticks):
            if not is_image:
                row = HOME + 0.1 * np.sin(index / JOINTS_HZ) * (np.arange(7) < 6)
                message = types[joints](header(at_ns, ''), names, row, empty, empty)
                writer.write(state, at_ns + 1_000_000, store.serialize_cdr(message, joints))
                continue
            for number, c in enumerate(contract.cameras):
                data = pixels[(index + number) % 8]
                head = header(at_ns, c.frame_id)
                message = types[image](head, 480, 640, 'rgb8', 0, 1920, data)
                connection = topics[c.topic]
                writer.write(connection, at_ns + 5_000_000, store.serialize_cdr(message, image))
    return folder


class Peak:
    """The most anonymous memory of this process while it is open, MB; the mapped bag is not."""

    def __enter__(self) -> 'Peak':
        """Look every 10 ms."""
        self.megabytes, self._end = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.01):
            lines = Path('/proc/self/status').read_text().splitlines()
            (line,) = (line for line in lines if line.startswith('RssAnon'))
            self.megabytes = max(self.megabytes, int(line.split()[1]) / 1024)


def evaluate(bag: Path) -> dict[str, float]:
    """Evaluate a bag; return seconds, those of the record, chunks, and peak memory in MB."""
    from qwen_vla_ros.evaluate.bag_command import measure
    from qwen_vla_ros.evaluate.bag_run import FREE, RunOptions
    from qwen_vla_ros.evaluate.bag_source import BagSource

    contract = robot()
    options = RunOptions('', instruction='swing')
    with Peak() as peak:
        began = time.perf_counter()
        source = BagSource(bag, contract)
        result, _ = measure(source, {'swing': Swing(contract)}, [options], FREE)
        seconds = time.perf_counter() - began
    chunks = result['runs']['swing']['chunks']
    return {
        'seconds': seconds,
        'record': source.seconds,
        'chunks': chunks,
        'peak': peak.megabytes,
    }


def run() -> Result:
    """Evaluate a bag, then one that is longer; the first one has loaded the libraries."""
    with tempfile.TemporaryDirectory() as folder:
        bags = [write(Path(folder) / f'{n}', SECONDS * n) for n in (1, LONGER)]
        short, long = map(evaluate, bags)
    grown = long['peak'] - short['peak']
    return Result(
        'bag_evaluation',
        long['record'],
        long['seconds'],
        10.0,
        's',
        f'{long["chunks"]} chunks in {long["record"]:.1f} s of record; peak memory '
        f'{short["peak"]:.0f} MB for {short["record"]:.1f} s, {long["peak"]:.0f} MB for '
        f'{long["record"]:.1f} s ({grown:+.0f} MB, at most {FLAT_MB} allowed)',
        equal=grown < FLAT_MB and long['chunks'] > 4 * long['record'],
    )


if __name__ == '__main__':
    main(run)
