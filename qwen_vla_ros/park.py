"""
From where an arm stands to its park posture, along a path that is checked before it is sent.

A way is a chain of postures, at rest in each: between two of them all joints follow the same
minimum-jerk quintic, C2 everywhere, at a share of the velocity, acceleration and jerk limits.
First the straight way is tried, then one through each posture of the contract's `via`. Every
sample of a way passes the gate's checks, or the way is not taken.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.limits import Verdict
from qwen_vla_ros.safety import AT_REST, SafetyGate
from qwen_vla_ros.safety_contract import Park
from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

SAMPLE_S = 0.02
SETTLE_S = 0.4  # s, how long the chunk form stays at the end, so that a curve through it rests
SHORTEST_S = 0.2
# Peaks of the minimum-jerk quintic over a way of 1 in 1 s.
VELOCITY_PEAK, ACCELERATION_PEAK, JERK_PEAK = 1.875, 10.0 / 3.0**0.5, 60.0


class ParkRefused(QwenVlaError):
    """No checked way leads to the park posture; the arm stays in its hold."""


@dataclass(frozen=True)
class ParkPlan:
    """
    A way to the park posture, at rest at both ends; every sample has passed the gate.

    times_s        float64 [N] from start_ns, SAMPLE_S apart; the first is 0, at the start
    positions, velocities, accelerations   float64 [N, A], ordered as names
    via            which way it is, for people: 'straight', or through which posture
    """

    names: tuple[str, ...]
    start_ns: int
    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray
    via: str

    def chunk(self, every: int = 5) -> ActionChunk:
        """Return every 5th sample as a chunk that the executor can run from a hold."""
        step_s = every * SAMPLE_S
        rows = self.positions[::every]
        still = int(np.ceil(SETTLE_S / step_s)) + 1
        rows = np.concatenate([rows, np.repeat(self.positions[-1:], still, axis=0)])
        return ActionChunk(rows.astype(np.float32), self.names, self.start_ns, step_s)


def plan_park(
    gate: SafetyGate,
    embodiment: 'Embodiment',
    held: np.ndarray,
    now_ns: int,
    velocity: np.ndarray | None = None,
) -> ParkPlan:
    """
    Return the way from held [A] (what the arm holds or measures, at rest) to the park posture.

    A latched gate may park: what it latched for is over or the samples are refused. Pressed
    emergency stops and a dead-man switch that is not held forbid it, and so does a velocity [A]
    that is not zero. Raises ParkRefused with the reason of every way.
    """
    if embodiment.park is None:
        raise ParkRefused(f'{embodiment.source}: no park posture; add the key `park`')
    if causes := gate.interlocks.causes(now_ns):
        raise ParkRefused(f'park: {"; ".join(causes.values())}')
    held = np.asarray(held, np.float64)
    if problem := gate.limits.finite('held position', held[None]):
        raise ParkRefused(f'park: {problem.reason}')
    if velocity is not None and (np.abs(velocity) > AT_REST).any():
        raise ParkRefused('park: the arm still moves; stop it first')
    refused = []
    for via, knots in ways(gate.names, embodiment.park, held):
        plan = _along(gate, embodiment.park.scale, knots, now_ns, via)
        problem = gate.motion_problem(
            plan.times_s, plan.positions, plan.velocities, plan.accelerations
        )
        if problem is None:
            return plan
        refused.append(f'{via}: {_told(problem, plan)}')
    raise ParkRefused(f'park: the arm stays where it is; {"; ".join(refused)}')


def ways(
    names: tuple[str, ...], park: Park, held: np.ndarray
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield each way as its name and its postures [A], from held to the park posture."""
    end = _posture(names, park.positions, held)
    yield 'straight', [held, end]
    for index, positions in enumerate(park.via):
        between = _posture(names, positions, held)
        yield f'via {index}', [held, between, _posture(names, park.positions, between)]


def _posture(
    names: tuple[str, ...], positions: Mapping[str, float], before: np.ndarray
) -> np.ndarray:
    return np.array([positions.get(n, v) for n, v in zip(names, before, strict=True)])


def _told(problem: Verdict, plan: ParkPlan) -> str:
    return f'{problem.reason} (of {len(plan.times_s)} rows, {SAMPLE_S:g} s apart)'


def _along(
    gate: SafetyGate, scale: float, knots: list[np.ndarray], now_ns: int, via: str
) -> ParkPlan:
    parts = [np.stack([knots[0], 0 * knots[0], 0 * knots[0]])[:, None]]
    for start, end in pairwise(knots):
        steps = max(int(np.ceil(_seconds(gate, scale, end - start) / SAMPLE_S)), 1)
        parts.append(_leg(start, end, steps))
    motion = np.concatenate(parts, axis=1)
    times = SAMPLE_S * np.arange(motion.shape[1])
    return ParkPlan(gate.names, now_ns, times, *motion, via)


def _seconds(gate: SafetyGate, scale: float, way: np.ndarray) -> float:
    """Return the time in which a quintic over a way [A] keeps to scale times the limits."""
    velocity, acceleration, jerk = gate.limits.rates
    way = np.abs(way) / scale
    needed = (
        VELOCITY_PEAK * way / velocity,
        np.sqrt(ACCELERATION_PEAK * way / acceleration),
        np.cbrt(JERK_PEAK * way / jerk),
    )
    return max(SHORTEST_S, *(float(seconds.max()) for seconds in needed))


def _leg(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Return position, velocity, acceleration [3, steps, A] after the start of a leg."""
    s = (np.arange(1, steps + 1) / steps)[:, None]
    seconds, way = steps * SAMPLE_S, end - start
    return np.stack(
        [
            start + way * s**3 * (10 - 15 * s + 6 * s * s),
            way * 30 * s * s * (1 - s) ** 2 / seconds,
            way * 60 * s * (1 - s) * (1 - 2 * s) / seconds**2,
        ]
    )
