"""A simulated camera's picture and its camera_info as messages."""

import array
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from qwen_vla_ros.sim import cameras

SECOND_NS = 1_000_000_000


def set_stamp(stamp: Any, time_ns: int) -> None:
    """Write an instant in ns into a builtin_interfaces/Time."""
    stamp.sec, stamp.nanosec = divmod(time_ns, SECOND_NS)


def image_message(stamp_ns: int, frame_id: str, image: np.ndarray) -> Image:
    """Return a picture uint8 [h, w, 3] RGB as rgb8."""
    height, width = image.shape[:2]
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = frame_id
    message.data = array.array('B', image.tobytes())  # any other type costs 70 ms
    return message


def camera_info_message(stamp_ns: int, frame_id: str, info: cameras.CameraInfo) -> CameraInfo:
    """Return a camera without distortion."""
    message = CameraInfo(height=info.height, width=info.width, distortion_model='plumb_bob')
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = frame_id
    message.d = [0.0] * 5
    message.k = info.matrix.ravel()
    message.r = np.eye(3).ravel()
    message.p = np.hstack([info.matrix, np.zeros((3, 1))]).ravel()
    return message
