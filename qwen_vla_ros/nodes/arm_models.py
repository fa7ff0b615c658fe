"""What a pilot needs of the robot's description: tips, joints of Cartesian rows, the volume."""

from typing import TYPE_CHECKING, Any

from qwen_vla_ros.command import commands
from qwen_vla_ros.nodes.layout_parts import split_layout
from qwen_vla_ros.output_kinds import JOINTS
from qwen_vla_ros.safety import capsule_model
from qwen_vla_ros.several_arms import tip_positions

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment


def kinematics_of(embodiment: 'Embodiment', layout: str) -> tuple[Any, Any]:
    """Return tip_position for the workspace box or None, and to_joints by Cartesian group."""
    from qwen_vla_ros.kinematics import ArmKinematics

    tip_position, to_joints = None, {}
    parts = split_layout(embodiment, layout)
    if embodiment.workspaces and parts.joints:
        tip_position = tip_positions(embodiment, parts.embodiment.action_groups(parts.joints))
    for group in embodiment.action_groups(layout):
        if group.kind == 'delta_eef' and commands(group, JOINTS):
            arm = ArmKinematics(embodiment.description_path, group.tip, group.joints)
            to_joints[group.name] = arm.chunk_to_joints
    return tip_position, to_joints


def capsules_of(embodiment: 'Embodiment', layout: str) -> Any:
    """Return the volume of the arm; None where there is none to check."""
    parts = split_layout(embodiment, layout)
    return capsule_model(parts.embodiment, parts.joints) if parts.joints else None
