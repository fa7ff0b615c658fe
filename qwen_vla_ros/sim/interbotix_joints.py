"""Interbotix' motors as the simulated robot wants them: joints in rad and a finger in m."""

import math
from collections.abc import Sequence

import numpy as np

from qwen_vla_ros.sim.interbotix_arm import InterbotixArm


class MotorJoints:
    """Some joints of the arm, seen as a controller: sample() and hold()."""

    def __init__(self, arm: InterbotixArm, joint_names: Sequence[str]) -> None:
        """See joints of an arm by name."""
        self.joint_names = tuple(joint_names)
        self._arm = arm
        self._columns = [arm.config.joints.index(name) for name in joint_names]

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (rad) and velocities (rad/s) [J] that the motors' loops are given."""
        positions, velocities = self._arm.sample(now_ns)
        return np.array(positions)[self._columns], np.array(velocities)[self._columns]

    def hold(self, positions: Sequence[float]) -> None:
        """Put the joints to rest at positions [J], at once."""
        self._arm.place(dict(zip(self.joint_names, map(float, positions), strict=True)))


class MotorFinger:
    """The finger that a gripper's motor moves, seen as a controller of one joint in m."""

    def __init__(self, arm: InterbotixArm, motor: str) -> None:
        """See the left finger of a gripper by its motor's name."""
        self._arm, self._motor = arm, motor
        self._gripper = arm.config.grippers[motor]
        self._column = arm.config.joints.index(motor)
        self.joint_names = (self._gripper.left,)

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the finger's position (m) and velocity (m/s), [1] each."""
        positions, velocities = self._arm.sample(now_ns)
        angle, speed = positions[self._column], velocities[self._column]
        horn, rod = self._gripper.horn_m, self._gripper.rod_m
        along = horn * math.cos(angle)
        lever = along * (1.0 + horn * math.sin(angle) / math.sqrt(rod**2 - along**2))
        return np.array([self._gripper.finger(angle)]), np.array([lever * speed])

    def hold(self, positions: Sequence[float]) -> None:
        """Put the finger to rest at a position [1], at once."""
        self._arm.place({self._motor: self._gripper.angle(2.0 * float(positions[0]))})
