"""
What a policy would have done: a bag's inputs are played, the policy watches, nothing is commanded.

    ros2 launch qwen_vla_ros replay.launch.py bag:=out/demo/bag instruction:='touch the red block'
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, OpaqueFunction

from qwen_vla_ros.bringup import declared, given, policy
from qwen_vla_ros.replay import played_topics


def _play(context: LaunchContext) -> list[ExecuteProcess]:
    """Play the contract's inputs alone: the policy of that day must not answer for today's."""
    topics = played_topics(given('robot').perform(context), given('namespace').perform(context))
    command = ['ros2', 'bag', 'play', given('bag'), '--clock', '100', '--rate', given('rate')]
    return [ExecuteProcess(cmd=[*command, '--topics', *topics], output='screen')]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then the player and the policy."""
    return LaunchDescription(
        [
            *declared(
                bag=('', 'Folder of the bag (MCAP or SQLite)'),
                rate=('1.0', 'Speed of the replay'),
                use_sim_time='true',
            ),
            *policy(),
            OpaqueFunction(function=_play),
        ]
    )
