"""
ALOHA: two ViperX 300s, three cameras, policy; begins in dry-run, which commands nothing.

    ros2 launch qwen_vla_ros aloha.launch.py driver:=sim          # a rehearsal
    ros2 launch qwen_vla_ros aloha.launch.py driver:=interbotix   # Interbotix' own bring-up
"""

from launch import LaunchDescription
from launch.substitutions import PythonExpression

from qwen_vla_ros.bringup import declared, given, policy, simulated, when
from qwen_vla_ros.interbotix import ALOHA_ARMS, aloha_bringup, arm, controllers, real_senses

LAYOUT = PythonExpression(["'interbotix' if '", given('driver'), "' == 'interbotix' else ''"])
CAMERAS = ('cam_high', 'cam_left_wrist', 'cam_right_wrist')


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then drivers, cameras and policy."""
    return LaunchDescription(
        [
            *declared(
                robot='aloha',
                layout=LAYOUT,
                driver=('interbotix', 'interbotix, ros2_control, sim, or none: it runs already'),
                cameras=('true', 'Start the RealSense cameras of config/nodes/aloha_cameras.yaml'),
                leaders=('false', 'interbotix: start the leader arms too, for the shadow stage'),
                seed=('0', 'Scene of the simulated robot'),
            ),
            simulated(condition=when('driver', 'sim')),
            aloha_bringup(given('leaders')),
            *(part for name in ALOHA_ARMS for part in arm('vx300s', name, ('ros2_control',))),
            *(part for name in ALOHA_ARMS for part in controllers('vx300s', name)),
            *real_senses('aloha_cameras.yaml', CAMERAS),
            *policy(),
        ]
    )
