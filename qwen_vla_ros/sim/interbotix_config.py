"""
Interbotix' two files: motor_configs (which motors there are) and mode_configs (how they run).

Read as interbotix_xs_driver reads them (src/xs_driver.cpp, retrieve_motor_configs and
init_operating_modes, branch ros2). A motor counts 4096 ticks a turn, 2048 is 0 rad; a group or
motor that mode_configs does not name runs in mode position without a profile.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.motor_profile import TIME_BASED, VELOCITY_BASED, ProfileRegisters

POSITION, EXTENDED, CURRENT_POSITION = 'position', 'ext_position', 'current_based_position'
LINEAR, VELOCITY, CURRENT, PWM = 'linear_position', 'velocity', 'current', 'pwm'
GOAL_MODES = (POSITION, EXTENDED, CURRENT_POSITION, LINEAR)
MODES = (*GOAL_MODES, VELOCITY, CURRENT, PWM)
DEFAULT_RATE_HZ = 100  # xs_sdk_obj.cpp, robot_init_parameters


@dataclass(frozen=True)
class Motor:
    """A motor: its ID and the range of goals that it takes in mode position, rad."""

    name: str
    motor_id: int
    lower: float
    upper: float


@dataclass(frozen=True)
class Gripper:
    """The crank that moves the fingers: lengths in m, names of the fingers' joints."""

    horn_m: float
    rod_m: float
    left: str
    right: str

    def finger(self, angle: float) -> float:
        """Return the distance of a finger from the middle, m, at an angle of the motor, rad."""
        rise = self.horn_m * math.sin(angle)
        return rise + math.sqrt(self.rod_m**2 - self.horn_m**2 + rise**2)

    def angle(self, opening: float) -> float:
        """Return the angle, rad, for a distance between the fingers, m; nan out of reach."""
        half = opening / 2.0
        if not half:
            return math.nan
        cosine = (self.horn_m**2 + half**2 - self.rod_m**2) / (2.0 * self.horn_m * half)
        return math.pi / 2.0 - math.acos(cosine) if abs(cosine) <= 1.0 else math.nan


@dataclass(frozen=True)
class Mode:
    """How a group or a motor runs at first."""

    mode: str = POSITION
    profile: ProfileRegisters = field(default_factory=ProfileRegisters)
    torque: bool = True


@dataclass(frozen=True)
class MotorConfig:
    """The whole of motor_configs: joints in the order of joint_states, sleep in rad."""

    joints: tuple[str, ...]
    sleep: Mapping[str, float]
    groups: Mapping[str, tuple[str, ...]]
    grippers: Mapping[str, Gripper]
    motors: Mapping[str, Motor]
    rate_hz: int


def read_motor_config(path: Path) -> MotorConfig:
    """Read motor_configs; QwenVlaError with file and key for what the driver would not bear."""
    data = _read(path)
    try:
        joints = tuple(data['joint_order'])
        motors = {name: _motor(name, entry) for name, entry in data['motors'].items()}
        sleep = dict(zip(joints, map(float, data['sleep_positions']), strict=True))
        grippers = {name: _gripper(entry) for name, entry in (data.get('grippers') or {}).items()}
        groups = {name: tuple(names) for name, names in (data.get('groups') or {}).items()}
        rate = (data.get('joint_state_publisher') or {}).get('update_rate', DEFAULT_RATE_HZ)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise QwenVlaError(f'{path}: not a motor config of xs_sdk: {error!r}') from error
    for name in (*joints, *grippers, *(name for names in groups.values() for name in names)):
        if name not in motors:
            raise QwenVlaError(f'{path}: {name!r} is not among the motors {", ".join(motors)}')
    return MotorConfig(joints, sleep, {'all': joints, **groups}, grippers, motors, int(rate))


def read_modes(path: Path, config: MotorConfig) -> dict[str, dict[str, Mode]]:
    """Read mode_configs as {'groups': {name: Mode}, 'singles': {name: Mode}}."""
    data = _read(path)
    found: dict[str, dict[str, Mode]] = {}
    for kind, known in (('groups', config.groups), ('singles', config.motors)):
        found[kind] = {}
        for name, entry in (data.get(kind) or {}).items():
            if name not in known:
                raise QwenVlaError(f'{path}: {kind}: {name!r} is not one of {", ".join(known)}')
            found[kind][name] = _mode(f'{path}: {kind}: {name}', entry or {})
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise QwenVlaError(f'{path}: cannot be read: {error}') from error
    if not isinstance(data, dict):
        raise QwenVlaError(f'{path}: a mapping is expected')
    return data


def _motor(name: str, entry: Mapping[str, Any]) -> Motor:
    low, high = (
        (int(entry.get(key, default)) - 2048) * 2 * math.pi / 4096
        for key, default in (('Min_Position_Limit', 0), ('Max_Position_Limit', 4095))
    )
    return Motor(name, int(entry['ID']), low, high)


def _gripper(entry: Mapping[str, Any]) -> Gripper:
    return Gripper(
        float(entry.get('horn_radius', 0.014)),
        float(entry.get('arm_length', 0.024)),
        str(entry.get('left_finger', 'left_finger')),
        str(entry.get('right_finger', 'right_finger')),
    )


def _mode(place: str, entry: Mapping[str, Any]) -> Mode:
    mode, kind = entry.get('operating_mode', POSITION), entry.get('profile_type', VELOCITY_BASED)
    _one_of(f'{place}: operating_mode', mode, MODES)
    _one_of(f'{place}: profile_type', kind, (VELOCITY_BASED, TIME_BASED))
    values = []
    for key in ('profile_velocity', 'profile_acceleration'):
        value = entry.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise QwenVlaError(f'{place}: {key}: an integer from 0 on is expected, not {value!r}')
        values.append(value)
    return Mode(mode, ProfileRegisters(kind, *values), bool(entry.get('torque_enable', True)))


def _one_of(place: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise QwenVlaError(f'{place}: {value!r} is not one of {", ".join(known)}')
