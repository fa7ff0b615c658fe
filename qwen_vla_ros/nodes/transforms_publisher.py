"""
/tf of the simulated robot, where tf2_msgs is installed (it is part of every ROS, not of PyPI).

Frames: the arm's moving links, its tip and the cameras' optical frames, all relative to base_link.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node

from qwen_vla_ros.nodes.qos import STREAM
from qwen_vla_ros.sim.world import TabletopWorld, mujoco

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

BASE, TIP = 'base_link', 'ee_gripper_link'


def transforms_publisher(
    node: Node, embodiment: 'Embodiment'
) -> Callable[[int, TabletopWorld], None] | None:
    """Return what publishes the frames of an instant; None without tf2_msgs, which is logged."""
    try:
        message_class = import_module('tf2_msgs.msg').TFMessage
    except ImportError:
        node.get_logger().info(
            'no /tf: tf2_msgs is not installed (apt install ros-$ROS_DISTRO-tf2-msgs)'
        )
        return None
    publisher = node.create_publisher(message_class, '/tf', STREAM)
    frames = {camera.view: camera.frame_id for camera in embodiment.cameras}

    def publish(stamp_ns: int, world: TabletopWorld) -> None:
        stamped = [
            _transform(stamp_ns, name, position, quaternion)
            for name, position, quaternion in _frames(world, frames)
        ]
        publisher.publish(message_class(transforms=stamped))

    return publish


def _frames(
    world: TabletopWorld, cameras: dict[str, str]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, position [3] and quaternion [w, x, y, z] of every frame; cameras by view."""
    return [*_links(world), _tip(world), *_cameras(world, cameras)]


def _links(world: TabletopWorld) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, position [3] and quaternion [w, x, y, z] of every link after base_link."""
    base = world.model.body(BASE).id
    links = np.flatnonzero(world.model.body_rootid == base)
    return [
        (world.model.body(link).name, world.data.xpos[link], world.data.xquat[link])
        for link in links
        if link != base
    ]


def _tip(world: TabletopWorld) -> tuple[str, np.ndarray, np.ndarray]:
    return TIP, world.tip_position(), _quaternion(world.data.site('tip').xmat)


def _cameras(
    world: TabletopWorld, frames: dict[str, str]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, position [3] and quaternion [w, x, y, z] of the optical frames."""
    found = []
    for view, frame_id in frames.items():
        info = world.camera_info(view)
        found.append((frame_id, info.position, _quaternion(info.rotation)))
    return found


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return [w, x, y, z] of a rotation of 9 numbers, row by row."""
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.flatten())
    return quaternion


def _transform(stamp_ns: int, name: str, position: Any, quaternion: Any) -> TransformStamped:
    message = TransformStamped(child_frame_id=name)
    message.header.frame_id = BASE
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    place, turn = message.transform.translation, message.transform.rotation
    place.x, place.y, place.z = (float(value) for value in position)
    turn.w, turn.x, turn.y, turn.z = (float(value) for value in quaternion)
    return message
