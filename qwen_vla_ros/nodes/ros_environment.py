"""
The variables that a process with ROS needs before rclpy is loaded. No ROS import here.

Fast DDS as shipped loses 36-46 % of best-effort 640x480 images between processes: its shared
memory segment is smaller than one image. Our profile has 16 MB. Wheels of rclpy do not set
AMENT_PREFIX_PATH, and search their libraries in random order unless told the order.
"""

import os
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qwen_vla_ros.errors import QwenVlaError

# Kilted reads the first (and warns of the second), Jazzy and Humble the second.
PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
BOOTSTRAPPED = '_ROS_WHEELS_BOOTSTRAP_COMPLETE'


def ros_environment(domain_id: int | None = None) -> dict[str, str]:
    """
    Return a copy of this process' environment, completed for a child that uses ROS.

    Profiles that the user has chosen stay. With a domain_id (0..232) the child is alone with its
    like on this machine: discovery does not leave it.
    """
    environment = dict(os.environ)
    profile = dds_profile()
    if profile is not None and not any(name in environment for name in PROFILE_VARIABLES):
        environment[profile_variable()] = str(profile)
    if domain_id is not None:
        if not 0 <= domain_id <= 232:
            raise QwenVlaError(f'ROS domain {domain_id}: choose one from 0 to 232')
        environment['ROS_DOMAIN_ID'] = str(domain_id)
        environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    environment.setdefault('AMENT_PREFIX_PATH', sys.prefix)
    if 'HOME' not in environment:
        environment.setdefault('ROS_LOG_DIR', '/tmp/qwen_vla_ros_log')
    libraries = _wheel_libraries()
    if libraries:
        libraries = [*_overlay_libraries(environment['AMENT_PREFIX_PATH']), *libraries]
        environment['LD_LIBRARY_PATH'] = os.pathsep.join(libraries)
        environment[BOOTSTRAPPED] = '1'
    return environment


def profile_variable() -> str:
    """Return the variable in which this machine's Fast DDS looks for its profile."""
    return PROFILE_VARIABLES[_before_kilted()]


def dds_profile() -> Path | None:
    """Return config/dds/fastdds.xml of the source tree or of the installation."""
    own = Path('config', 'dds', 'fastdds.xml')
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    places = [Path(__file__).parents[2]]
    places += [Path(prefix, 'share', 'qwen_vla_ros') for prefix in prefixes if prefix]
    return next((place / own for place in places if (place / own).is_file()), None)


def _before_kilted() -> bool:
    """Tell the distribution by ROS_DISTRO, else by the version of rclpy's wheel."""
    distribution = os.environ.get('ROS_DISTRO')
    if distribution:
        return distribution in ('humble', 'iron', 'jazzy')
    try:
        return int(version('ros-rclpy').partition('.')[0]) < 9
    except PackageNotFoundError:
        return False


def _overlay_libraries(prefixes: str) -> list[str]:
    """Return the library folders of a workspace that was built on top of the wheels."""
    found = [Path(prefix, 'lib') for prefix in prefixes.split(os.pathsep) if prefix]
    return [str(path) for path in found if path.is_dir() and path.parent != Path(sys.prefix)]


def _wheel_libraries() -> list[str]:
    """Return the library folders of rclpy's wheels in a fixed order; empty for a ROS of apt."""
    libraries = Path(sys.prefix, 'lib')
    if not (libraries / 'librcl.so').exists():
        return []
    purelib = Path(sysconfig.get_path('purelib'))  # not an overlay's that comes first in sys.path
    return [str(libraries), *sorted(str(path) for path in purelib.glob('ros_*.libs'))]
