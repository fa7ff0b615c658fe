"""
A WidowX 250s: driver, cameras, policy; begins in dry-run, which commands nothing.

    ros2 launch qwen_vla_ros widowx.launch.py driver:=sim       # a rehearsal
    ros2 launch qwen_vla_ros widowx.launch.py driver:=ros2_control
"""

from launch import LaunchDescription
from launch.substitutions import PythonExpression

from qwen_vla_ros.bringup import declared, given, policy, simulated, when
from qwen_vla_ros.interbotix import arm, controllers, usb_cameras

LAYOUT = PythonExpression(["'interbotix' if '", given('driver'), "' == 'interbotix' else ''"])

PREFIX = PythonExpression(["'' if '", given('driver'), "' == 'sim' else 'wx250s/'"])


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then driver, cameras and policy."""
    return LaunchDescription(
        [
            *declared(
                namespace='wx250s',
                robot='widowx',
                layout=LAYOUT,
                frame_prefix=PREFIX,
                fixed_frame=[given('frame_prefix'), 'base_link'],
                driver=('ros2_control', 'ros2_control, interbotix, sim, or none: it runs already'),
                cameras=('true', 'Start the two USB cameras of config/nodes/widowx_cameras.yaml'),
                seed=('0', 'Scene of the simulated robot'),
            ),
            simulated(condition=when('driver', 'sim')),
            *arm('wx250s', given('namespace'), ('ros2_control', 'interbotix')),
            *controllers('wx250s', given('namespace')),
            *usb_cameras('widowx_cameras.yaml', ('scene', 'wrist')),
            *policy(),
        ]
    )
