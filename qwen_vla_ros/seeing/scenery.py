"""
The view from afar, without a window or a GPU: floor, the robot as shaded tubes, then the picture.

Tubes are drawn as balls along their axis, the far ones first, so that near parts hide far ones.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.seeing import colours
from qwen_vla_ros.seeing.camera import NEAR_M, Camera
from qwen_vla_ros.seeing.drawing import Locate, draw_picture, placed
from qwen_vla_ros.seeing.picture import Lines, Picture, Tube

SKY, GROUND = np.array((58.0, 64.0, 74.0)), np.array((28.0, 31.0, 37.0))
GRID_M, GRID = 0.1, (0.42, 0.46, 0.52, 0.35)
LIGHT = np.array([-0.35, -0.55, -0.76])  # in the optical frame: from above, left and behind


def render(
    picture: Picture, camera: Camera, locate: Locate, floor: float = 0.6, caption: bool = True
) -> np.ndarray:
    """Return a picture from afar, uint8 [h, w, 3]; floor: half its side in m, 0 for none."""
    shares = np.linspace(0.0, 1.0, camera.height)[:, None, None]
    image = np.repeat(SKY + shares * (GROUND - SKY), camera.width, 1)
    image = np.rint(image).astype(np.uint8)
    behind = [shape for shape in picture.shapes if shape.name.startswith('limits')]
    if floor > 0:
        behind.append(floor_grid(floor, picture.frame))
    draw_picture(image, Picture(picture.stamp_ns, tuple(behind)), camera, locate, caption=False)
    _draw_tubes(image, picture, camera, locate)
    rest = tuple(shape for shape in picture.shapes if not shape.name.startswith('limits'))
    return draw_picture(image, replace(picture, shapes=rest), camera, locate, caption)


def floor_grid(half: float, frame: str) -> Lines:
    """Return the lines of a floor around the origin at z = 0, a tenth of a metre apart or more."""
    step = GRID_M if half <= 1.0 else 0.5
    marks = np.arange(-np.floor(half / step), np.floor(half / step) + 1) * step
    ends = [[(m, -half, 0.0), (m, half, 0.0), (-half, m, 0.0), (half, m, 0.0)] for m in marks]
    points = np.array(ends).reshape(-1, 3)
    return Lines('grid', frame, points, colours.plain(GRID, len(points)), 0.001, joined=False)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 [h, w, 3] RGB as PNG; QwenVlaError when that fails."""
    done, data = cv2.imencode('.png', image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    try:
        if not done:
            raise OSError('cannot be encoded')
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise QwenVlaError(f'{path}: cannot write the picture ({error})') from error


def _draw_tubes(image: np.ndarray, picture: Picture, camera: Camera, locate: Locate) -> None:
    balls = []
    for tube in (shape for shape in picture.shapes if isinstance(shape, Tube)):
        ends = placed(np.stack([tube.start, tube.end]), locate(tube.frame))
        count = int(np.ceil(np.linalg.norm(ends[1] - ends[0]) / (0.12 * tube.radius))) + 1
        shares = np.linspace(0.0, 1.0, min(count, 200))[:, None]
        for place in camera.seen(ends[0] + shares * (ends[1] - ends[0])):
            if place[2] > NEAR_M + tube.radius:
                balls.append((place, tube.radius, tube.colour))
    depth = np.full(image.shape[:2], np.inf, np.float32)
    for place, radius, colour in balls:
        _draw_ball(image, depth, camera, place, radius, colour)


def _draw_ball(
    image: np.ndarray,
    depth: np.ndarray,
    camera: Camera,
    place: np.ndarray,
    radius: float,
    colour: tuple[float, float, float, float],
) -> None:
    """Draw a shaded ball where it is nearer than what depth [h, w] has."""
    (centre,) = camera.pixels(place[None])
    size = camera.matrix[0, 0] * radius / place[2]
    low = np.maximum(np.floor(centre - size).astype(int), 0)
    high = np.minimum(np.ceil(centre + size).astype(int) + 1, image.shape[1::-1])
    if (low >= high).any():
        return
    x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
    across, down = (x - centre[0]) / size, (y - centre[1]) / size
    square = across**2 + down**2
    out = np.sqrt(np.clip(1.0 - square, 0.0, 1.0))
    surface = place[2] - radius * out
    part = depth[low[1] : high[1], low[0] : high[0]]
    nearer = (square <= 1.0) & (surface < part)
    shade = across * LIGHT[0] + down * LIGHT[1] - out * LIGHT[2]
    bright = 0.35 + 0.65 * np.clip(shade, 0.0, 1.0)
    part[nearer] = surface[nearer]
    pixels = 255.0 * bright[..., None] * np.array(colour[:3])
    image[low[1] : high[1], low[0] : high[0]][nearer] = np.rint(pixels[nearer]).astype(np.uint8)
