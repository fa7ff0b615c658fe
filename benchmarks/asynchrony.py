"""
Seconds per 1,000 policy rows: infer, then execute, then infer / ChunkExecutor, which never waits.

A discrete-event simulation, no clock: commands at 50 Hz, horizon 50, latencies drawn around
d = 0..20 rows (log-normal, 10 %, one in fifty half as long again, never beyond what a chunk
covers). The policy is asked again as soon as its chunk has come, at the earliest after 10 rows.
The synchronous loop executes as many rows of a chunk as ours does between two observations, then
waits for the next chunk with the same latencies. The ratio is taken at d = 10 rows (0.2 s).

stall     a command instant with nothing to send, or with the arm at rest
reaction  from any instant to the first command that knows of it; it cannot be shorter than the
          mean wait for the next observation plus the mean latency (the bound)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks import Result, main
from benchmarks.seams import HORIZON, JOINTS, NAMES, STEP_NS, STEP_S, continuing, truth
from qwen_vla_ros.chunk import ChunkExecutor
from qwen_vla_ros.splice import BLEND, ENSEMBLE, HOLD_FINISH, RTC
from qwen_vla_ros.splicing import Splicing
from qwen_vla_ros.types import ActionChunk

DELAYS, REPLAN, CHUNKS, AT = range(21), 10, 60, 10
COVERED = (HORIZON - 1) // 2  # rows: replan and delay are then both that long
MODES = (BLEND, RTC, ENSEMBLE)
FASTEST = 4.0  # rad/s, far above the true motion: a jump of one tick would be 10 times that


@dataclass(frozen=True)
class Flight:
    """What one simulation showed, times in s."""

    stalls: int
    rows: float  # consumed
    seconds: float
    executed: float  # mean rows from one observation to the next
    reaction: float
    bound: float
    speed: float  # largest step over a tick, rad/s
    told: bool  # it finished chunks because the latency was too long

    @property
    def per_thousand(self) -> float:
        """Return s per 1,000 rows."""
        return 1000 * self.seconds / self.rows


def latencies(rows: int, count: int = CHUNKS, most: float = COVERED) -> list[int]:
    """Return seeded latencies in ns around a number of rows."""
    rng = np.random.default_rng(rows)
    found = rows * rng.lognormal(0, 0.1, count)
    found[rng.random(count) < 0.02] *= 1.5
    return [round(value * STEP_NS) for value in np.minimum(found, most)]


def policy(seed: int) -> Callable[[int, np.ndarray | None], ActionChunk]:
    """Return a policy whose chunks follow the truth with an offset and a drift of their own."""
    rng = np.random.default_rng(seed)

    def infer(stamp_ns: int, prefix: np.ndarray | None) -> ActionChunk:
        rows = truth(stamp_ns / STEP_NS + np.arange(HORIZON)) + rng.normal(0, 0.015, JOINTS)
        rows += rng.normal(0, 0.02, JOINTS) * np.linspace(0, 1, HORIZON)[:, None]
        return ActionChunk(continuing(rows, prefix).astype(np.float32), NAMES, stamp_ns, STEP_S)

    return infer


def asynchronous(mode: str, trace: list[int]) -> Flight:
    """Fly one latency after the other while commands go out at every row."""
    splicing = Splicing(mode, max_prefix=HORIZON // 2, replan_s=REPLAN * STEP_S)
    executor, infer = ChunkExecutor(0.3, NAMES, splicing=splicing), policy(len(trace))
    executor.hold(truth(np.zeros(1))[0], 0)
    stamp, tick, told = 0, 0, False
    commands, stamps, arrivals = [], [], []
    for latency in trace:
        departure = executor.depart(stamp, STEP_S)
        chunk, arrival = infer(stamp, departure.prefix), stamp + latency
        while tick * STEP_NS <= arrival:
            commands.append(executor.at(tick * STEP_NS))
            tick += 1
        executor.put(chunk, arrival, departure)
        told |= executor.finishing
        stamps.append(stamp)
        arrivals.append(arrival)
        stamp = max(arrival, stamp + REPLAN * STEP_NS)
        while not executor.wants(stamp):
            stamp += STEP_NS
        while tick * STEP_NS < stamp:
            commands.append(executor.at(tick * STEP_NS))
            tick += 1
    return flight(commands, np.array(stamps), np.array(arrivals), executor.consumed, told)


def flight(
    commands: list[np.ndarray | None],
    stamps: np.ndarray,
    arrivals: np.ndarray,
    consumed: float,
    told: bool,
) -> Flight:
    """Return the figures from the first chunk on."""
    begin = int(arrivals[0] // STEP_NS) + 1
    rows = commands[begin:]
    missing = sum(row is None for row in rows)
    there = np.array([row for row in rows if row is not None])
    steps = np.abs(np.diff(there, axis=0)).max(axis=1)
    between = np.diff(stamps) / 1e9
    latency = (arrivals - stamps)[1:].mean() / 1e9
    return Flight(
        missing + int((steps == 0).sum()),
        consumed - arrivals[0] / STEP_NS,
        (len(commands) - begin) * STEP_S,
        float(between.mean() / STEP_S),
        reaction(stamps, arrivals),
        float((between**2).sum() / between.sum() / 2 + latency),
        float(steps.max() / STEP_S),
        told,
    )


def reaction(stamps: np.ndarray, arrivals: np.ndarray) -> float:
    """Return the mean s from an event to the first command instant that knows of it."""
    events = np.arange(stamps[0], stamps[-1], STEP_NS / 7)
    seen = np.searchsorted(stamps, events)
    return float((arrivals[seen] - events).mean() / 1e9)


def synchronous(executed: int, trace: list[int]) -> Flight:
    """Execute so many rows, observe, wait for the next chunk, and so on."""
    now, rows, stamps, arrivals = 0, 0, [], []
    for latency in trace:
        stamps.append(now)
        now += -(-latency // STEP_NS) * STEP_NS  # the first command instant with the chunk
        arrivals.append(now)
        now += executed * STEP_NS
        rows += executed
    late = reaction(np.array(stamps), np.array(arrivals))
    return Flight(0, rows, now * 1e-9, executed, late, 0.0, 0.0, False)


def run() -> Result:
    """Sweep the delays in every mode, then compare at d = AT."""
    flights = {(m, d): asynchronous(m, latencies(d)) for m in MODES for d in DELAYS}
    ours = flights[RTC, AT]
    base = synchronous(round(ours.executed), latencies(AT))
    stalls = sum(found.stalls for found in flights.values())
    late = max(found.reaction / found.bound for found in flights.values())
    speed = max(found.speed for found in flights.values())
    slow = asynchronous(BLEND, latencies(40, 12, 60))
    finished = asynchronous(HOLD_FINISH, latencies(AT, 12))
    worst = min(
        synchronous(round(found.executed), latencies(d)).per_thousand / found.per_thousand
        for (_, d), found in flights.items()
        if d >= AT
    )
    return Result(
        'asynchrony',
        base.per_thousand,
        ours.per_thousand,
        1.95,
        's/1000 rows',
        f'{stalls} stalls in {len(flights)} flights (d = {DELAYS[0]}..{DELAYS[-1]} rows, '
        f'{", ".join(MODES)}); the smallest ratio from d = {AT} on is {worst:.2f}; at d = {AT}, '
        f'horizon {HORIZON}, {ours.executed:.1f} rows executed of each chunk: mean reaction '
        f'{ours.reaction:.3f} s (synchronous {base.reaction:.3f} s), at most {late:.3f} of the '
        f'bound at any delay (goal 1.05); fastest step {speed:.1f} rad/s. A model 40 rows late '
        f'is {"finished chunk by chunk" if slow.told else "NOT NOTICED"}, with a fastest step of '
        f'{slow.speed:.1f} rad/s; hold-finish takes {finished.per_thousand:.1f} s per 1,000 rows',
        equal=stalls == 0
        and late <= 1.05
        and speed < FASTEST
        and slow.told
        and not any(found.told for found in flights.values()),
    )


if __name__ == '__main__':
    main(run)
