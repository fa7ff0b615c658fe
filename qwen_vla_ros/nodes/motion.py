"""What a pilot hands to the outputs: motions of joints, and chunks for tips and bases."""

from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.types import ActionChunk

LOOKAHEAD, CHUNK, STOP = 'lookahead', 'chunk', 'stop'


@dataclass(frozen=True)
class Motion:
    """
    Commands for all joints: times float64 [N] in s from now; positions, velocities [N, A].

    part tells what it covers: the near future (lookahead), all that is left of the chunk (chunk),
    or the way to rest, after which nothing comes (stop). A robot without joints has A = 0.
    leaps_ns is the sum of the clock's leaps at now_ns (None: as it is when the motion is sent).
    After a leap, a controller that joins the points by itself gets those from lead_s on: what was
    under way may have moved the arm aside. Streams of positions go on along all of them.
    """

    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    now_ns: int
    part: str = LOOKAHEAD
    leaps_ns: int | None = None
    lead_s: float = 0.0


@dataclass(frozen=True)
class Follow:
    """A chunk for tips and bases; pose (x, y in m, yaw in rad) of the base at its start."""

    chunk: ActionChunk
    now_ns: int
    pose: tuple[float, float, float] | None
    frame: str


@dataclass(frozen=True)
class Problem:
    """Why the robot may not move; missing lists the absent inputs, topic included."""

    reason: str
    missing: tuple[str, ...] = ()


def standing(now_ns: int) -> Motion:
    """Return the stop of a robot without joints."""
    empty = np.zeros((1, 0))
    return Motion(np.zeros(1), empty, empty, now_ns, STOP)
