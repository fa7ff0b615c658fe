"""Simulated robot, policy server and policy node: `ros2 launch qwen_vla_ros demo.launch.py`."""

from launch import LaunchDescription
from launch.conditions import IfCondition
from launch.substitutions import PythonExpression

from qwen_vla_ros.bringup import declared, given, policy, shared, simulated

BASE = ["'", given('robot'), "' == 'mobile_base'"]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then the processes."""
    return LaunchDescription(
        [
            *declared(
                params_file=shared('config', 'nodes', 'demo.yaml'),
                stage='full',
                instruction='touch the orange block',
                seed=('0', 'Scene; seed 0 has a purple, an orange and a yellow block'),
            ),
            simulated(condition=IfCondition(PythonExpression(['not (', *BASE, ')']))),
            simulated('base_sim_node', condition=IfCondition(PythonExpression(BASE))),
            *policy(),
        ]
    )
