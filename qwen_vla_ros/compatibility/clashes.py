"""
Combinations of versions that are known to fail, each with what happens. Facts in, problems out.

Names the versions that are installed; imports nothing of them.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from qwen_vla_ros.compatibility.finding import REFUSE, WARN, Problem

PACKAGES = (
    'numpy',
    'opencv-python-headless',
    'opencv-python',
    'cv-bridge',
    'transformers',
    'torch',
    'websockets',
    'ros-rclpy',
    'ros-std-msgs',
    'ros-sensor-msgs',
)
TESTED = ('humble', 'jazzy', 'kilted')
BEFORE_NUMPY_2 = ('humble', 'iron', 'jazzy')
MIDDLEWARES = (
    'rmw_fastrtps_cpp',
    'rmw_cyclonedds_cpp',
    'rmw_zenoh_cpp',
    'rmw_connextdds',
    'rmw_fastrtps_dynamic_cpp',
)
# Wheels of one distribution share these majors (ros-rclpy -> ros-std-msgs' major and minor).
WHEELS = {'9': '5.5', '7': '5.3'}
# First driver of each CUDA (minor version compatibility):
# docs.nvidia.com/cuda/cuda-toolkit-release-notes.
DRIVERS = {'11': 450, '12': 525, '13': 580}
LEAST_RECEIVE = 2**21  # bytes of net.core.rmem_max in which Cyclone DDS holds a 640x480 image
LEAST_DISK = 5 * 2**30


@dataclass(frozen=True)
class Machine:
    """
    What is installed and set.

    versions   package -> version, of those that are installed
    cv_bridge  whether a cv_bridge can be imported
    system_ros rclpy is that of /opt/ros (compiled by Debian's rules), not of wheels
    driver     NVIDIA's driver, '' where there is none; cuda: what torch is built for, '' = CPU
    """

    distribution: str = ''
    middleware: str = ''
    versions: Mapping[str, str] = field(default_factory=dict)
    cv_bridge: bool = False
    system_ros: bool = False
    rmw_library: bool = True
    receive_buffer: int = 2**31
    driver: str = ''
    cuda: str = ''
    disk_free: int = 2**40

    def major(self, package: str) -> int:
        """Return a package's major version; 0 when it is not installed."""
        head = self.versions.get(package, '0').partition('.')[0]
        return int(head) if head.isdigit() else 0


def this_machine() -> Machine:
    """Look at the machine this runs on."""
    middleware = os.environ.get('RMW_IMPLEMENTATION', '')
    spec = find_spec('rclpy')
    origin = str(spec.origin) if spec is not None else ''
    return Machine(
        distribution=os.environ.get('ROS_DISTRO', ''),
        middleware=middleware,
        versions=_versions(),
        cv_bridge=find_spec('cv_bridge') is not None,
        system_ros=origin.startswith('/opt/ros/'),
        rmw_library=not middleware or not origin or _library_of(middleware),
        receive_buffer=_number('/proc/sys/net/core/rmem_max', 2**31),
        driver=_driver(),
        cuda=_cuda(),
        disk_free=shutil.disk_usage(Path.cwd()).free,
    )


def numpy_and_ros(machine: Machine) -> Iterator[Problem]:
    """Check numpy 2 against a ROS that was compiled against numpy 1."""
    numpy = machine.versions.get('numpy', '')
    if machine.major('numpy') < 2:
        return
    if machine.system_ros and machine.distribution in BEFORE_NUMPY_2:
        yield Problem(
            REFUSE,
            f'numpy {numpy} under {machine.distribution} of /opt/ros, which is compiled against '
            'numpy 1',
        )
    elif machine.cv_bridge and machine.distribution in BEFORE_NUMPY_2:
        yield Problem(
            WARN, f'numpy {numpy} with cv_bridge of {machine.distribution}: its import may crash'
        )


def opencv(machine: Machine) -> Iterator[Problem]:
    """Check OpenCV 5 beside cv_bridge."""
    for package in ('opencv-python-headless', 'opencv-python'):
        if machine.major(package) >= 5:
            yield Problem(WARN, f'{package} {machine.versions[package]} breaks cv_bridge')


def distribution(machine: Machine) -> Iterator[Problem]:
    """Check the ROS distribution, and wheels of two of them in one environment."""
    if machine.distribution and machine.distribution not in TESTED:
        text = f'{machine.distribution} is not one of {", ".join(TESTED)}'
        yield Problem(WARN, text)
    rclpy, messages = machine.versions.get('ros-rclpy'), machine.versions.get('ros-std-msgs')
    if rclpy and messages:
        wanted = WHEELS.get(rclpy.partition('.')[0])
        if wanted and not messages.startswith(wanted + '.'):
            text = f'wheels of two distributions: ros-rclpy {rclpy}, ros-std-msgs {messages}'
            remedy = f'install ros-std-msgs {wanted}.* and the like in a new environment'
            yield Problem(REFUSE, text, remedy)


def middleware(machine: Machine) -> Iterator[Problem]:
    """Check that the middleware exists, and what it needs for images."""
    name = machine.middleware
    if not name:
        return
    if name not in MIDDLEWARES:
        yield Problem(REFUSE, f'RMW_IMPLEMENTATION={name}: unknown')
    elif not machine.rmw_library:
        yield Problem(REFUSE, f'RMW_IMPLEMENTATION={name}: not installed')
    if name == 'rmw_cyclonedds_cpp' and machine.receive_buffer < LEAST_RECEIVE:
        text = f'{name}: net.core.rmem_max is {machine.receive_buffer}: images are lost'
        yield Problem(WARN, text, 'sudo sysctl -w net.core.rmem_max=10485760')
    if name == 'rmw_zenoh_cpp':
        text = f'{name}: nodes find each other only while its router runs'
        yield Problem(WARN, text, 'ros2 run rmw_zenoh_cpp rmw_zenohd')


def cuda(machine: Machine) -> Iterator[Problem]:
    """Check torch's CUDA against the driver."""
    if not machine.driver or 'torch' not in machine.versions:
        return
    if not machine.cuda:
        text = f'driver {machine.driver}, but torch {machine.versions["torch"]} is a CPU build'
        yield Problem(WARN, text, 'install a CUDA build of torch: pytorch.org/get-started')
        return
    least = DRIVERS.get(machine.cuda.partition('.')[0], 0)
    head = machine.driver.partition('.')[0]
    if head.isdigit() and int(head) < least:
        text = f'torch is built for CUDA {machine.cuda}, driver {machine.driver} is older than'
        yield Problem(REFUSE, f'{text} {least}')


def packages(machine: Machine) -> Iterator[Problem]:
    """Check packages that are too old."""
    for name, least, why in (
        ('transformers', 5, 'has no Qwen3.5'),
        ('websockets', 15, 'does not ping the model process'),
    ):
        if name in machine.versions and machine.major(name) < least:
            text = f'{name} {machine.versions[name]} {why}'
            yield Problem(REFUSE, text, f"pip install '{name}>={least}'")


def disk(machine: Machine) -> Iterator[Problem]:
    """Check that bags and caches have room."""
    if machine.disk_free < LEAST_DISK:
        yield Problem(WARN, f'{machine.disk_free / 2**30:.1f} GB free here')


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _library_of(middleware: str) -> bool:
    """Tell whether the library of a middleware lies where a ROS keeps its libraries."""
    prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    places = [Path(prefix, 'lib') for prefix in prefixes if prefix]
    places += [Path(p) for p in os.environ.get('LD_LIBRARY_PATH', '').split(os.pathsep) if p]
    return any((place / f'lib{middleware}.so').exists() for place in places)


def _number(path: str, otherwise: int) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return otherwise


def _driver() -> str:
    """Return the version in '... Kernel Module  535.54.03  ...'."""
    try:
        words = Path('/proc/driver/nvidia/version').read_text().split()
    except OSError:
        return ''
    return next((w for w in words if w.count('.') and w.replace('.', '').isdigit()), '')


def _cuda() -> str:
    """Return what torch was built for, from its version file; torch is not imported."""
    spec = find_spec('torch')
    if spec is None or not spec.submodule_search_locations:
        return ''
    try:
        text = Path(spec.submodule_search_locations[0], 'version.py').read_text()
    except OSError:
        return ''
    line = next((line for line in text.splitlines() if line.startswith('cuda')), '')
    return line.rpartition('=')[2].strip().strip('\'"').replace('None', '')
