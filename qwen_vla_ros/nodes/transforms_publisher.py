"""
/tf of the simulated robot, where tf2_msgs is installed (it is part of every ROS, not of PyPI).

Frames: the arms' moving links, their tips and the cameras' optical frames, all relative to the
world's frame (base_link of one arm, table of two).
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node

from qwen_vla_ros.nodes.qos import STREAM
from qwen_vla_ros.sim.aloha.world import AlohaWorld
from qwen_vla_ros.sim.world import TabletopWorld, mujoco

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

World = TabletopWorld | AlohaWorld


def transforms_publisher(
    node: Node, embodiment: 'Embodiment'
) -> Callable[[int, World], None] | None:
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

    def publish(stamp_ns: int, world: World) -> None:
        stamped = [
            _transform(stamp_ns, world.frame, name, position, quaternion)
            for name, position, quaternion in _frames(world, frames)
        ]
        publisher.publish(message_class(transforms=stamped))

    return publish


def _frames(world: World, cameras: dict[str, str]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, position [3] and quaternion [w, x, y, z] of every frame; cameras by view."""
    return [*_links(world), *_tips(world), *_cameras(world, cameras)]


def _links(world: World) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, position [3] and quaternion [w, x, y, z] of every link but the frame."""
    bases = [world.model.body(base).id for base in world.bases]
    links = np.flatnonzero(np.isin(world.model.body_rootid, bases))
    return [
        (world.model.body(link).name, world.data.xpos[link], world.data.xquat[link])
        for link in links
        if world.model.body(link).name != world.frame
    ]


def _tips(world: World) -> list[tuple[str, np.ndarray, np.ndarray]]:
    sites = ((name, world.data.site(site)) for name, site in world.tips.items())
    return [(name, site.xpos.copy(), _quaternion(site.xmat)) for name, site in sites]


def _cameras(world: World, frames: dict[str, str]) -> list[tuple[str, np.ndarray, np.ndarray]]:
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


def _transform(
    stamp_ns: int, frame: str, name: str, position: Any, quaternion: Any
) -> TransformStamped:
    message = TransformStamped(child_frame_id=name)
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    place, turn = message.transform.translation, message.transform.rotation
    place.x, place.y, place.z = (float(value) for value in position)
    turn.w, turn.x, turn.y, turn.z = (float(value) for value in quaternion)
    return message
