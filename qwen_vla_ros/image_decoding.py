"""
sensor_msgs/Image and CompressedImage -> uint8 [h, w, 3] RGB, in two steps.

check_image() is cheap (headers only) and runs where a message arrives; decode_image() runs where
the picture is wanted. Messages are duck-typed: rclpy and rosbags objects alike.
"""

from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

CHANNELS = {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'mono8': 1}
ORDER = {'rgb8': None, 'rgba8': [0, 1, 2], 'bgr8': [2, 1, 0], 'bgra8': [2, 1, 0]}
JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND'


class InputError(QwenVlaError):
    """A message that cannot be used; says topic, what is wrong with it, and the remedy."""


def check_image(message: Any, topic: str, encoding: str, width: int, height: int) -> None:
    """
    Refuse an image that is not what the contract says: InputError names the difference.

    encoding is the contract's. Colour encodings may replace one another, as each message says
    its own; grey instead of colour (or the reverse) is refused, since a policy would see another
    world than it was trained on.
    """
    if hasattr(message, 'encoding'):
        name = message.encoding
        found = (message.width, message.height)
        _check_encoding(name, topic, encoding)
        _check_buffer(message, topic)
    elif hasattr(message, 'format'):
        name, found = _compressed(message, topic)
        _check_encoding(name, topic, encoding)
    else:
        raise InputError(
            f'topic {topic}: a {type(message).__name__} is not an image; expected '
            'sensor_msgs/Image or sensor_msgs/CompressedImage'
        )
    if found != (width, height):
        raise InputError(
            f'topic {topic}: image is {found[0]}x{found[1]}, the contract says {width}x{height}; '
            'set the resolution of the camera driver, or width and height in the contract'
        )


def decode_image(message: Any, topic: str) -> np.ndarray:
    """Return uint8 [h, w, 3] RGB of a checked message; may share its memory. InputError."""
    if hasattr(message, 'format'):
        return _decode_compressed(message, topic)
    channels = CHANNELS[message.encoding]
    data = np.frombuffer(message.data, np.uint8)
    rows = np.lib.stride_tricks.as_strided(
        data, (message.height, message.width, channels), (message.step, channels, 1)
    )
    if channels == 1:
        return np.repeat(rows, 3, axis=2)
    order = ORDER[message.encoding]
    return rows if order is None else np.ascontiguousarray(rows[:, :, order])


def _check_encoding(name: str, topic: str, contract: str) -> None:
    if name not in CHANNELS and name not in ('jpeg', 'png'):
        raise InputError(
            f"topic {topic}: encoding '{name}' cannot be read; let the camera driver publish one "
            f'of {", ".join(CHANNELS)}, or a CompressedImage (jpeg, png)'
        )
    if (name == 'mono8') != (contract == 'mono8') and name not in ('jpeg', 'png'):
        raise InputError(
            f"topic {topic}: encoding '{name}', the contract says '{contract}'; switch the camera "
            'driver, or the encoding in the contract'
        )


def _check_buffer(message: Any, topic: str) -> None:
    row = message.width * CHANNELS[message.encoding]
    needed = message.step * (message.height - 1) + row
    if message.step < row or len(message.data) < needed:
        raise InputError(
            f'topic {topic}: {len(message.data)} bytes with a step of {message.step} are too '
            f'few for {message.width}x{message.height} {message.encoding}; the publisher is at '
            'fault or the message was cut'
        )


def _compressed(message: Any, topic: str) -> tuple[str, tuple[int, int]]:
    """Return kind and (width, height) from the first bytes; refuse cut files."""
    data = memoryview(np.frombuffer(message.data, np.uint8)).cast('B')
    if data[:2] == JPEG_START:
        kind, size = 'jpeg', _jpeg_size(data)
        complete = JPEG_END in bytes(data[-64:])
    elif data[:8] == PNG_START:
        kind, complete = 'png', PNG_END in bytes(data[-64:])
        size = (int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big'))
    else:
        raise InputError(
            f"topic {topic}: compressed format '{message.format}' is neither jpeg nor png; set "
            'the image transport of the camera to jpeg or png'
        )
    if size is None or not complete:
        raise InputError(
            f'topic {topic}: the {kind} of {len(data)} bytes is cut; the message was truncated '
            'on its way'
        )
    return kind, size


def _jpeg_size(data: memoryview) -> tuple[int, int] | None:
    """Return (width, height) from the frame header of a JPEG, None when there is none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[at + 5 : at + 7], 'big')
            return int.from_bytes(data[at + 7 : at + 9], 'big'), height
        at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return None


def _decode_compressed(message: Any, topic: str) -> np.ndarray:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f'topic {topic}: compressed images need OpenCV; pip install "opencv-python-headless<5"'
        ) from error
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f'topic {topic}: the compressed image cannot be decoded; it is damaged')
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
