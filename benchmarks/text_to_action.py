"""
Seconds per text-action trajectory: one worker process / two, over the same blocks of all arms.

Both pools are warm (imports, arm models) before anything is measured, rounds alternate, and what
both made is compared first. The least of the rounds counts on both sides: whatever else runs on
the machine only adds. The note has the rate of one core, by the processor time of one process.
"""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks import Result, main
from qwen_vla_ros.data.synthetic.arms import ARMS
from qwen_vla_ros.data.synthetic.generate import Block, make_block, make_episode
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


def made(workers: ProcessPoolExecutor) -> tuple[float, list[Recorded]]:
    """Return the seconds of the work, and what came of it."""
    begin = time.perf_counter()
    found = [episode for block in workers.map(make_block, WORK) for episode in block]
    return time.perf_counter() - begin, found


def same(one: list[Recorded], other: list[Recorded]) -> bool:
    """Tell whether two pools made the same episodes."""
    return [e.instruction for e in one] == [e.instruction for e in other] and all(
        (a.columns[key] == b.columns[key]).all()
        for a, b in zip(one, other, strict=True)
        for key in a.columns
    )


def core_rate() -> float:
    """Return trajectories per second of processor time, in this process."""
    for arm in ARMS:
        make_episode(arm, 0, 1, FAMILIES)
    begin = time.process_time()
    for arm in ARMS:
        for number in range(len(FAMILIES)):
            make_episode(arm, number, 0, FAMILIES)
    return len(ARMS) * len(FAMILIES) / (time.process_time() - begin)


def run() -> Result:
    """Measure one and two workers in turns."""
    os.environ['OPENBLAS_NUM_THREADS'] = '1'
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with pool(1) as one, pool(2) as two:
        equal = same(made(one)[1], made(two)[1])
        for _ in range(ROUNDS):
            for count, workers in ((1, one), (2, two)):
                seconds[count].append(made(workers)[0])
    trajectories = COUNT * len(WORK)
    single, double = (min(seconds[count]) / trajectories for count in (1, 2))
    return Result(
        'text_to_action',
        single,
        double,
        1.8,
        's/trajectory',
        f'{1 / single:.1f} a second with one worker, {1 / double:.1f} with two; '
        f'{core_rate():.1f} per second of one core; {trajectories} trajectories, '
        f'{len(ARMS)} arms, {len(FAMILIES)} families, collision-free at 50 Hz',
        equal=equal,
    )


if __name__ == '__main__':
    main(run)
