"""
Max jerk over chunk seams: rows as they come / ChunkExecutor, mode blend; all modes beside.

A policy of 50 Hz with horizon 50 replans every 10 rows and is 5 rows late. Its chunks follow a
smooth motion of 6 joints with an error of their own each: an offset and a drift, constant over
one chunk. Commands are compared at 50 Hz, after the first chunk, with the true motion beside.
`average` is the usual remedy: 0.3 of the old row plus 0.7 of the new one where both exist.
`ACT` is the temporal ensemble of ACT (weights exp(-0.01 i), oldest first) and needs an inference
at every row, ten times as many as the others. `rtc` is fed by chunks that begin with the rows
they are told and leave them within 15 more: the bearing of a policy trained for it, not its
figures. `hold-finish` takes longer than the true motion, so only its jerk is told.
"""

import numpy as np

from benchmarks import Result, main
from qwen_vla_ros.chunk import ChunkExecutor
from qwen_vla_ros.splice import BLEND, HOLD_FINISH, MODES, RTC
from qwen_vla_ros.splicing import Splicing
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


def chunks(seed: int, every: int = REPLAN) -> list[ActionChunk]:
    """Return the predictions: the truth with an error that differs from chunk to chunk."""
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, CHUNKS * REPLAN, every):
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


def act(plans: list[ActionChunk]) -> np.ndarray:
    """Return the rows of ACT's ensemble over a chunk of every row, each DELAY rows late."""
    rows = []
    for index in range(DELAY, CHUNKS * REPLAN):
        known = range(max(0, index - HORIZON + 1), index - DELAY + 1)
        weights = np.exp(-0.01 * np.arange(len(known)))
        values = [plans[start].actions[index - start].astype(np.float64) for start in known]
        rows.append(weights @ values / weights.sum())
    return np.array(rows)


def continuing(rows: np.ndarray, prefix: np.ndarray | None) -> np.ndarray:
    """Return rows [H, JOINTS] that begin with the prefix [d, JOINTS] and leave it smoothly."""
    if prefix is None:
        return rows
    known = len(prefix)
    rows = rows.copy()
    gap = prefix[-1] - rows[known - 1]
    left = np.clip(1 - np.arange(1, HORIZON - known + 1) / 15, 0.0, 1.0)[:, None]
    rows[known:] += gap * left**3 * (10 - 15 * left + 6 * left**2)
    rows[:known] = prefix
    return rows


def ours(plans: list[ActionChunk], mode: str = BLEND, blend_s: float = 0.3) -> np.ndarray:
    """Return the rows of ChunkExecutor."""
    executor = ChunkExecutor(blend_s, NAMES, splicing=Splicing(mode, max_prefix=HORIZON // 2))
    rows, departure, plan = [], None, None
    for index in range(CHUNKS * REPLAN):
        now_ns = index * STEP_NS
        if index == DELAY:
            executor.hold(plans[0].row_at(now_ns), now_ns)
        if plan is not None and index % REPLAN == DELAY:
            executor.put(plan, now_ns, departure)
        if index % REPLAN == 0:
            plan = plans[index // REPLAN] if executor.wants(now_ns) else None
            departure = executor.depart(now_ns, STEP_S)
            if plan is not None and departure.prefix is not None:
                actions = continuing(plan.actions, departure.prefix)
                plan = ActionChunk(actions.astype(np.float32), NAMES, plan.start_ns, STEP_S)
        rows.append(executor.at(now_ns))
    return np.array(rows[DELAY:])


def max_jerk(rows: np.ndarray) -> float:
    """Return the largest third difference in rad/s^3, after the start."""
    return float(np.abs(np.diff(rows[SKIP:], 3, axis=0)).max() / STEP_S**3)


def error(rows: np.ndarray) -> float:
    """Return the root mean square distance from the truth in rad, after the start."""
    wanted = truth(np.arange(DELAY, CHUNKS * REPLAN))
    return float(np.sqrt(np.mean((rows - wanted)[SKIP:] ** 2)))


def run() -> Result:
    """Run all of them on chunks of the same kind."""
    plans = chunks(0)
    found = {'naive': naive(plans), 'average': average(plans), 'ACT': act(chunks(0, 1))}
    found.update({mode: ours(plans, mode) for mode in MODES})
    jerk = {name: max_jerk(rows) for name, rows in found.items()}
    distance = {name: error(rows) for name, rows in found.items() if name != HOLD_FINISH}
    note = ', '.join(
        f'{name}: {jerk[name]:.0f} rad/s^3'
        + (f' at an RMSE of {distance[name]:.4f} rad' if name in distance else '')
        for name in found
    )
    averages, ensembles = jerk['average'] / jerk[BLEND], jerk['ACT'] / jerk[BLEND]
    return Result(
        'seams',
        jerk['naive'],
        jerk[BLEND],
        40.0,
        'rad/s^3',
        f'{note}; average / blend {averages:.1f} (goal 20), ACT / blend {ensembles:.1f} (goal '
        f'2); the true motion has {max_jerk(truth(np.arange(CHUNKS * REPLAN))):.1f}. 50 Hz, '
        f'horizon {HORIZON}, replan {REPLAN}, {DELAY} late, blend 0.3 s',
        equal=distance[BLEND] <= distance['naive']
        and distance[RTC] <= distance['naive']
        and averages >= 20
        and ensembles >= 2,
    )


if __name__ == '__main__':
    main(run)
