"""
A joint_trajectory_controller without ROS, as on Humble, Jazzy or Kilted.

Parameters are the distribution's own but for interpolate_from_desired_state: true (Humble:
open_loop_control), without which a new message starts at the measured joints, which lag; real
controllers should be set so. Humble has allow_nonzero_velocity_at_trajectory_end: true, Jazzy and
Kilted refuse such an end. None takes a message without points.

Timed points in, desired positions and velocities out. Points with positions only are joined
linearly, points with velocities by cubics; a newer message replaces the older at once and is
reached from the desired state of that moment; after the last point the controller holds.
Times are int nanoseconds of one clock; positions rad or m. sample() changes nothing, so one
thread may accept while another samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

DISTRIBUTIONS = ('humble', 'jazzy', 'kilted')
_STILL = float(np.finfo(np.float32).eps)  # the end velocity that still counts as zero


@dataclass(frozen=True)
class _Motion:
    """Knots of one accepted message: times_ns [P], positions [P, J], velocities [P, J] or None."""

    times_ns: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None
    before_ns: int
    before: tuple[np.ndarray, np.ndarray]


class TrajectoryController:
    """One controller of some joints (the robot has two: arm and gripper)."""

    def __init__(
        self,
        joint_names: Sequence[str],
        positions: Sequence[float],
        limits: Sequence[tuple[float, float]] | None = None,
        distribution: str = 'jazzy',
    ) -> None:
        """
        Hold positions [J] at first; limits [J] are the joint limiter's (lower, upper).

        distribution, one of DISTRIBUTIONS, says what is accepted.
        """
        if distribution not in DISTRIBUTIONS:
            raise QwenVlaError(
                f'trajectory controller: distribution {distribution!r} is not one of '
                f'{", ".join(DISTRIBUTIONS)}'
            )
        self.joint_names = tuple(joint_names)
        self._ends_at_rest = distribution != 'humble'
        self._limits = None if limits is None else np.asarray(limits, np.float64).T
        if self._limits is not None and self._limits.shape != (2, len(self.joint_names)):
            raise QwenVlaError(
                f'trajectory controller: one (lower, upper) per joint of {joint_names}'
            )
        self.hold(positions)

    def hold(self, positions: Sequence[float]) -> None:
        """Forget the trajectory and hold positions [J]."""
        held = np.asarray(positions, np.float64)
        if held.shape != (len(self.joint_names),) or not np.isfinite(held).all():
            raise QwenVlaError(
                f'trajectory controller: {positions} is no position of {self.joint_names}'
            )
        self._motion = _Motion(
            np.zeros(1, np.int64), held[None], None, 0, (held, np.zeros_like(held))
        )

    def accept(
        self,
        names: Sequence[str],
        times_s: Sequence[float],
        positions: Sequence[Sequence[float]],
        velocities: Sequence[Sequence[float]] | None = None,
        stamp_ns: int = 0,
        now_ns: int = 0,
    ) -> str | None:
        """
        Take a trajectory; return None, or the reason why it is rejected and the old one goes on.

        names [J] in any order; times_s [P] from the stamp; positions and velocities [P, J]. Stamp
        0 means now.
        """
        reason = self._refuse(names, times_s, positions, velocities, stamp_ns, now_ns)
        if reason is not None:
            return reason
        order = [list(names).index(name) for name in self.joint_names]
        start_ns = stamp_ns or now_ns
        times_ns = start_ns + np.round(np.asarray(times_s, np.float64) * 1e9).astype(np.int64)
        speeds = None if velocities is None else np.asarray(velocities, np.float64)[:, order]
        knots = np.asarray(positions, np.float64)[:, order]
        self._motion = _Motion(times_ns, knots, speeds, now_ns, self.sample(now_ns))
        return None

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the desired positions and velocities, float64 [J] each, at an instant."""
        position, velocity = _sample(self._motion, now_ns)
        if self._limits is not None:
            inside = np.clip(position, *self._limits)
            velocity = np.where(inside == position, velocity, 0.0)
            position = inside
        return position, velocity

    def _refuse(
        self,
        names: Sequence[str],
        times_s: Sequence[float],
        positions: Sequence[Sequence[float]],
        velocities: Sequence[Sequence[float]] | None,
        stamp_ns: int,
        now_ns: int,
    ) -> str | None:
        """Return why a trajectory with points is rejected, or None."""
        if sorted(names) != sorted(self.joint_names):
            return f'joints {list(names)} do not match the controller joints {self.joint_names}'
        if len(times_s) == 0:
            return 'the trajectory has no points'
        shape = (len(times_s), len(names))
        for field, rows in (('positions', positions), ('velocities', velocities)):
            if rows is None:
                continue
            if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
                return f'{field} must have {shape[0]} points of {shape[1]} values'
            if not np.isfinite(np.asarray(rows, np.float64)).all():
                return f'{field} hold a number that is not finite'
        times = np.asarray(times_s, np.float64)
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            return f'times of the points are not strictly increasing: {times.tolist()}'
        moving = velocities is not None and np.abs(velocities[-1]).max() > _STILL
        if moving and self._ends_at_rest:
            return f'the velocity of the last point is not zero: {list(velocities[-1])}'
        end_ns = stamp_ns + round(times[-1] * 1e9)
        if stamp_ns and end_ns < now_ns:
            return f'the trajectory ended {(now_ns - end_ns) * 1e-9:.3f} s ago'
        return None


def _sample(motion: _Motion, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and velocities [J] of a motion at an instant."""
    count = len(motion.times_ns)
    after = int(np.searchsorted(motion.times_ns, now_ns, side='right'))
    if after == count:
        end = motion.positions[-1]
        return end.copy(), np.zeros_like(end)
    stop = (
        motion.positions[after],
        None if motion.velocities is None else motion.velocities[after],
    )
    if after == 0:
        start_ns, start = motion.before_ns, motion.before
    else:
        start_ns = int(motion.times_ns[after - 1])
        speed = None if motion.velocities is None else motion.velocities[after - 1]
        start = (motion.positions[after - 1], speed)
    span_s = (int(motion.times_ns[after]) - start_ns) * 1e-9
    elapsed_s = max(0, now_ns - start_ns) * 1e-9
    if start[1] is None or stop[1] is None:
        slope = (stop[0] - start[0]) / span_s
        return start[0] + slope * elapsed_s, slope
    return _cubic(start, stop, span_s, elapsed_s)


def _cubic(
    start: tuple[np.ndarray, np.ndarray],
    stop: tuple[np.ndarray, np.ndarray],
    span_s: float,
    elapsed_s: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and velocities [J] on the cubic that meets both ends and their slopes."""
    s = elapsed_s / span_s
    (p0, v0), (p1, v1) = start, stop
    v0, v1, rise = v0 * span_s, v1 * span_s, p1 - p0
    a, b = v0 + v1 - 2 * rise, 3 * rise - 2 * v0 - v1
    position = p0 + s * (v0 + s * (b + s * a))
    return position, (v0 + s * (2 * b + 3 * s * a)) / span_s
