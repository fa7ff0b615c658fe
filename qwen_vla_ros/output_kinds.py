"""
What an output is: rows of a policy -> messages, each with the instant at which it is sent.

A new output is one function under @output. It gets the rows of one group and the options of the
contract, checks every number, and returns a Plan; nothing of a plan is sent before all of it is
made. A group that has to stand still comes as rows at rest, through the same function.

    rows 'joints'   JointRows     positions and velocities, checked by the safety gate
         'tip'      TipRows       displacements of an arm's tip
         'base'     BaseRows      waypoints of a mobile base

Message classes are imported where a message is built, so this imports without ROS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

JOINTS, TIP, BASE = 'joints', 'tip', 'base'
STREAM, CHUNK = 'stream', 'chunk'
SECOND_NS = 1_000_000_000
# Packages whose messages have no wheel: where they come from.
ONLY_WITH_ROS = {
    'control_msgs': 'ros-$ROS_DISTRO-control-msgs',
    'nav2_msgs': 'ros-$ROS_DISTRO-nav2-msgs',
    'interbotix_xs_msgs': "Interbotix's interbotix_ros_core, built in your workspace",
}


class OutputUnavailable(QwenVlaError):
    """The package that defines an output's message is not installed, or nobody knows the type."""


class CommandRefused(QwenVlaError):
    """A command that must not be sent: not finite, of wrong shape, or not ordered in time."""


@dataclass(frozen=True)
class JointRows:
    """
    N points of J joints.

    names        J joint names
    times_s      [N] s after stamp_ns, not negative, rising
    positions    [N, J] rad or m
    velocities   [N, J] rad/s or m/s; None: not known
    stamp_ns     int ns of the node clock
    """

    names: Sequence[str]
    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None
    stamp_ns: int

    def __post_init__(self) -> None:
        """Refuse what no controller may get."""
        _checked('positions', self.positions, len(self.names))
        _checked_times(self.times_s, len(self.positions))
        if self.velocities is None:
            return
        _checked('velocities', self.velocities, len(self.names))
        if len(self.velocities) != len(self.positions):
            raise CommandRefused(
                f'command: {len(self.velocities)} velocities for {len(self.positions)} positions'
            )


@dataclass(frozen=True)
class TipRows:
    """
    N poses of a tip as displacements [N, 6] (dx dy dz in m, droll dpitch dyaw in rad).

    They are relative to one pose, along and about the axes of frame (see kinematics.py); times_s
    [N] after stamp_ns. What lies before now_ns is not commanded any more.
    """

    frame: str
    times_s: np.ndarray
    displacements: np.ndarray
    stamp_ns: int
    now_ns: int

    def __post_init__(self) -> None:
        """Refuse what no controller may get."""
        _checked('displacements', self.displacements, 6)
        _checked_times(self.times_s, len(self.displacements))


