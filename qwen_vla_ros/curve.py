"""
C2 curves: equal quintic Hermite segments through knots of position, velocity and acceleration.

  ordinary channels   natural cubic spline, solved over all rows
  monotone channels   harmonic-mean slopes, acceleration zero at the rows: between two rows the
                      value never leaves them (grippers)

Shape letters: N segments, H = N + 1 rows, A channels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# (x0, v0, a0, x1, v1, a1) of the unit segment [0, 1] -> its coefficients of s^0..s^5.
QUINTIC = np.array(
    [
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.5, 0.0, 0.0, 0.0],
        [-10.0, -6.0, -1.5, 10.0, -4.0, 0.5],
        [15.0, 8.0, 1.5, -15.0, 7.0, -1.0],
        [-6.0, -3.0, -0.5, 6.0, -3.0, 0.5],
    ]
)
# Coefficients of a polynomial -> those of itself, its first and its second derivative.
DERIVATIVES = [
    np.linalg.matrix_power(np.diag(np.arange(1.0, 6.0), 1), order) for order in range(3)
]


@dataclass(frozen=True)
class Curve:
    """N equal segments from start_ns; after the last one the end's position, at rest."""

    start_ns: int
    step_s: float
    table: np.ndarray  # float64 [N, 6, 3 * A]: power -> position, velocity, acceleration
    final: np.ndarray  # float64 [A]

    def motion(self, time_ns: int) -> np.ndarray:
        """Return float64 [3, A]: position, velocity, acceleration at an instant."""
        s = (time_ns - self.start_ns) * 1e-9 / self.step_s
        index = int(s)
        if index >= len(self.table):
            if s > len(self.table):
                return self._rest()
            index = len(self.table) - 1
        if s < 0:
            return self._before(s * self.step_s)
        s -= index
        s2 = s * s
        powers = np.array((1.0, s, s2, s2 * s, s2 * s2, s2 * s2 * s))
        return (powers @ self.table[index]).reshape(3, -1)

    def motions(self, times_ns: np.ndarray) -> np.ndarray:
        """Return float64 [T, 3, A]: motion() of many instants, int64 [T], at once."""
        s = (times_ns - self.start_ns) * 1e-9 / self.step_s
        index = np.minimum(np.maximum(s.astype(int), 0), len(self.table) - 1)
        powers = np.empty((len(s), 6))
        powers[:, 0] = 1.0
        powers[:, 1:] = (s - index)[:, None]
        np.multiply.accumulate(powers, axis=1, out=powers)
        if len(self.table) == 1:
            found = powers @ self.table[0]
        else:
            found = (powers[:, None] @ self.table[index])[:, 0]
        found = found.reshape(len(s), 3, -1)
        found[s > len(self.table)] = self._rest()
        for early in np.flatnonzero(s < 0):
            found[early] = self._before(s[early] * self.step_s)
        return found

    def _rest(self) -> np.ndarray:
        motion = np.zeros((3, len(self.final)))
        motion[0] = self.final
        return motion

    def _before(self, seconds: float) -> np.ndarray:
        """Return the straight line into the first row: C2, as the path's start is natural."""
        motion = self.table[0, 0].reshape(3, -1).copy()
        motion[0] += motion[1] * seconds
        motion[2] = 0.0
        return motion


def through_knots(start_ns: int, step_s: float, knots: np.ndarray) -> Curve:
    """Return the quintics through knots [N + 1, 3, A] of position, velocity, acceleration."""
    scale = step_s ** np.arange(3)
    unit = knots * scale[:, None]
    ends = np.concatenate([unit[:-1], unit[1:]], axis=1)
    coefficients = QUINTIC @ ends
    orders = np.stack([derivative @ coefficients for derivative in DERIVATIVES], axis=2)
    orders /= scale[:, None]
    return Curve(start_ns, step_s, orders.reshape(*orders.shape[:2], -1), knots[-1, 0])


def through_rows(start_ns: int, step_s: float, rows: np.ndarray, monotone: np.ndarray) -> Curve:
    """Return the C2 curve through rows [H, A], H >= 2; monotone bool [A] picks the kind."""
    rows = rows.astype(np.float64)
    slopes = np.diff(rows, axis=0) / step_s
    knots = np.empty((len(rows), 3, rows.shape[1]))
    knots[:, 0] = rows
    knots[:, 1:] = _spline(slopes, step_s)
    if monotone.any():
        knots[:, 1, monotone] = _monotone_velocities(slopes[:, monotone])
        knots[:, 2, monotone] = 0.0
    return through_knots(start_ns, step_s, knots)


def _spline(slopes: np.ndarray, step_s: float) -> np.ndarray:
    """Return [H, 2, A]: velocity and acceleration of the natural cubic spline at each row."""
    bends = np.zeros((len(slopes) + 1, slopes.shape[1]))
    bends[1:-1] = _natural(len(slopes) - 1) @ np.diff(slopes, axis=0) * (6.0 / step_s)
    velocity = np.empty_like(bends)
    velocity[:-1] = slopes - step_s * (2 * bends[:-1] + bends[1:]) / 6
    velocity[-1] = slopes[-1] + step_s * (bends[-2] + 2 * bends[-1]) / 6
    return np.stack([velocity, bends], axis=1)


@lru_cache(maxsize=8)
def _natural(size: int) -> np.ndarray:
    """Return the inverse of the spline's tridiagonal matrix (1, 4, 1)."""
    off = np.ones(max(size - 1, 0))
    return np.linalg.inv(4 * np.eye(size) + np.diag(off, 1) + np.diag(off, -1))


def _monotone_velocities(slopes: np.ndarray) -> np.ndarray:
    """
    Return [H, A]: the harmonic mean of both slopes where they agree in sign, else zero.

    It is at most twice the smaller slope; with acceleration zero at the rows the quintic between
    two rows is then monotone.
    """
    left, right = slopes[:-1], slopes[1:]
    velocities = np.zeros((len(slopes) + 1, slopes.shape[1]))
    same = left * right > 0
    total = np.where(same, left + right, 1.0)
    velocities[1:-1] = np.where(same, 2 * left * right / total, 0.0)
    return velocities
