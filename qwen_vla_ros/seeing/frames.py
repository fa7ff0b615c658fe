"""
Where frames are: a small tree of poses from tf, odometry, the URDF and given extrinsics.

Poses are [4, 4], child in parent, m. A moving frame keeps its last poses, and the one nearest to
the instant asked for counts. What is not known, or too old, is told by name, never guessed.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

KEPT = 64  # poses a moving frame
NEAR_NS = 200_000_000
CLOCK_BACK_NS = 1_000_000_000  # further back in time: a clock that started anew


class FrameMissing(QwenVlaError):
    """A frame is not known, hangs on another tree, or is too old; the message names it."""


@dataclass(frozen=True)
class _Moving:
    parent: str
    poses: deque[tuple[int, np.ndarray]]


class FrameTree:
    """Frames by name. Not thread-safe."""

    def __init__(self) -> None:
        """Know nothing."""
        self._still: dict[str, tuple[str, np.ndarray]] = {}
        self._moving: dict[str, _Moving] = {}

    def put(self, parent: str, child: str, pose: np.ndarray, stamp_ns: int | None = None) -> None:
        """Take a pose [4, 4]; stamp_ns None: it holds always. Not finite: left out."""
        pose = np.asarray(pose, np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise FrameMissing(f'frame {child!r}: its pose in {parent!r} is not finite')
        if stamp_ns is None:
            self._still[child] = (parent, pose)
            return
        known = self._moving.get(child)
        back = known is not None and stamp_ns < known.poses[-1][0] - CLOCK_BACK_NS
        if known is None or known.parent != parent or back:
            known = self._moving[child] = _Moving(parent, deque(maxlen=KEPT))
        known.poses.append((stamp_ns, pose))

    def knows(self, frame: str) -> bool:
        """Return whether a frame has a parent or is one."""
        parents = {parent for parent, _ in self._still.values()}
        parents |= {moving.parent for moving in self._moving.values()}
        return frame in self._still or frame in self._moving or frame in parents

    def pose(self, target: str, frame: str, stamp_ns: int) -> np.ndarray:
        """Return the pose [4, 4] of frame in target at an instant; FrameMissing names a gap."""
        there, here = self._way_up(target, stamp_ns), self._way_up(frame, stamp_ns)
        meeting = next((name for name in here if name in there), None)
        if meeting is None:
            lost = [n for n in (frame, target) if not self.knows(n)]
            if lost:
                raise FrameMissing(
                    f'frame {lost[0]!r} is not known to tf, the URDF or the parameter extrinsics; '
                    "give -p extrinsics:='parent child x y z qx qy qz qw'; for robot_sim: "
                    '--params-file config/nodes/demo.yaml'
                )
            top, other = list(here)[-1], list(there)[-1]
            raise FrameMissing(
                f'frames {frame!r} and {target!r} are not connected: {top!r} has no parent that '
                f'leads to {other!r} (tf, URDF, extrinsics)'
            )
        return np.linalg.inv(there[meeting]) @ here[meeting]

    def _way_up(self, frame: str, stamp_ns: int) -> dict[str, np.ndarray]:
        """Return each frame above one, and where that one is in it."""
        pose, found = np.eye(4), {frame: np.eye(4)}
        while True:
            step = self._step(frame, stamp_ns)
            if step is None or step[0] in found:
                return found
            frame, pose = step[0], step[1] @ pose
            found[frame] = pose

    def _step(self, frame: str, stamp_ns: int) -> tuple[str, np.ndarray] | None:
        moving = self._moving.get(frame)
        if moving is None:
            return self._still.get(frame)
        at_ns, pose = min(moving.poses, key=lambda item: abs(item[0] - stamp_ns))
        if abs(at_ns - stamp_ns) > NEAR_NS:
            raise FrameMissing(
                f'frame {frame!r} is known for another instant only, '
                f'{abs(at_ns - stamp_ns) * 1e-9:.2f} s away; is its publisher alive?'
            )
        return moving.parent, pose


def pose_of(place: Sequence[float], quaternion: Sequence[float]) -> np.ndarray:
    """Return the pose [4, 4] of a place [3] in m and a unit quaternion (x, y, z, w)."""
    x, y, z, w = (float(value) for value in quaternion)
    norm = x * x + y * y + z * z + w * w
    if not abs(norm - 1.0) <= 0.02:
        raise FrameMissing(f'({x:g}, {y:g}, {z:g}, {w:g}) is no unit quaternion')
    x, y, z, w = (value / np.sqrt(norm) for value in (x, y, z, w))
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = place
    return pose


def pose_of_transform(message: Any) -> np.ndarray:
    """Return the pose [4, 4] of a geometry_msgs/Transform."""
    place, turn = message.translation, message.rotation
    return pose_of((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))


def planar_pose(x: float, y: float, yaw: float) -> np.ndarray:
    """Return the pose [4, 4] of a base on the ground: m, m, rad."""
    return pose_of((x, y, 0.0), (0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)))


def extrinsics_of(text: str) -> tuple[str, str, np.ndarray]:
    """
    Return (parent, child, pose) of 'parent child x y z qx qy qz qw', in m.

    These are the arguments of tf2_ros' static_transform_publisher, in one line.
    """
    words = text.split()
    try:
        numbers = [float(word) for word in words[2:]]
    except ValueError:
        numbers = []
    if len(numbers) != 7:
        raise FrameMissing(
            f"extrinsics: {text!r}: expected 'parent child x y z qx qy qz qw' (m, quaternion)"
        )
    return words[0], words[1], pose_of(numbers[:3], numbers[3:])
