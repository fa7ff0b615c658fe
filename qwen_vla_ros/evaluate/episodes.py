"""
What is tried and what came of it: Task (asked) and Episode (happened), both plain JSON.

A seed gives the scene, the instructed object and the sentence, so the same seeds through ROS and
through gymnasium are the same tasks.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.scene import instruction_for, sample_scene
from qwen_vla_ros.sim.tasks.goals import goal_of_seed

SWAP_AFTER_S = 0.6  # an undisturbed episode lasts 1 to 3 s
EVALUATION_SEEDS = 100_000


@dataclass(frozen=True)
class Swap:
    """After after_s the instruction changes to one that names another object."""

    after_s: float
    instruction: str
    target: str


@dataclass(frozen=True)
class Task:
    """
    One episode to run: scene of the seed, the sentence, the object it means.

    kind: '' to touch it; else that of sim/tasks, whose world says when it is done.
    """

    seed: int
    instruction: str
    target: str
    swap: Swap | None = None
    kind: str = ''

    @property
    def final_target(self) -> str:
        """Return the object that has to be touched first."""
        return self.swap.target if self.swap else self.target


@dataclass(frozen=True)
class Episode:
    """
    One episode that ended.

    elapsed_s is the robot's own time; latencies are seconds, one value an inference; the rates
    are messages a second while the policy was running; refusals count what the safety gate
    refused; holds are {'time_s', 'reason'}; tracking_rms is in rad over the arm's joints.
    """

    seed: int
    instruction: str
    target: str
    success: bool
    first_touched: str | None
    touched: tuple[str, ...]
    elapsed_s: float
    swapped: bool = False
    inference_s: tuple[float, ...] = ()
    overhead_s: tuple[float, ...] = ()
    chunk_age_s: tuple[float, ...] = ()
    command_rate_hz: float | None = None
    chunk_rate_hz: float | None = None
    refusals: int = 0
    holds: tuple[Mapping[str, Any], ...] = ()
    tracking_rms: float | None = None
    note: str = field(default='')

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able copy."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'Episode':
        """Return the episode that to_json() wrote."""
        tuples = ('touched', 'inference_s', 'overhead_s', 'chunk_age_s', 'holds')
        return cls(**{**data, **{key: tuple(data.get(key, ())) for key in tuples}})


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of '0:50' (50 excluded), '7' or '1,5,9:12', in that order."""
    seeds: list[int] = []
    for part in text.split(','):
        first, colon, last = part.strip().partition(':')
        try:
            start = int(first)
            seeds.extend(range(start, int(last)) if colon else [start])
        except ValueError:
            raise QwenVlaError(f'--seeds {text!r}: write 0:50, 7 or 1,5,9:12') from None
    if not seeds or min(seeds) < 0 or max(seeds) >= EVALUATION_SEEDS:
        raise QwenVlaError(
            f'--seeds {text!r}: needs at least one seed, all in 0..{EVALUATION_SEEDS - 1} '
            '(from 1000000 on are the training scenes)'
        )
    return seeds


def task_of_seed(seed: int, swap: bool = False) -> Task:
    """Return the task of a seed; with swap another object is named on the way."""
    names = sample_scene(seed).names
    rng = np.random.default_rng([seed, 7])
    order = [names[i] for i in rng.permutation(len(names))]
    instruction = instruction_for(order[0], rng)
    other = Swap(SWAP_AFTER_S, instruction_for(order[1], rng), order[1]) if swap else None
    return Task(seed, instruction, order[0], other)


def table_task(seed: int, kind: str) -> Task:
    """Return the task of a seed to pick, place, push or stack."""
    goal = goal_of_seed(seed, kind)
    return Task(seed, goal.instruction, goal.target, kind=kind)


def plan_tasks(seeds: Sequence[int], swap: bool, showcase: bool = True) -> list[Task]:
    """Return one task a seed, all swapped or none, and then one swapped showcase."""
    tasks = [task_of_seed(seed, swap) for seed in seeds]
    if showcase and not swap:
        tasks.append(task_of_seed(seeds[0], swap=True))
    return tasks


def write_tasks(tasks: Iterable[Task], path: Path) -> None:
    """Write tasks for the process that runs them."""
    write_json([asdict(task) for task in tasks], path)


def read_tasks(path: Path) -> list[Task]:
    """Return the tasks that write_tasks() wrote."""
    try:
        rows = json.loads(path.read_text())
        return [
            Task(
                row['seed'],
                row['instruction'],
                row['target'],
                Swap(**row['swap']) if row['swap'] else None,
                row['kind'],
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QwenVlaError(f'{path}: not a list of tasks ({error})') from error


def write_json(data: Any, path: Path) -> None:
    """Write beside, then rename, so a reader never meets half a file."""
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    beside.write_text(json.dumps(data, indent=2) + '\n')
    beside.replace(path)
