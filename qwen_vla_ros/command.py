"""
Rows -> ROS commands. Everything is checked before a message exists: nothing half-valid goes out.

Message classes are imported where a message is built, so this file imports without ROS. OUTPUTS
says, for each output type a contract may name, how its messages are made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

HOLD_S = 0.1


class OutputUnavailable(QwenVlaError):
    """The package that defines an output's message is not installed, or nobody knows the type."""


class CommandRefused(QwenVlaError):
    """A command that must not be sent: not finite, of wrong shape, or not ordered in time."""


@dataclass(frozen=True)
class Output:
    """
    How one output type is commanded.

    message    full name of its message, 'package/msg/Type'
    package    what to install when it is absent
    command    (names, times_s [N], positions [N, J], velocities [N, J], stamp_ns) -> message
    hold       (names, position [J], stamp_ns) -> message that stands still there
    """

    message: str
    package: str
    command: Callable[..., Any]
    hold: Callable[..., Any]

    def message_class(self) -> type:
        """Return the class of the message; OutputUnavailable names the package to install."""
        return _message_class(self.message, self.package)


def output_of(kind: str) -> Output:
    """Return the output of a contract's output type."""
    if kind not in OUTPUTS:
        raise OutputUnavailable(
            f"output type '{kind}' is unknown; this version commands {', '.join(OUTPUTS)}"
        )
    return OUTPUTS[kind]


def joint_trajectory(
    names: Sequence[str],
    times_s: np.ndarray,
    positions: np.ndarray,
    velocities: np.ndarray | None,
    stamp_ns: int,
) -> Any:
    """
    Return a trajectory_msgs/JointTrajectory through N timed points.

    names        J joint names
    times_s      [N] s after the stamp, not negative, rising
    positions    [N, J] rad or m
    velocities   [N, J] rad/s or m/s; None leaves them out (linear interpolation). The last one
                 is sent as zero, since controllers from Jazzy on refuse a trajectory that ends
                 in motion.
    stamp_ns     header stamp in ns of the node clock; 0 means on receipt

    Raises CommandRefused for numbers that no controller may get.
    """
    positions = _checked('positions', positions, len(names))
    times_s = np.asarray(times_s, np.float64)
    if times_s.shape != (len(positions),):
        raise CommandRefused(f'command: {times_s.size} times for {len(positions)} points')
    if not np.isfinite(times_s).all() or times_s[0] < 0 or (np.diff(times_s) <= 0).any():
        raise CommandRefused(
            f'command: times of points must rise from 0 s or later, got {times_s.tolist()}'
        )
    if velocities is not None:
        velocities = _checked('velocities', velocities, len(names)).copy()
        if len(velocities) != len(positions):
            raise CommandRefused(
                f'command: {len(velocities)} velocities for {len(positions)} positions'
            )
        velocities[-1] = 0.0
    message = _message_class('trajectory_msgs/msg/JointTrajectory', TRAJECTORY_PACKAGE)()
    point_class = _message_class('trajectory_msgs/msg/JointTrajectoryPoint', TRAJECTORY_PACKAGE)
    _stamp(message.header.stamp, stamp_ns)
    message.joint_names = list(names)
    for index, time_s in enumerate(times_s):
        point = point_class()
        point.positions = positions[index].tolist()
        if velocities is not None:
            point.velocities = velocities[index].tolist()
        nanoseconds = round(float(time_s) * 1e9)
        point.time_from_start.sec = nanoseconds // 1_000_000_000
        point.time_from_start.nanosec = nanoseconds % 1_000_000_000
        message.points.append(point)
    return message


def hold_trajectory(
    names: Sequence[str], position: np.ndarray, stamp_ns: int, time_s: float = HOLD_S
) -> Any:
    """Return a JointTrajectory of one point at rest, reached time_s after the stamp."""
    position = np.asarray(position, np.float64)[None]
    return joint_trajectory(names, np.array([time_s]), position, np.zeros_like(position), stamp_ns)


def _checked(what: str, values: np.ndarray, joints: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] != joints or not len(values):
        raise CommandRefused(
            f'command: {what} {list(values.shape)} for {joints} joints; expected '
            f'[points >= 1, {joints}]'
        )
    if not np.isfinite(values).all():
        point, joint = np.argwhere(~np.isfinite(values))[0]
        raise CommandRefused(
            f'command: {what} of joint {joint} in point {point} is {values[point, joint]}, '
            'not a finite number'
        )
    return values


def _stamp(stamp: Any, time_ns: int) -> None:
    stamp.sec, stamp.nanosec = divmod(int(time_ns), 1_000_000_000)


def _message_class(name: str, package: str) -> type:
    module, _, kind = name.rpartition('/')
    try:
        return getattr(import_module(module.replace('/', '.')), kind)
    except ImportError as error:
        raise OutputUnavailable(f'the message {name} is not installed; {package}') from error


TRAJECTORY_PACKAGE = (
    'with ROS: apt install ros-$ROS_DISTRO-trajectory-msgs, without: pip install '
    '"qwen_vla_ros[ros]"'
)

OUTPUTS: dict[str, Output] = {
    'JointTrajectory': Output(
        'trajectory_msgs/msg/JointTrajectory',
        TRAJECTORY_PACKAGE,
        joint_trajectory,
        hold_trajectory,
    ),
}
