"""The tips of a robot's arms: each inside its box, and no faster than the contract allows."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.limits import Tolerances, Verdict

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import WorkspaceBox


class Workspace:
    """The boxes and speed limits of T tips, as checks that return None or the refusal."""

    def __init__(
        self,
        boxes: 'Sequence[WorkspaceBox]',
        tip_position: Callable[[np.ndarray], np.ndarray],
        tolerances: Tolerances,
    ) -> None:
        """Take tip_position(arm joints [R, J]) -> [R, 3] or [R, T, 3], m in the boxes' frame."""
        self._names, self._tolerances = [box.tip for box in boxes], tolerances
        self._lower = np.array([box.lower for box in boxes])
        self._upper = np.array([box.upper for box in boxes])
        self._speed = np.array([np.inf if box.speed is None else box.speed for box in boxes])
        self._tip_position = tip_position

    def tips(self, arm_rows: np.ndarray) -> np.ndarray:
        """Return the tips [R, T, 3] in m at the arms' joints [R, J]."""
        tips = np.asarray(self._tip_position(arm_rows)).reshape(-1, len(self._names), 3)
        return np.broadcast_to(tips, (len(arm_rows), len(self._names), 3))

    def outside(self, tips: np.ndarray, share: float = 1.0) -> Verdict | None:
        """Refuse tips [R, T, 3] further outside their box than share of the tolerance."""
        beyond = np.maximum(self._lower - tips, tips - self._upper)
        if (beyond <= share * self._tolerances.position_m).all():
            return None
        row, tip, axis = np.unravel_index(np.argmax(beyond), beyond.shape)
        value = float(tips[row, tip, axis])
        low = value < self._lower[tip, axis]
        limit = float((self._lower if low else self._upper)[tip, axis])
        joint = f'{self._names[tip]}.{"xyz"[axis]}'
        sign = '<' if low else '>'
        reason = f'row {row}: workspace: {joint} {value:.4g} m {sign} limit {limit:.4g} m'
        return Verdict(False, reason, joint, value, limit, 'm')

    def too_fast(self, tips: np.ndarray, seconds: np.ndarray, share: float) -> Verdict | None:
        """Refuse tips [R, T, 3], seconds [R - 1] apart, faster than limit and share."""
        if len(tips) < 2 or np.isinf(self._speed).all():
            return None
        speeds = np.linalg.norm(np.diff(tips, axis=0), axis=2) / seconds[:, None]
        if (speeds <= self._speed * (1.0 + share)).all():
            return None
        row, tip = np.unravel_index(np.argmax(speeds / self._speed), speeds.shape)
        value, limit, name = float(speeds[row, tip]), float(self._speed[tip]), self._names[tip]
        reason = f'row {row}: speed of {name} {value:.4g} m/s > limit {limit:.4g} m/s'
        return Verdict(False, reason, name, value, limit, 'm/s')
