"""
Everything that can be wrong with rows of joint positions, without memory and without a latch.

Each check returns None or the refusal. The order is that of meaning: numbers that are finite, then
positions, rates, the tip's box and speed, and at last the distances of the arm's volume.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.capsules import CapsuleModel
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.limits import JointLimits, Tolerances, Verdict
from qwen_vla_ros.safety_contract import CLAMP
from qwen_vla_ros.types import ActionChunk
from qwen_vla_ros.workspace import Workspace

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

ROW_MEMORY_S = 0.5  # rows further apart than this are not compared with one another
CARTESIAN = ('delta_eef', 'waypoint')


@dataclass(frozen=True)
class Row:
    """What the next row is compared with; tip [1, 3], velocity and acceleration where known."""

    time_ns: int
    position: np.ndarray
    velocity: np.ndarray | None
    acceleration: np.ndarray | None
    tip: np.ndarray | None


class Checks:
    """The checks of one layout of joints."""

    def __init__(
        self,
        embodiment: 'Embodiment',
        layout: str | None,
        tip_position: Callable[[np.ndarray], np.ndarray] | None,
        tolerances: Tolerances | None,
        capsules: CapsuleModel | None,
    ) -> None:
        """Take what SafetyGate takes; QwenVlaError for Cartesian groups and absent limits."""
        groups = embodiment.action_groups(layout)
        for group in groups:
            if group.kind in CARTESIAN:
                raise QwenVlaError(
                    f"safety: action group '{group.name}' is {group.kind}; turn it into joints "
                    'first and name a layout of joints'
                )
        self.names = tuple(name for group in groups for name in group.names)
        channels = [group for group in groups for _ in group.names]
        self._arm = [i for i, group in enumerate(channels) if group.kind != 'gripper']
        self.clampable = np.array([group.on_limit == CLAMP for group in channels])
        absent = [name for name in self.names if name not in embodiment.limits]
        if absent:
            raise QwenVlaError(
                f'safety: no limits for {", ".join(absent)}; add them to limits in '
                f'{embodiment.source}'
            )
        self._tolerances = tolerances or Tolerances()
        self.limits = JointLimits(
            self.names,
            tuple(unit for group in groups for unit in group.units),
            [embodiment.limits[name] for name in self.names],
            self._tolerances,
        )
        boxes = embodiment.workspaces
        self._workspace = (
            Workspace(boxes, tip_position, self._tolerances) if boxes and tip_position else None
        )
        self._capsules, self._safety = capsules, embodiment.safety

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Return which checks cannot be made, for want of a box, a model or a limit."""
        jerk = np.isinf(self.limits.rates[2]).any()
        absent = {'workspace': self._workspace is None, 'capsules': self._capsules is None}
        return tuple(name for name, missing in {**absent, 'jerk': jerk}.items() if missing)

    def chunk(
        self, chunk: ActionChunk, now_ns: int, observed: np.ndarray | None
    ) -> Verdict | None:
        """Refuse a chunk by its names, its age, its rows, or its way from observed [A]."""
        if chunk.names != self.names:
            return Verdict(
                False,
                f'the chunk names {list(chunk.names)}, the robot takes {list(self.names)}',
            )
        rows = chunk.actions.astype(np.float64)
        problem = (
            self._time_problem(chunk, now_ns)
            or self.limits.finite('position', rows)
            or self.limits.position(rows)
            or (None if observed is None else self.jump(rows[0], observed))
            or self.limits.differences(rows, chunk.step_s)
        )
        steps = np.full(len(rows) - 1, chunk.step_s)
        return problem or self._shape_problem(rows, steps, self._tolerances.chunk_velocity)

    def motion(
        self,
        times_s: np.ndarray,
        positions: np.ndarray,
        velocities: np.ndarray,
        accelerations: np.ndarray | None,
    ) -> Verdict | None:
        """Return what is wrong with a motion, as check_motion() does, latched or not."""
        share, seconds = self._tolerances.motion, np.diff(times_s)
        problem = (
            self.limits.finite('position', positions)
            or self.limits.finite('velocity', velocities)
            or self.limits.position(positions, share)
            or self.limits.velocity(velocities)
        )
        if problem is None and accelerations is not None:
            jerks = np.diff(accelerations, axis=0) / seconds[:, None]
            problem = (
                self.limits.finite('acceleration', accelerations)
                or self.limits.acceleration(accelerations)
                or (self.limits.jerk(jerks) if len(jerks) else None)
            )
        return problem or self._shape_problem(
            positions, seconds, self._tolerances.row_velocity, share
        )

    def place(self, rows: np.ndarray, share: float = 1.0) -> Verdict | None:
        """Return what is wrong with standing at rows [R, A]: limits, box, clearance."""
        problem = self.limits.position(rows, share)
        if problem or self._workspace is None:
            return problem or self._gap_problem(rows, share)
        tips = self._workspace.tips(rows[:, self._arm])
        return self._workspace.outside(tips, share) or self._gap_problem(rows, share)

    def row(self, row: Row, last: Row | None) -> tuple[Verdict | None, Row]:
        """Return the problem of a row, and the row with its tip."""
        rows = row.position[None]
        problem = self.limits.finite('position', rows) or self.limits.position(rows)
        for what in ('velocity', 'acceleration'):
            rate = getattr(row, what)
            if problem is None and rate is not None:
                problem = self.limits.finite(what, rate[None]) or getattr(self.limits, what)(
                    rate[None]
                )
        problem = problem or self._step_problem(row, last)
        if problem is None and self._workspace is not None:
            row = replace(row, tip=self._workspace.tips(rows[:, self._arm]))
            problem = self._workspace.outside(row.tip) or self._tip_step_problem(row, last)
        return problem or self._gap_problem(rows), row

    def rows(
        self, times_ns: np.ndarray, positions: np.ndarray, velocities: np.ndarray, last: Row | None
    ) -> tuple[bool, Row]:
        """Tell whether row() would find nothing wrong with any of these rows [R, A]; the last."""
        rows, seconds = positions, np.diff(times_ns) * 1e-9
        problem = (
            self.limits.finite('position', rows)
            or self.limits.finite('velocity', velocities)
            or self.limits.position(rows)
            or self.limits.velocity(velocities)
            or self._step_problem(Row(int(times_ns[0]), rows[0], velocities[0], None, None), last)
        )
        if problem is None and len(rows) > 1:
            steps = seconds[:, None]
            problem = self.limits.velocity(
                np.diff(rows, axis=0) / steps
            ) or self.limits.acceleration(np.diff(velocities, axis=0) / steps)
        tips = None
        if problem is None and self._workspace is not None:
            tips = self._workspace.tips(rows[:, self._arm])
            first = Row(int(times_ns[0]), rows[0], velocities[0], None, tips[:1])
            problem = (
                self._workspace.outside(tips)
                or self._workspace.too_fast(tips, seconds, self._tolerances.row_velocity)
                or self._tip_step_problem(first, last)
            )
        problem = problem or self._gap_problem(rows)
        tip = None if tips is None else tips[-1:]
        return problem is None, Row(int(times_ns[-1]), rows[-1], velocities[-1], None, tip)

    def _step_problem(self, row: Row, last: Row | None) -> Verdict | None:
        """Compare a row with the one before it."""
        seconds = _seconds_between(last, row)
        if seconds is None:
            return None
        for what, new, old, check in (
            ('velocity', row.position, last.position, self.limits.velocity),
            ('acceleration', row.velocity, last.velocity, self.limits.acceleration),
            ('jerk', row.acceleration, last.acceleration, self.limits.jerk),
        ):
            if new is None or old is None:
                continue
            problem = check((new - old)[None] / seconds, f'{what} since the last row')
            if problem:
                return problem
        return None

    def _tip_step_problem(self, row: Row, last: Row | None) -> Verdict | None:
        seconds = _seconds_between(last, row)
        if seconds is None or last.tip is None:
            return None
        tips = np.concatenate([last.tip, row.tip])
        share = self._tolerances.row_velocity
        return self._workspace.too_fast(tips, np.array([seconds]), share)

    def _time_problem(self, chunk: ActionChunk, now_ns: int) -> Verdict | None:
        age = (now_ns - chunk.start_ns) * 1e-9
        if chunk.end_ns <= now_ns:
            late = (now_ns - chunk.end_ns) * 1e-9
            return Verdict(False, f'the chunk ended {late:.3f} s ago', value=late, unit='s')
        for limit, found, what in (
            (self._safety.inference_timeout_s, age, 'old'),
            (self._safety.max_future_s, -age, 'in the future'),
        ):
            if found > limit:
                reason = f'the chunk starts {found:.3f} s {what} (limit {limit:g} s)'
                return Verdict(False, reason, '', found, limit, 's')
        return None

    def jump(self, first: np.ndarray, observed: np.ndarray) -> Verdict | None:
        """Refuse a first row [A] too far from observed [A]."""
        return self.limits.jump(
            first, observed, self._safety.max_jump_rad, self._safety.max_jump_m
        )

    def _shape_problem(
        self, rows: np.ndarray, seconds: np.ndarray, speed_share: float, share: float = 1.0
    ) -> Verdict | None:
        """Check the tip and the clearances of rows [R, A] that are seconds [R - 1] apart."""
        if self._workspace is not None:
            tips = self._workspace.tips(rows[:, self._arm])
            problem = self._workspace.outside(tips, share) or self._workspace.too_fast(
                tips, seconds, speed_share
            )
            if problem:
                return problem
        return self._gap_problem(rows, share)

    def _gap_problem(self, rows: np.ndarray, share: float = 1.0) -> Verdict | None:
        if self._capsules is None:
            return None
        return self._capsules.problem(rows[:, self._arm], share * self._tolerances.position_m)


def _seconds_between(last: Row | None, row: Row) -> float | None:
    """Return the time between two rows; None when they are not to be compared."""
    if last is None:
        return None
    seconds = (row.time_ns - last.time_ns) * 1e-9
    return seconds if 0 < seconds <= ROW_MEMORY_S else None
