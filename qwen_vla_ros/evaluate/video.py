"""
Film of the episodes: scene and wrist camera, instruction, stage, predicted path, outcome.

Frame (RGB, 960 x 544): a strip with the sentence on top, the scene camera on the left, the wrist
camera and the facts on the right. Written as fragmented MP4, so that a killed run leaves a film
that plays. Encoding runs in one thread behind a short queue: memory is bounded, and when the
machine is too busy, frames are left out (counted in `skipped`), never the robot slowed down.
"""

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qwen_vla_ros.errors import QwenVlaError

WIDTH, HEIGHT, STRIP = 960, 544, 64
SCENE, WRIST = (480, 640), (240, 320)  # h, w
RATE_HZ = 10
WAITING_FRAMES = 32

_INK, _PAPER, _DIM = (240, 242, 245), (22, 26, 32), (150, 158, 168)
_STAGE = {
    'RUNNING': (72, 187, 120),
    'HOLDING': (237, 137, 54),
    'WAITING': (236, 201, 75),
    'INACTIVE': (160, 174, 192),
}
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
    scene: np.ndarray, wrist: np.ndarray | None, caption: Caption, path: np.ndarray | None = None
) -> np.ndarray:
    """
    Return one frame uint8 [544, 960, 3].

    scene, wrist uint8 [h, w, 3] RGB of any size; path float [N, 2], the predicted way of the tip
    in pixels of the scene image as 640 x 480 (rows with NaN are left out).
    """
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    frame[:] = _PAPER
    frame[:STRIP] = _strip(caption.title, caption.instruction, caption.stage)
    view = np.array(_resized(scene, SCENE))  # a copy: the caller may show its picture again
    if path is not None:
        draw_path(view, path)
    if caption.outcome is not None:
        view[-44:] = _banner(caption.outcome, caption.success)
    frame[STRIP:, : SCENE[1]] = view
    if wrist is not None:
        frame[STRIP : STRIP + WRIST[0], SCENE[1] :] = _resized(wrist, WRIST)
    frame[STRIP + WRIST[0] :, SCENE[1] :] = _facts(caption.facts)
    return frame


def draw_path(image: np.ndarray, path: np.ndarray) -> None:
    """Draw a way [N, 2] in pixels into the image: bright now, fading towards its end."""
    points = np.asarray(path, np.float64)
    points = points[np.isfinite(points).all(1)]
    points = points[(np.abs(points) < 4096).all(1)]
    fixed = np.rint(points * 16).astype(int)
    for index in range(len(fixed) - 1, 0, -1):
        fade = index / max(len(fixed) - 1, 1)
        colour = (int(255 - 60 * fade), int(90 + 130 * fade), int(200 + 40 * fade))
        cv2.line(
            image, tuple(fixed[index - 1]), tuple(fixed[index]), colour, 3, cv2.LINE_AA, shift=4
        )
    for x, y in fixed[1:]:
        cv2.circle(image, (int(x), int(y)), 40, (255, 255, 255), -1, cv2.LINE_AA, shift=4)
    if len(fixed):
        cv2.circle(
            image, tuple(int(v) for v in fixed[-1]), 112, (255, 255, 255), 2, cv2.LINE_AA, 4
        )


class Film:
    """An MP4 (H.264) written frame by frame from any thread; use as a context manager."""

    def __init__(self, path: Path, rate_hz: int = RATE_HZ) -> None:
        """Open the file; QwenVlaError when it cannot be written."""
        self.path, self.frames, self.skipped = path, 0, 0
        try:
            path.open('wb').close()  # PyAV itself would tell only at the first frame
            self._file = av.open(str(path), 'w', options={'movflags': 'frag_keyframe+empty_moov'})
        except (OSError, av.FFmpegError) as error:
            raise QwenVlaError(f'{path}: cannot write the film ({error})') from error
        self._stream = self._file.add_stream(
            'libx264', rate=rate_hz, options={'preset': 'veryfast', 'crf': '25', 'threads': '1'}
        )
        self._stream.width, self._stream.height = WIDTH, HEIGHT
        self._stream.pix_fmt, self._stream.gop_size = 'yuv420p', 2 * rate_hz
        self._queue: queue.Queue[Any] = queue.Queue(WAITING_FRAMES)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._encode, name='film', daemon=True)
        self._thread.start()

    def add(self, *parts: Any) -> None:
        """Add a frame: the arguments of compose_frame(), composed in the film's own thread."""
        try:
            self._queue.put_nowait(parts)
        except queue.Full:
            self.skipped += 1

    def close(self) -> None:
        """Write what is waiting and end the file; QwenVlaError when writing failed."""
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise QwenVlaError(f'{self.path}: the film is not whole ({self._failure})')

    def __enter__(self) -> 'Film':
        """Return the film."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _encode(self) -> None:
        """Compose and encode until the end mark, then finish the file."""
        while (parts := self._queue.get()) is not None:
            if self._failure is not None:
                continue
            try:
                self._write(compose_frame(*parts))
            except Exception as error:  # the queue must go on being emptied
                self._failure = error
        try:
            for packet in self._stream.encode() if self.frames else ():
                self._file.mux(packet)
            self._file.close()
        except Exception as error:  # told by close()
            self._failure = self._failure or error

    def _write(self, frame: np.ndarray) -> None:
        """Encode one frame."""
        picture = av.VideoFrame.from_ndarray(frame, 'rgb24')
        picture.pts = self.frames
        for packet in self._stream.encode(picture):
            self._file.mux(packet)
        self.frames += 1


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the image in size (h, w)."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=8)
def _font(size: int, bold: bool = False) -> Any:
    """Return DejaVu Sans, which comes with matplotlib."""
    import matplotlib

    name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
    folder = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
    return ImageFont.truetype(str(folder / name), size)


@lru_cache(maxsize=16)
def _strip(title: str, instruction: str, stage: str) -> np.ndarray:
    """Return the strip on top, uint8 [64, 960, 3]."""
    image = Image.new('RGB', (WIDTH, STRIP), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((16, 7), title, _DIM, _font(13))
    draw.text((16, 25), f'“{instruction}”' if instruction else '', _INK, _font(24, bold=True))
    badge, colour = stage or '…', _STAGE.get(stage, _DIM)
    width = draw.textlength(badge, _font(15, bold=True))
    box = (WIDTH - 16 - width - 24, 17, WIDTH - 16, 47)
    draw.rounded_rectangle(box, 8, fill=colour)
    draw.text((box[0] + 12, 23), badge, _PAPER, _font(15, bold=True))
    return np.asarray(image)


@lru_cache(maxsize=16)
def _facts(lines: Sequence[str]) -> np.ndarray:
    """Return the panel of facts, uint8 [240, 320, 3]; 'name  value' lines."""
    size = (SCENE[1] // 2, SCENE[0] - WRIST[0])
    image = Image.new('RGB', size, _PAPER)
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        name, _, value = line.partition('  ')
        draw.text((18, 18 + 27 * index), name, _DIM, _font(14))
        draw.text((150, 18 + 27 * index), value.strip(), _INK, _font(14))
    return np.asarray(image)


@lru_cache(maxsize=16)
def _banner(text: str, success: bool) -> np.ndarray:
    """Return the outcome's banner, uint8 [44, 640, 3]."""
    image = Image.new('RGB', (SCENE[1], 44), _GOOD if success else _BAD)
    draw = ImageDraw.Draw(image)
    width = draw.textlength(text, _font(18, bold=True))
    draw.text(((SCENE[1] - width) / 2, 10), text, (255, 255, 255), _font(18, bold=True))
    return np.asarray(image)
