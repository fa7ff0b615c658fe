"""
The scripted teacher: from any posture, up if low, over the object, down onto it.

expert_chunk() is stateless: it integrates a smooth velocity field of the tip from the posture it
is given, so its rows are a smooth function of posture and target, and asking again on the way
continues the same motion. Frame base_link, SI units.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.scene import parse_target
from qwen_vla_ros.types import ActionChunk, Observation

TRAVEL_HEIGHT = 0.14  # m, of the tip, when far from the target
TOUCH_ABOVE_CENTRE = 0.012  # m, where the tip ends: about 1 cm inside the top of every object
FUNNEL_RADIUS = 0.045  # m, horizontal distance at which the descent is well under way
TOP_SPEED = 0.19  # m/s, never exceeded by the tip
APPROACH = 0.045  # m, horizontal distance at which the tip slows down
CLIMB_GAIN = 5.0  # 1/s, height error to vertical speed
LOW_BY = 0.035  # m under the funnel where sideways motion has fallen to a half
LOW_WIDTH = 0.010  # m, softness of that
FINGER_CLOSED = 0.018  # m
SETTLE_S = 0.6  # s, decay of pitch, rolls and finger opening
_SUBSTEP_S = 0.05


def expert_chunk(
    q: np.ndarray, target_xyz: np.ndarray, horizon: int = 16, step_s: float = 0.2
) -> np.ndarray:
    """
    Return the joints float64 [..., horizon, 7] that bring the tip onto an object.

    q [..., 7] is the present posture (row 0 of the answer), target_xyz [..., 3] the object's
    centre; leading dimensions broadcast, so one call labels many pairs.
    """
    q, target = np.asarray(q, np.float64), np.asarray(target_xyz, np.float64)
    shape = np.broadcast_shapes(q.shape[:-1], target.shape[:-1])
    q, target = np.broadcast_to(q, (*shape, 7)), np.broadcast_to(target, (*shape, 3))
    tips = tip_path(arm.forward(q)[0], target, horizon, step_s)
    decay = np.exp(-np.arange(horizon) * step_s / SETTLE_S)
    pitch = arm.STRAIGHT_DOWN + (arm.pitch_of(q) - arm.STRAIGHT_DOWN)[..., None] * decay
    joints = arm.inverse(tips, pitch)
    residual = q[..., None, :6] - joints[..., :1, :]
    joints = joints + residual * decay[:, None]
    finger = FINGER_CLOSED + (q[..., 6:] - FINGER_CLOSED) * decay
    return within_limits(np.concatenate([joints, finger[..., None]], -1), step_s)


def tip_path(start: np.ndarray, target: np.ndarray, horizon: int, step_s: float) -> np.ndarray:
    """Return the tip's way [..., horizon, 3] in m from start [..., 3] onto target [..., 3]."""
    goal = target + np.array([0.0, 0.0, TOUCH_ABOVE_CENTRE])
    substeps = max(1, round(step_s / _SUBSTEP_S))
    dt = step_s / substeps
    tip, rows = np.array(start, np.float64), [np.array(start, np.float64)]
    for _ in range(horizon - 1):
        for _ in range(substeps):
            halfway = tip + 0.5 * dt * _tip_velocity(tip, goal)
            tip = tip + dt * _tip_velocity(halfway, goal)
        rows.append(tip)
    return np.stack(rows, -2)


def _tip_velocity(tip: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the velocity field [..., 3] in m/s: up to a funnel over the goal, along it, down."""
    aside = goal[..., :2] - tip[..., :2]
    distance = np.linalg.norm(aside, axis=-1)
    height = TRAVEL_HEIGHT - goal[..., 2]
    funnel = goal[..., 2] + height * (1.0 - np.exp(-((distance / FUNNEL_RADIUS) ** 2)))
    below = funnel - tip[..., 2]
    free = 1.0 / (1.0 + np.exp(np.clip((below - LOW_BY) / LOW_WIDTH, -30.0, 30.0)))
    sideways = 1.3 * TOP_SPEED * free / np.sqrt(distance**2 + APPROACH**2)
    upward = 1.3 * TOP_SPEED * np.tanh(CLIMB_GAIN * below / (1.3 * TOP_SPEED))
    velocity = np.concatenate([aside * sideways[..., None], upward[..., None]], -1)
    speed = np.linalg.norm(velocity, axis=-1, keepdims=True)
    return velocity / (1.0 + (speed / TOP_SPEED) ** 4) ** 0.25


def within_limits(rows: np.ndarray, step_s: float) -> np.ndarray:
    """Hold rows [..., H, 7] within the joints' ranges and 0.9 of their speeds; row 0 stays."""
    most = 0.9 * arm.VELOCITY * step_s
    kept = [rows[..., 0, :]]
    for row in np.moveaxis(rows, -2, 0)[1:]:
        row = np.clip(row, arm.LOWER, arm.UPPER)
        kept.append(kept[-1] + np.clip(row - kept[-1], -most, most))
    return np.stack(kept, -2)


class ExpertPolicy:
    """
    The teacher as a policy: it is told where the objects are and reads the sentence by keyword.

    A sentence that names no object (or several) makes it hold still.
    """

    def __init__(
        self,
        object_positions: Callable[[], Mapping[str, np.ndarray]],
        metadata: Mapping[str, Any] | None = None,
        horizon: int = 16,
        step_s: float = 0.2,
    ) -> None:
        """Take the source of the objects' centres by name; metadata is what the robot compares."""
        self._object_positions, self._horizon, self._step_s = object_positions, horizon, step_s
        self._metadata = {**(metadata or {}), 'checkpoint': 'expert'}

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the given facts."""
        return self._metadata

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return the way from the observed posture onto the object that the sentence names."""
        places = self._object_positions()
        q = joints_of(observation)
        target = parse_target(observation.instruction, places)
        if target is None:
            rows = np.tile(q, (self._horizon, 1))
        else:
            rows = expert_chunk(q, places[target], self._horizon, self._step_s)
        return ActionChunk(
            rows.astype(np.float32), arm.JOINT_NAMES, observation.stamp_ns, self._step_s
        )

    def reset(self) -> None:
        """Nothing to forget."""


def joints_of(observation: Observation) -> np.ndarray:
    """Return the observed joints float64 [7] in the order of arm.JOINT_NAMES."""
    absent = set(arm.JOINT_NAMES) - set(observation.state_names)
    if absent:
        raise QwenVlaError(f'expert policy: the state has no joints {sorted(absent)}')
    state = dict(zip(observation.state_names, observation.state, strict=True))
    return np.array([state[name] for name in arm.JOINT_NAMES], np.float64)
