"""
Text-action episodes: the same ones whoever makes them.

Episode n of an arm is a function of (seed, arm, n) alone: its family is the n-th in turn, its
generator is seeded by the three. A task that the arm cannot do is counted by its reason and drawn
again from the same generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from qwen_vla_ros.data.synthetic.arm_model import ArmModel
from qwen_vla_ros.data.synthetic.arms import ARMS, OPEN_M
from qwen_vla_ros.data.synthetic.families import FAMILIES, Table
from qwen_vla_ros.data.synthetic.motions import Rejected, Trajectory, perform
from qwen_vla_ros.data.synthetic.set_files import Recorded
from qwen_vla_ros.data.synthetic.turns import quaternions
from qwen_vla_ros.errors import QwenVlaError

BLOCK = 16  # episodes that a worker makes at once
TRIES = 60
PACE = (0.4, 0.9)  # share of the arm's speeds
START_RAD = 0.15  # the first posture, around home


@dataclass(frozen=True)
class Block:
    """Episodes first .. first + count - 1 of an arm."""

    arm: str
    first: int
    count: int
    seed: int
    families: tuple[str, ...] = tuple(FAMILIES)


def make_block(block: Block) -> list[Recorded]:
    """Return the episodes of a block."""
    numbers = range(block.first, block.first + block.count)
    return [make_episode(block.arm, number, block.seed, block.families) for number in numbers]


def make_episode(arm: str, number: int, seed: int, families: Sequence[str]) -> Recorded:
    """Return an episode of an arm; QwenVlaError when its family can never be done."""
    model, family = model_of(arm), families[number % len(families)]
    rng = np.random.default_rng((seed, list(ARMS).index(arm), number))
    rejected: list[str] = []
    while len(rejected) < TRIES:
        try:
            table = Table(model, rng)
            task = FAMILIES[family](table)
            start = _first_posture(model, rng)
            made = perform(model, start, OPEN_M, task.steps, rng.uniform(*PACE), rng)
        except Rejected as reason:
            rejected.append(str(reason))
            continue
        told = {'family': family, 'rejected': rejected, 'goals': task.goals.ravel().tolist()}
        return Recorded(_columns(model, made), task.instruction, made.labels, told)
    raise QwenVlaError(f'{arm}: {family}: {TRIES} tasks in a row were {", ".join(set(rejected))}')


@cache
def model_of(arm: str) -> ArmModel:
    """Return the model of an arm, built once in a process."""
    return ArmModel(ARMS[arm])


def _first_posture(model: ArmModel, rng: np.random.Generator) -> np.ndarray:
    """Return a posture [J] around home that touches nothing."""
    while True:
        posture = model.home + rng.uniform(-START_RAD, START_RAD, len(model.home))
        posture = np.clip(posture, model.lower, model.upper)
        if not model.collision(posture[None]):
            return posture


def _columns(model: ArmModel, made: Trajectory) -> dict[str, np.ndarray]:
    """Return what is recorded of a trajectory, as set_files.py tells it."""
    positions, rotations = model.poses(made.joints)
    rows = {
        'action': np.column_stack([made.joints, made.opening]),
        'observation.velocity': made.velocities,
        'observation.tip': np.column_stack([positions, quaternions(rotations)]),
    }
    return {key: value.astype(np.float32) for key, value in rows.items()} | {
        'step': made.step.astype(np.int16)
    }
