"""
The synthetic text-action set: written arm by arm, read as samples without views.

A folder holds one set for each arm. Read with horizon 0 an episode is one sample of the whole
trajectory (the paper's first training stage); with a horizon it has one sample a row. Layouts:

  delta_eef  dx dy dz (m), droll dpitch dyaw (rad) of the tip from the chunk's first row, along and
             about the axes of the base (kinematics.py), and gripper (m)
  abs_joint  joint1 .. jointJ (rad), gripper (m)
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from qwen_vla_ros.data.lerobot_meta import read_layout
from qwen_vla_ros.data.open import TEXT_ACTION
from qwen_vla_ros.data.remote import here
from qwen_vla_ros.data.sample import Place, Sample, window
from qwen_vla_ros.data.synthetic.arms import ARMS
from qwen_vla_ros.data.synthetic.families import FAMILIES
from qwen_vla_ros.data.synthetic.generate import BLOCK, Block, make_block
from qwen_vla_ros.data.synthetic.motions import RATE_HZ
from qwen_vla_ros.data.synthetic.runners import Runner
from qwen_vla_ros.data.synthetic.set_files import (
    DATA,
    EPISODES_A_FILE,
    SetWriter,
    begun_as,
    episode_table,
    file_path,
    finish,
    vector,
)
from qwen_vla_ros.data.synthetic.turns import euler, matrices
from qwen_vla_ros.errors import QwenVlaError

DELTA_EEF, ABS_JOINT = 'delta_eef', 'abs_joint'
DELTA_NAMES = ('dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw', 'gripper')
TIP_NAMES = ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw')


@dataclass(frozen=True)
class Order:
    """What to make: episodes in all, spread evenly over the arms; equal orders, equal files."""

    folder: Path
    episodes: int
    seed: int
    arms: tuple[str, ...] = tuple(ARMS)
    families: tuple[str, ...] = tuple(FAMILIES)

    def __post_init__(self) -> None:
        """Refuse unknown names and fewer episodes than arms."""
        for what, names, known in (
            ('arm', self.arms, ARMS),
            ('family', self.families, FAMILIES),
        ):
            for name in names:
                if name not in known:
                    raise QwenVlaError(f'unknown {what} {name!r}; known: {", ".join(known)}')
        if self.episodes < len(self.arms):
            raise QwenVlaError(
                f'--episodes {self.episodes}: one for each of {len(self.arms)} arms'
            )

    def share(self, arm: str) -> int:
        """Return the number of episodes of an arm."""
        number = self.arms.index(arm)
        return self.episodes // len(self.arms) + (number < self.episodes % len(self.arms))


def synthesise(order: Order, runner: Runner) -> tuple[int, float]:
    """Make what is not there yet; return how many trajectories were made, and in how many s."""
    begun_as(order.folder, _told(order))
    writers = {
        arm: SetWriter(order.folder / arm, order.share(arm), RATE_HZ, None, EPISODES_A_FILE)
        for arm in order.arms
    }
    blocks = [
        Block(arm, first, count, order.seed, order.families)
        for arm, writer in writers.items()
        for first, count in writer.blocks(BLOCK)
    ]
    done = sum(writer.done for writer in writers.values())
    began = time.monotonic()
    with tqdm(total=order.episodes, initial=done, unit='trajectory', desc='text-action') as bar:
        for block, episodes in zip(blocks, runner(make_block, blocks), strict=True):
            writers[block.arm].add(episodes)
            bar.update(len(episodes))
    seconds = time.monotonic() - began
    for arm, writer in writers.items():
        finish(writer.folder, arm, RATE_HZ, _features(arm), TEXT_ACTION, _told(order))
    return order.episodes - done, seconds


class TextActionEpisodes:
    """One arm's set; the module tells horizons and layouts."""

    def __init__(self, folder: Path, horizon: int = 0, layout: str = '') -> None:
        """Read lengths and sentences; QwenVlaError for what is no finished text-action set."""
        if layout not in ('', DELTA_EEF, ABS_JOINT):
            raise QwenVlaError(
                f'{folder}: layout {layout!r}; a text-action set has {DELTA_EEF} and {ABS_JOINT}'
            )
        self.source, self._folder = f'{folder.parent.name}/{folder.name}', folder
        self._horizon, self._layout = horizon, layout or DELTA_EEF
        head = read_layout(folder)
        if head.fps != RATE_HZ:
            raise QwenVlaError(
                f'{folder}/meta/info.json: fps {head.fps:g}; a text-action set has {RATE_HZ}'
            )
        self.embodiment, self.state_names = head.robot, head.names('action')
        self.action_names = self.state_names if layout == ABS_JOINT else DELTA_NAMES
        table = episode_table(folder, ('length', 'tasks'))
        self._lengths = table['length'].to_numpy()
        self._sentences = [tasks[0] for tasks in table['tasks'].to_pylist()]
        self._rows = lru_cache(maxsize=8)(self._read_rows)

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._lengths)

    def frames(self, episode: int) -> int:
        """Return the number of samples: rows, or 1 where a sample is the whole trajectory."""
        return int(self._lengths[episode]) if self._horizon else 1

    def rate_hz(self, episode: int) -> float:
        """Return rows of a trajectory per second."""
        return RATE_HZ

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError names episode, frame and key."""
        place = Place(self.source, episode, frame)
        if not (0 <= episode < len(self) and 0 <= frame < self.frames(episode)):
            raise place.refuse('frame', f'not among the {len(self)} episodes and their frames')
        rows = self._rows(episode)
        horizon = self._horizon or int(self._lengths[episode])
        actions, mask = window(rows['action'], frame, horizon)
        if self._layout == DELTA_EEF:
            tips, _ = window(rows['observation.tip'], frame, horizon)
            actions = np.column_stack([displacements(tips), actions[:, -1]]).astype(np.float32)
            mask = np.repeat(mask[:, :1], len(DELTA_NAMES), 1)
        stamp_ns = round(frame * 1e9 / RATE_HZ)
        text = self._sentences[episode]
        names = self.action_names
        # Plans are followed as they are: at the instant of a row the arm stands where it says.
        state = rows['action'][frame].astype(np.float32)
        robot = self.embodiment
        return Sample(
            place, {}, text, robot, actions, mask, names, stamp_ns, state, self.state_names
        )

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's samples in order."""
        for frame in range(self.frames(episode)):
            yield self.sample(episode, frame)

    def columns(self, episode: int) -> Mapping[str, np.ndarray]:
        """Return all that is recorded of an episode, as set_files.py tells it."""
        return self._rows(episode)

    def _read_rows(self, episode: int) -> dict[str, np.ndarray]:
        import pyarrow
        from pyarrow import parquet

        number, group = divmod(episode, EPISODES_A_FILE)
        path = file_path(self._folder, DATA, number)
        try:
            table = parquet.ParquetFile(here(path)).read_row_group(group)
        except (OSError, pyarrow.ArrowException) as error:
            told = str(error).splitlines()[0]
            raise QwenVlaError(f'{path}: episode {episode}: cannot be read ({told})') from error
        if table.num_rows != self._lengths[episode]:
            raise QwenVlaError(
                f'{path}: episode {episode} has {table.num_rows} rows, its meta data say '
                f'{self._lengths[episode]}'
            )
        wanted = ('action', 'observation.tip', 'step')
        for name in wanted:
            if name not in table.column_names or table[name].null_count:
                raise QwenVlaError(f'{path}: column {name!r} is missing or has holes')
        return {name: _matrix(table[name]) for name in wanted}


def displacements(tips: np.ndarray) -> np.ndarray:
    """Return dx dy dz droll dpitch dyaw [R, 6] of poses [R, 7] from the first of them."""
    rotations = matrices(tips[:, 3:].astype(np.float64))
    return np.column_stack([tips[:, :3] - tips[0, :3], euler(rotations @ rotations[0].T)])


def _matrix(column: Any) -> np.ndarray:
    """Return a parquet column as [R] or [R, K] without going through Python lists."""
    array = column.combine_chunks()
    if not array.type.num_fields:
        return array.to_numpy()
    return array.flatten().to_numpy().reshape(len(array), -1)


def _features(arm: str) -> dict[str, Any]:
    joints = [f'joint{number}' for number in range(1, len(ARMS[arm].joints) + 1)]
    return {
        'action': vector([*joints, 'gripper']),
        'observation.velocity': vector(joints),
        'observation.tip': vector(TIP_NAMES),
    }


def _told(order: Order) -> dict[str, Any]:
    return {'kind': 'text-action', 'seed': order.seed, 'families': list(order.families)}
