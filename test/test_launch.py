"""Launch files: each is loaded and checked everywhere, and by launch itself where it is."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from launch_double import double, written

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.replay import played_topics

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
NAMES = {'demo', 'widowx', 'aloha', 'navigation', 'replay', 'record'}
SAME_EVERYWHERE = {
    *('namespace', 'use_sim_time', 'params_file', 'robot', 'layout', 'policy', 'address'),
    *('checkpoint', 'instruction', 'stage', 'autostart', 'viz', 'rviz', 'log_level'),
}
SIMULATED = {'demo'}


def loaded(path: Path):
    """Return the description of a file."""
    spec = importlib.util.spec_from_file_location(path.stem.replace('.', '_'), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def found(request):
    """Return the name of a file, and its entities by the name of their class."""
    with double():
        entities = loaded(request.param).entities
        table = {}
        for entity in entities:
            table.setdefault(type(entity).__name__, []).append(entity)
        yield SimpleNamespace(name=request.param.name.removesuffix('.launch.py'), **table)


def defaults(found) -> dict[str, str]:
    return {item.name: written(item.default_value) for item in found.DeclareLaunchArgument}


def test_there_is_a_file_for_each_use():
    assert {path.name.removesuffix('.launch.py') for path in FILES} == NAMES


def test_arguments_have_the_same_names_everywhere_and_a_description(found):
    assert set(defaults(found)) >= SAME_EVERYWHERE
    assert all(len(item.description) > 10 for item in found.DeclareLaunchArgument)
    names = [item.name for item in found.DeclareLaunchArgument]
    assert len(names) == len(set(names))


def test_what_is_given_is_declared_before(found):
    """An argument's default may only use arguments above it."""
    known: set[str] = set()
    for item in found.DeclareLaunchArgument:
        asked = set(re.findall(r'\$\((\w+)\)', written(item.default_value)))
        assert asked <= known, item.name
        known.add(item.name)
    for kind, entities in vars(found).items():
        if kind not in ('name', 'DeclareLaunchArgument'):
            assert set(re.findall(r'\$\((\w+)\)', written(entities))) <= known, kind


def test_hardware_begins_with_a_dry_run(found):
    assert defaults(found)['stage'] == ('full' if found.name in SIMULATED else 'dry-run')


def test_nodes_are_installed_and_their_parameter_files_are_there(found):
    cmake = (ROOT / 'CMakeLists.txt').read_text()
    for node in getattr(found, 'Node', []):
        if node.package == 'qwen_vla_ros':
            assert f'  {node.executable}\n' in cmake
    file = defaults(found)['params_file'].removeprefix('<qwen_vla_ros>/')
    assert (ROOT / file).is_file()


def test_every_parameter_that_is_given_is_one_of_the_node(found):
    for node in getattr(found, 'Node', []):
        if node.package != 'qwen_vla_ros':
            continue
        source = (ROOT / 'qwen_vla_ros' / 'nodes' / f'{node.executable}.py').read_text()
        for name in node.parameters[1]:
            assert name == 'use_sim_time' or re.search(rf'^    {name}: \w+ = ', source, re.M), name


def test_robots_that_are_named_have_contract_and_display(found):
    robot = defaults(found)['robot']
    assert Embodiment.load(robot).name == robot
    assert (ROOT / 'config' / 'rviz' / f'{robot}.rviz').is_file()


def test_file_is_short(found):
    path = ROOT / 'launch' / f'{found.name}.launch.py'
    assert len(path.read_text().splitlines()) < 100


def test_a_vendor_that_is_missing_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    with double():
        entities = loaded(ROOT / 'launch' / 'widowx.launch.py').entities
        told = []
        for entity in entities:
            if type(entity).__name__ == 'OpaqueFunction' and entity.args:
                with pytest.raises(RuntimeError) as error:
                    entity.function(None, *entity.args)
                told.append(str(error.value))
    assert [text.split(' is not installed; ')[0] for text in told] == [
        *('interbotix_xsarm_control', 'controller_manager', 'usb_cam')
    ]
    assert all('install' in text.split(';')[1] for text in told)
    assert 'driver:=sim' in told[0]


def test_only_inputs_are_played_again():
    topics = played_topics('widowx', 'lab')
    assert {'/lab/joint_states', '/lab/camera/scene/image_raw', '/tf'} < set(topics)
    assert not [name for name in topics if 'trajectory' in name or 'chunk' in name]


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_launch_itself_reads_the_file(path):
    try:
        # From the repository root a bare `import launch` finds our folder of that name.
        from launch import LaunchDescription
        from launch.launch_description_sources import (
            get_launch_description_from_python_launch_file as load,
        )
    except ImportError as error:
        pytest.skip(f'ROS 2 launch is not installed: {error}')
    description = load(str(path))
    assert isinstance(description, LaunchDescription)
    assert {item.name for item in description.get_launch_arguments()} >= SAME_EVERYWHERE