@dataclass(frozen=True)
class BaseRows:
    """
    N waypoints [N, 3] (dx, dy in m, dtheta in rad) of a base on the ground plane.

    frame      frame of pose, such as odom or map
    pose       (x, y, theta) of the base in frame at stamp_ns, the observation's instant
    waypoints  [N, 3], reached times_s [N] after stamp_ns; what they are relative to is the
               output's option `relative_to`
    speed      (vx, vy in m/s, wz in rad/s) that is commanded now
    """

    frame: str
    pose: tuple[float, float, float]
    times_s: np.ndarray
    waypoints: np.ndarray
    stamp_ns: int
    now_ns: int
    speed: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Refuse what no base may get."""
        _checked('waypoints', self.waypoints, 3)
        _checked_times(self.times_s, len(self.waypoints))
        for name, values in (('pose', self.pose), ('speed', self.speed)):
            if len(values) != 3 or not np.isfinite(values).all():
                raise CommandRefused(
                    f'command: {name} of the base {list(values)}: three finite numbers are wanted'
                )


Rows = JointRows | TipRows | BaseRows


@dataclass(frozen=True)
class Timed:
    """A message (or the goal of an action) and when it is sent; speed: what it asks of a base."""

    at_ns: int
    message: Any
    speed: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Plan:
    """
    What one output sends from now on, in order of time.

    cancel   the running goal of the action ends
    said     a word for the status, such as STOP
    """

    timed: tuple[Timed, ...]
    cancel: bool = False
    said: str = ''


@dataclass(frozen=True)
class Option:
    """
    A key that an output takes in the contract, beside type and topic.

    default None means that the key must be there. kind: number (low .. high), choice (known),
    flag, word or words.
    """

    kind: str
    default: Any = None
    low: float = 0.0
    high: float = 0.0
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutputKind:
    """One entry of OUTPUTS: a function and what is needed to call it."""

    name: str
    interface: str  # 'package/msg/Type' or 'package/action/Type'
    rows: str
    make: Callable[[Any, Mapping[str, Any]], Plan]
    options: Mapping[str, Option] = field(default_factory=dict)
    mode: str = STREAM

    @property
    def is_action(self) -> bool:
        """Return whether it is sent as goals of an action."""
        return '/action/' in self.interface

    def message_class(self) -> type:
        """Return the class of message or action; OutputUnavailable says what to install."""
        return message_class(self.interface)

    def filled(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options with defaults; OutputUnavailable for one that must be there."""
        found = {key: options.get(key, option.default) for key, option in self.options.items()}
        for key, value in found.items():
            if value is None:
                raise OutputUnavailable(f'output {self.name}: the option {key!r} is missing')
        return found

    def takes(self, options: Mapping[str, Any]) -> str:
        """Return 'stream' (the near future, at the command rate) or 'chunk' (all that is left)."""
        return self.filled(options).get('mode', self.mode)

    def plan(self, rows: Rows, options: Mapping[str, Any]) -> Plan:
        """Return what is sent for rows; CommandRefused when that must not be."""
        return self.make(rows, self.filled(options))


OUTPUTS: dict[str, OutputKind] = {}


def output(
    name: str,
    interface: str,
    rows: str,
    options: Mapping[str, Option] | None = None,
    mode: str = STREAM,
) -> Callable[[Callable[[Any, Mapping[str, Any]], Plan]], Callable[..., Plan]]:
    """Register a function (rows, options) -> Plan as an output that a contract may name."""

    def register(make: Callable[[Any, Mapping[str, Any]], Plan]) -> Callable[..., Plan]:
        OUTPUTS[name] = OutputKind(name, interface, rows, make, options or {}, mode)
        return make

    return register


def message_class(name: str) -> type:
    """Return the class of 'package/msg/Type' or 'package/action/Type'."""
    module, _, kind = name.rpartition('/')
    try:
        return getattr(import_module(module.replace('/', '.')), kind)
    except ImportError as error:
        package = name.partition('/')[0]
        if package in ONLY_WITH_ROS:
            remedy = f'install {ONLY_WITH_ROS[package]}'
        else:
            remedy = (
                f'with ROS: apt install ros-$ROS_DISTRO-{package.replace("_", "-")}, without: '
                'pip install "qwen_vla_ros[ros]"'
            )
        raise OutputUnavailable(f'the type {name} is not installed; {remedy}') from error


def set_stamp(stamp: Any, time_ns: int) -> None:
    """Write int ns into a builtin_interfaces/Time."""
    stamp.sec, stamp.nanosec = divmod(int(time_ns), SECOND_NS)


def grid(begin_ns: int, end_ns: int, rate_hz: float) -> list[int]:
    """
    Return the instants of a rate from begin to end, both int ns, and the end itself.

    They are multiples of the period on the clock: plans that overlap meet the same instants, so
    that a stream keeps its rate when a plan replaces another.
    """
    period = round(SECOND_NS / rate_hz)
    instants = list(range(-(-begin_ns // period) * period, end_ns, period))
    return [*instants, end_ns]


def _checked(what: str, values: np.ndarray, width: int) -> None:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] != width or not len(values):
        raise CommandRefused(
            f'command: {what} {list(values.shape)} for {width} channels; expected '
            f'[points >= 1, {width}]'
        )
    if not np.isfinite(values).all():
        point, column = np.argwhere(~np.isfinite(values))[0]
        raise CommandRefused(
            f'command: {what} of channel {column} in point {point} is {values[point, column]}, '
            'not a finite number'
        )


def _checked_times(times_s: np.ndarray, points: int) -> None:
    times = np.asarray(times_s, np.float64)
    if times.shape != (points,):
        raise CommandRefused(f'command: {times.size} times for {points} points')
    if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
        raise CommandRefused(
            f'command: times of points must rise from 0 s or later, got {times.tolist()}'
        )
