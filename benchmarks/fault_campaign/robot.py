"""
The simulated robot with streams that can be broken while it runs, and a record of its motion.

`spoil(stream, fault)` changes what is published: see FAULTS. The physics never hear of it. Every
tick of 10 ms and every command is kept with the monotonic clock's time. A shift of the clock moves
/clock and all stamps, while the robot's own time goes on.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sensor_msgs.msg import Image, JointState

from qwen_vla_ros.nodes.qos import SENSOR
from qwen_vla_ros.nodes.robot_sim_node import SECOND_NS, RobotSimNode
from qwen_vla_ros.sim.arm import ARM_JOINTS, GRIPPER_JOINTS

DELAY_S = 0.4
STREAMS = {
    'scene': 'camera/scene/image_raw',
    'wrist': 'camera/wrist/image_raw',
    'joints': 'joint_states',
}
VIEWS = {'ego': 'scene', 'cam_right_wrist': 'wrist'}


class Tick(NamedTuple):
    """
    One instant of the physics: joints float64 [7], and the commanded ones.

    at is the monotonic time in s at which it was seen, robot_s the robot's own time of it.
    """

    at: float
    robot_s: float
    position: np.ndarray
    velocity: np.ndarray
    wanted: np.ndarray
    wanted_velocity: np.ndarray


@dataclass(frozen=True)
class Command:
    """
    A command as it arrived: points of joints, and why it was rejected ('' when it was not).

    positions float64 [P, J] in rad or m; velocities the same, None where the form has none.
    """

    at: float
    topic: str
    names: tuple[str, ...]
    positions: np.ndarray
    velocities: np.ndarray | None
    rejected: str


def understood(topic: str, message: Any) -> tuple[tuple[str, ...], np.ndarray, np.ndarray | None]:
    """Return names, positions and velocities of any driver's command."""
    if hasattr(message, 'points'):
        positions = np.array([point.positions for point in message.points], np.float64)
        velocities = np.array([point.velocities for point in message.points], np.float64)
        return tuple(message.joint_names), positions, velocities
    values = message.data if hasattr(message, 'data') else np.atleast_1d(message.cmd)
    row = np.array([values], np.float64)
    if topic.endswith('joint_single'):  # the distance between the fingers
        return GRIPPER_JOINTS, row / 2.0, None
    return GRIPPER_JOINTS if topic.startswith('gripper') else ARM_JOINTS, row, None


class Stream:
    """A publisher that can be told to misbehave."""

    def __init__(self, make: Callable[[], Any], destroy: Callable[[Any], None]) -> None:
        """Create it; destroy() and make() again are a restart of the driver."""
        self._make, self._destroy = make, destroy
        self._publisher = make()
        self.fault = ''
        self._waiting: deque[tuple[float, Any]] = deque()
        self._frozen: tuple[int, int] | None = None

    def become(self, fault: str) -> None:
        """Misbehave from now on; '' mends it."""
        gone = self._publisher is None
        self.fault, self._frozen = fault, None
        self._waiting.clear()
        if fault == 'restarted':
            self._destroy(self._publisher)
            self._publisher = None
        elif gone:
            self._publisher = self._make()

    def publish(self, message: Any) -> None:
        """Publish a message, or what the fault makes of it."""
        fault = self.fault
        if fault:
            FAULTS[fault](self, message)
        else:
            self.send(message)

    def send(self, message: Any) -> None:
        """Publish a message as it is."""
        publisher = self._publisher
        if publisher is not None:
            publisher.publish(message)

    def later(self, message: Any) -> None:
        """Publish everything DELAY_S late."""
        now = time.monotonic()
        self._waiting.append((now + DELAY_S, message))
        while self._waiting and self._waiting[0][0] <= now:
            self.send(self._waiting.popleft()[1])

    def swapped(self, message: Any) -> None:
        """Publish the second of two messages first."""
        if self._waiting:
            self.send(message)
            self.send(self._waiting.popleft()[1])
        else:
            self._waiting.append((0.0, message))

    def twice(self, message: Any) -> None:
        """Publish the same message twice."""
        self.send(message)
        self.send(message)

    def frozen(self, message: Any) -> None:
        """Repeat the first stamp for ever, as a driver that hangs."""
        stamp = message.header.stamp
        self._frozen = self._frozen or (stamp.sec, stamp.nanosec)
        stamp.sec, stamp.nanosec = self._frozen
        self.send(message)


