"""
What the launch files are made of: their common arguments, our nodes, and the vendors' bring-up.

Only launch files import this (it needs launch and launch_ros). A vendor's package is looked up
when the description runs: where it is missing, nothing is started and the launch says what to
install.
"""

import os
from collections.abc import Mapping
from typing import Any

from launch import LaunchContext, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import (
    EnvironmentVariable,
    LaunchConfiguration,
    PathJoinSubstitution,
    PythonExpression,
)
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare

NAME = 'qwen_vla_ros'
SHARE = FindPackageShare(NAME)
PORT = '8766'

Value = Any  # text, or substitutions
Arguments = Mapping[str, tuple[Value, str]]


def shared(*parts: Value) -> PathJoinSubstitution:
    """Return the path of a file that this package installs."""
    return PathJoinSubstitution([SHARE, *parts])


COMMON: Arguments = {
    'namespace': ('', 'Namespace of all nodes and of their relative topics'),
    'use_sim_time': ('false', 'Live by /clock'),
    'params_file': (
        shared('config', 'nodes', 'hardware.yaml'),
        'Parameters of the nodes; write 3.0, not 3, for a double',
    ),
    'robot': ('widowx', 'Robot contract: a name or the path of a YAML file'),
    'layout': ('', "Layout of the contract, that is who takes commands; empty: the contract's"),
    'policy': ('model', 'model, or without torch: expert (searches colours), constant (holds)'),
    'address': ('', 'Policy server that runs already, host:port; empty: one is started here'),
    'checkpoint': (shared('checkpoints', 'small'), 'Checkpoint folder, or name of the hub'),
    'instruction': ('', 'First sentence; later ones come on policy/instruction (std_msgs/String)'),
    'stage': ('dry-run', 'First stage: dry-run, shadow, scaled or full'),
    'autostart': ('true', 'Configure and activate the policy node without being told'),
    'viz': ('true', 'Draw what the policy intends, for rviz and Foxglove'),
    'rviz': ('false', "Open rviz with the robot's display"),
    'frame_prefix': ('', "What stands before the URDF's links on tf, like wx250s/"),
    'fixed_frame': ('', 'Fixed frame of rviz; empty: as the display says'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
}


def declared(**special: tuple[Value, str] | Value) -> list[LaunchDescriptionEntity]:
    """
    Return the common arguments, with other defaults, and a file's own ones.

    A keyword of a common argument is its default here; another is (default, description).
    """
    table = {name: value for name, value in special.items() if name not in COMMON}
    for name, (default, text) in COMMON.items():
        table[name] = special.get(name, default), text
    return [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in table.items()
    ]


def given(name: str) -> LaunchConfiguration:
    """Return what an argument was given."""
    return LaunchConfiguration(name)


def when(name: str, value: str = 'true') -> IfCondition:
    """Return the condition that an argument has a value."""
    return IfCondition(PythonExpression(["'", given(name), f"' == '{value}'"]))


def node(executable: str, name: str, parameters: Mapping[str, Any], **options: Any) -> Node:
    """Return one of our nodes; parameters: name -> an argument's text, or (text, type)."""
    table = {}
    for key, value in parameters.items():
        text, kind = value if isinstance(value, tuple) else (value, str)
        table[key] = ParameterValue(text, value_type=kind)
    sim_time = {'use_sim_time': ParameterValue(given('use_sim_time'), value_type=bool)}
    return Node(
        package=NAME,
        executable=executable,
        name=name,
        namespace=given('namespace'),
        output='screen',
        ros_arguments=['--log-level', given('log_level')],
        parameters=[given('params_file'), {**sim_time, **table}],
        **options,
    )


def policy() -> list[LaunchDescriptionEntity]:
    """Return policy server and policy node, viewer and rviz, and the profile for pictures."""
    server = ExecuteProcess(
        name='policy_server',
        output='screen',
        condition=IfCondition(PythonExpression(["'", given('address'), "' == ''"])),
        cmd=[
            ExecutableInPackage(package=NAME, executable='qwen-vla'),
            *('serve', '--port', PORT, '--policy', given('policy')),
            *('--robot', given('robot'), '--checkpoint', given('checkpoint')),
        ],
    )
    address = PythonExpression(["'", given('address'), f"' or '127.0.0.1:{PORT}'"])
    names = ('robot', 'layout', 'instruction', 'stage')
    texts: dict[str, Any] = {name: given(name) for name in names}
    autostart = {'autostart': (given('autostart'), bool)}
    pilot = node('policy_node', 'policy', {**texts, 'address': address, **autostart})
    return [*profiles(), server, pilot, *viewer()]


def viewer() -> list[LaunchDescriptionEntity]:
    """Return what draws the policy's intentions, and rviz."""
    settings = {'robot': given('robot'), 'frame_prefix': given('frame_prefix')}
    rviz = OpaqueFunction(function=_rviz, condition=when('rviz'))
    return [node('viz_node', 'viz', settings, condition=when('viz')), rviz]


def _rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    frame, file = given('fixed_frame').perform(context), f'{given("robot").perform(context)}.rviz'
    words = ['-d', shared('config', 'rviz', file), *(['-f', frame] if frame else [])]
    space = given('namespace')
    shown = Node(package='rviz2', executable='rviz2', namespace=space, arguments=words)
    remedy = 'apt install ros-$ROS_DISTRO-rviz2, or leave rviz:=false'
    return _where_installed(context, 'rviz2', [shown], remedy)


def profiles() -> list[LaunchDescriptionEntity]:
    """Return the DDS profile for pictures, in the variable that the distribution reads."""
    old = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
    name = 'FASTRTPS_DEFAULT_PROFILES_FILE' if old else 'FASTDDS_DEFAULT_PROFILES_FILE'
    path = shared('config', 'dds', 'fastdds.xml')
    return [SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=path))]


def simulated(executable: str = 'robot_sim_node', **options: Any) -> Node:
    """Return the simulated robot that wears the contract's topics."""
    settings = {
        'robot': given('robot'),
        'seed': (given('seed'), int),
        'use_clock': (given('use_sim_time'), bool),
    }
    return node(executable, executable.removesuffix('_node'), settings, **options)


def vendor(
    package: str, file: str, arguments: Mapping[str, Value], remedy: str, **options: Any
) -> OpaqueFunction:
    """Return the inclusion of another package's launch file, or what to install for it."""
    return OpaqueFunction(function=_included, args=[package, file, arguments, remedy], **options)


def installed(package: str, entities: list[Any], remedy: str, **options: Any) -> OpaqueFunction:
    """Return entities that need a package, or what to install for it."""
    return OpaqueFunction(function=_where_installed, args=[package, entities, remedy], **options)


def _included(
    context: LaunchContext, package: str, file: str, arguments: Mapping[str, Value], remedy: str
) -> list[LaunchDescriptionEntity]:
    path = PathJoinSubstitution([FindPackageShare(package), 'launch', file])
    source = PythonLaunchDescriptionSource(path)
    include = IncludeLaunchDescription(source, launch_arguments=arguments.items())
    return _where_installed(context, package, [include], remedy)


def _where_installed(
    context: LaunchContext, package: str, entities: list[Any], remedy: str
) -> list[LaunchDescriptionEntity]:
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        get_package_share_directory(package)
    except PackageNotFoundError as error:
        raise RuntimeError(f'{package} is not installed; {remedy}') from error
    return entities
