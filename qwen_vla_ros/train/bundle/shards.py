"""
Frames of a family on disk: rendered in parallel, read back as episodes.

A shard is one .npz (numpy arrays only, read without pickle) of EPISODES_A_SHARD seeds:
  episode int32 [F]   view.NAME uint8 [F, h, w, 3]   state float32 [F, S]   of each frame
  rays int16 [F, rows, columns, 4]   what each part of a room's picture shows, if told
  frame int32 [N]     instruction str [N]   text str [N]   actions float32 [N, H, A]
  points float32 [N, P, 2] of POINTS (NaN: not in the picture; inf: not told)   of each sentence
  values float32 [N, V] of VALUES (NaN: there is none)     of each sentence
Shades are varied frame by frame as they are written: another camera has another exposure.
"""

import importlib
import multiprocessing
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from qwen_vla_ros.data.sample import Place, Sample, spoken
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.batches import augmented
from qwen_vla_ros.train.bundle.frames import POINTS, VALUES, Frame, Maker, Points

EPISODES_A_SHARD = 10
Sizes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Order:
    """
    What to render; equal orders give equal files.

    maker: 'module:Class' of train/bundle; sizes: view -> (h, w); seeds first, first + 1, ...;
    checkpoint: of the policy that acts in it (practice.py), or None
    """

    maker: str
    sizes: Sizes
    first: int
    episodes: int
    checkpoint: Path | None = None

    @property
    def kind(self) -> str:
        """Return the maker's class in small letters, without its last word."""
        return self.maker.partition(':')[2].removesuffix('Maker').lower()

    @property
    def made_by(self) -> type[Maker]:
        """Return the maker's class."""
        module, _, name = self.maker.partition(':')
        return getattr(importlib.import_module(f'qwen_vla_ros.train.bundle.{module}'), name)

    def make(self) -> Maker:
        """Return the maker, with the views that it shows."""
        acting = () if self.checkpoint is None else (self.checkpoint,)
        return self.made_by(self.sizes, *acting)


def render(order: Order, folder: Path, workers: int) -> list[Path]:
    """Render what is not there yet, in `workers` processes; return the shards."""
    folder.mkdir(parents=True, exist_ok=True)
    last = order.first + order.episodes
    jobs = []
    for first in range(order.first, last, EPISODES_A_SHARD):
        count = min(EPISODES_A_SHARD, last - first)
        jobs.append((order, first, count, folder / f'{order.kind}-{first}-{count}.npz'))
    todo = [job for job in jobs if not job[3].exists()]
    if workers == 1:
        for job in tqdm(todo, desc=order.kind, unit='shard', disable=not todo):
            _render_shard(*job)
    elif todo:
        context = multiprocessing.get_context('spawn')
        with context.Pool(min(workers, len(todo))) as pool:
            results = [pool.apply_async(_render_shard, job) for job in todo]
            for result in tqdm(results, desc=order.kind, unit='shard'):
                result.get()
    return [job[3] for job in jobs]


_makers: dict[str, Maker] = {}  # of this process: worlds are dear to open


def _render_shard(order: Order, first: int, count: int, path: Path) -> None:
    maker = _makers.get(order.maker) or _makers.setdefault(order.maker, order.make())
    frames = [
        (seed, _shaded(frame, seed, number))
        for seed in range(first, first + count)
        for number, frame in enumerate(maker.episode(seed))
    ]
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    with beside.open('wb') as file:
        np.savez(file, **_arrays(frames))
    beside.rename(path)


def _shaded(frame: Frame, seed: int, number: int) -> Frame:
    images = augmented(frame.images, np.random.default_rng([seed, number, 3]))
    return replace(frame, images=images)


def _arrays(frames: Sequence[tuple[int, Frame]]) -> dict[str, np.ndarray]:
    taught = [(index, item) for index, (_, frame) in enumerate(frames) for item in frame.taught]
    found = {
        'episode': np.array([seed for seed, _ in frames], np.int64),
        'frame': np.array([index for index, _ in taught], np.int64),
        'instruction': np.array([item.instruction for _, item in taught]),
        'text': np.array([item.text for _, item in taught]),
        'actions': np.stack([item.actions for _, item in taught]).astype(np.float32),
        'points': np.array([_points(item.points) for _, item in taught], np.float32),
        'values': np.array(
            [[item.values.get(name, np.nan) for name in VALUES] for _, item in taught], np.float32
        ),
    }
    for view in frames[0][1].images:
        found[f'view.{view}'] = np.stack([frame.images[view] for _, frame in frames])
    if frames[0][1].rays is not None:
        found['rays'] = np.stack([frame.rays for _, frame in frames])
    if frames[0][1].state is not None:
        found['state'] = np.stack([frame.state for _, frame in frames]).astype(np.float32)
    return found


