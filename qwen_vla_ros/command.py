"""
Every output that a contract may name. OUTPUTS says how each is made; see output_kinds.py.

    joint_commands.py       JointTrajectory, FollowJointTrajectory, JointGroupCommand,
                            JointSingleCommand, Float64MultiArray
    cartesian_commands.py   ServoTwist
    navigation_commands.py  Path, PoseStamped, NavigateToPose, FollowPath, TwistStamped, Twist
"""

from qwen_vla_ros import cartesian_commands, joint_commands, navigation_commands
from qwen_vla_ros.output_kinds import OUTPUTS, OutputKind, OutputUnavailable

__all__ = ['OUTPUTS', 'cartesian_commands', 'joint_commands', 'navigation_commands', 'output_of']


def output_of(kind: str) -> OutputKind:
    """Return the output of a contract's output type."""
    if kind not in OUTPUTS:
        raise OutputUnavailable(
            f"output type '{kind}' is unknown; this version commands {', '.join(OUTPUTS)}"
        )
    return OUTPUTS[kind]
