"""
sensor_msgs/Image and CompressedImage -> uint8 [h, w, 3] RGB, in two steps.

check_image() is cheap (headers only) and runs where a message arrives; decode_image() runs where
the picture is wanted. Messages are duck-typed: rclpy and rosbags objects alike. The raw encodings
stand in image_encodings.py; compressed ones are jpeg, png (8 or 16 bits, as image_transport makes
them) and the png of compressed_depth_image_transport.
"""

import struct
from typing import Any, NamedTuple

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.image_encodings import COLOUR, DEPTHS, ENCODINGS, GREY, KNOWN, pixels, to_rgb

JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND'
DEPTH_HEADER = struct.Struct('<iff')  # format, then the two parameters of quantised 32FC1


class InputError(QwenVlaError):
    """A message that cannot be used; says topic, what is wrong with it, and the remedy."""


class _File(NamedTuple):
    """What the first bytes of a compressed picture say; channels 1 is grey."""

    kind: str
    width: int
    height: int
    channels: int


def check_image(message: Any, topic: str, encoding: str, width: int, height: int) -> None:
    """
    Refuse an image that is not what the contract says: InputError names the difference.

    encoding is the contract's. Encodings of one family (colour, grey, depth) may replace one
    another, as each message says its own; grey instead of colour (or the reverse) is refused,
    since a policy would see another world than it was trained on.
    """
    if hasattr(message, 'encoding'):
        name = message.encoding
        _check_family(name, topic, encoding)
        _check_buffer(message, topic)
        found = (message.width, message.height)
    elif hasattr(message, 'format'):
        found = _check_compressed(message, topic, encoding)
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


def decode_image(
    message: Any, topic: str, depth_m: tuple[float, float] | None = None
) -> np.ndarray:
    """
    Return uint8 [h, w, 3] RGB of a checked message; may share its memory. InputError.

    depth_m = (near, far) in m is what a depth image needs: grey 1..255 lies between them.
    """
    if hasattr(message, 'format'):
        return _decode_compressed(message, topic, depth_m)
    rows = pixels(
        np.frombuffer(message.data, np.uint8),
        message.encoding,
        (message.height, message.width),
        message.step,
        bool(getattr(message, 'is_bigendian', 0)),
    )
    return to_rgb(rows, message.encoding, depth_m)


def _check_family(name: str, topic: str, contract: str) -> None:
    known = KNOWN.get(name)
    if known is None:
        raise InputError(
            f"topic {topic}: encoding '{name}' cannot be read; let the camera driver publish one "
            f'of {", ".join(ENCODINGS)}, or a CompressedImage (jpeg, png)'
        )
    if known.family != KNOWN[contract].family:
        raise InputError(
            f"topic {topic}: encoding '{name}', the contract says '{contract}'; switch the camera "
            'driver, or the encoding in the contract'
        )


def _check_buffer(message: Any, topic: str) -> None:
    known = KNOWN[message.encoding]
    row = message.width * known.channels * int(known.dtype[1])
    needed = message.step * (message.height - 1) + row
    if message.step < row or len(message.data) < needed:
        raise InputError(
            f'topic {topic}: {len(message.data)} bytes with a step of {message.step} are too '
            f'few for {message.width}x{message.height} {message.encoding}; the publisher is at '
            'fault or the message was cut'
        )


def _check_compressed(message: Any, topic: str, contract: str) -> tuple[int, int]:
    """Return (width, height) of a compressed picture of the contract's family."""
    file = _read_header(_payload(message), message.format, topic)
    source = _source_encoding(message.format)
    if source:
        _check_family(source, topic, contract)
        return file.width, file.height
    family = KNOWN[contract].family
    found = GREY if file.channels == 1 else COLOUR
    if found != family:
        raise InputError(
            f"topic {topic}: a {found} {file.kind}, the contract says '{contract}' ({family}); "
            'switch the camera driver, or the encoding in the contract'
        )
    return file.width, file.height