def _points(told: Points) -> list[tuple[float, float]]:
    """Return POINTS in order; NaN and inf as the module tells."""
    return [(told[n] or (np.nan, np.nan)) if n in told else (np.inf, np.inf) for n in POINTS]


@dataclass(frozen=True)
class ShardEpisodes:
    """A family's shards as episodes; a frame of an episode is one sentence about a picture."""

    source: str
    embodiment: Embodiment | None
    layout: str
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def load(cls, order: Order, paths: Sequence[Path]) -> 'ShardEpisodes':
        """Read shards; a broken one is named."""
        parts: dict[str, list[np.ndarray]] = {}
        pictures = 0
        for path in paths:
            try:
                with np.load(path, allow_pickle=False) as stored:
                    found = {key: stored[key] for key in stored.files}
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise QwenVlaError(f'{path}: broken ({error}); delete it and run again') from error
            told = found['points'].shape[1], found['values'].shape[1]
            if told != (len(POINTS), len(VALUES)):
                raise QwenVlaError(
                    f'{path}: tells {told[0]} points and {told[1]} values, not {len(POINTS)} and '
                    f'{len(VALUES)}: another version rendered it; delete it and run again'
                )
            found['frame'] += pictures
            pictures += len(found['episode'])
            for key, value in found.items():
                parts.setdefault(key, []).append(value)
        maker = order.made_by
        robot = Embodiment.load(maker.embodiment) if maker.embodiment else None
        arrays = {key: np.concatenate(values) for key, values in parts.items()}
        return cls(order.kind, robot, maker.layout, arrays)

    @cached_property
    def _bounds(self) -> np.ndarray:
        """Return where each episode's sentences begin [E + 1]; they lie in order."""
        seeds = self.arrays['episode'][self.arrays['frame']]
        return np.append(np.flatnonzero(np.diff(seeds, prepend=-1)), len(seeds))

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._bounds) - 1

    def frames(self, episode: int) -> int:
        """Return the number of sentences of an episode."""
        return int(self._bounds[episode + 1] - self._bounds[episode])

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sentence about a picture."""
        data, row = self.arrays, int(self._bounds[episode]) + frame
        picture = int(data['frame'][row])
        images = {key[5:]: data[key][picture] for key in data if key.startswith('view.')}
        place = Place(self.source, episode, frame)
        words, text = str(data['instruction'][row]), str(data['text'][row])
        if self.embodiment is None:
            return spoken(place, images, words, text)
        actions = data['actions'][row]
        values = dict(zip(VALUES, data['values'][row].astype(float).tolist(), strict=True))
        points = dict(zip(POINTS, data['points'][row].astype(float).tolist(), strict=True))
        return Sample(
            place=place,
            images=images,
            instruction=words,
            embodiment=self.embodiment.name,
            actions=actions,
            mask=np.ones(actions.shape, bool),
            action_names=self.embodiment.action_names(self.layout),
            stamp_ns=frame,
            state=data['state'][picture] if 'state' in data else None,
            state_names=self.embodiment.state_names if 'state' in data else (),
            text=text,
            points={
                name: (u, v) if np.isfinite(u) else None
                for name, (u, v) in points.items()
                if not np.isinf(u)
            },
            values={name: value for name, value in values.items() if np.isfinite(value)},
        )

    def same_picture(self, episode: int, frame: int) -> np.ndarray:
        """Return the other frames of an episode that say something of the same picture."""
        begin, end = self._bounds[episode : episode + 2]
        pictures = self.arrays['frame'][begin:end]
        same = np.flatnonzero(pictures == pictures[frame])
        return same[same != frame]

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's sentences in order."""
        for frame in range(self.frames(episode)):
            yield self.sample(episode, frame)
