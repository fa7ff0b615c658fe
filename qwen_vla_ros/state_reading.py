"""
JointState and Odometry messages -> the row of numbers that a contract's source of state names.

A message that lacks a joint, names it twice or holds a number that is not finite is refused with
topic, joint and remedy; extra joints and any order of them are fine.
"""

from collections.abc import Callable, Sequence
from math import atan2, isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from qwen_vla_ros.image_decoding import InputError

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import StateSource

# The pose in header.frame_id, the velocities in child_frame_id; yaw is in (-pi, pi].
ODOMETRY_UNITS = {
    'x': 'm',
    'y': 'm',
    'yaw': 'rad',
    'linear_x': 'm/s',
    'linear_y': 'm/s',
    'angular_z': 'rad/s',
}


def state_reader(source: 'StateSource') -> Callable[[Any], tuple[float, ...]]:
    """Return what takes a source's row out of its messages; it raises InputError."""
    reader = OdometryReader if source.type == 'Odometry' else JointReader
    return reader(source).read


class JointReader:
    """Positions of sensor_msgs/JointState by name; the names' order is learned once."""

    def __init__(self, source: 'StateSource') -> None:
        """Read the fields of a source; joints are called by what follows the source's prefix."""
        self._topic = source.topic
        self._joints = [field.name.removeprefix(source.prefix) for field in source.fields]
        self._names: Sequence[str] = ()
        self._pick: Callable[[Sequence[float]], tuple[float, ...]] | None = None

    def read(self, message: Any) -> tuple[float, ...]:
        """Return the joints' positions in the contract's order, finite."""
        names = message.name
        if names != self._names or self._pick is None:
            self._pick, self._names = self._picker(list(names)), list(names)
        if len(message.position) != len(names):
            raise InputError(
                f'topic {self._topic}: {len(message.position)} positions for '
                f'{len(names)} joint names'
            )
        row = self._pick(message.position)
        return row if isfinite(sum(row)) else _finite(row, self._joints, 'joint', self._topic)

    def _picker(self, names: list[str]) -> Callable[[Sequence[float]], tuple[float, ...]]:
        """Return what takes the contract's joints out of a position list, in its own order."""
        for joint in self._joints:
            if joint not in names:
                raise InputError(
                    f"topic {self._topic}: joint '{joint}' is missing, the message has "
                    f'{", ".join(names) or "none"}; publish all joints of the contract in one '
                    'message, or mend the names in the contract'
                )
            if names.count(joint) > 1:
                raise InputError(f"topic {self._topic}: joint '{joint}' is named twice")
        indices = [names.index(joint) for joint in self._joints]
        if len(indices) == 1:
            return lambda values: (values[indices[0]],)
        return itemgetter(*indices)


class OdometryReader:
    """Pose and velocities of nav_msgs/Odometry, those components that the contract names."""

    def __init__(self, source: 'StateSource') -> None:
        """Read the fields of a source, keys of ODOMETRY_UNITS behind the source's prefix."""
        self._topic = source.topic
        self._names = [field.name.removeprefix(source.prefix) for field in source.fields]

    def read(self, message: Any) -> tuple[float, ...]:
        """Return the named components in the contract's order, finite."""
        pose, twist = message.pose.pose, message.twist.twist
        values = {
            'x': pose.position.x,
            'y': pose.position.y,
            'yaw': self._yaw(pose.orientation) if 'yaw' in self._names else 0.0,
            'linear_x': twist.linear.x,
            'linear_y': twist.linear.y,
            'angular_z': twist.angular.z,
        }
        row = tuple(values[name] for name in self._names)
        return row if isfinite(sum(row)) else _finite(row, self._names, 'odometry', self._topic)

    def _yaw(self, q: Any) -> float:
        norm = q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w
        if not abs(norm - 1.0) <= 0.02:
            raise InputError(
                f'topic {self._topic}: the orientation ({q.x:g}, {q.y:g}, {q.z:g}, {q.w:g}) is no '
                'unit quaternion; look at the driver of the base'
            )
        return atan2(2 * (q.w * q.z + q.x * q.y), norm - 2 * (q.y * q.y + q.z * q.z))


def angle_columns(source: 'StateSource') -> tuple[int, ...]:
    """Return which fields of a source turn over at +-pi."""
    if source.type != 'Odometry':
        return ()
    names = [field.name.removeprefix(source.prefix) for field in source.fields]
    return tuple(index for index, name in enumerate(names) if name == 'yaw')


def _finite(
    row: tuple[float, ...], names: Sequence[str], noun: str, topic: str
) -> tuple[float, ...]:
    """Refuse a row by the first number that is not finite (finite ones may overflow a sum)."""
    for name, value in zip(names, row, strict=True):
        if not isfinite(value):
            raise InputError(
                f'topic {topic}: {noun} {name} is {value}, not a finite number; look at its driver'
            )
    return row