def _source_encoding(text: str) -> str:
    """Return what a format says of the picture before compression; '' when it says nothing."""
    before, found, _ = text.partition(';')
    return before.strip() if found else ''


def _payload(message: Any) -> np.ndarray:
    """Return the bytes of the picture's file, without the header of compressed depth."""
    data = np.frombuffer(message.data, np.uint8)
    return data[DEPTH_HEADER.size :] if 'compressedDepth' in message.format else data


def _read_header(payload: np.ndarray, told: str, topic: str) -> _File:
    """Return what the first bytes say; refuse cut files and other formats."""
    data = memoryview(payload).cast('B')
    tail = bytes(data[-64:])
    if data[:2] == JPEG_START:
        file, complete = _jpeg_header(data), JPEG_END in tail
    elif data[:8] == PNG_START:
        colour = len(data) > 25 and data[25] in (2, 3, 6)
        size = (int.from_bytes(data[at : at + 4], 'big') for at in (16, 20))
        file, complete = _File('png', *size, 3 if colour else 1), PNG_END in tail
    else:
        raise InputError(
            f"topic {topic}: compressed format '{told}' is neither jpeg nor png; set "
            'the image transport of the camera to jpeg or png'
        )
    if file is None or not complete:
        raise InputError(
            f'topic {topic}: the compressed picture of {len(data)} bytes is cut; the message was '
            'truncated on its way'
        )
    return file


def _jpeg_header(data: memoryview) -> _File | None:
    """Return what the frame header of a JPEG says, None when there is none."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[at + k : at + k + 2], 'big') for k in (5, 7))
            return _File('jpeg', width, height, data[at + 9])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return None


def _decode_compressed(
    message: Any, topic: str, depth_m: tuple[float, float] | None
) -> np.ndarray:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f'topic {topic}: compressed images need OpenCV; pip install "opencv-python-headless<5"'
        ) from error
    source = _source_encoding(message.format)
    raw = source in KNOWN and (KNOWN[source].channels == 1 or KNOWN[source].dtype != 'u1')
    picture = cv2.imdecode(_payload(message), cv2.IMREAD_UNCHANGED if raw else cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f'topic {topic}: the compressed image cannot be decoded; it is damaged')
    if picture.ndim == 2:
        return _decode_single(picture, source, message, topic, depth_m)
    if 'compressed rgb' not in message.format:
        picture = cv2.cvtColor(picture[:, :, :3], cv2.COLOR_BGR2RGB)
    return to_rgb(picture, 'rgb16' if picture.dtype == np.uint16 else 'rgb8', None)


def _decode_single(
    picture: np.ndarray,
    source: str,
    message: Any,
    topic: str,
    depth_m: tuple[float, float] | None,
) -> np.ndarray:
    """Return RGB of a picture of one channel: grey, depth, or a Bayer mosaic."""
    known = KNOWN[source]
    bits = 8 * picture.dtype.itemsize
    if known.family == DEPTHS:
        if bits != 16:
            raise InputError(
                f'topic {topic}: depth of {bits} bits; set the image transport to compressedDepth '
                'with png, or to raw'
            )
        if source == '32FC1':
            picture = _quantised_depth(picture, message, topic)
    elif known.family == GREY or bits != 8 * int(known.dtype[1]):
        source = f'mono{bits}'
    return to_rgb(picture, source, depth_m)


def _quantised_depth(picture: np.ndarray, message: Any, topic: str) -> np.ndarray:
    """Return float32 m of the inverse depths that compressed_depth_image_transport stores."""
    if 'compressedDepth' not in message.format:
        raise InputError(f'topic {topic}: a 32FC1 png without the header of compressedDepth')
    _, scale, offset = DEPTH_HEADER.unpack_from(np.frombuffer(message.data, np.uint8))
    inverse = picture.astype(np.float32) - np.float32(offset)
    metres = np.full(picture.shape, np.nan, np.float32)
    np.divide(np.float32(scale), inverse, out=metres, where=(picture > 0) & (inverse > 0))
    return metres
