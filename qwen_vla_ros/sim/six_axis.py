"""
Kinematics of Interbotix' six-axis arms: three joints and a spherical wrist (numpy only).

Such an arm is ten lengths and its limits; arm.py has the WidowX 250s, aloha/vx300s.py the ViperX
300s. Frame: the arm's own base_link, x forward, z up, metres. All functions are vectorised: q
[..., 6 or more] is waist, shoulder, elbow, forearm_roll, wrist_angle, wrist_rotate in rad; what
follows (fingers) is passed over. The tip is ee_gripper_link; the hand points along its x, its
fingers move along its y.
"""

from dataclasses import dataclass

import numpy as np

STRAIGHT_DOWN = np.pi / 2


def rotation_x(angle: np.ndarray) -> np.ndarray:
    """Return the rotations about x, [..., 3, 3], by angles [...] in rad."""
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([one, zero, zero, zero, c, -s, zero, s, c], -1).reshape(*angle.shape, 3, 3)


def rotation_y(angle: np.ndarray) -> np.ndarray:
    """Return the rotations about y, [..., 3, 3], by angles [...] in rad."""
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, zero, s, zero, one, zero, -s, zero, c], -1).reshape(*angle.shape, 3, 3)


def rotation_z(angle: np.ndarray) -> np.ndarray:
    """Return the rotations about z, [..., 3, 3], by angles [...] in rad."""
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(*angle.shape, 3, 3)


