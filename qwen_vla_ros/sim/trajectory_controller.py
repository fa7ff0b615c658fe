"""
A joint_trajectory_controller without ROS, as on Humble, Jazzy, Kilted or Rolling.

What each accepts is ros2_controllers' validate_trajectory_msg
(joint_trajectory_controller/src/joint_trajectory_controller.cpp, branches humble, jazzy, kilted,
master). All four: as many names as joints, each known; points; times that rise; an end that is
not past; positions in every point, velocities where a point has any. They differ in one default:
allow_nonzero_velocity_at_trajectory_end is true on humble, false on the others. None takes an
empty trajectory as a stop. Two things there are worse than one would think: a name that comes
twice passes the check, and the joint left out gets what the last message left in a buffer (0
before the first); and no number is looked at, so NaN would reach the motors: here it is refused.

Timed points in, desired positions and velocities out. Points with positions only are joined
linearly, points with velocities by cubics (Trajectory::sample); a newer message replaces the
older at once; after the last point the controller holds. It is reached from the desired state
(interpolate_from_desired_state, on humble open_loop_control), or with from_desired False, which
is everybody's default, from the measured joints, which lag. Times are int nanoseconds of one
clock; positions rad or m. sample() changes nothing, so one thread may accept while another
samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

DISTRIBUTIONS = ('humble', 'jazzy', 'kilted', 'rolling')
_STILL = float(np.finfo(np.float32).eps)  # the end velocity that still counts as zero


@dataclass(frozen=True)
class _Motion:
    """Knots of a message: times_ns [P], positions [P, J], velocities [P, J] (NaN: not told)."""

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
        from_desired: bool = True,
    ) -> None:
        """
        Hold positions [J] at first; limits [J] are the joint limiter's (lower, upper).

        distribution, one of DISTRIBUTIONS, says what is accepted; from_desired False starts every
        trajectory at the measured joints, which accept() is then told.
        """
        if distribution not in DISTRIBUTIONS:
            raise QwenVlaError(
                f'trajectory controller: distribution {distribution!r} is not one of '
                f'{", ".join(DISTRIBUTIONS)}'
            )
        self.joint_names = tuple(joint_names)
        self.distribution = distribution
        self._ends_at_rest = distribution != 'humble'
        self._from_desired = from_desired
        self._buffer = np.zeros(len(self.joint_names))
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
        measured: Sequence[float] | None = None,
    ) -> str | None:
        """
        Take a trajectory; return None, or the reason why it is rejected and the old one goes on.

        names [J] in any order; times_s [P] from the stamp; positions and velocities [P, J], a
        point without velocities as an empty row. Stamp 0 means now. measured [J] are the joints,
        needed where trajectories start there.
        """
        reason = self.refusal(names, times_s, positions, velocities, stamp_ns, now_ns)
        if reason is not None:
            return reason
        before = self.sample(now_ns)
        if not self._from_desired:
            if measured is None:
                raise QwenVlaError('trajectory controller: it starts at the measured joints')
            before = np.asarray(measured, np.float64), np.zeros(len(self.joint_names))
        start_ns = stamp_ns or now_ns
        times_ns = start_ns + np.round(np.asarray(times_s, np.float64) * 1e9).astype(np.int64)
        knots, speeds = self._sorted(names, positions, velocities)
        self._motion = _Motion(times_ns, knots, speeds, now_ns, before)
        return None

    def ends_ns(self) -> int:
        """Return when the last point is reached, 0 for a hold."""
        return int(self._motion.times_ns[-1])

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the desired positions and velocities, float64 [J] each, at an instant."""
        position, velocity = _sample(self._motion, now_ns)
        if self._limits is not None:
            inside = np.clip(position, *self._limits)
            velocity = np.where(inside == position, velocity, 0.0)
            position = inside
        return position, velocity

    def _sorted(
        self,
        names: Sequence[str],
        positions: Sequence[Sequence[float]],
        velocities: Sequence[Sequence[float]] | None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return positions and velocities [P, J] in the controller's order, NaN where none."""
        columns = [self.joint_names.index(name) for name in names]
        knots = np.empty((len(positions), len(columns)))
        speeds = None if velocities is None else np.full(knots.shape, np.nan)
        for row, values in enumerate(positions):
            self._buffer[columns] = values
            knots[row] = self._buffer
            if speeds is not None and len(velocities[row]):
                self._buffer[columns] = velocities[row]
                speeds[row] = self._buffer
        return knots, speeds

    def refusal(
        self,
        names: Sequence[str],
        times_s: Sequence[float],
        positions: Sequence[Sequence[float]],
        velocities: Sequence[Sequence[float]] | None,
        stamp_ns: int,
        now_ns: int,
    ) -> str | None:
        """Return why accept() would reject a trajectory, or None; nothing changes."""
        if len(names) != len(self.joint_names) or not set(names) <= set(self.joint_names):
            return f'joints {list(names)} do not match the controller joints {self.joint_names}'
        if len(times_s) == 0:
            return 'the trajectory has no points'
        shape = (len(times_s), len(names))
        for field, rows in (('positions', positions), ('velocities', velocities)):
            if rows is None:
                continue
            sizes = {shape[1]} if field == 'positions' else {shape[1], 0}
            if len(rows) != shape[0] or any(len(row) not in sizes for row in rows):
                return f'{field} must have {shape[0]} points of {shape[1]} values'
            if not np.isfinite(
                np.concatenate([np.asarray(row, np.float64) for row in rows])
            ).all():
                return f'{field} hold a number that is not finite'
        times = np.asarray(times_s, np.float64)
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            return f'times of the points are not strictly increasing: {times.tolist()}'
        moving = velocities is not None and np.abs(velocities[-1]).max(initial=0.0) > _STILL
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
    if start[1] is None or stop[1] is None or np.isnan([start[1], stop[1]]).any():
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
