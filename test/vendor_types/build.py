"""
Build the message types that only a ROS of apt or a vendor's workspace has, for tests on wheels.

    python test/vendor_types/build.py [--python PYTHON_WITH_THE_BUILD_REQUIREMENTS]

The files beside this one are ours: they declare the fields that Interbotix' driver, ros2_control's
controllers, Nav2 and tf of Kilted send and take, so that tests meet the same bytes on the wire.
They are never installed. Where the real packages are found, tests use those. Prints the prefix;
with an unchanged source it is there already. About 2 minutes on one core, most of it pip and g++.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GENERATORS = ('ament_cmake', 'rosidl_default_generators')
PACKAGES = {
    'interbotix_xs_msgs': ['trajectory_msgs'],
    'control_msgs': [
        'action_msgs',
        'builtin_interfaces',
        'geometry_msgs',
        'std_msgs',
        'trajectory_msgs',
    ],
    'nav2_msgs': ['action_msgs', 'builtin_interfaces', 'geometry_msgs', 'nav_msgs', 'std_msgs'],
    'tf2_msgs': ['geometry_msgs'],
}


def built(python: Path | None = None) -> Path:
    """Return the prefix with all packages, built when it is not there."""
    sources = sorted(path for name in PACKAGES for path in (HERE / name).rglob('*.*'))
    text = b''.join(path.read_bytes() for path in sources)
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    digest = hashlib.sha256(text).hexdigest()[:12]
    folder = ROOT / 'build' / 'vendor_types' / f'{version}-{digest}'
    if not (folder / 'complete').exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'COLCON_IGNORE').touch()
        python = python or environment_with_requirements(folder / 'venv')
        for name, needs in PACKAGES.items():
            build(name, needs, folder, python)
        (folder / 'complete').touch()
    return folder / 'install'


def environment_with_requirements(folder: Path) -> Path:
    """Return the Python of a new environment with what compiling messages needs."""
    setup = (ROOT / 'setup.py').read_text()
    listed = re.search(r'MESSAGE_BUILD = \[(.*?)\n\]', setup, re.DOTALL).group(1)
    versions = re.findall(r"'(ros-(?:nav|geometry|trajectory)-msgs==[\d.]+)'", setup)
    subprocess.run([sys.executable, '-m', 'venv', str(folder)], check=True)
    python = folder / 'bin' / 'python'
    wanted = [*re.findall(r"'([^']+)'", listed), 'setuptools>=68,<81', *versions]
    subprocess.run([str(python), '-m', 'pip', 'install', '-q', *wanted], check=True)
    return python


def build(name: str, needs: list[str], folder: Path, python: Path) -> None:
    """Compile one package into folder/install."""
    source = folder / 'source' / name
    source.mkdir(parents=True, exist_ok=True)
    files = sorted(path.relative_to(HERE / name) for path in (HERE / name).rglob('*.*'))
    for path in files:
        (source / path).parent.mkdir(exist_ok=True)
        (source / path).write_text((HERE / name / path).read_text())
    listed, finds = (
        ' '.join(map(str, files)),
        '\n'.join(f'find_package({n} REQUIRED)' for n in (*GENERATORS, *needs)),
    )
    (source / 'CMakeLists.txt').write_text(
        f'cmake_minimum_required(VERSION 3.20)\nproject({name})\n{finds}\n'
        f'rosidl_generate_interfaces({name} {listed} DEPENDENCIES {" ".join(needs)})\n'
        'ament_export_dependencies(rosidl_default_runtime)\nament_package()\n'
    )
    depends = ''.join(f'<depend>{need}</depend>' for need in needs)
    (source / 'package.xml').write_text(
        f'<package format="3"><name>{name}</name><version>0.0.0</version><description>test'
        '</description><maintainer email="test@example.com">test</maintainer>'
        '<license>Apache-2.0</license>'
        f'<buildtool_depend>ament_cmake</buildtool_depend>{depends}'
        '<member_of_group>rosidl_interface_packages</member_of_group></package>\n'
    )
    prefix = python.parents[1]
    site = next(prefix.glob('lib/python*/site-packages'))
    environment = {
        **os.environ,
        'AMENT_PREFIX_PATH': str(prefix),
        'PYTHONPATH': str(site),
        'LD_LIBRARY_PATH': str(prefix / 'lib'),
        'PATH': f'{prefix / "bin"}{os.pathsep}{os.environ["PATH"]}',
    }
    options = {
        'CMAKE_BUILD_TYPE': 'Release',
        'CMAKE_INSTALL_PREFIX': folder / 'install',
        'CMAKE_PREFIX_PATH': prefix,
        'CMAKE_PROJECT_INCLUDE': ROOT / 'cmake' / 'mend_wheel_targets.cmake',
        'Python3_EXECUTABLE': python,
        'BUILD_TESTING': 'OFF',
    }
    binary = folder / 'binary' / name
    flags = [f'-D{key}={value}' for key, value in options.items()]
    for command in (
        ['cmake', '-G', 'Ninja', '-S', str(source), '-B', str(binary), *flags],
        ['cmake', '--build', str(binary)],
        ['cmake', '--install', str(binary)],
    ):
        with (folder / 'build.log').open('a') as log:
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--python', type=Path, help='has cmake, ninja and rosidl already')
    python = parser.parse_args().python
    print(built(python and python.absolute()))
