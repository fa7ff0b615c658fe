"""
Max jerk over chunk seams: rows as they come / ChunkExecutor.

A policy of 50 Hz with horizon 50 replans every 10 rows and is 5 rows late. Its chunks follow a
smooth motion of 6 joints with an error of their own each: an offset and a drift, constant over
one chunk. Commands are compared at 50 Hz, after the first chunk, with the true motion beside.
`average` is the usual remedy: 0.3 of the old row plus 0.7 of the new one where both exist.
"""

import numpy as np

from benchmarks import Result, main
from qwen_vla_ros.chunk import ChunkExecutor
from qwen_vla_ros.types import ActionChunk

STEP_S, HORIZON, REPLAN, DELAY, JOINTS, CHUNKS = 0.02, 50, 10, 5, 6, 100
NAMES = tuple(f'joint{index}' for index in range(JOINTS))
STEP_NS = round(STEP_S * 1e9)
SKIP = REPLAN + DELAY


def truth(rows: np.ndarray) -> np.ndarray:
    """Return the motion [R, JOINTS] in rad that the policy wants, at row numbers."""
    time = np.asarray(rows)[:, None] * STEP_S
    phase = np.arange(JOINTS)
    return 0.6 * np.sin(0.9 * time + phase) + 0.2 * np.sin(2.3 * time + 2 * phase)


def chunks(seed: int) -> list[ActionChunk]:
    """Return the predictions: the truth with an error that differs from chunk to chunk."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(CHUNKS):
        start = index * REPLAN
        offset = rng.normal(0, 0.015, JOINTS)
        drift = rng.normal(0, 0.02, JOINTS) * np.linspace(0, 1, HORIZON)[:, None]
        rows = truth(start + np.arange(HORIZON)) + offset + drift
        found.append(ActionChunk(rows.astype(np.float32), NAMES, start * STEP_NS, STEP_S))
    return found


def naive(plans: list[ActionChunk]) -> np.ndarray:
    """Return the rows of a queue that is replaced when a chunk arrives."""
    rows = []
    for index in range(DELAY, CHUNKS * REPLAN):
        newest = (index - DELAY) // REPLAN
        rows.append(plans[newest].actions[index - newest * REPLAN].astype(np.float64))
    return np.array(rows)


def average(plans: list[ActionChunk]) -> np.ndarray:
    """Return the rows of a queue in which overlapping rows are averaged on arrival."""
    queue: dict[int, np.ndarray] = {}
    rows = []
    for index in range(DELAY, CHUNKS * REPLAN):
        if (index - DELAY) % REPLAN == 0:
            newest = (index - DELAY) // REPLAN
            for row, value in enumerate(plans[newest].actions.astype(np.float64)):
                at = newest * REPLAN + row
                queue[at] = 0.3 * queue[at] + 0.7 * value if at in queue else value
        rows.append(queue.pop(index))
    return np.array(rows)


def ours(plans: list[ActionChunk], blend_s: float = 0.3) -> np.ndarray:
    """Return the rows of ChunkExecutor."""
    executor = ChunkExecutor(blend_s, NAMES)
    rows = []
    for index in range(DELAY, CHUNKS * REPLAN):
        now_ns = index * STEP_NS
        if (index - DELAY) % REPLAN == 0:
            newest = (index - DELAY) // REPLAN
            if newest == 0:
                executor.hold(plans[0].row_at(now_ns), now_ns)
            executor.put(plans[newest], now_ns)
        rows.append(executor.at(now_ns))
    return np.array(rows)


def max_jerk(rows: np.ndarray) -> float:
    """Return the largest third difference in rad/s^3, after the start."""
    return float(np.abs(np.diff(rows[SKIP:], 3, axis=0)).max() / STEP_S**3)


def error(rows: np.ndarray) -> float:
    """Return the root mean square distance from the truth in rad, after the start."""
    wanted = truth(np.arange(DELAY, CHUNKS * REPLAN))
    return float(np.sqrt(np.mean((rows - wanted)[SKIP:] ** 2)))


def run() -> Result:
    """Run the three on the same chunks."""
    plans = chunks(0)
    found = {'naive': naive(plans), 'average': average(plans), 'ours': ours(plans)}
    jerk = {name: max_jerk(rows) for name, rows in found.items()}
    distance = {name: error(rows) for name, rows in found.items()}
    note = ', '.join(
        f'{name}: {jerk[name]:.0f} rad/s^3 at an RMSE of {distance[name]:.4f} rad'
        for name in found
    )
    return Result(
        'seams',
        jerk['naive'],
        jerk['ours'],
        40.0,
        'rad/s^3',
        f'{note}; average / ours {jerk["average"] / jerk["ours"]:.1f} (goal 20); the true motion '
        f'has {max_jerk(truth(np.arange(CHUNKS * REPLAN))):.1f}. 50 Hz, horizon {HORIZON}, replan '
        f'{REPLAN}, {DELAY} late, blend 0.3 s',
        equal=distance['ours'] <= distance['naive'],
    )


if __name__ == '__main__':
    main(run)
