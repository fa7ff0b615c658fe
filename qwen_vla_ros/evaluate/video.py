"""
Film of the episodes: scene and wrist camera, instruction, stage, predicted path, outcome.

Frame (RGB, 960 x 544): a strip with the sentence on top, the scene camera on the left, the wrist
camera and the facts on the right. How it is written stands in seeing/film.py; the path is drawn by
seeing/drawing.py, as in the annotated images of viz_node.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from qwen_vla_ros.seeing import film
from qwen_vla_ros.seeing.camera import Camera
from qwen_vla_ros.seeing.colours import STAGES
from qwen_vla_ros.seeing.drawing import draw_picture
from qwen_vla_ros.seeing.lettering import font
from qwen_vla_ros.seeing.picture import Picture

WIDTH, HEIGHT, STRIP = 960, 544, 64
SCENE, WRIST = (480, 640), (240, 320)  # h, w
RATE_HZ = film.RATE_HZ

_INK, _PAPER, _DIM = (240, 242, 245), (22, 26, 32), (150, 158, 168)
_GOOD, _BAD = (38, 145, 86), (190, 54, 54)


@dataclass(frozen=True)
class Caption:
    """The words of a frame; outcome None while the episode runs."""

    title: str
    instruction: str
    stage: str
    facts: tuple[str, ...] = ()
    outcome: str | None = None
    success: bool = False


def compose_frame(
    scene: np.ndarray,
    wrist: np.ndarray | None,
    caption: Caption,
    intended: tuple[Picture, Camera] | None = None,
) -> np.ndarray:
    """
    Return one frame uint8 [544, 960, 3].

    scene, wrist uint8 [h, w, 3] RGB of any size; intended: what the policy intends, and the scene
    camera for an image of 640 x 480, in the world of the picture's shapes.
    """
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    frame[:] = _PAPER
    frame[:STRIP] = _strip(caption.title, caption.instruction, caption.stage)
    view = np.array(_resized(scene, SCENE))  # a copy: the caller may show its picture again
    if intended is not None:
        draw_picture(view, *intended, lambda frame: np.eye(4), caption=False)
    if caption.outcome is not None:
        view[-44:] = _banner(caption.outcome, caption.success)
    frame[STRIP:, : SCENE[1]] = view
    if wrist is not None:
        frame[STRIP : STRIP + WRIST[0], SCENE[1] :] = _resized(wrist, WRIST)
    frame[STRIP + WRIST[0] :, SCENE[1] :] = _facts(caption.facts)
    return frame


class Film(film.Film):
    """The episodes' film: add() takes the arguments of compose_frame()."""

    def __init__(self, path: Path) -> None:
        """Open the file; QwenVlaError when it cannot be written."""
        super().__init__(path, (WIDTH, HEIGHT), compose_frame)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the image in size (h, w)."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=16)
def _strip(title: str, instruction: str, stage: str) -> np.ndarray:
    """Return the strip on top, uint8 [64, 960, 3]."""
    image = Image.new('RGB', (WIDTH, STRIP), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((16, 7), title, _DIM, font(13))
    draw.text((16, 25), f'“{instruction}”' if instruction else '', _INK, font(24, bold=True))
    badge, colour = stage or '…', STAGES.get(stage, _DIM)
    width = draw.textlength(badge, font(15, bold=True))
    box = (WIDTH - 16 - width - 24, 17, WIDTH - 16, 47)
    draw.rounded_rectangle(box, 8, fill=colour)
    draw.text((box[0] + 12, 23), badge, _PAPER, font(15, bold=True))
    return np.asarray(image)


@lru_cache(maxsize=16)
def _facts(lines: Sequence[str]) -> np.ndarray:
    """Return the panel of facts, uint8 [240, 320, 3]; 'name  value' lines."""
    size = (SCENE[1] // 2, SCENE[0] - WRIST[0])
    image = Image.new('RGB', size, _PAPER)
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        name, _, value = line.partition('  ')
        draw.text((18, 18 + 27 * index), name, _DIM, font(14))
        draw.text((150, 18 + 27 * index), value.strip(), _INK, font(14))
    return np.asarray(image)


@lru_cache(maxsize=16)
def _banner(text: str, success: bool) -> np.ndarray:
    """Return the outcome's banner, uint8 [44, 640, 3]."""
    image = Image.new('RGB', (SCENE[1], 44), _GOOD if success else _BAD)
    draw = ImageDraw.Draw(image)
    width = draw.textlength(text, font(18, bold=True))
    draw.text(((SCENE[1] - width) / 2, 10), text, (255, 255, 255), font(18, bold=True))
    return np.asarray(image)
