"""
The pixel encodings of sensor_msgs/Image that are understood, and uint8 RGB out of each.

Values are cv_bridge's: its Bayer and YUV names, 16 bits scaled to 8 by 255/65535. Depth has no
colours: a contract's depth_m = (near, far) maps distances onto grey 1..255; grey 0 is "not
measured" and never a distance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

COLOUR, GREY, DEPTHS = 'colour', 'grey', 'depth'


@dataclass(frozen=True)
class Encoding:
    """Family, channels in memory, numpy type, and the name of cv2's conversion to RGB."""

    family: str
    channels: int
    dtype: str = 'u1'
    conversion: str = ''


# The corner that names a Bayer pattern is shifted by one pixel between ROS and OpenCV.
_BAYER = {'rggb': 'BayerBG', 'bggr': 'BayerRG', 'gbrg': 'BayerGR', 'grbg': 'BayerGB'}
KNOWN = {
    'rgb8': Encoding(COLOUR, 3),
    'bgr8': Encoding(COLOUR, 3, conversion='BGR'),
    'rgba8': Encoding(COLOUR, 4, conversion='RGBA'),
    'bgra8': Encoding(COLOUR, 4, conversion='BGRA'),
    'rgb16': Encoding(COLOUR, 3, 'u2'),
    'bgr16': Encoding(COLOUR, 3, 'u2', 'BGR'),
    'rgba16': Encoding(COLOUR, 4, 'u2', 'RGBA'),
    'bgra16': Encoding(COLOUR, 4, 'u2', 'BGRA'),
    **{
        f'bayer_{name}{8 * size}': Encoding(COLOUR, 1, f'u{size}', code)
        for size in (1, 2)
        for name, code in _BAYER.items()
    },
    **dict.fromkeys(('yuv422', 'uyvy'), Encoding(COLOUR, 2, conversion='YUV_UYVY')),
    **dict.fromkeys(('yuv422_yuy2', 'yuyv'), Encoding(COLOUR, 2, conversion='YUV_YUYV')),
    'mono8': Encoding(GREY, 1, conversion='GRAY'),
    'mono16': Encoding(GREY, 1, 'u2', 'GRAY'),
    '16UC1': Encoding(DEPTHS, 1, 'u2'),
    '32FC1': Encoding(DEPTHS, 1, 'f4'),
}
ENCODINGS = tuple(KNOWN)
DEPTH = tuple(name for name, known in KNOWN.items() if known.family == DEPTHS)


def pixels(
    data: np.ndarray, name: str, shape: tuple[int, int], step: int, big: bool
) -> np.ndarray:
    """
    Return bytes uint8 [n] as rows [h, w, c] (c left out when it is 1) of the encoding's type.

    The padding at the end of each row (step in bytes) is passed over, foreign byte order turned.
    """
    known = KNOWN[name]
    dtype = np.dtype(f'{">" if big else "<"}{known.dtype}')
    height, width = shape
    width_bytes = width * known.channels * dtype.itemsize
    if step == width_bytes:
        rows = data[: height * step].reshape(height, step)
    else:
        rows = np.lib.stride_tricks.as_strided(data, (height, width_bytes), (step, 1))
    if known.dtype != 'u1':
        rows = np.ascontiguousarray(rows).view(dtype).astype(dtype.newbyteorder('='), copy=False)
    return rows if known.channels == 1 else rows.reshape(height, width, known.channels)


def to_rgb(rows: np.ndarray, name: str, depth_m: tuple[float, float] | None) -> np.ndarray:
    """Return uint8 [h, w, 3] RGB of pixels(); depth needs depth_m = (near, far) in m."""
    known = KNOWN[name]
    if known.family == DEPTHS:
        if depth_m is None:
            raise ValueError('depth without a range')
        metres = rows.astype(np.float32) * np.float32(0.001) if known.dtype == 'u2' else rows
        return _grey_of_depth(metres, *depth_m)
    if known.conversion:
        rows = _converter(known.conversion)(rows)
    return _eight_bits(rows) if known.dtype == 'u2' else rows


def _converter(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return cv2's conversion to RGB."""
    import cv2

    before, _, after = name.partition('_')
    code = getattr(cv2, f'COLOR_{before}2RGB{"_" + after if after else ""}')
    return lambda rows: cv2.cvtColor(np.ascontiguousarray(rows), code)


def _eight_bits(rows: np.ndarray) -> np.ndarray:
    """Return uint16 scaled by 255/65535 and rounded: 257 is odd, so nothing lies half-way."""
    return ((rows.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _grey_of_depth(metres: np.ndarray, near: float, far: float) -> np.ndarray:
    """Return grey 1 (near) .. 255 (far) as RGB; 0 where nothing was measured."""
    measured = np.isfinite(metres) & (metres > 0)
    scaled = (np.where(measured, metres, near) - near) / (far - near)
    grey = np.rint(1 + 254 * np.clip(scaled, 0, 1)).astype(np.uint8)
    grey[~measured] = 0
    return np.repeat(grey[:, :, None], 3, axis=2)
