"""
ActionChunk -> the row for this instant.

Position, velocity and acceleration of the motion are continuous everywhere (C2): inside a chunk,
whose rows are met exactly (curve.py), at the seam between two chunks, out of a hold and into a
stop.

  seam   ordinary channels: new plan + a quintic that takes the difference of position, velocity
         and acceleration at the seam to zero; when the difference is constant this is the
         smootherstep blend of old and new. Monotone channels: that blend itself, which never
         leaves the two. Stretched where it would ask for more than half of the acceleration limit.
  stop   velocity and acceleration go to zero in the time the limit asks for

Time comes from the caller, in int nanoseconds; there is no clock here.
"""

import threading
from dataclasses import dataclass, replace

import numpy as np

from qwen_vla_ros.curve import Curve, through_knots, through_rows
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.types import ActionChunk

MAX_STRETCH = 4.0  # a blend takes at most this many times blend_s
SHORTEST_STOP_S = 0.05
# Peak acceleration of the bridge: 10/sqrt(3) * difference / T^2 and 3.94 * velocity / T.
POSITION_BRIDGE_PEAK = 10.0 / 3.0**0.5
VELOCITY_BRIDGE_PEAK = 3.94
STOP_PEAK = 1.5
MAX_SEAMS = 32
# Knots of a smootherstep from one to zero.
FADE = np.array([[[1.0], [0.0], [0.0]], [[0.0], [0.0], [0.0]]])


class ChunkRefused(QwenVlaError):
    """A chunk that may not run: other names, expired, older than what runs, not finite."""


@dataclass(frozen=True)
class Motion:
    """Position, velocity and acceleration float64 [A] of one instant, in the plan's units."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray


@dataclass(frozen=True)
class _Seam:
    """From `before` onto a new path: a bridge for ordinary channels, a fade for monotone ones."""

    before: '_Plan'
    bridge: Curve  # what is added to the new path; zero in monotone channels
    fade: Curve  # one channel: the weight of `before` in monotone channels, from 1 to 0
    monotone: np.ndarray  # bool [A]

    @property
    def end_ns(self) -> int:
        """Return the instant from which the new path is followed exactly."""
        return self.bridge.start_ns + round(self.bridge.step_s * 1e9)

    def lead(self, path: np.ndarray, time_ns: int) -> np.ndarray:
        """Return the motion [3, A] of an instant before end_ns, on the way onto the path's."""
        time_ns = max(time_ns, self.bridge.start_ns)
        motion = path + self.bridge.motion(time_ns)
        if self.monotone.any():
            weight, rate, bend = self.fade.motion(time_ns)[:, 0]
            gap = (self.before.motion(time_ns) - path)[:, self.monotone]
            motion[0, self.monotone] += weight * gap[0]
            motion[1, self.monotone] += weight * gap[1] + rate * gap[0]
            motion[2, self.monotone] += weight * gap[2] + 2 * rate * gap[1] + bend * gap[0]
        return motion


@dataclass(frozen=True)
class _Plan:
    """What runs: a path, the seam that leads onto it, and when it ends."""

    path: Curve
    seam: _Seam | None = None
    end_ns: int | None = None  # None: a hold, which never ends
    observed_ns: int | None = None  # start of the chunk; None: a hold or a stop

    def motion(self, time_ns: int) -> np.ndarray:
        """Return float64 [3, A]."""
        motion = self.path.motion(time_ns)
        if self.seam is not None and time_ns < self.seam.end_ns:
            return self.seam.lead(motion, time_ns)
        return motion

    def ended(self, time_ns: int) -> bool:
        """Tell whether an instant lies after the last row."""
        return self.end_ns is not None and time_ns > self.end_ns

    @property
    def seams(self) -> int:
        """Return how many seams lie upon one another."""
        return 0 if self.seam is None else 1 + self.seam.before.seams

    def without_past(self, now_ns: int) -> '_Plan':
        """Return the same plan without the seams that are over, so that plans do not pile up."""
        if self.seam is None:
            return self
        if now_ns >= self.seam.end_ns:
            return replace(self, seam=None)
        before = self.seam.before.without_past(now_ns)
        return replace(self, seam=replace(self.seam, before=before))


