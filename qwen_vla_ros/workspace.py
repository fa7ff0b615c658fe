"""The tip of an arm: inside its box, and no faster than the contract allows."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.limits import Tolerances, Verdict

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import WorkspaceBox


class Workspace:
    """The box and the speed limit of one tip, as checks that return None or the refusal."""

    def __init__(
        self,
        box: 'WorkspaceBox',
        tip_position: Callable[[np.ndarray], np.ndarray],
        tolerances: Tolerances,
    ) -> None:
        """Take tip_position(arm joints [R, J]) -> [R, 3] in m, in the box's frame."""
        self._name, self._speed, self._tolerances = box.tip, box.speed, tolerances
        self._lower, self._upper = np.asarray(box.lower), np.asarray(box.upper)
        self._tip_position = tip_position

    def tips(self, arm_rows: np.ndarray) -> np.ndarray:
        """Return the tips [R, 3] in m at the arm's joints [R, J]."""
        return np.broadcast_to(self._tip_position(arm_rows), (len(arm_rows), 3))

    def outside(self, tips: np.ndarray, share: float = 1.0) -> Verdict | None:
        """Refuse tips [R, 3] further outside the box than share of the tolerance."""
        beyond = np.maximum(self._lower - tips, tips - self._upper)
        if (beyond <= share * self._tolerances.position_m).all():
            return None
        row, axis = np.unravel_index(np.argmax(beyond), beyond.shape)
        value = float(tips[row, axis])
        low = value < self._lower[axis]
        limit = float((self._lower if low else self._upper)[axis])
        joint = f'{self._name}.{"xyz"[axis]}'
        sign = '<' if low else '>'
        reason = f'row {row}: workspace: {joint} {value:.4g} m {sign} limit {limit:.4g} m'
        return Verdict(False, reason, joint, value, limit, 'm')

    def too_fast(self, tips: np.ndarray, seconds: np.ndarray, share: float) -> Verdict | None:
        """Refuse tips [R, 3], seconds [R - 1] apart, faster than the limit and a share of it."""
        if self._speed is None or len(tips) < 2:
            return None
        speeds = np.linalg.norm(np.diff(tips, axis=0), axis=1) / seconds
        if (speeds <= self._speed * (1.0 + share)).all():
            return None
        row = int(np.argmax(speeds))
        value = float(speeds[row])
        reason = f'row {row}: speed of {self._name} {value:.4g} m/s > limit {self._speed:.4g} m/s'
        return Verdict(False, reason, self._name, value, self._speed, 'm/s')
