"""
Chunks and rows -> a verdict. Nothing is ever clamped: what does not fit is refused as a whole.

A refused chunk is not executed; the arm goes on with what runs. A refused row, or
`max_refused_chunks` refused chunks in a row, latches the gate: it refuses everything until
reset(), and the caller holds the arm. The gate works on joint positions; Cartesian chunks are
turned into joints before they come here.

This is a filter for learned policies, not a certified safety function.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

ROW_MEMORY_S = 0.5  # rows further apart than this are not compared with one another
CARTESIAN = ('delta_eef', 'waypoint')


@dataclass(frozen=True)
class Verdict:
    """Whether something may be executed; a refusal names joint, value, limit and unit."""

    ok: bool
    reason: str = ''
    joint: str = ''
    value: float | None = None
    limit: float | None = None
    unit: str = ''
    time_ns: int = 0


@dataclass(frozen=True)
class Tolerances:
    """
    How far over a limit is still accepted.

    position_rad, position_m   beyond a position limit: sensor noise, a policy that rests on a stop
    chunk_velocity             share of the limit, first difference of the rows of a chunk
    chunk_acceleration         share of the limit, second difference of the rows of a chunk
    row_velocity               share of the limit; a curve through alternating rows is up to half
                               as fast again as their difference
    row_acceleration           share of the limit; a spline through alternating rows triples their
                               second difference, and a blend adds up to half of the limit
    """

    position_rad: float = 0.01
    position_m: float = 0.001
    chunk_velocity: float = 0.05
    chunk_acceleration: float = 0.1
    row_velocity: float = 0.5
    row_acceleration: float = 2.8


class SafetyGate:
    """Check chunks before they run and rows before they are sent. Thread-safe."""

    def __init__(
        self,
        embodiment: 'Embodiment',
        layout: str | None = None,
        tip_position: Callable[[np.ndarray], np.ndarray] | None = None,
        tolerances: Tolerances | None = None,
    ) -> None:
        """
        Take the limits of a contract's joints.

        tip_position maps the positions of the arm's group (all but grippers) to the tip [3] in
        the frame of the workspace box; without it the box is not checked.
        """
        groups = embodiment.action_groups(layout)
        for group in groups:
            if group.kind in CARTESIAN:
                raise QwenVlaError(
                    f"safety: action group '{group.name}' is {group.kind}; turn it into joints "
                    'first and name a layout of joints'
                )
        self.names = tuple(name for group in groups for name in group.names)
        self._units = tuple(unit for group in groups for unit in group.units)
        self._arm = [
            index
            for index, kind in enumerate(group.kind for group in groups for _ in group.names)
            if kind != 'gripper'
        ]
        absent = [name for name in self.names if name not in embodiment.limits]
        if absent:
            raise QwenVlaError(
                f'safety: no limits for {", ".join(absent)}; add them to limits in '
                f'{embodiment.source}'
            )
        limits = [embodiment.limits[name] for name in self.names]
        self._lower = np.array([limit.lower for limit in limits])
        self._upper = np.array([limit.upper for limit in limits])
        self._velocity = np.array([limit.velocity for limit in limits])
        self._acceleration = np.array([limit.acceleration for limit in limits])
        self._tolerances = tolerances or Tolerances()
        self._beyond = self._per_unit(self._tolerances.position_rad, self._tolerances.position_m)
        self._box = embodiment.workspace if tip_position is not None else None
        self._tip_position = tip_position
        self._safety = embodiment.safety
        self._lock = threading.Lock()
        self.refusals: deque[Verdict] = deque(maxlen=100)
        self.refused_chunks = 0
        self.refused_rows = 0
        self._refused_running = 0
        self._latched = ''
        self._last: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def latched(self) -> str:
        """Return why the gate refuses everything; empty when it does not."""
        return self._latched

    def check_chunk(
        self, chunk: ActionChunk, now_ns: int, observed: np.ndarray | None = None
    ) -> Verdict:
        """
        Judge a whole chunk of joint positions.

        observed [A], when given, is where the joints were at the chunk's start; the first row
        must lie within the jump limit of it.
        """
        with self._lock:
            if self._latched:
                return self._refuse(f'latched: {self._latched}', now_ns)
            problem = self._chunk_problem(chunk, now_ns, observed)
            if problem is None:
                self._refused_running = 0
                return Verdict(True, time_ns=now_ns)
            self.refused_chunks += 1
            self._refused_running += 1
            verdict = self._log(problem, now_ns)
            if self._refused_running >= self._safety.max_refused_chunks:
                self._latched = (
                    f'{self._refused_running} chunks in a row were refused, the last one: '
                    f'{verdict.reason}'
                )
            return verdict

    def check_row(self, position: np.ndarray, velocity: np.ndarray | None, now_ns: int) -> Verdict:
        """
        Judge a commanded row, position and velocity [A]; a refusal latches the gate.

        Rows less than half a second apart are also compared with one another.
        """
        with self._lock:
            if self._latched:
                return self._refuse(f'latched: {self._latched}', now_ns)
            position = np.asarray(position, np.float64)
            velocity = None if velocity is None else np.asarray(velocity, np.float64)
            problem = self._row_problem(position, velocity, now_ns)
            if problem is not None:
                self.refused_rows += 1
                self._latched = f'row refused: {problem.reason}'
                return self._log(problem, now_ns)
            self._last = (now_ns, position, velocity)
            return Verdict(True, time_ns=now_ns)

    def latch(self, reason: str, now_ns: int) -> Verdict:
        """Refuse everything from now on, for a reason that the caller found."""
        with self._lock:
            self._latched = reason
            return self._log(Verdict(False, reason), now_ns)

    def reset(self) -> None:
        """Release the latch and forget the rows before; the counts and the log stay."""
        with self._lock:
            self._latched = ''
            self._refused_running = 0
            self._last = None

    def _refuse(self, reason: str, now_ns: int) -> Verdict:
        return Verdict(False, reason, time_ns=now_ns)

    def _log(self, problem: Verdict, now_ns: int) -> Verdict:
        verdict = replace(problem, time_ns=now_ns)
        self.refusals.append(verdict)
        return verdict

    def _chunk_problem(
        self, chunk: ActionChunk, now_ns: int, observed: np.ndarray | None
    ) -> Verdict | None:
        if chunk.names != self.names:
            return Verdict(
                False,
                f'the chunk names {list(chunk.names)}, the robot takes {list(self.names)}',
            )
        rows = chunk.actions.astype(np.float64)
        return (
            self._time_problem(chunk, now_ns)
            or self._finite_problem('position', rows)
            or self._position_problem(rows)
            or self._jump_problem(rows[0], observed)
            or self._rate_problem(rows, chunk.step_s)
            or self._box_problem(rows)
        )

    def _row_problem(
        self, position: np.ndarray, velocity: np.ndarray | None, now_ns: int
    ) -> Verdict | None:
        rows = position[None]
        problem = self._finite_problem('position', rows) or self._position_problem(rows)
        if problem is None and velocity is not None:
            problem = self._finite_problem('velocity', velocity[None]) or self._over(
                'velocity',
                np.abs(velocity[None]),
                self._velocity,
                self._tolerances.row_velocity,
                '/s',
            )
        return problem or self._step_problem(position, velocity, now_ns) or self._box_problem(rows)

    def _step_problem(
        self, position: np.ndarray, velocity: np.ndarray | None, now_ns: int
    ) -> Verdict | None:
        """Compare a row with the one before it."""
        if self._last is None:
            return None
        before_ns, before, velocity_before = self._last
        seconds = (now_ns - before_ns) * 1e-9
        if not 0 < seconds <= ROW_MEMORY_S:
            return None
        speed = np.abs(position - before)[None] / seconds
        problem = self._over(
            'velocity since the last row',
            speed,
            self._velocity,
            self._tolerances.row_velocity,
            '/s',
        )
        if problem or velocity is None or velocity_before is None:
            return problem
        return self._over(
            'acceleration since the last row',
            np.abs(velocity - velocity_before)[None] / seconds,
            self._acceleration,
            self._tolerances.row_acceleration,
            '/s^2',
        )

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

    def _finite_problem(self, what: str, rows: np.ndarray) -> Verdict | None:
        if rows.shape[1:] != (len(self.names),):
            return Verdict(False, f'{what}: {rows.shape[1:]} values for {len(self.names)} joints')
        if np.isfinite(rows).all():
            return None
        row, column = np.argwhere(~np.isfinite(rows))[0]
        value, joint = float(rows[row, column]), self.names[column]
        return Verdict(False, f'row {row}: {what} of {joint} is {value}', joint, value)

    def _position_problem(self, rows: np.ndarray) -> Verdict | None:
        beyond = np.maximum(self._lower - rows, rows - self._upper)
        if (beyond <= self._beyond).all():
            return None
        row, column = np.unravel_index(np.argmax(beyond / self._beyond), beyond.shape)
        value = rows[row, column]
        low = value < self._lower[column]
        limit = (self._lower if low else self._upper)[column]
        return self._told('position', row, column, value, limit, '', '<' if low else '>')

    def _jump_problem(self, first: np.ndarray, observed: np.ndarray | None) -> Verdict | None:
        if observed is None:
            return None
        observed = np.asarray(observed, np.float64)[None]
        limits = self._per_unit(self._safety.max_jump_rad, self._safety.max_jump_m)
        return self._finite_problem('observed position', observed) or self._over(
            'jump from the observed position', np.abs(first - observed), limits, 0.0, ''
        )

    def _per_unit(self, radians: float, metres: float) -> np.ndarray:
        """Return [A]: one number for joints that turn, another for those that slide."""
        return np.array([metres if unit == 'm' else radians for unit in self._units])

    def _rate_problem(self, rows: np.ndarray, step_s: float) -> Verdict | None:
        if len(rows) < 2:
            return None
        speeds = np.diff(rows, axis=0) / step_s
        problem = self._over(
            'velocity', np.abs(speeds), self._velocity, self._tolerances.chunk_velocity, '/s'
        )
        if problem or len(rows) < 3:
            return problem
        bends = np.abs(np.diff(speeds, axis=0)) / step_s
        share = self._tolerances.chunk_acceleration
        return self._over('acceleration', bends, self._acceleration, share, '/s^2')

    def _box_problem(self, rows: np.ndarray) -> Verdict | None:
        if self._box is None:
            return None
        tips = np.array([self._tip_position(row[self._arm]) for row in rows])
        lower, upper = np.asarray(self._box.lower), np.asarray(self._box.upper)
        beyond = np.maximum(lower - tips, tips - upper)
        if (beyond <= self._tolerances.position_m).all():
            return None
        row, axis = np.unravel_index(np.argmax(beyond), beyond.shape)
        value = float(tips[row, axis])
        low = value < lower[axis]
        limit = float((lower if low else upper)[axis])
        joint = f'{self._box.tip}.{"xyz"[axis]}'
        sign = '<' if low else '>'
        reason = f'row {row}: workspace: {joint} {value:.4g} m {sign} limit {limit:.4g} m'
        return Verdict(False, reason, joint, value, limit, 'm')

    def _over(
        self, what: str, found: np.ndarray, limits: np.ndarray, share: float, per: str
    ) -> Verdict | None:
        """Compare absolute values [R, A] with limits [A]; name the worst one."""
        ratio = found / limits
        if (ratio <= 1.0 + share).all():
            return None
        row, column = np.unravel_index(np.argmax(ratio), ratio.shape)
        return self._told(what, row, column, found[row, column], limits[column], per, '>')

    def _told(
        self,
        what: str,
        row: int,
        column: int,
        value: float,
        limit: float,
        per: str,
        sign: str,
    ) -> Verdict:
        joint, unit = self.names[column], self._units[column] + per
        value, limit = float(value), float(limit)
        reason = f'row {row}: {what} of {joint} {value:.4g} {unit} {sign} limit {limit:.4g} {unit}'
        return Verdict(False, reason, joint, value, limit, unit)
