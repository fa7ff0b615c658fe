"""
A held-out episode as a short film: what the robot saw, what was demonstrated, what is predicted.

Left the cameras, right a band for each channel over the rows of the chunk: grey is demonstrated,
orange is predicted, the number is their mean absolute difference. Open loop: every frame's chunk
is predicted from the demonstration's own pictures and state. A band has one scale all through.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from qwen_vla_ros.data.film import Film
from qwen_vla_ros.train.held_out import Prediction

RATE_HZ = 4.0
STRIP, PICTURE, SMALL, BANDS = 24, (240, 320), (120, 160), 400  # px
GREY, ORANGE, WORDS = (170, 170, 170), (255, 150, 40), (235, 235, 235)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def film_frames(predictions: Sequence[Prediction]) -> list[np.ndarray]:
    """Return the frames uint8 [h, w, 3] of an episode's predictions, in their order."""
    shown = [np.where(p.sample.mask, p.sample.actions, np.nan) for p in predictions]
    every = np.concatenate([*shown, *(p.predicted for p in predictions)])
    low, high = np.nanmin(every, 0), np.nanmax(every, 0)
    scale = np.stack([low, np.maximum(high - low, 1e-6)])
    return [_frame(item, rows, scale) for item, rows in zip(predictions, shown, strict=True)]


def write_film(frames: Sequence[np.ndarray], path: Path) -> None:
    """Write frames as an mp4: beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'.{os.getpid()}.{path.name}')
    film = Film(beside, RATE_HZ, 'h264', str(path))
    for frame in frames:
        film.add(frame)
    film.close()
    beside.rename(path)


def _frame(item: Prediction, demonstrated: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return one frame; demonstrated [H, A] has NaN where nothing was."""
    left = PICTURE[1]
    frame = np.zeros((STRIP + PICTURE[0] + SMALL[0], left + BANDS, 3), np.uint8)
    frame[:STRIP] = 40
    cv2.putText(frame, item.sample.instruction, (6, 17), FONT, 0.45, WORDS, 1, cv2.LINE_AA)
    boxes = [(STRIP, 0, *PICTURE)]
    boxes += [(STRIP + PICTURE[0], column, *SMALL) for column in (0, SMALL[1])]
    for (top, column, height, width), image in zip(
        boxes, item.sample.images.values(), strict=False
    ):
        _paste(frame[top : top + height, column : column + width], image)
    names, errors = item.sample.action_names, item.errors()
    edges = np.linspace(STRIP, len(frame), len(names) + 1).astype(int)
    for channel, name in enumerate(names):
        band = frame[edges[channel] : edges[channel + 1], left:]
        for rows, colour in ((demonstrated, GREY), (item.predicted, ORANGE)):
            _curve(band, (rows[:, channel] - scale[0, channel]) / scale[1, channel], colour)
        known = errors[np.isfinite(errors[:, channel]), channel]
        told = f'{name} {known.mean():.3f}' if len(known) else name
        cv2.putText(band, told, (6, 12), FONT, 0.36, WORDS, 1, cv2.LINE_AA)
        band[-1] = 60
    return frame


def _paste(box: np.ndarray, image: np.ndarray) -> None:
    """Put a picture into the middle of a box, as large as it fits."""
    share = min(box.shape[0] / image.shape[0], box.shape[1] / image.shape[1])
    height, width = (max(1, int(side * share)) for side in image.shape[:2])
    way = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    top, column = (box.shape[0] - height) // 2, (box.shape[1] - width) // 2
    box[top : top + height, column : column + width] = cv2.resize(
        image, (width, height), interpolation=way
    )


def _curve(band: np.ndarray, values: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Draw values 0..1 over the width of a band, as far as they are numbers."""
    valid = np.flatnonzero(np.isfinite(values))
    height, width = band.shape[:2]
    across = 4 + valid * (width - 9) / max(1, len(values) - 1)
    down = height - 5 - values[valid] * (height - 9)
    points = np.stack([across, down], 1).round().astype(np.int32)
    cv2.polylines(band, [points[:, None]], False, colour, 2, cv2.LINE_AA)
