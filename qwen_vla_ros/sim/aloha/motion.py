"""
Smooth motions of both arms, as rows of absolute joints [N, 14] at a steady rate.

Every piece begins and ends at rest on a quintic, so that velocity, acceleration and jerk are
continuous, and lasts as long as the slowest joint needs. Angles rad, lengths m, times s.
"""

from collections.abc import Mapping

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.aloha import vx300s
from qwen_vla_ros.sim.aloha.vx300s import HandPose, joints_for

# Below the contract's limits of 3.14 rad/s, 8 rad/s^2, 200 rad/s^3 and 1 m/s, 2 m/s^2, 60 m/s^3.
_JOINT = (1.1, 4.0, 60.0)
_FINGER = (0.15, 0.8, 25.0)
_TIP = (0.20, 0.8, 12.0)
_PEAKS = (1.875, 5.774, 60.0)  # of a quintic of unit length and duration


class Unreachable(QwenVlaError):
    """A plan asks for a pose that the arm does not reach; the message names arm and place."""


class Motion:
    """Rows that grow piece by piece from a posture q [14]."""

    def __init__(self, q: np.ndarray, step_s: float) -> None:
        """Begin at rest at q."""
        self._step_s = step_s
        self._rows = [np.asarray(q, np.float64)[None]]
        self._poses: dict[str, HandPose] = {}

    @property
    def rows(self) -> np.ndarray:
        """Return all rows float64 [N, 14] so far."""
        return np.concatenate(self._rows)

    def swing(
        self, poses: Mapping[str, HandPose], fingers: Mapping[str, float] | None = None
    ) -> None:
        """Move hands to poses by side, straight in the joints, fingers with them."""
        goal = self._last.copy()
        for side, pose in poses.items():
            goal[_arm(side)] = _reached(side, pose)
        for side, finger in (fingers or {}).items():
            goal[_arm(side).stop] = finger
        self._poses.update(poses)
        change = np.abs(goal - self._last)
        is_finger = np.arange(14) % 7 == 6
        seconds = max(_lasting(change[~is_finger].max(), _JOINT), _finger_s(change[is_finger]))
        share = _share(seconds, self._step_s)[:, None]
        self._rows.append(self._last + share * (goal - self._last))

    def line(self, poses: Mapping[str, HandPose]) -> None:
        """Move hands from their last poses to these, tips along straight lines."""
        starts = {side: self._poses[side] for side in poses}
        length = max(_distance(starts[side], pose) for side, pose in poses.items())
        seconds = _lasting(length, _TIP)
        rows = self._on_line(starts, poses, seconds)
        slower = self._excess(rows)
        if slower > 1.0:
            rows = self._on_line(starts, poses, seconds * slower)
        self._poses.update(poses)
        self._rows.append(rows)

    def grip(self, fingers: Mapping[str, float]) -> None:
        """Move fingers by side, hands at rest."""
        self.swing({}, fingers)

    def wait(self, seconds: float) -> None:
        """Stay."""
        self._rows.append(np.tile(self._last, (round(seconds / self._step_s), 1)))

    @property
    def _last(self) -> np.ndarray:
        return self._rows[-1][-1]

    def _excess(self, rows: np.ndarray) -> float:
        """Return by what factor rows after the last one are too quick for a joint."""
        rows = np.concatenate([self._last[None], rows])
        rates = [
            np.abs(np.diff(rows, order, axis=0)).max(initial=0.0) / self._step_s**order
            for order in (1, 2, 3)
        ]
        return max(
            (r / m) ** (1 / n) for n, (r, m) in enumerate(zip(rates, _JOINT, strict=True), 1)
        )

    def _on_line(
        self, starts: Mapping[str, HandPose], ends: Mapping[str, HandPose], seconds: float
    ) -> np.ndarray:
        share = _share(seconds, self._step_s)
        rows = np.tile(self._last, (len(share), 1))
        for side, end in ends.items():
            rows[:, _arm(side)] = [
                _reached(side, _between(starts[side], end, float(part))) for part in share
            ]
        return rows


def _arm(side: str) -> slice:
    """Return where a side's six arm joints stand in a row; its finger follows."""
    return slice(0, 6) if side == 'left' else slice(7, 13)


def _reached(side: str, pose: HandPose) -> np.ndarray:
    """Return the joints of a pose; Unreachable where the arm does not get there."""
    joints = joints_for(side, pose)
    place = vx300s.to_base(side, np.array(pose.position))
    missed = np.abs(vx300s.VX300S.forward(joints)[0] - place).max()
    if missed > 1e-6 or not vx300s.VX300S.inside(joints):
        at = ', '.join(f'{value:.3f}' for value in pose.position)
        raise Unreachable(f'the {side} arm does not reach ({at}) m with its hand turned so')
    return joints


def _between(start: HandPose, end: HandPose, share: float) -> HandPose:
    """Return the pose at a share of the way."""
    a, b = (np.array([*p.position, p.yaw, p.pitch, p.roll]) for p in (start, end))
    x, y, z, yaw, pitch, roll = (a + share * (b - a)).tolist()
    return HandPose((x, y, z), yaw, pitch, roll)


def _distance(start: HandPose, end: HandPose) -> float:
    return float(np.linalg.norm(np.subtract(end.position, start.position)))


def _lasting(length: float, limits: tuple[float, float, float]) -> float:
    """Return how long a quintic of a length takes within velocity, acceleration and jerk."""
    roots = (
        (peak * length / limit) ** (1.0 / order)
        for order, (peak, limit) in enumerate(zip(_PEAKS, limits, strict=True), 1)
    )
    return float(max(roots))


def _finger_s(change: np.ndarray) -> float:
    return _lasting(float(change.max()), _FINGER)


def _share(seconds: float, step_s: float) -> np.ndarray:
    """Return the share of the way [N] after each step, the last one 1."""
    steps = max(1, int(np.ceil(seconds / step_s - 1e-9)))
    s = np.arange(1, steps + 1) / steps
    return s**3 * (10 - 15 * s + 6 * s**2)
