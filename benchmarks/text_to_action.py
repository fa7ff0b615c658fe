"""
Seconds per text-action trajectory: one worker process / two, over the same blocks of all arms.

Both pools are warm (imports, arm models) before anything is measured, rounds alternate, and what
both made is compared first. The least of the rounds counts on both sides: whatever else runs on
the machine only adds. It needs two cores that nothing else uses; the processor time of a
trajectory, in the note for both sides, does not, and tells whether workers hinder each other.
"""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks import Result, main
from qwen_vla_ros.data.synthetic.arms import ARMS
from qwen_vla_ros.data.synthetic.generate import Block, make_block
from qwen_vla_ros.data.synthetic.set_files import Recorded

ROUNDS, COUNT = 3, 12
WORK = [Block(arm, first, COUNT, 0) for first in (0, COUNT) for arm in ARMS]
WARM = [Block(arm, 0, 1, 1) for arm in ARMS]
FAMILIES = WORK[0].families


def pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool in which every worker has built every arm."""
    found = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context('spawn'))
    list(found.map(make_block, WARM * (8 * workers)))
    return found


def timed(block: Block) -> tuple[float, list[Recorded]]:
    """Return the processor time of a block in s, and its episodes."""
    begin = time.process_time()
    found = make_block(block)
    return time.process_time() - begin, found


def made(workers: ProcessPoolExecutor) -> tuple[float, float, list[Recorded]]:
    """Return the seconds of the work, the processor time in it, and what came of it."""
    begin = time.perf_counter()
    blocks = list(workers.map(timed, WORK))
    seconds = time.perf_counter() - begin
    return seconds, sum(spent for spent, _ in blocks), [e for _, found in blocks for e in found]


def same(one: list[Recorded], other: list[Recorded]) -> bool:
    """Tell whether two pools made the same episodes."""
    return [e.instruction for e in one] == [e.instruction for e in other] and all(
        (a.columns[key] == b.columns[key]).all()
        for a, b in zip(one, other, strict=True)
        for key in a.columns
    )


def run() -> Result:
    """Measure one and two workers in turns."""
    os.environ['OPENBLAS_NUM_THREADS'] = '1'
    seconds: dict[int, list[float]] = {1: [], 2: []}
    spent: dict[int, list[float]] = {1: [], 2: []}
    with pool(1) as one, pool(2) as two:
        equal = same(made(one)[2], made(two)[2])
        for _ in range(ROUNDS):
            for count, workers in ((1, one), (2, two)):
                wall, processor, _ = made(workers)
                seconds[count].append(wall)
                spent[count].append(processor)
    trajectories = COUNT * len(WORK)
    single, double = (min(seconds[count]) / trajectories for count in (1, 2))
    alone, shared = (1e3 * min(spent[count]) / trajectories for count in (1, 2))
    return Result(
        'text_to_action',
        single,
        double,
        1.8,
        's/trajectory',
        f'{1 / single:.1f} a second with one worker, {1 / double:.1f} with two; '
        f'{1e3 / alone:.1f} per second of one core; processor time {alone:.1f} ms a trajectory '
        f'with one, {shared:.1f} ms with two; {trajectories} trajectories, '
        f'{len(ARMS)} arms, {len(FAMILIES)} families, collision-free at 50 Hz',
        equal=equal,
    )


if __name__ == '__main__':
    main(run)
