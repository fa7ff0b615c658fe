"""
Text-action episodes in blocks: the same ones whoever makes them, in processes or over Ray.

Episode n of an arm is a function of (seed, arm, n) alone: its family is the n-th in turn, its
generator is seeded by the three. A task that the arm cannot do is counted by its reason and drawn
again from the same generator. Blocks of episodes come back in their order however many workers
make them, so files are written in order and a run that is cut goes on after its last file.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

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
AHEAD = 3  # blocks a worker that are asked for before they are needed


@dataclass(frozen=True)
class Block:
    """Episodes first .. first + count - 1 of an arm."""

    arm: str
    first: int
    count: int
    seed: int
    families: tuple[str, ...] = tuple(FAMILIES)


Runner = Callable[[Sequence[Block]], Iterator[list[Recorded]]]


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


def in_processes(workers: int) -> Runner:
    """Return a runner on this machine; one worker is this process."""

    def run(blocks: Sequence[Block]) -> Iterator[list[Recorded]]:
        if workers == 1:
            yield from map(make_block, blocks)
            return
        before = {name: os.environ.get(name) for name in ('OPENBLAS_NUM_THREADS',)}
        os.environ['OPENBLAS_NUM_THREADS'] = '1'  # the processes share the cores already
        try:
            context = multiprocessing.get_context('spawn')
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                yield from _in_order(blocks, lambda block: pool.submit(make_block, block), workers)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    return run


def over_ray(address: str) -> Runner:
    """Return a runner on a Ray cluster ('auto', an address, or 'local': this machine's cores)."""
    try:
        import ray
    except ImportError as error:
        raise QwenVlaError(f"--ray: {error}; pip install 'qwen_vla_ros[ray]'") from error

    def run(blocks: Sequence[Block]) -> Iterator[list[Recorded]]:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        remote = ray.remote(make_block)
        workers = max(int(ray.cluster_resources().get('CPU', 1)), 1)
        yield from _in_order(blocks, lambda block: remote.remote(block).future(), workers)

    return run


def _in_order(
    blocks: Sequence[Block], submit: Callable[[Block], 'Future[Any]'], workers: int
) -> Iterator[list[Recorded]]:
    """Yield results in the order of blocks, with a bounded number of them under way."""
    waiting: deque[Future[Any]] = deque()
    for block in blocks:
        waiting.append(submit(block))
        if len(waiting) >= workers * AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


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
