"""
Where coloured cubes, pegs and sockets lie on ALOHA's table, seen by the camera above it.

The brightest part of a colour's largest patch is the object's top: it is laid onto the plane of
the top, and its smallest rectangle gives middle and yaw. Knows the nominal mounting of the
simulator's camera; on another robot it is of no use.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from qwen_vla_ros.evaluate.colour_search import colour_mask
from qwen_vla_ros.sim.aloha import mjcf
from qwen_vla_ros.sim.aloha.scene import HEIGHT
from qwen_vla_ros.sim.aloha.tasks import Place
from qwen_vla_ros.sim.cameras import looking
from qwen_vla_ros.sim.scene import COLOURS
from qwen_vla_ros.types import Observation

_TOP_BRIGHTNESS = 0.90  # of the brightest pixels of the patch
_LEAST_PIXELS = 60


def places_in_view(observation: Observation, names: Sequence[str]) -> Mapping[str, Place]:
    """Return where the named objects ('red cube') lie, those that the camera above sees."""
    found = {}
    for name in names:
        colour, shape = name.split()
        if colour in COLOURS:
            place = _place(observation.images['ego'], colour, shape)
            if place is not None:
                found[name] = place
    return found


def _place(image: np.ndarray, colour: str, shape: str) -> Place | None:
    """Return where the largest patch of a colour lies, taken for a shape."""
    count, labels, facts, _ = cv2.connectedComponentsWithStats(colour_mask(image, colour))
    if count < 2:
        return None
    largest = 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))
    patch = labels == largest
    if patch.sum() < _LEAST_PIXELS:
        return None
    value = image.max(-1)
    top = patch & (value >= _TOP_BRIGHTNESS * np.percentile(value[patch], 95))
    points = _on_plane(np.argwhere(top)[:, ::-1], image.shape, HEIGHT[shape])
    (x, y), (width, height), degrees = cv2.minAreaRect(points.astype(np.float32))
    yaw = np.radians(degrees) + (0.0 if width >= height else np.pi / 2)
    return Place(float(x), float(y), float((yaw + np.pi / 2) % np.pi - np.pi / 2))


def _on_plane(pixels: np.ndarray, shape: tuple[int, ...], height: float) -> np.ndarray:
    """Return where rays through pixels [N, 2] (u, v) meet the plane z = height: [N, 2] in m."""
    camera = mjcf.HIGH_CAMERA
    position = np.array(camera['position'])
    rotation = looking(np.array(camera['target']) - position, (0, 1, 0))
    focal = 0.5 * shape[0] / np.tan(0.5 * np.radians(camera['fovy']))
    u, v = (pixels + 0.5 - np.array([shape[1], shape[0]]) / 2).T / focal
    rays = np.stack([u, -v, -np.ones_like(u)], -1) @ rotation.T
    return position[:2] + rays[:, :2] * ((height - position[2]) / rays[:, 2:])
