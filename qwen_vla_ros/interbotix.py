"""
The bring-up of Interbotix' arms and of their cameras, as entities of launch files.

Sources: interbotix_ros_manipulators (interbotix_xsarm_control/launch/xsarm_control.launch.py and
interbotix_xsarm_ros_control/launch/xsarm_ros_control.launch.py) and aloha
(launch/aloha_bringup.launch.py), github.com/Interbotix. The vendor's ros_control file is not
included: it fixes 10 Hz and motor profiles that filter a second time; the same parts are started
here with config/controllers.
"""

from collections.abc import Sequence
from typing import Any

from launch.conditions import IfCondition
from launch.substitutions import Command, FindExecutable, PathJoinSubstitution, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from qwen_vla_ros.bringup import given, installed, shared, vendor, when

ALOHA_ARMS = ('follower_left', 'follower_right')
ARMS = (
    "install Interbotix' arms (xsarm_amd64_install.sh of interbotix_ros_manipulators), or "
    'rehearse with driver:=sim, or start the driver yourself and pass driver:=none'
)
CONTROL = 'apt install ros-$ROS_DISTRO-ros2-control ros-$ROS_DISTRO-ros2-controllers'


def arm(model: str, name: Any, drivers: Sequence[str]) -> list[Any]:
    """Return xs_sdk of one arm, its motors in our modes (profile 0/0), for some drivers."""
    wanted = IfCondition(PythonExpression(["'", given('driver'), f"' in {tuple(drivers)!r}"]))
    arguments = {
        'robot_model': model,
        'robot_name': name,
        'use_rviz': 'false',
        'mode_configs': shared('config', 'controllers', f'{model}_modes.yaml'),
    }
    file = 'xsarm_control.launch.py'
    return [vendor('interbotix_xsarm_control', file, arguments, ARMS, condition=wanted)]


def controllers(model: str, name: Any) -> list[Any]:
    """Return ros2_control at 100 Hz for one arm."""
    description = PathJoinSubstitution(
        [FindPackageShare('interbotix_xsarm_descriptions'), 'urdf', f'{model}.urdf.xacro']
    )
    xacro = Command([FindExecutable(name='xacro'), ' ', description, ' robot_name:=', name])
    manager = Node(
        package='controller_manager',
        executable='ros2_control_node',
        namespace=name,
        output='screen',
        parameters=[
            {'robot_description': ParameterValue(xacro, value_type=str)},
            shared('config', 'controllers', f'{model}_ros2_control.yaml'),
        ],
    )
    spawner = Node(
        package='controller_manager',
        executable='spawner',
        namespace=name,
        arguments=[
            '-c',
            ['/', name, '/controller_manager'],
            'arm_controller',
            'gripper_controller',
        ],
    )
    wanted = when('driver', 'ros2_control')
    return [installed('controller_manager', [manager, spawner], CONTROL, condition=wanted)]


def aloha_bringup(leaders: Any) -> Any:
    """Return Interbotix' bring-up of ALOHA's arms, without its cameras."""
    arguments = {
        'launch_leaders': leaders,
        'use_cameras': 'false',
        'is_mobile': 'false',
        'use_aloha_rviz': 'false',
        **{
            f'follower_modes_{side}': shared('config', 'controllers', 'vx300s_modes.yaml')
            for side in ('left', 'right')
        },
    }
    wanted = when('driver', 'interbotix')
    return vendor('aloha', 'aloha_bringup.launch.py', arguments, ARMS, condition=wanted)


def usb_cameras(file: str, names: Sequence[str]) -> list[Any]:
    """Return USB cameras whose pictures come on camera/<name>/image_raw."""
    remedy = 'apt install ros-$ROS_DISTRO-usb-cam, or pass cameras:=false'
    nodes = [
        Node(
            package='usb_cam',
            executable='usb_cam_node_exe',
            name=f'{name}_camera',
            namespace=[given('namespace'), f'/camera/{name}'],
            parameters=[shared('config', 'nodes', file)],
            output='screen',
        )
        for name in names
    ]
    return [installed('usb_cam', nodes, remedy, condition=_cameras())]


def real_senses(file: str, names: Sequence[str]) -> list[Any]:
    """Return RealSense cameras whose pictures come on <name>/camera/color/image_rect_raw."""
    remedy = 'apt install ros-$ROS_DISTRO-realsense2-camera, or pass cameras:=false'
    nodes = [
        Node(
            package='realsense2_camera',
            executable='realsense2_camera_node',
            name='camera',
            namespace=[given('namespace'), f'/{name}'],
            parameters=[shared('config', 'nodes', file)],
            output='screen',
        )
        for name in names
    ]
    return [installed('realsense2_camera', nodes, remedy, condition=_cameras())]


def _cameras() -> IfCondition:
    """Return whether cameras are started: never beside the simulated robot, which has its own."""
    text = ["'", given('cameras'), "' == 'true' and '", given('driver'), "' != 'sim'"]
    return IfCondition(PythonExpression(text))
