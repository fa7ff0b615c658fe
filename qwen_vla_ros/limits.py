"""
Joint rows against limits: finite, position, velocity, acceleration, jerk, and jumps.

A verdict names the worst joint with its value, limit and unit. Rows are float64 [R, A]; rates of
rows are their differences. Only positions and velocities can be clamped, and only where the
contract says so: everything else is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import JointLimit


@dataclass(frozen=True)
class Clamp:
    """By how much a joint was moved into its limits at most: amount in unit, over rows rows."""

    joint: str
    what: str
    amount: float
    unit: str
    rows: int


@dataclass(frozen=True)
class Verdict:
    """
    Whether something may be executed; a refusal names joint, value, limit and unit.

    chunk    what may run, of admit() only: the chunk itself, or its clamped form
    clamped  what was clamped in it
    """

    ok: bool
    reason: str = ''
    joint: str = ''
    value: float | None = None
    limit: float | None = None
    unit: str = ''
    time_ns: int = 0
    chunk: ActionChunk | None = field(default=None, compare=False, repr=False)
    clamped: tuple[Clamp, ...] = ()


@dataclass(frozen=True)
class Tolerances:
    """
    How far over a limit is still accepted.

    position_rad, position_m   beyond a position limit: sensor noise, a policy that rests on a
                               stop; position_m also beyond the box and into a capsule or plane
    chunk_velocity             share of the limit, first difference of the rows of a chunk
    chunk_acceleration         share of the limit, second difference of the rows of a chunk
    chunk_jerk                 share of the limit, third difference of the rows of a chunk
    row_velocity               share of the limit; a curve through alternating rows is up to half
                               as fast again as their difference
    row_acceleration           share of the limit; a spline through alternating rows triples their
                               second difference, and a blend adds up to half of the limit
    row_jerk                   share of the limit, for the same reason
    motion                     share of the first two that a whole motion may use, so that what
                               lies between its samples stays within them
    """

    position_rad: float = 0.01
    position_m: float = 0.001
    chunk_velocity: float = 0.05
    chunk_acceleration: float = 0.1
    chunk_jerk: float = 0.1
    row_velocity: float = 0.5
    row_acceleration: float = 2.8
    row_jerk: float = 2.8
    motion: float = 0.7


class JointLimits:
    """The limits of A joints, as checks that return None or the refusal."""

    def __init__(
        self,
        names: Sequence[str],
        units: Sequence[str],
        limits: 'Sequence[JointLimit]',
        tolerances: Tolerances,
    ) -> None:
        """Take the limits in the order of names; a joint without a jerk limit is not checked."""
        self.names, self._units, self._tolerances = tuple(names), tuple(units), tolerances
        self._lower = np.array([limit.lower for limit in limits])
        self._upper = np.array([limit.upper for limit in limits])
        self._velocity = np.array([limit.velocity for limit in limits])
        self._acceleration = np.array([limit.acceleration for limit in limits])
        self._jerk = np.array([limit.jerk or np.inf for limit in limits])
        self._beyond = self._per_unit(tolerances.position_rad, tolerances.position_m)

    @property
    def rates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the limits of velocity, acceleration and jerk [A]; inf where none is set."""
        return self._velocity, self._acceleration, self._jerk

    def finite(self, what: str, rows: np.ndarray) -> Verdict | None:
        """Refuse rows of another width and numbers that are not finite."""
        if rows.shape[1:] != (len(self.names),):
            return Verdict(False, f'{what}: {rows.shape[1:]} values for {len(self.names)} joints')
        if np.isfinite(rows).all():
            return None
        row, column = np.argwhere(~np.isfinite(rows))[0]
        value, joint = float(rows[row, column]), self.names[column]
        return Verdict(False, f'row {row}: {what} of {joint} is {value}', joint, value)

    def position(self, rows: np.ndarray, share: float = 1.0) -> Verdict | None:
        """Refuse positions further outside than share of the tolerance."""
        beyond = np.maximum(self._lower - rows, rows - self._upper)
        if (beyond <= share * self._beyond).all():
            return None
        row, column = np.unravel_index(np.argmax(beyond / self._beyond), beyond.shape)
        value = rows[row, column]
        low = value < self._lower[column]
        limit = (self._lower if low else self._upper)[column]
        return self._told('position', row, column, value, limit, '', '<' if low else '>')

    def jump(self, first: np.ndarray, before: np.ndarray, rad: float, m: float) -> Verdict | None:
        """Refuse a first row [A] further than rad or m from the measured one [A]."""
        before = np.asarray(before, np.float64)[None]
        return self.finite('observed position', before) or self.over(
            'jump from the observed position',
            np.abs(first - before),
            self._per_unit(rad, m),
            0.0,
            '',
        )

    def differences(self, rows: np.ndarray, step_s: float) -> Verdict | None:
        """Refuse rows step_s apart whose first, second or third difference is over a limit."""
        rates, tolerances = rows, self._tolerances
        for what, limits, share, per in (
            ('velocity', self._velocity, tolerances.chunk_velocity, '/s'),
            ('acceleration', self._acceleration, tolerances.chunk_acceleration, '/s^2'),
            ('jerk', self._jerk, tolerances.chunk_jerk, '/s^3'),
        ):
            rates = np.diff(rates, axis=0) / step_s
            if not len(rates):
                return None
            if problem := self.over(what, np.abs(rates), limits, share, per):
                return problem
        return None

    def velocity(self, found: np.ndarray, what: str = 'velocity') -> Verdict | None:
        """Refuse the velocities [R, A] of rows."""
        return self.over(what, np.abs(found), self._velocity, self._tolerances.row_velocity, '/s')

    def acceleration(self, found: np.ndarray, what: str = 'acceleration') -> Verdict | None:
        """Refuse the accelerations [R, A] of rows."""
        share = self._tolerances.row_acceleration
        return self.over(what, np.abs(found), self._acceleration, share, '/s^2')

    def jerk(self, found: np.ndarray, what: str = 'jerk') -> Verdict | None:
        """Refuse the jerks [R, A] of rows."""
        return self.over(what, np.abs(found), self._jerk, self._tolerances.row_jerk, '/s^3')

    def over(
        self, what: str, found: np.ndarray, limits: np.ndarray, share: float, per: str
    ) -> Verdict | None:
        """Compare absolute values [R, A] with limits [A]; name the worst one."""
        ratio = found / limits
        if (ratio <= 1.0 + share).all():
            return None
        row, column = np.unravel_index(np.argmax(ratio), ratio.shape)
        return self._told(what, row, column, found[row, column], limits[column], per, '>')

    def clamped(
        self, rows: np.ndarray, step_s: float, columns: np.ndarray
    ) -> tuple[np.ndarray, tuple[Clamp, ...]]:
        """
        Return rows [R, A] whose columns lie within positions and velocities, and what was moved.

        Row after row: first into the position limits, then no further from the row before than
        the velocity limit allows. The first row is only moved into the position limits.
        """
        kept = rows.copy()
        kept[:, columns] = np.clip(rows, self._lower, self._upper)[:, columns]
        inside = kept.copy()
        most = (self._velocity * step_s)[columns]
        for index in range(1, len(kept)):
            before = kept[index - 1, columns]
            kept[index, columns] = before + np.clip(kept[index, columns] - before, -most, most)
        found = self._moved('position', rows, inside) + self._moved('velocity', inside, kept)
        return kept, found

    def _moved(self, what: str, old: np.ndarray, new: np.ndarray) -> tuple[Clamp, ...]:
        amounts = np.abs(new - old)
        return tuple(
            Clamp(
                self.names[column],
                what,
                float(amounts[:, column].max()),
                self._units[column],
                int((amounts[:, column] > 0).sum()),
            )
            for column in np.flatnonzero(amounts.max(axis=0) > 0)
        )

    def _per_unit(self, radians: float, metres: float) -> np.ndarray:
        """Return [A]: one number for joints that turn, another for those that slide."""
        return np.array([metres if unit == 'm' else radians for unit in self._units])

    def _told(
        self, what: str, row: int, column: int, value: float, limit: float, per: str, sign: str
    ) -> Verdict:
        joint, unit = self.names[column], self._units[column] + per
        value, limit = float(value), float(limit)
        reason = f'row {row}: {what} of {joint} {value:.4g} {unit} {sign} limit {limit:.4g} {unit}'
        return Verdict(False, reason, joint, value, limit, unit)
