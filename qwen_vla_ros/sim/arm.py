"""
Geometry of the WidowX 250s: names, limits, forward and analytic inverse kinematics (numpy only).

Joint origins and limits are the figures of Interbotix' own description: github.com/Interbotix/
interbotix_ros_manipulators, interbotix_xsarm_descriptions/urdf/wx250s.urdf.xacro.
Frame: base_link, x forward, z up, metres.
All functions are vectorised: q [..., 7] is waist, shoulder, elbow, forearm_roll, wrist_angle,
wrist_rotate (rad), left_finger (m); the tip is ee_gripper_link.
"""

import numpy as np

from qwen_vla_ros.sim.six_axis import (
    STRAIGHT_DOWN,
    SixAxisArm,
    pitch_of,
    rotation_x,
    rotation_y,
    rotation_z,
)

__all__ = ['STRAIGHT_DOWN', 'pitch_of', 'rotation_x', 'rotation_y', 'rotation_z']

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

_TURN = np.pi - 0.00001
LOWER = np.array([-_TURN, *np.radians([-108, -123]), -_TURN, np.radians(-100), -_TURN, 0.015])
UPPER = np.array([_TURN, *np.radians([114, 92]), _TURN, np.radians(123), _TURN, 0.037])
VELOCITY = np.array([np.pi] * 6 + [1.0])
EFFORT = np.array([10.0, 20.0, 15.0, 2.0, 5.0, 1.0, 5.0])

WX250S = SixAxisArm(
    WAIST_HEIGHT,
    SHOULDER_RISE,
    ELBOW_OFFSET,
    UPPER_FOREARM,
    LOWER_FOREARM,
    WRIST_LENGTH,
    FINGERS_OFFSET,
    TIP_OFFSET,
    LOWER,
    UPPER,
    VELOCITY,
    EFFORT,
)
forward, inverse, reachable = WX250S.forward, WX250S.inverse, WX250S.reachable
