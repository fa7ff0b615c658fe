"""
A differential base by its kinematics: velocities in, pose and odometry out.

Commands are held within speeds and accelerations; when none comes for TIMEOUT_S the base brakes.
The figures are those of the Create 3 under LoCoBot (create3_sim, irobot_create_control/config/
control.yaml; the forward speed is that of its safe mode, as it comes).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MAX_LINEAR, MAX_ANGULAR = 0.306, 1.9  # m/s, rad/s
MAX_LINEAR_ACCELERATION, MAX_ANGULAR_ACCELERATION = 0.9, 7.725  # m/s^2, rad/s^2
TIMEOUT_S = 0.5  # s without a command after which the base brakes

Pose = tuple[float, float, float]


@dataclass(frozen=True)
class Drift:
    """How wrong the wheels count: factors on way and turn, and noise as share of each step."""

    way: float = 1.0
    turn: float = 1.0
    noise: float = 0.0

    @classmethod
    def sample(cls, share: float, seed: int) -> 'Drift':
        """Return a drift of about a share (0.02: 2 % of the way); 0 is none."""
        rng = np.random.default_rng([seed, 5])
        way, turn = 1.0 + share * rng.standard_normal(2)
        return cls(float(way), float(turn), share)


class DifferentialBase:
    """Pose in the house, odometry from the start of an episode. Not thread-safe."""

    def __init__(
        self, pose: Pose = (0.0, 0.0, 0.0), drift: Drift | None = None, seed: int = 0
    ) -> None:
        """Stand at a pose (x, y in m, yaw in rad)."""
        self.pose, self.odometry = pose, (0.0, 0.0, 0.0)
        self.linear = self.angular = 0.0
        self._drift, self._rng = drift or Drift(), np.random.default_rng([seed, 6])
        self._wanted = (0.0, 0.0)
        self._silent_s = 0.0
        self.blocked = False

    def command(self, linear: float, angular: float) -> None:
        """Take velocities in m/s and rad/s; beyond the limits they are scaled as a whole."""
        over = max(1.0, abs(linear) / MAX_LINEAR, abs(angular) / MAX_ANGULAR)
        self._wanted, self._silent_s = (linear / over, angular / over), 0.0

    def step(self, dt_s: float, free: Callable[[Pose], bool] = lambda pose: True) -> None:
        """
        Move for dt_s; free(pose) tells whether the base may be there.

        A base that is blocked stands (blocked is true), but may turn: its footprint is round.
        """
        self._silent_s += dt_s
        linear, angular = self._wanted if self._silent_s <= TIMEOUT_S else (0.0, 0.0)
        self.linear = _towards(self.linear, linear, MAX_LINEAR_ACCELERATION * dt_s)
        self.angular = _towards(self.angular, angular, MAX_ANGULAR_ACCELERATION * dt_s)
        way, turn = self.linear * dt_s, self.angular * dt_s
        if not (way or turn):
            self.blocked = False
            return
        reached = moved(self.pose, way, turn)
        self.blocked = bool(way) and not free(reached)
        if self.blocked:
            self.linear = way = 0.0
            reached = moved(self.pose, 0.0, turn)
        self.pose = reached
        noise = 1.0 + self._drift.noise * self._rng.standard_normal(2)
        self.odometry = moved(
            self.odometry, way * self._drift.way * noise[0], turn * self._drift.turn * noise[1]
        )


def moved(pose: Pose, way: float, turn: float) -> Pose:
    """Return the pose after an arc: way in m along it, turn in rad; yaw in (-pi, pi]."""
    x, y, yaw = pose
    middle = yaw + turn / 2
    chord = way * float(np.sinc(turn / (2 * np.pi)))
    found = float(np.arctan2(np.sin(yaw + turn), np.cos(yaw + turn)))
    return x + chord * float(np.cos(middle)), y + chord * float(np.sin(middle)), found


def joined(frame: Pose, pose: Pose) -> Pose:
    """Return a pose given in a frame as a pose in what the frame is given in."""
    cosine, sine = np.cos(frame[2]), np.sin(frame[2])
    x = frame[0] + cosine * pose[0] - sine * pose[1]
    y = frame[1] + sine * pose[0] + cosine * pose[1]
    yaw = frame[2] + pose[2]
    return float(x), float(y), float(np.arctan2(np.sin(yaw), np.cos(yaw)))


def inverted(pose: Pose) -> Pose:
    """Return the pose of the outer frame in the given one."""
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    return (
        float(-cosine * pose[0] - sine * pose[1]),
        float(sine * pose[0] - cosine * pose[1]),
        -pose[2],
    )


def _towards(value: float, goal: float, most: float) -> float:
    return value + min(max(goal - value, -most), most)
