"""
Geometry of the WidowX 250s: names, limits, forward and analytic inverse kinematics (numpy only).

Joint origins and limits are the figures of Interbotix' own description: github.com/Interbotix/
interbotix_ros_manipulators, interbotix_xsarm_descriptions/urdf/wx250s.urdf.xacro.
Frame: base_link, x forward, z up, metres.
All functions are vectorised: q [..., 7] is waist, shoulder, elbow, forearm_roll, wrist_angle,
wrist_rotate (rad), left_finger (m); the tip is ee_gripper_link.
"""

import numpy as np

JOINT_NAMES = (
    'waist',
    'shoulder',
    'elbow',
    'forearm_roll',
    'wrist_angle',
    'wrist_rotate',
    'left_finger',
)
ARM_JOINTS, GRIPPER_JOINTS = JOINT_NAMES[:6], JOINT_NAMES[6:]

WAIST_HEIGHT = 0.072
SHOULDER_RISE = 0.03865
ELBOW_OFFSET = (0.04975, 0.25)
UPPER_FOREARM = 0.175
LOWER_FOREARM = 0.075
WRIST_LENGTH = 0.065
FINGERS_OFFSET = 0.043 + 0.023
TIP_OFFSET = FINGERS_OFFSET + 0.027575

SHOULDER_HEIGHT = WAIST_HEIGHT + SHOULDER_RISE
FOREARM = UPPER_FOREARM + LOWER_FOREARM
HAND = WRIST_LENGTH + TIP_OFFSET
UPPER_ARM = float(np.hypot(*ELBOW_OFFSET))
UPPER_ARM_LEAN = float(np.arctan2(*ELBOW_OFFSET))

_TURN = np.pi - 0.00001
LOWER = np.array([-_TURN, *np.radians([-108, -123]), -_TURN, np.radians(-100), -_TURN, 0.015])
UPPER = np.array([_TURN, *np.radians([114, 92]), _TURN, np.radians(123), _TURN, 0.037])
VELOCITY = np.array([np.pi] * 6 + [1.0])
EFFORT = np.array([10.0, 20.0, 15.0, 2.0, 5.0, 1.0, 5.0])

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


def forward(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tip's position [..., 3] and rotation [..., 3, 3] in base_link at q [..., 7]."""
    q = np.asarray(q, np.float64)
    waist, upper = rotation_z(q[..., 0]), rotation_y(q[..., 1])
    forearm = rotation_y(q[..., 1] + q[..., 2])
    hand = forearm @ rotation_x(q[..., 3]) @ rotation_y(q[..., 4])
    arm = (
        upper @ np.array([ELBOW_OFFSET[0], 0.0, ELBOW_OFFSET[1]])
        + FOREARM * forearm[..., 0]
        + HAND * hand[..., 0]
    )
    position = (waist @ arm[..., None])[..., 0]
    position[..., 2] += SHOULDER_HEIGHT
    return position, waist @ hand @ rotation_x(q[..., 5])


def pitch_of(q: np.ndarray) -> np.ndarray:
    """Return the downward pitch [...] of the hand in rad (pi/2 = straight down, rolls ignored)."""
    return q[..., 1] + q[..., 2] + q[..., 4]


def inverse(position: np.ndarray, pitch: np.ndarray | float = STRAIGHT_DOWN) -> np.ndarray:
    """
    Return the six arm joints [..., 6] that bring the tip to position [..., 3] in m, elbow up.

    pitch [...] is the hand's downward pitch in rad; both rolls are zero. A point out of reach
    gives the posture stretched towards it: reachable() tells which points are.
    """
    position = np.asarray(position, np.float64)
    pitch = np.broadcast_to(np.asarray(pitch, np.float64), position.shape[:-1])
    out, up, distance = _wrist(position, pitch)
    reach = np.clip(distance, abs(UPPER_ARM - FOREARM) + 1e-6, UPPER_ARM + FOREARM - 1e-6)
    at_shoulder = _corner(UPPER_ARM, reach, FOREARM)
    at_wrist = _corner(FOREARM, reach, UPPER_ARM)
    toward = np.arctan2(out, up)
    shoulder = toward - at_shoulder - UPPER_ARM_LEAN
    elbow = toward + at_wrist - np.pi / 2 - shoulder
    zero = np.zeros_like(shoulder)
    waist = np.arctan2(position[..., 1], position[..., 0])
    return np.stack([waist, shoulder, elbow, zero, pitch - shoulder - elbow, zero], -1)


def reachable(position: np.ndarray, pitch: np.ndarray | float = STRAIGHT_DOWN) -> np.ndarray:
    """Return bool [...]: inverse() reaches position [..., 3] inside the joint limits."""
    joints = inverse(position, pitch)
    finger = np.full((*joints.shape[:-1], 1), UPPER[6])
    reached, _ = forward(np.concatenate([joints, finger], -1))
    inside = ((joints >= LOWER[:6]) & (joints <= UPPER[:6])).all(-1)
    return inside & (np.abs(reached - position).max(-1) < 1e-6)


def _wrist(position: np.ndarray, pitch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the wrist seen from the shoulder: outward, upward and distance, each [...] in m."""
    radius = np.hypot(position[..., 0], position[..., 1])
    out = radius - HAND * np.cos(pitch)
    up = position[..., 2] + HAND * np.sin(pitch) - SHOULDER_HEIGHT
    return out, up, np.hypot(out, up)


def _corner(a: float, b: np.ndarray, opposite: float) -> np.ndarray:
    """Return the angle [...] between sides a and b of a triangle, by the law of cosines."""
    return np.arccos(np.clip((a * a + b * b - opposite * opposite) / (2 * a * b), -1.0, 1.0))