def _stamped(shift_ns: int | None) -> Callable[[Stream, Any], None]:
    """Return what moves a stamp (None: zero)."""

    def spoil(stream: Stream, message: Any) -> None:
        stamp = message.header.stamp
        time_ns = stamp.sec * SECOND_NS + stamp.nanosec
        after = 0 if shift_ns is None else time_ns + shift_ns
        stamp.sec, stamp.nanosec = divmod(after, SECOND_NS)
        stream.send(message)

    return spoil


def _corrupted(stream: Stream, message: Any) -> None:
    """Cut what belongs together apart."""
    if isinstance(message, JointState):
        message.position = message.position[:4]
    else:
        message.data = message.data[: len(message.data) // 2]
    stream.send(message)


def _renamed(stream: Stream, message: Any) -> None:
    """Bring another robot's joints, or another camera's pictures."""
    if isinstance(message, JointState):
        message.name = [f'other_{name}' for name in message.name]
    else:
        message.encoding = 'mono8'
    stream.send(message)


def _with_elbow(value: float) -> Callable[[Stream, Any], None]:
    def spoil(stream: Stream, message: Any) -> None:
        message.position[2] = value
        stream.send(message)

    return spoil


FAULTS: dict[str, Callable[[Stream, Any], None]] = {
    'lost': lambda stream, message: None,
    'restarted': lambda stream, message: None,
    'delayed': Stream.later,
    'duplicated': Stream.twice,
    'reordered': Stream.swapped,
    'frozen': Stream.frozen,
    'corrupted': _corrupted,
    'renamed': _renamed,
    'from the future': _stamped(SECOND_NS),
    'unstamped': _stamped(None),
    'NaN': _with_elbow(float('nan')),
    'infinite': _with_elbow(float('inf')),
    'a wild elbow': _with_elbow(1.4),
}


class FaultyRobot(RobotSimNode):
    """RobotSimNode whose streams and clock can be broken, and that remembers."""

    def __init__(self, **options: Any) -> None:
        """Build the world; records are kept from the first tick on."""
        self.ticks: deque[Tick] = deque(maxlen=12000)
        self.commands: deque[Command] = deque(maxlen=4000)
        self.shift_ns, self.clock_stands, self.muted = 0, False, False
        super().__init__(**options)

    def _create_publishers(self) -> None:
        super()._create_publishers()
        self.streams = {'joints': self._stream(self._joint_states[0], JointState, 'joints')}
        self._joint_states[0] = self.streams['joints']
        for view, (images, infos, frame_id) in list(self._cameras.items()):
            stream = self._stream(images, Image, VIEWS[view])
            self.streams[VIEWS[view]] = stream
            self._cameras[view] = stream, infos, frame_id
        if self._clock_publisher is not None:
            clock = self._clock_publisher
            self._clock_publisher = _Stopped(clock, lambda: self.clock_stands)

    def _stream(self, plain: Any, kind: type, name: str) -> Stream:
        self.destroy_publisher(plain)
        make = partial(self.create_publisher, kind, STREAMS[name], SENSOR)
        return Stream(make, self.destroy_publisher)

    def on_tick(self, stamp_ns: int, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Keep the instant, then publish it with the shifted time."""
        sampled = [controller.sample(stamp_ns) for controller in self._robot.controllers]
        wanted = [np.concatenate(pair) for pair in zip(*sampled, strict=True)]
        seen = time.monotonic(), stamp_ns * 1e-9
        self.ticks.append(Tick(*seen, positions.copy(), velocities.copy(), *wanted))
        super().on_tick(stamp_ns + self.shift_ns, positions, velocities)

    def on_image(self, view: str, stamp_ns: int, image: np.ndarray, info: Any) -> None:
        """Publish a picture with the shifted time."""
        super().on_image(view, stamp_ns + self.shift_ns, image, info)

    def stamp_ns(self, message: Any) -> int:
        """Return a stamp on the robot's own clock."""
        return super().stamp_ns(message) - self.shift_ns

    def on_command(self, topic: str, message: Any, reason: str | None) -> None:
        """Keep every command."""
        told = understood(topic, message)
        self.commands.append(Command(time.monotonic(), topic, *told, reason or ''))


class _Stopped:
    """A publisher that is silent while it is told to be."""

    def __init__(self, publisher: Any, silent: Callable[[], bool]) -> None:
        self._publisher, self._silent = publisher, silent

    def publish(self, message: Any) -> None:
        """Publish, unless silent."""
        if not self._silent():
            self._publisher.publish(message)
