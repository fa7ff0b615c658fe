"""
Geometry of ALOHA's two ViperX 300s: names, limits, and where their bases stand (numpy only).

Joint origins and limits are the figures of Interbotix' own description: github.com/Interbotix/
interbotix_ros_manipulators, interbotix_xsarm_descriptions/urdf/vx300s.urdf.xacro. Frame table: on
the table top, in the middle between the bases, x from the left arm to the right one, z up.
"""

from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.sim.six_axis import SixAxisArm, rotation_x, rotation_y, rotation_z

SIDES = ('left', 'right')
ARM_JOINTS = ('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate')
GRIPPER_JOINTS = ('left_finger',)
JOINT_NAMES = tuple(f'{side}_{name}' for side in SIDES for name in (*ARM_JOINTS, *GRIPPER_JOINTS))
BASE_X = 0.469  # m, of each base from the middle, as in gym-aloha

FINGERS_OFFSET = 0.042825 + 0.025875
_TURN = np.pi - 0.00001
VX300S = SixAxisArm(
    waist_height=0.079,
    shoulder_rise=0.04805,
    elbow_offset=(0.05955, 0.3),
    upper_forearm=0.2,
    lower_forearm=0.1,
    wrist_length=0.069744,
    fingers_offset=FINGERS_OFFSET,
    tip_offset=FINGERS_OFFSET + 0.0385,
    lower=np.array([-_TURN, *np.radians([-106, -101]), -_TURN, np.radians(-107), -_TURN, 0.021]),
    upper=np.array([_TURN, *np.radians([72, 92]), _TURN, np.radians(128), _TURN, 0.057]),
    velocity=np.array([np.pi] * 6 + [1.0]),
    effort=np.array([10.0, 20.0, 15.0, 2.0, 5.0, 1.0, 5.0]),
)
LOWER, UPPER = np.tile(VX300S.lower, 2), np.tile(VX300S.upper, 2)
VELOCITY = np.tile(VX300S.velocity, 2)
# The inner face of a finger is this much nearer to the middle than the joint says, in m.
FINGER_PAD = 0.019


@dataclass(frozen=True)
class HandPose:
    """
    Where a hand's tip is (m, table) and how the hand is turned, seen from its own base.

    yaw, pitch, roll in rad: rotation Rz(yaw) Ry(pitch) Rx(roll). Pitch pi/2 points straight down,
    0 ahead; at roll 0 the fingers move sideways.
    """

    position: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


def joints_for(side: str, pose: HandPose) -> np.ndarray:
    """Return the six arm joints [6] of a side for a pose, by the arm's analytic inverse."""
    rotation = rotation_z(np.float64(pose.yaw)) @ rotation_y(np.float64(pose.pitch))
    rotation = rotation @ rotation_x(np.float64(pose.roll))
    return VX300S.inverse_pose(to_base(side, np.array(pose.position)), rotation)


def to_base(side: str, point: np.ndarray) -> np.ndarray:
    """Return a point [3] of the table in the frame of a side's base."""
    x, y, z = point
    return np.array([x + BASE_X, y, z]) if side == 'left' else np.array([BASE_X - x, -y, z])


def tips(q: np.ndarray) -> np.ndarray:
    """Return both tips [..., 2, 3] in m in table, left first, at q [..., 14]."""
    left, right = (VX300S.forward(q[..., start : start + 6])[0] for start in (0, 7))
    left = left + [-BASE_X, 0, 0]
    right = right * [-1, -1, 1] + [BASE_X, 0, 0]
    return np.stack([left, right], -2)
