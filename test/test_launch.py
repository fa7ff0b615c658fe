"""Launch files: arguments by their syntax everywhere, the whole description where launch is."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
SAME_EVERYWHERE = {
    'namespace',
    'use_sim_time',
    'params_file',
    'robot',
    'checkpoint',
    'autostart',
    'log_level',
}


def arguments(path: Path) -> dict[str, str]:
    """Return the launch arguments of a file, name -> description, read without running it."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'ARGUMENTS':
            assert isinstance(node.value, ast.Dict)
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {ast.literal_eval(k): ast.literal_eval(v.elts[1]) for k, v in pairs}
    raise AssertionError(f'{path.name}: no ARGUMENTS')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_arguments_have_the_same_names_and_a_description(path: Path) -> None:
    declared = arguments(path)
    assert set(declared) >= SAME_EVERYWHERE
    assert all(len(text) > 10 for text in declared.values())


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 100


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_executables_exist(path: Path) -> None:
    cmake = (ROOT / 'CMakeLists.txt').read_text()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == 'executable':
            assert ast.literal_eval(node.value) in cmake


def test_demo_describes_server_robot_and_policy() -> None:
    try:
        # From the repository root a bare `import launch` finds our folder of that name.
        from launch import LaunchDescription
        from launch.launch_description_sources import (
            get_launch_description_from_python_launch_file as load,
        )
        from launch_ros.actions import Node
    except ImportError as error:
        pytest.skip(f'ROS 2 launch is not installed: {error}')
    description = load(str(ROOT / 'launch' / 'demo.launch.py'))
    assert isinstance(description, LaunchDescription)
    declared = {item.name for item in description.get_launch_arguments()}
    assert declared == set(arguments(ROOT / 'launch' / 'demo.launch.py'))
    nodes = [item for item in description.entities if isinstance(item, Node)]
    assert [node.node_executable for node in nodes] == ['robot_sim_node', 'policy_node']
