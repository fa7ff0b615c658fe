"""
A robot's contract topics into an MCAP, raw, with the contract inside.

    ros2 launch qwen_vla_ros record.launch.py robot:=widowx output:=bags/monday
    ros2 launch qwen_vla_ros record.launch.py output:=episodes episodes:=true
    ros2 service call /recorder/start std_srvs/srv/Trigger
"""

from launch import LaunchDescription

from qwen_vla_ros.bringup import declared, given, node, profiles


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then the recorder."""
    return LaunchDescription(
        [
            *declared(
                output=('', 'Folder of the bag, must not exist yet; of episodes, may exist'),
                episodes=('false', 'A bag an episode, by services of the node'),
            ),
            *profiles(),
            node(
                'recorder_node',
                'recorder',
                {
                    'robot': given('robot'),
                    'output': given('output'),
                    'episodes': (given('episodes'), bool),
                    'instruction': given('instruction'),
                },
            ),
        ]
    )
