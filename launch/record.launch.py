"""
A robot's contract topics into an MCAP, raw, with the contract inside.

    ros2 launch qwen_vla_ros record.launch.py robot:=widowx output:=bags/monday
"""

from launch import LaunchDescription

from qwen_vla_ros.bringup import declared, given, node, profiles


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then the recorder."""
    return LaunchDescription(
        [
            *declared(output=('', 'Folder of the bag; must not exist yet')),
            *profiles(),
            node(
                'recorder_node',
                'recorder',
                {'robot': given('robot'), 'output': given('output')},
            ),
        ]
    )
