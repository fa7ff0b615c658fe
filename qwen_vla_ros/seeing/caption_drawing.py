"""The words of a picture in an image: sentence, stage, alarm, facts, and what the colours mean."""

from collections.abc import Sequence

import cv2
import numpy as np

from qwen_vla_ros.seeing.colours import DONE, SEAM, STAGES, ahead
from qwen_vla_ros.seeing.lettering import folded, lettered, write
from qwen_vla_ros.seeing.picture import Caption

ROOM_PX = 200
SCALE = 13  # width of the colours' scale, in sizes of its letters
FOLDS = 4  # lines of a fact, at most
ALARM, CALM = (176, 32, 32), (62, 74, 96)
DARK, PANEL = (18, 20, 24), (16, 19, 24)


def draw_caption(image: np.ndarray, caption: Caption) -> None:
    """
    Draw sentence and stage on top, the alarm under them, facts and scale at the bottom.

    An image narrower than ROOM_PX has no room for words and stays as it is.
    """
    if caption == Caption() or image.shape[1] < ROOM_PX:
        return
    unit = max(11, image.shape[1] // 48)
    height = _draw_title(image, caption, unit)
    if caption.alarm:
        calm = caption.badge in ('WAITING', 'WATCHING')
        _draw_alarm(image, caption.alarm, unit, height, CALM if calm else ALARM)
    size = max(10, round(0.8 * unit))
    scale = caption.horizon_s > 0
    _draw_facts(image, caption.facts, size, (SCALE + 1) * size if scale else 0)
    if scale:
        _draw_scale(image, caption.horizon_s, size)


def _draw_title(image: np.ndarray, caption: Caption, unit: int) -> int:
    height, margin = 2 * unit, unit // 2
    shade(image[:height], 0.72)
    badge = lettered(caption.badge or '…', unit, True)
    x = max(margin, image.shape[1] - badge.shape[1] - 2 * margin)
    colour = STAGES.get(caption.badge, (150, 158, 168))
    image[margin // 2 : height - margin // 2, x - margin : image.shape[1] - margin // 2] = colour
    down = (height - badge.shape[0]) // 2
    write(image, (x, down), caption.badge or '…', DARK, unit, True)
    if caption.title:
        text = folded(f'“{caption.title}”', unit, x - 3 * margin, 1, True)[0]
        write(image, (margin, down), text, (240, 242, 245), unit, True)
    return height


def _draw_alarm(
    image: np.ndarray, alarm: str, unit: int, top: int, ground: tuple[int, int, int]
) -> None:
    lines = folded(alarm, unit, image.shape[1] - unit, 3, True)
    step = round(1.4 * unit)
    band = image[top : top + step * len(lines) + unit // 2]
    band[:] = np.rint(0.2 * band + 0.8 * np.array(ground, np.float32)).astype(np.uint8)
    for index, line in enumerate(lines):
        at = (unit // 2, top + unit // 4 + index * step)
        write(image, at, line, (255, 255, 255), unit, True)


def _draw_facts(
    image: np.ndarray, facts: Sequence[tuple[str, str]], size: int, taken: int
) -> None:
    """Draw names and values at the lower left; taken: px at the right that are another's."""
    if not facts:
        return
    wide = image.shape[1] - 2 * size - taken
    names = max(lettered(name, size).shape[1] for name, _ in facts) + size
    room = max(wide - names, 1)
    lines = [
        (name if index == 0 else '', text)
        for name, value in facts
        for index, text in enumerate(folded(value, size, room, FOLDS))
    ]
    width = names + max(lettered(text or ' ', size).shape[1] for _, text in lines) + 2 * size
    step = round(1.45 * size)
    top = image.shape[0] - step * len(lines) - size
    shade(image[max(top, 0) :, :width], 0.62)
    for index, (name, text) in enumerate(lines):
        y = top + size // 2 + index * step
        missing = name == 'missing'
        colour = (255, 170, 90) if missing else (160, 168, 178)
        write(image, (size, y), name or ' ', colour, size)
        write(image, (size + names, y), text or ' ', (240, 242, 245), size)


def _draw_scale(image: np.ndarray, horizon_s: float, size: int) -> None:
    """Draw what the colours mean, at the lower right: time ahead, done, seam."""
    step = round(1.45 * size)
    height, width = 2 * step + 2 * size, SCALE * size
    shade(image[-height:, -width:], 0.62)
    left, right = image.shape[1] - width + size, image.shape[1] - size
    y = image.shape[0] - height + size // 2
    bar = 255.0 * ahead(np.linspace(0.0, 1.0, right - left))[:, :3]
    image[y : y + size // 2, left:right] = np.rint(bar).astype(np.uint8)
    y, grey, text = y + size // 2, (200, 206, 214), f'+{horizon_s:.1f} s'
    write(image, (left, y), 'now', grey, size)
    write(image, (right - lettered(text, size).shape[1], y), text, grey, size)
    y, middle = y + step, (left + right) // 2
    image[y + size // 2 : y + size // 2 + 3, left : left + size] = [
        round(255 * c) for c in DONE[:3]
    ]
    write(image, (left + round(1.4 * size), y), 'done', grey, size)
    ball = tuple(round(255 * c) for c in SEAM[:3])
    cv2.circle(image, (middle + size, y + round(0.65 * size)), size // 3, ball, -1, cv2.LINE_AA)
    write(image, (middle + 2 * size, y), 'seam', grey, size)


def shade(part: np.ndarray, share: float) -> None:
    """Darken a part of an image, so that words can be read on it."""
    part[:] = np.rint((1 - share) * part + share * np.array(PANEL, np.float32)).astype(np.uint8)
