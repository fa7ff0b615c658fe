"""
What viz_node knows of frames: tf where tf2_msgs is installed, odometry, extrinsics, the URDF.

tf comes first; a link of the URDF or a frame of the parameter `extrinsics` counts where tf has
none. Links follow the joints that were measured nearest to the instant asked for. Where the
cameras of robot_sim hang is known (config/nodes/demo.yaml), as its scene is ours.
"""

from collections import deque
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rclpy.node import Node

from qwen_vla_ros.embodiment import config_folder
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.qos import STATIC, STREAM
from qwen_vla_ros.seeing.frames import (
    CLOCK_BACK_NS,
    FrameTree,
    extrinsics_of,
    planar_pose,
    pose_of_transform,
)
from qwen_vla_ros.seeing.links import RobotLinks

JOINTS_KEPT = 128
SIMULATOR = 'robot_sim'
Extrinsics = tuple[tuple[str, str, np.ndarray], ...]


def read_extrinsics(text: str) -> Extrinsics:
    """Return (parent, child, pose) of each part of 'parent child x y z qx qy qz qw; …'."""
    return tuple(extrinsics_of(part) for part in text.split(';') if part.strip())


def simulated_extrinsics() -> Extrinsics:
    """Return where the cameras of robot_sim hang; QwenVlaError where the file is not whole."""
    path: Path = config_folder() / 'nodes' / 'demo.yaml'
    try:
        told = yaml.safe_load(path.read_text(encoding='utf-8'))
        return read_extrinsics(told['/**/viz']['ros__parameters']['extrinsics'])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise QwenVlaError(f'{path}: no extrinsics of viz ({error!r})') from error


def tf_message() -> type | None:
    """Return tf2_msgs/TFMessage; None where tf2_msgs is not installed."""
    try:
        return import_module('tf2_msgs.msg').TFMessage
    except ImportError:
        return None


class SeenFrames:
    """The frames of one robot. Not thread-safe: its node has one thread."""

    def __init__(
        self, node: Node, links: RobotLinks | None, prefix: str, extrinsics: Extrinsics
    ) -> None:
        """Know extrinsics, and listen to tf, where it can."""
        self._node, self._links, self._prefix = node, links, prefix
        self._tree = FrameTree()
        self._joints: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=JOINTS_KEPT)
        for parent, child, pose in extrinsics:
            self._tree.put(parent, child, pose)
        self._subscriptions = self._listen()

    def close(self) -> None:
        """Hear nothing more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def suppose(self, extrinsics: Extrinsics) -> None:
        """Take extrinsics of the frames that nothing else has told of."""
        for parent, child, pose in extrinsics:
            if not self._tree.knows(child):
                self._tree.put(parent, child, pose)

    def take_joints(self, positions: Mapping[str, float], time_ns: int) -> None:
        """Remember measured joints by name."""
        if self._joints and time_ns < self._joints[-1][0] - CLOCK_BACK_NS:
            self._joints.clear()
        self._joints.append((time_ns, positions))

    def take_odometry(
        self, parent: str, child: str, pose: tuple[float, float, float], time_ns: int
    ) -> None:
        """Take where odometry has the base; child '': the URDF's root."""
        child = child or (self._prefix + self._links.root if self._links else 'base_link')
        self._tree.put(parent, child, planar_pose(*pose), time_ns)

    def pose(self, target: str, frame: str, time_ns: int) -> np.ndarray:
        """Return the pose [4, 4] of frame in target at an instant; FrameMissing names a gap."""
        return self._tree.pose(target, frame, time_ns)

    def place_links(self, time_ns: int) -> None:
        """Put the URDF's links where the joints nearest to an instant have them."""
        if self._links is None:
            return
        known = min(self._joints, key=lambda item: abs(item[0] - time_ns), default=None)
        positions = {} if known is None else known[1]
        root = self._prefix + self._links.root
        for link, pose in self._links.poses(positions).items():
            if link != self._links.root:
                self._tree.put(root, self._prefix + link, pose)

    def _listen(self) -> list[Any]:
        message_class = tf_message()
        if message_class is None:
            return []
        subscribe = self._node.create_subscription
        return [
            subscribe(message_class, '/tf', self._on_moving, STREAM),
            subscribe(message_class, '/tf_static', self._on_static, STATIC),
        ]

    def _on_moving(self, message: Any) -> None:
        for item in message.transforms:
            stamp = item.header.stamp
            self._put(item, stamp.sec * 1_000_000_000 + stamp.nanosec)

    def _on_static(self, message: Any) -> None:
        for item in message.transforms:
            self._put(item, None)

    def _put(self, item: Any, stamp_ns: int | None) -> None:
        try:
            pose = pose_of_transform(item.transform)
            self._tree.put(item.header.frame_id, item.child_frame_id, pose, stamp_ns)
        except QwenVlaError as error:
            self._node.get_logger().warning(
                f'tf {item.child_frame_id}: {error}', throttle_duration_sec=5.0
            )
