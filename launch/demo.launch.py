"""Simulated WidowX, policy server and policy node: `ros2 launch qwen_vla_ros demo.launch.py`."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import (
    EnvironmentVariable,
    LaunchConfiguration,
    PathJoinSubstitution,
    PythonExpression,
)
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare

SHARE = FindPackageShare('qwen_vla_ros')
DDS_PROFILE = PathJoinSubstitution([SHARE, 'config', 'dds', 'fastdds.xml'])
PORT = '8766'
ARGUMENTS = {
    'namespace': ('', 'Namespace of both nodes and of all their relative topics'),
    'use_sim_time': ('false', 'Publish /clock from the simulator and live by it'),
    'params_file': (
        PathJoinSubstitution([SHARE, 'config', 'nodes', 'demo.yaml']),
        'Parameters of the nodes; write 3.0, not 3, for a double',
    ),
    'robot': ('widowx', 'Robot contract: a name or the path of a YAML file'),
    'policy': ('model', 'model, or without torch: expert (searches colours), constant (holds)'),
    'address': ('', 'Policy server that runs already, host:port; empty: one is started here'),
    'checkpoint': (PathJoinSubstitution([SHARE, 'checkpoints', 'small']), 'Checkpoint folder'),
    'autostart': ('true', 'Configure and activate the policy node without being told'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
    'instruction': (
        'touch the orange block',
        'First sentence; later ones come on policy/instruction (std_msgs/String)',
    ),
    'seed': ('0', 'Scene on the table; seed 0 has a purple, an orange and a yellow block'),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then the three processes."""
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    common = {
        'package': 'qwen_vla_ros',
        'namespace': given['namespace'],
        'output': 'screen',
        'ros_arguments': ['--log-level', given['log_level']],
    }
    server = ExecuteProcess(
        name='policy_server',
        output='screen',
        condition=IfCondition(PythonExpression(['not "', given['address'], '"'])),
        cmd=[
            ExecutableInPackage(package='qwen_vla_ros', executable='qwen-vla'),
            *('serve', '--port', PORT, '--policy', given['policy']),
            *('--robot', given['robot'], '--checkpoint', given['checkpoint']),
        ],
    )
    robot = Node(
        executable='robot_sim_node',
        name='robot_sim',
        parameters=[
            given['params_file'],
            {
                'robot': ParameterValue(given['robot'], value_type=str),
                'seed': ParameterValue(given['seed'], value_type=int),
                'use_clock': ParameterValue(given['use_sim_time'], value_type=bool),
            },
        ],
        **common,
    )
    address = PythonExpression(['"', given['address'], f'" or "127.0.0.1:{PORT}"'])
    policy = Node(
        executable='policy_node',
        name='policy',
        parameters=[
            given['params_file'],
            {
                'robot': ParameterValue(given['robot'], value_type=str),
                'address': ParameterValue(address, value_type=str),
                'instruction': ParameterValue(given['instruction'], value_type=str),
                'autostart': ParameterValue(given['autostart'], value_type=bool),
                'use_sim_time': ParameterValue(given['use_sim_time'], value_type=bool),
            },
        ],
        **common,
    )
    # Images need the larger shared memory; Kilted reads the first variable, Jazzy the second.
    profiles = [
        SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=DDS_PROFILE))
        for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
    ]
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, *profiles, server, robot, policy])
