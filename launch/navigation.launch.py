"""
A mobile base that a policy sends to rooms and objects; begins in dry-run.

    ros2 launch qwen_vla_ros navigation.launch.py driver:=sim stage:=full policy:=expert
    ros2 launch qwen_vla_ros navigation.launch.py layout:=navigate nav2:=true
"""

from launch import LaunchDescription

from qwen_vla_ros.bringup import declared, given, node, policy, simulated, vendor, when


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then base, Nav2 and policy."""
    nav2 = vendor(
        'nav2_bringup',
        'navigation_launch.py',
        {'use_sim_time': given('use_sim_time'), 'namespace': given('namespace')},
        'apt install ros-$ROS_DISTRO-nav2-bringup, or leave nav2:=false',
        condition=when('nav2'),
    )
    rehearsal = node('nav2_sim_node', 'nav2_sim', {}, condition=when('nav2', 'sim'))
    return LaunchDescription(
        [
            *declared(
                robot='mobile_base',
                driver=('none', "none: the base's own bring-up runs already; or sim"),
                nav2=('false', 'true: include nav2_bringup; sim: its actions in rehearsal'),
                seed=('0', 'House of the simulated base'),
            ),
            simulated('base_sim_node', condition=when('driver', 'sim')),
            nav2,
            rehearsal,
            *policy(),
        ]
    )
