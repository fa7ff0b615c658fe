"""
A film of pictures: MP4 (H.264), fragmented, so that a killed run leaves one that plays.

Composing and encoding run in one thread behind a short queue: memory is bounded, and when the
machine is too busy, frames are left out (counted in `skipped`), never the caller slowed down.
"""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from qwen_vla_ros.errors import QwenVlaError

RATE_HZ = 10
WAITING_FRAMES = 32


class Film:
    """An MP4 written frame by frame from any thread; use as a context manager."""

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        compose: Callable[..., np.ndarray] = lambda image: image,
        rate_hz: int = RATE_HZ,
    ) -> None:
        """
        Open the file; QwenVlaError when it cannot be written.

        size (w, h), both even; compose makes a frame uint8 [h, w, 3] of what add() is given.
        """
        self.path, self.frames, self.skipped = path, 0, 0
        self._compose = compose
        try:
            path.open('wb').close()  # PyAV itself would tell only at the first frame
            self._file = av.open(str(path), 'w', options={'movflags': 'frag_keyframe+empty_moov'})
        except (OSError, av.FFmpegError) as error:
            raise QwenVlaError(f'{path}: cannot write the film ({error})') from error
        self._stream = self._file.add_stream(
            'libx264', rate=rate_hz, options={'preset': 'veryfast', 'crf': '25', 'threads': '1'}
        )
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt, self._stream.gop_size = 'yuv420p', 2 * rate_hz
        self._queue: queue.Queue[Any] = queue.Queue(WAITING_FRAMES)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._encode, name='film', daemon=True)
        self._thread.start()

    def add(self, *parts: Any, wait: bool = False) -> None:
        """
        Add a frame: the arguments of compose, which runs in the film's own thread.

        wait: rather than leave a frame out, wait for room (where no robot's time passes).
        """
        if wait:
            self._queue.put(parts)
            return
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
                self._write(self._compose(*parts))
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
