"""setup.py, CMakeLists.txt, package.xml and the code agree with each other."""

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = (ROOT / 'setup.py').read_text()
CMAKE = (ROOT / 'CMakeLists.txt').read_text()
PACKAGE = ElementTree.parse(ROOT / 'package.xml').getroot()
LARGEST_FILE = 28_000_000  # bytes; checkpoints/families, whose readout has layers now
# Import name -> name of the distribution, where they differ.
DISTRIBUTIONS = {
    'backports': 'backports.zstd',
    'PIL': 'pillow',
    'cv2': 'opencv-python-headless',
    'pinocchio': 'pin',
    'rerun': 'rerun-sdk',
    'yaml': 'PyYAML',
    'zmq': 'pyzmq',
}
# In package.xml because rosdep has them; from PyPI there is no wheel (imported lazily).
ROSDEP_ONLY = {'tf2_msgs', 'launch', 'launch_ros', 'cv_bridge'}


def constant(name: str) -> object:
    """Return a literal assigned at the top of setup.py."""
    for node in ast.parse(SETUP).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f'setup.py has no {name}')


def distributions(lines: list[str]) -> set[str]:
    """Return the names in requirement lines, normalised."""
    return {re.split(r'[\[<>=!; ]', line)[0].lower().replace('_', '-') for line in lines}


def imported() -> dict[str, Path]:
    """Return the top-level modules that the package imports, with one file that does."""
    found: dict[str, Path] = {}
    for path in sorted((ROOT / 'qwen_vla_ros').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or '']
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == 'import_module':
                names = [a.value for a in node.args if isinstance(a, ast.Constant)]
            else:
                continue
            found.update({name.partition('.')[0]: path for name in names})
    return found


def test_versions_are_equal() -> None:
    assert PACKAGE.findtext('version') == constant('VERSION')
    assert (ROOT / 'CHANGELOG.rst').read_text().count(f'\n{constant("VERSION")}\n---') == 1


def test_names_are_equal() -> None:
    assert PACKAGE.findtext('name') == constant('NAME')
    assert f'project({constant("NAME")})' in CMAKE


def test_executables_are_equal_and_have_a_main() -> None:
    cmake = re.search(r'set\(ROS_EXECUTABLES\s+([^)]*)\)', CMAKE)
    assert cmake is not None
    assert tuple(cmake.group(1).split()) == constant('ROS_EXECUTABLES')
    for name in constant('ROS_EXECUTABLES'):
        tree = ast.parse((ROOT / 'qwen_vla_ros' / 'nodes' / f'{name}.py').read_text())
        assert 'main' in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_interface_file_is_built() -> None:
    built = set(re.findall(r'(?:msg|srv)/\w+\.(?:msg|srv)', CMAKE))
    assert built == {
        str(path.relative_to(ROOT)) for kind in ('msg', 'srv') for path in ROOT.glob(f'{kind}/*')
    }


def test_package_joins_the_interface_group() -> None:
    assert PACKAGE.get('format') == '3'
    assert PACKAGE.findtext('member_of_group') == 'rosidl_interface_packages'
    assert PACKAGE.findtext('export/build_type') == 'ament_cmake'


def test_every_import_is_declared() -> None:
    extras = constant('EXTRAS')
    pip = distributions(sum(extras.values(), constant('CORE')))
    ros = {element.text for element in PACKAGE if element.tag.endswith('depend')}
    indirect = {  # a dependency of a message package that we require
        'builtin_interfaces',
        'rcl_interfaces',
        'rosgraph_msgs',
    }
    for name, path in imported().items():
        known = (*sys.stdlib_module_names, 'compression', 'qwen_vla_ros', '__future__')
        if name in known:  # compression: of the standard library from Python 3.14 on
            continue
        if name in ros:
            wheel = f'ros-{name}'.replace('_', '-')
            assert name in ROSDEP_ONLY | indirect or wheel in pip, f'{path}: no wheel of {name}'
        else:
            wanted = DISTRIBUTIONS.get(name, name).lower().replace('_', '-')
            assert wanted in pip, f'{path} imports {name}: not in setup.py or package.xml'


def test_ros_wheels_are_pinned_to_one_distribution() -> None:
    wheels = [line for line in constant('EXTRAS')['ros'] if line.startswith('ros-')]
    wheels += [line for line in constant('MESSAGE_BUILD') if line.startswith('ros-')]
    pinned = {}
    for line in wheels:
        name, _, version = re.sub(r'\[.*\]', '', line).partition('==')
        assert version, line
        assert pinned.setdefault(name, version) == version


def test_constraints_hold_every_direct_requirement() -> None:
    text = (ROOT / 'constraints.txt').read_text()
    held = distributions([line for line in text.splitlines() if '==' in line])
    lines = constant('CORE') + constant('EXTRAS')['ros'] + constant('EXTRAS')['sim']
    assert distributions(lines + constant('EXTRAS')['train']) <= held
    assert not re.search(r'\+cpu|file:|@', text)


def test_no_tracked_file_is_large() -> None:
    listing = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip('not a git checkout')
    large = [
        name
        for name in listing.stdout.split('\0')
        if name and (ROOT / name).is_file() and (ROOT / name).stat().st_size > LARGEST_FILE
    ]
    assert large == []


def test_wheel_without_messages_holds_package_configuration_and_launch(tmp_path: Path) -> None:
    pytest.importorskip('setuptools')
    done = subprocess.run(
        [sys.executable, 'setup.py', '-q', 'install_data', '-d', str(tmp_path)],
        cwd=ROOT,
        env={'QWEN_VLA_MESSAGES': '0', 'PATH': '/usr/bin:/bin'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'messages not compiled: QWEN_VLA_MESSAGES=0' in done.stderr
    assert done.returncode == 0, done.stderr
    share = tmp_path / 'share' / 'qwen_vla_ros'
    for name in ('package.xml', 'config/dds/fastdds.xml', 'launch/demo.launch.py'):
        assert (share / name).read_bytes() == (ROOT / name).read_bytes()


def test_compiled_messages_have_the_fields_of_their_files() -> None:
    messages = pytest.importorskip('qwen_vla_ros.msg', reason='messages are not compiled here')
    for path in (ROOT / 'msg').glob('*.msg'):
        lines = [line.partition('#')[0].split() for line in path.read_text().splitlines()]
        fields = [words[1] for words in lines if words]
        assert list(getattr(messages, path.stem).get_fields_and_field_types()) == fields