@dataclass(frozen=True, eq=False)
class SixAxisArm:
    """
    Lengths in m as the URDF chains them, limits lower, upper [7] (rad, last: finger in m).

    elbow_offset is x and z of the elbow seen from the shoulder; fingers_offset and tip_offset are
    measured from gripper_link.
    """

    waist_height: float
    shoulder_rise: float
    elbow_offset: tuple[float, float]
    upper_forearm: float
    lower_forearm: float
    wrist_length: float
    fingers_offset: float
    tip_offset: float
    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray

    @property
    def shoulder_height(self) -> float:
        """Return the height of the shoulder's axis."""
        return self.waist_height + self.shoulder_rise

    @property
    def forearm(self) -> float:
        """Return the distance from elbow to wrist."""
        return self.upper_forearm + self.lower_forearm

    @property
    def hand(self) -> float:
        """Return the distance from wrist to tip."""
        return self.wrist_length + self.tip_offset

    @property
    def upper_arm(self) -> float:
        """Return the distance from shoulder to elbow."""
        return float(np.hypot(*self.elbow_offset))

    @property
    def upper_arm_lean(self) -> float:
        """Return how far the line from shoulder to elbow leans forward at zero, in rad."""
        return float(np.arctan2(*self.elbow_offset))

    def forward(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tip's position [..., 3] and rotation [..., 3, 3] at q."""
        q = np.asarray(q, np.float64)
        waist, upper = rotation_z(q[..., 0]), rotation_y(q[..., 1])
        forearm = rotation_y(q[..., 1] + q[..., 2])
        hand = forearm @ rotation_x(q[..., 3]) @ rotation_y(q[..., 4])
        arm = (
            upper @ np.array([self.elbow_offset[0], 0.0, self.elbow_offset[1]])
            + self.forearm * forearm[..., 0]
            + self.hand * hand[..., 0]
        )
        position = (waist @ arm[..., None])[..., 0]
        position[..., 2] += self.shoulder_height
        return position, waist @ hand @ rotation_x(q[..., 5])

    def inverse(
        self, position: np.ndarray, pitch: np.ndarray | float = STRAIGHT_DOWN
    ) -> np.ndarray:
        """
        Return the six arm joints [..., 6] that bring the tip to position [..., 3] in m, elbow up.

        pitch [...] is the hand's downward pitch in rad; both rolls are zero. A point out of reach
        gives the posture stretched towards it: reachable() tells which points are.
        """
        position = np.asarray(position, np.float64)
        pitch = np.broadcast_to(np.asarray(pitch, np.float64), position.shape[:-1])
        radius = np.hypot(position[..., 0], position[..., 1])
        out = radius - self.hand * np.cos(pitch)
        up = position[..., 2] + self.hand * np.sin(pitch) - self.shoulder_height
        shoulder, elbow = self._bend(out, up)
        zero = np.zeros_like(shoulder)
        waist = np.arctan2(position[..., 1], position[..., 0])
        return np.stack([waist, shoulder, elbow, zero, pitch - shoulder - elbow, zero], -1)

    def inverse_pose(self, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """
        Return the six arm joints [..., 6] for a full pose of the tip, elbow up.

        position [..., 3] in m, rotation [..., 3, 3]. Of the wrist's two solutions the one with
        forearm_roll within a quarter turn; where hand and forearm are in line it is 0.
        """
        position, rotation = np.asarray(position, np.float64), np.asarray(rotation, np.float64)
        wrist = position - self.hand * rotation[..., 0]
        waist = np.arctan2(wrist[..., 1], wrist[..., 0])
        out, up = np.hypot(wrist[..., 0], wrist[..., 1]), wrist[..., 2] - self.shoulder_height
        shoulder, elbow = self._bend(out, up)
        forearm = rotation_z(waist) @ rotation_y(shoulder + elbow)
        turn = np.swapaxes(forearm, -1, -2) @ rotation
        side, height = turn[..., 1, 0], -turn[..., 2, 0]
        sign = np.where(height < 0, -1.0, 1.0)
        bend = sign * np.arctan2(np.hypot(side, height), turn[..., 0, 0])
        roll = np.where(np.hypot(side, height) < 1e-9, 0.0, np.arctan2(sign * side, sign * height))
        rest = np.swapaxes(rotation_x(roll) @ rotation_y(bend), -1, -2) @ turn
        rotate = np.arctan2(rest[..., 2, 1], rest[..., 1, 1])
        return np.stack([waist, shoulder, elbow, roll, bend, rotate], -1)

    def reachable(
        self, position: np.ndarray, pitch: np.ndarray | float = STRAIGHT_DOWN
    ) -> np.ndarray:
        """Return bool [...]: inverse() reaches position [..., 3] inside the joint limits."""
        joints = self.inverse(position, pitch)
        reached, _ = self.forward(joints)
        return self.inside(joints) & (np.abs(reached - position).max(-1) < 1e-6)

    def inside(self, q: np.ndarray) -> np.ndarray:
        """Return bool [...]: the arm joints of q [..., 6 or more] are within their limits."""
        return ((q[..., :6] >= self.lower[:6]) & (q[..., :6] <= self.upper[:6])).all(-1)

    def _bend(self, out: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return shoulder and elbow [...] for a wrist outward and upward of the shoulder in m."""
        longest, forearm, upper_arm = self.upper_arm + self.forearm, self.forearm, self.upper_arm
        reach = np.clip(np.hypot(out, up), abs(upper_arm - forearm) + 1e-6, longest - 1e-6)
        toward = np.arctan2(out, up)
        shoulder = toward - _corner(upper_arm, reach, forearm) - self.upper_arm_lean
        elbow = toward + _corner(forearm, reach, upper_arm) - np.pi / 2 - shoulder
        return shoulder, elbow


def pitch_of(q: np.ndarray) -> np.ndarray:
    """Return the downward pitch [...] of the hand in rad (pi/2 = straight down, rolls ignored)."""
    return q[..., 1] + q[..., 2] + q[..., 4]


def _corner(a: float, b: np.ndarray, opposite: float) -> np.ndarray:
    """Return the angle [...] between sides a and b of a triangle, by the law of cosines."""
    return np.arccos(np.clip((a * a + b * b - opposite * opposite) / (2 * a * b), -1.0, 1.0))
