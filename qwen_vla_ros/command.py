"""
Every output that a contract may name. OUTPUTS says how each is made; see output_kinds.py.

    joint_commands.py       JointTrajectory, FollowJointTrajectory, JointGroupCommand,
                            JointSingleCommand, Float64MultiArray
    cartesian_commands.py   ServoTwist
    navigation_commands.py  Path, PoseStamped, NavigateToPose, FollowPath, TwistStamped, Twist
"""

from typing import TYPE_CHECKING

from qwen_vla_ros import cartesian_commands, joint_commands, navigation_commands
from qwen_vla_ros.output_kinds import OUTPUTS, OutputKind, OutputUnavailable

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import ActionGroup

__all__ = [
    'NOTHING',
    'OUTPUTS',
    'cartesian_commands',
    'commands',
    'joint_commands',
    'navigation_commands',
    'output_of',
]

# The output type of groups that a contract gives none: data to train on, not a robot to move.
NOTHING = 'nothing'


def commands(group: 'ActionGroup', rows: str) -> bool:
    """Return whether a group goes to an output that takes rows of this kind."""
    return group.output.type != NOTHING and output_of(group.output.type).rows == rows


def output_of(kind: str) -> OutputKind:
    """Return the output of a contract's output type."""
    if kind == NOTHING:
        raise OutputUnavailable(
            'the contract gives this group of actions no output: it is data to train on; add an '
            'output to command it'
        )
    if kind not in OUTPUTS:
        raise OutputUnavailable(
            f"output type '{kind}' is unknown; this version commands {', '.join(OUTPUTS)}"
        )
    return OUTPUTS[kind]