class ChunkExecutor:
    """
    Splice chunks into one smooth motion and tell the row for any instant.

    All methods may be called from any thread. Rows are float64 [A], ordered as names.
    """

    def __init__(
        self,
        blend_s: float,
        names: tuple[str, ...],
        monotone: tuple[str, ...] = (),
        acceleration: np.ndarray | None = None,
    ) -> None:
        """
        Set up with nothing running.

        blend_s       s, the shortest time from the old plan onto a new one
        names         the A action names that every chunk must carry
        monotone      names that may never overshoot a row (grippers)
        acceleration  [A] limits in rad/s^2 or m/s^2, for stretching blends and sizing stops;
                      None: neither is stretched
        """
        if not blend_s > 0:
            raise QwenVlaError(f'chunk executor: blend_s must be positive, got {blend_s}')
        unknown = set(monotone) - set(names)
        if unknown:
            raise QwenVlaError(
                f'chunk executor: monotone channels {sorted(unknown)} are not among {names}'
            )
        self._blend_s = blend_s
        self._names = tuple(names)
        self._monotone = np.array([name in monotone for name in names])
        self._acceleration = None if acceleration is None else np.asarray(acceleration, float)
        if self._acceleration is not None and self._acceleration.shape != (len(names),):
            raise QwenVlaError(
                f'chunk executor: {self._acceleration.shape} acceleration limits for '
                f'{len(names)} names'
            )
        self._lock = threading.Lock()
        self._plan: _Plan | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the action names, in the order of every row."""
        return self._names

    @property
    def expires_ns(self) -> int | None:
        """Return the instant of the running chunk's last row; None for a hold or nothing."""
        plan = self._plan
        return None if plan is None else plan.end_ns

    @property
    def observed_ns(self) -> int | None:
        """Return the stamp of the observation behind the running chunk; None for a hold."""
        plan = self._plan
        return None if plan is None else plan.observed_ns

    def put(self, chunk: ActionChunk, now_ns: int) -> None:
        """
        Lead the motion onto a chunk, from now on; raise ChunkRefused when it may not run.

        The rows that are already past are skipped. Something must run or hold before, so that
        there is a place to start from: see hold().
        """
        if chunk.names != self._names:
            raise ChunkRefused(
                f'chunk refused: it names {list(chunk.names)}, this robot takes '
                f'{list(self._names)} in that order; choose a checkpoint of this layout'
            )
        if not np.isfinite(chunk.actions).all():
            row, column = np.argwhere(~np.isfinite(chunk.actions))[0]
            raise ChunkRefused(
                f'chunk refused: row {row}, {chunk.names[column]} is '
                f'{chunk.actions[row, column]}, not a finite number'
            )
        if chunk.horizon < 2:
            raise ChunkRefused('chunk refused: one row is no motion; at least two are needed')
        if chunk.end_ns <= now_ns:
            raise ChunkRefused(
                f'chunk refused: its last row was due {(now_ns - chunk.end_ns) * 1e-9:.3f} s '
                'ago; the policy is slower than its horizon'
            )
        if chunk.start_ns > now_ns + round(self._blend_s * 1e9):
            raise ChunkRefused(
                f'chunk refused: it starts {(chunk.start_ns - now_ns) * 1e-9:.3f} s in the '
                'future; compare the clocks of policy and robot'
            )
        with self._lock:
            self._plan = self._spliced(chunk, now_ns)

    def hold(self, row: np.ndarray, now_ns: int) -> None:
        """Stand still at a row [A] from now on, without end, until a chunk is put."""
        row = np.array(row, np.float64)
        if row.shape != (len(self._names),) or not np.isfinite(row).all():
            raise QwenVlaError(
                f'chunk executor: a hold takes {len(self._names)} finite values, got {row}'
            )
        knots = np.zeros((2, 3, len(row)))
        knots[:, 0] = row
        with self._lock:
            self._plan = _Plan(through_knots(now_ns, 1.0, knots))

    def stop(self, now_ns: int) -> None:
        """
        Come to rest within the acceleration limits and hold there; nothing when nothing runs.

        The way travelled is half the velocity times the stopping time. Without limits the
        stopping time is blend_s.
        """
        with self._lock:
            motion = self._motion(now_ns)
            if motion is None:
                return
            seconds = self._blend_s
            if self._acceleration is not None:
                seconds = np.max(STOP_PEAK * np.abs(motion[1]) / self._acceleration)
                seconds = max(float(seconds), SHORTEST_STOP_S)
            knots = np.zeros((2, 3, len(self._names)))
            knots[0] = motion
            knots[1, 0] = motion[0] + motion[1] * seconds / 2 + motion[2] * seconds**2 / 12
            self._plan = _Plan(through_knots(now_ns, seconds, knots))

    def clear(self) -> None:
        """Forget everything that runs; the next chunk needs a hold before it."""
        with self._lock:
            self._plan = None

    def at(self, now_ns: int) -> np.ndarray | None:
        """Return the row float64 [A] for an instant; None when nothing runs or it expired."""
        found = self.sample(now_ns)
        return None if found is None else found[0]

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return position and velocity, float64 [A] each; None when nothing runs."""
        motion = self.motion(now_ns)
        return None if motion is None else (motion.position, motion.velocity)

    def motion(self, now_ns: int) -> Motion | None:
        """Return position, velocity and acceleration; None when nothing runs or it expired."""
        plan = self._plan
        return None if plan is None or plan.ended(now_ns) else Motion(*plan.motion(now_ns))

    def points(
        self, now_ns: int, lookahead_s: float, dt_s: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """
        Return the near future as trajectory points: at dt_s, 2 dt_s, ... up to lookahead_s.

        times float64 [N] in s after now, positions and velocities float64 [N, A]. A plan that
        ends before gives fewer points, the last one at its end; None when none is left.
        """
        plan = self._plan
        if plan is None:
            return None
        times = dt_s * np.arange(1, max(int(lookahead_s / dt_s + 1e-6), 1) + 1)
        if plan.end_ns is not None:
            left = (plan.end_ns - now_ns) * 1e-9
            if left <= 0:
                return None
            if times[-1] > left:
                times = np.append(times[times < left - dt_s / 2], left)
        motion = np.array([plan.motion(now_ns + round(time * 1e9)) for time in times])
        return times, motion[:, 0], motion[:, 1]

    def prefix(self, start_ns: int, rows: int, step_s: float) -> np.ndarray | None:
        """Return what will run anyway from start_ns on: float32 [<= rows, A]; None if nothing."""
        plan = self._plan
        if plan is None:
            return None
        times = [start_ns + round(row * step_s * 1e9) for row in range(rows)]
        found = [plan.motion(time)[0] for time in times if not plan.ended(time)]
        return np.array(found, np.float32) if found else None

    def _motion(self, now_ns: int) -> np.ndarray | None:
        """Return [3, A] also after the end, where a plan stands still at its last row."""
        return None if self._plan is None else self._plan.motion(now_ns)

    def _spliced(self, chunk: ActionChunk, now_ns: int) -> _Plan:
        running = self._plan
        if running is None:
            raise ChunkRefused(
                'chunk refused: nothing runs or holds, so there is no place to start from; call '
                'hold(measured joints) first'
            )
        if running.observed_ns is not None and chunk.start_ns < running.observed_ns:
            raise ChunkRefused(
                f'chunk refused: it is {(running.observed_ns - chunk.start_ns) * 1e-9:.3f} s '
                'older than the one that runs'
            )
        running = running.without_past(now_ns)
        if running.seams >= MAX_SEAMS:
            raise ChunkRefused(
                f'chunk refused: {MAX_SEAMS} chunks came within one blend; let the policy replan '
                'more slowly, or shorten blend_s'
            )
        path = through_rows(chunk.start_ns, chunk.step_s, chunk.actions, self._monotone)
        knots = np.zeros((2, 3, len(self._names)))
        knots[0] = running.motion(now_ns) - path.motion(now_ns)
        seconds = self._seam_seconds(knots[0])
        knots[0][:, self._monotone] = 0.0
        seam = _Seam(
            running,
            through_knots(now_ns, seconds, knots),
            through_knots(now_ns, seconds, FADE),
            self._monotone,
        )
        return _Plan(path, seam, chunk.end_ns, chunk.start_ns)

    def _seam_seconds(self, difference: np.ndarray) -> float:
        """Return T that keeps the bridge of [3, A] under half of the acceleration limits."""
        if self._acceleration is None:
            return self._blend_s
        share = self._acceleration / 2
        position = POSITION_BRIDGE_PEAK * np.abs(difference[0])
        velocity = VELOCITY_BRIDGE_PEAK * np.abs(difference[1])
        needed = (velocity + np.sqrt(velocity**2 + 4 * share * position)) / (2 * share)
        return float(np.clip(needed.max(), self._blend_s, MAX_STRETCH * self._blend_s))
