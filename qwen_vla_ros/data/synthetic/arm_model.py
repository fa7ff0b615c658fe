"""
One arm of arms.py as something to plan with: poses through pinocchio, gaps through capsules.

The chain is written as a URDF for ArmKinematics, so that poses, inverse kinematics and distances
are those that the product uses on a robot. Pairs of capsules that overlap at the home posture,
where no real arm touches itself, are overlaps of the model and are left out. Frame: the base on
the table, z up, x ahead. R rows, J joints.
"""

import tempfile
from pathlib import Path

import numpy as np

from qwen_vla_ros.capsules import CapsuleModel
from qwen_vla_ros.data.synthetic.arms import TABLE_CLEARANCE_M, TOOL_M, Arm
from qwen_vla_ros.data.synthetic.turns import about_x, about_z, euler
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.safety_contract import Capsule, Capsules, Plane

TIP, FLANGE = 'tip', 'flange'
SELF, TABLE = 'self-collision', 'table'
# The hand as capsules of the flange: its body, then the fingers down to where they are thin.
TOOL = (
    Capsule('hand', FLANGE, (0.0, 0.0, 0.03), (0.0, 0.0, TOOL_M - 0.06), 0.04),
    Capsule('fingers', FLANGE, (0.0, 0.0, TOOL_M - 0.06), (0.0, 0.0, TOOL_M - 0.012), 0.012),
)


class ArmModel:
    """Kinematics and collision checks of an arm. Thread-safe."""

    def __init__(self, arm: Arm) -> None:
        """Build the chain; nothing is read from outside."""
        self.arm = arm
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'{arm.name}.urdf'
            path.write_text(urdf(arm), encoding='utf-8')
            self.kinematics = ArmKinematics(path, TIP)
        self.lower, self.upper = self.kinematics.lower, self.kinematics.upper
        self.speed = np.array([joint.speed for joint in arm.joints])
        self.home = np.array(arm.home)
        parts = (*arm.capsules, *TOOL)
        every = CapsuleModel(Capsules(parts), self.kinematics)
        overlapping = every.pair_gaps(self.home)[0] <= TABLE_CLEARANCE_M
        ignore = tuple(
            (every.names[one], every.names[other]) for one, other in every.pairs[overlapping]
        )
        planes = (Plane(TABLE, (0.0, 0.0, 1.0), 0.0),)
        self.capsules = CapsuleModel(
            Capsules(parts, ignore, planes, TABLE_CLEARANCE_M), self.kinematics
        )

    def collision(self, rows: np.ndarray) -> str:
        """Return why rows [R, J] may not be driven: SELF, TABLE, or '' where they may."""
        found = self.capsules.problem(rows, 0.0)
        if found is None:
            return ''
        return TABLE if found.joint.endswith(TABLE) else SELF

    def poses(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tip's positions [R, 3] in m and rotations [R, 3, 3] at rows [R, J]."""
        joint, place = self.kinematics.link_place(TIP)
        moved = self.kinematics.joint_transforms(rows)[:, joint]
        return moved @ place[:, 3], moved[:, :, :3] @ place[:3, :3]


def urdf(arm: Arm) -> str:
    """Return the chain of an arm as URDF; links base, link1 ... linkJ, flange, tip."""
    lines = [f'<robot name="{arm.name}">', '<link name="base"/>']
    parent = 'base'
    for number, joint in enumerate(arm.joints, 1):
        child = f'link{number}'
        sine, cosine = np.sin(joint.alpha), np.cos(joint.alpha)
        xyz = (joint.a, -sine * joint.d, cosine * joint.d)
        rotation = about_x(joint.alpha) @ about_z(joint.offset)
        lines.append(f'<link name="{child}"/>')
        lines.append(
            f'<joint name="joint{number}" type="revolute">{_origin(xyz, rotation)}'
            f'<parent link="{parent}"/><child link="{child}"/><axis xyz="0 0 1"/>'
            f'<limit lower="{joint.lower!r}" upper="{joint.upper!r}" effort="1" '
            f'velocity="{joint.speed!r}"/></joint>'
        )
        parent = child
    along, roll = arm.flange
    lines.append(_fixed(FLANGE, parent, (0.0, 0.0, along), about_x(roll)))
    lines.append(_fixed(TIP, FLANGE, (0.0, 0.0, TOOL_M), np.eye(3)))
    return '\n'.join([*lines, '</robot>'])


def _fixed(link: str, parent: str, xyz: tuple[float, float, float], rotation: np.ndarray) -> str:
    return (
        f'<link name="{link}"/><joint name="{link}_fixed" type="fixed">{_origin(xyz, rotation)}'
        f'<parent link="{parent}"/><child link="{link}"/></joint>'
    )


def _origin(xyz: tuple[float, float, float], rotation: np.ndarray) -> str:
    """Return the element for a place; a URDF writes the turn as Rz(yaw) Ry(pitch) Rx(roll)."""
    roll, pitch, yaw = euler(rotation)
    place = ' '.join(repr(float(value)) for value in xyz)
    return f'<origin xyz="{place}" rpy="{float(roll)!r} {float(pitch)!r} {float(yaw)!r}"/>'
