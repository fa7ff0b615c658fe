"""
Samples/s in steady state: random access by PyAV into AV1 films / ours, the packed cache.

Both give batches of two views at 224x224, from the same LeRobot data set of 640x480 pictures (two
frames a group of pictures, as LeRobot encodes them). The baseline keeps its films open, seeks to
the key frame and decodes from there; resizing is ours on both sides, so that every picture can be
compared bit by bit, which is done first. Both sides read from the disk's cache.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from benchmarks import Result, main
from qwen_vla_ros.data.batch import stack
from qwen_vla_ros.data.cleaning import Thresholds, facts_of
from qwen_vla_ros.data.conversion import Conversion, convert
from qwen_vla_ros.data.lerobot_writer import LeRobotTarget
from qwen_vla_ros.data.packed import PackedEpisodes
from qwen_vla_ros.data.packed_writer import PackedTarget
from qwen_vla_ros.data.sample import Place, Sample
from qwen_vla_ros.data.work_list import Unit
from qwen_vla_ros.patches import resize

FRAMES, RATE, SIZE, BATCH = 200, 10.0, 224, 32
VIEWS = ('ego', 'wrist')
ROUNDS, THEIRS, OURS = 3, 2, 60  # rounds; batches of each side in a round


def write_lerobot(folder: Path) -> None:
    """Write one episode of smooth moving pictures with some grain, as a camera gives them."""
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (12, 16, 3), np.uint8)
    wide = resize(rough, 960, 1280).astype(np.int16)
    target, part_folder = LeRobotTarget('av1'), folder.with_name('part')
    part_folder.mkdir()
    part = target.part(part_folder, RATE)
    rows = np.cumsum(rng.normal(0, 0.01, (FRAMES + 16, 7)), 0).astype(np.float32)
    for frame in range(FRAMES):
        images = {}
        for number, view in enumerate(VIEWS):
            x, y = 2 * frame, frame * (number + 1)
            grain = rng.integers(-6, 7, (480, 640, 3), np.int16)
            cut = wide[y : y + 480, x : x + 640] + grain
            images[view] = np.clip(cut, 0, 255).astype(np.uint8)
        chunk = rows[frame : frame + 16]
        part.add(
            Sample(
                Place('made', 0, frame),
                images,
                'touch the red block',
                'widowx',
                chunk,
                np.ones_like(chunk, bool),
                tuple('abcdefg'),
                round(frame / RATE * 1e9),
            )
        )
    part.close()
    facts = facts_of(
        rows[:FRAMES], tuple('abcdefg'), source='made', episode=0, frames=FRAMES, rate_hz=RATE
    )
    folder.mkdir()
    target.join([(part_folder, facts)], folder)


class OpenFilms:
    """The baseline: each view's film stays open; a picture is decoded from its key frame on."""

    def __init__(self, folder: Path) -> None:
        """Open the films."""
        self._files = [
            av.open(str(next((folder / f'videos/observation.images.{view}').rglob('*.mp4'))))
            for view in VIEWS
        ]

    def batch(self, frames: Sequence[int]) -> dict[str, np.ndarray]:
        """Return view -> uint8 [B, 224, 224, 3]."""
        found = {}
        for view, file in zip(VIEWS, self._files, strict=True):
            found[view] = np.stack([_picture(file, frame) for frame in frames])
        return found


def _picture(file: av.container.InputContainer, frame: int) -> np.ndarray:
    stream = file.streams.video[0]
    time_s = frame / RATE
    file.seek(round(time_s / stream.time_base), stream=stream)
    for decoded in file.decode(stream):
        if decoded.time >= time_s - 0.5 / RATE:
            return resize(decoded.to_ndarray(format='rgb24'), SIZE, SIZE)
    raise AssertionError(f'no frame {frame}')


def run() -> Result:
    """Return the ratio, in ms a sample."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lerobot(folder / 'lerobot')
        unit = Unit(str(folder / 'lerobot'), 0)
        asked = Conversion([unit], PackedTarget((SIZE, SIZE)), Thresholds())
        convert(asked, folder / 'packed')
        theirs, ours = OpenFilms(folder / 'lerobot'), PackedEpisodes(folder / 'packed')
        rng = np.random.default_rng(1)
        equal = _same(theirs, ours, rng.integers(0, FRAMES, BATCH).tolist())
        their_s, our_s = [], []
        for _ in range(ROUNDS):
            drawn = rng.integers(0, FRAMES, (THEIRS, BATCH)).tolist()
            began = time.perf_counter()
            for frames in drawn:
                theirs.batch(frames)
            their_s.append((time.perf_counter() - began) / THEIRS / BATCH)
            drawn = rng.integers(0, FRAMES, (OURS, BATCH)).tolist()
            began = time.perf_counter()
            for frames in drawn:
                stack([ours.sample(0, frame) for frame in frames])
            our_s.append((time.perf_counter() - began) / OURS / BATCH)
        films = sum(path.stat().st_size for path in (folder / 'lerobot').rglob('*.mp4')) / FRAMES
        baseline, own = min(their_s) * 1e3, min(our_s) * 1e3
        return Result(
            'bag_samples',
            baseline,
            own,
            50.0,
            'ms/sample',
            f'{1e3 / baseline:.0f} and {1e3 / own:.0f} samples/s of two views at {SIZE}x{SIZE}; '
            f'bytes a sample: films {films / 1024:.0f} KiB, packed '
            f'{ours.bytes_per_sample / 1024:.0f} KiB',
            equal=equal,
        )


def _same(theirs: OpenFilms, ours: PackedEpisodes, frames: Sequence[int]) -> bool:
    """Tell whether both give the same pictures, bit by bit."""
    wanted = theirs.batch(frames)
    found = stack([ours.sample(0, frame) for frame in frames])
    return all(np.array_equal(wanted[view], found[f'images.{view}']) for view in VIEWS)


if __name__ == '__main__':
    main(run)
