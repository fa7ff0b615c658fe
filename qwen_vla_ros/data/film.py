"""
Pictures -> mp4 (AV1 or H.264) frame by frame, and mp4 files joined without encoding anew.

Two frames a group, as LeRobot has it, so that any frame is one or two decodings away; one thread
a film, so that the same pictures give the same bytes.
"""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

CODECS: dict[str, tuple[str, dict[str, str]]] = {
    'av1': ('libsvtav1', {'g': '2', 'crf': '30', 'preset': '8', 'svtav1-params': 'lp=1'}),
    'h264': ('libx264', {'g': '2', 'crf': '23', 'preset': 'veryfast', 'bf': '0'}),
}
LEAST = {'av1': 64, 'h264': 16}  # pixels an edge


def rate_of_film(rate_hz: float) -> Fraction:
    """Return frames per second as a fraction that a film can hold, e.g. 30000/1001."""
    return Fraction(rate_hz).limit_denominator(1001)


class Film:
    """One mp4 that is being written; its first picture gives the size."""

    def __init__(self, path: Path, rate_hz: float, codec: str, name: str) -> None:
        """Open the file, called name in errors; QwenVlaError for an unknown codec."""
        import av

        os.environ.setdefault('SVT_LOG', '1')  # errors alone
        if codec not in CODECS:
            raise QwenVlaError(f'codec {codec!r}: known are {", ".join(CODECS)}')
        self._name, self._codec = name, codec
        self._file = av.open(str(path), 'w')
        name, options = CODECS[codec]
        self._stream: Any = self._file.add_stream(name, rate=rate_of_film(rate_hz))
        self._stream.options = dict(options)
        self._stream.pix_fmt = 'yuv420p'
        self._stream.codec_context.thread_count = 1
        self.size: tuple[int, int] | None = None

    def add(self, image: np.ndarray) -> None:
        """Append a picture, uint8 [h, w, 3] RGB; QwenVlaError for one of another size."""
        import av

        height, width = image.shape[:2]
        if self.size is None:
            self._begin(height, width)
        if self.size != (height, width):
            raise QwenVlaError(
                f'{self._name}: a picture of {width}x{height} after others of '
                f'{self.size[1]}x{self.size[0]}'
            )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
        self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder holds back, and close the file."""
        self._file.mux(self._stream.encode())
        self._file.close()

    def _begin(self, height: int, width: int) -> None:
        least = LEAST[self._codec]
        if height % 2 or width % 2 or min(height, width) < least:
            raise QwenVlaError(
                f'{self._name}: pictures of {width}x{height}: {self._codec} needs even sides '
                f'of {least} pixels at least'
            )
        self._stream.height, self._stream.width = self.size = height, width


def join_films(parts: Sequence[Path], counts: Sequence[int], rate_hz: float, path: Path) -> None:
    """Write films one after another into one; counts are their frames, nothing is encoded anew."""
    import av

    frames, rate = 0, rate_of_film(rate_hz)
    with av.open(str(path), 'w') as joined:
        out: Any = None
        for part, count in zip(parts, counts, strict=True):
            with av.open(str(part)) as film:
                stream = film.streams.video[0]
                if out is None:
                    out = joined.add_stream_from_template(stream, opaque=True)
                    out.time_base = stream.time_base
                shift = round(Fraction(frames) / rate / stream.time_base)
                for packet in film.demux(stream):
                    if packet.dts is None:  # the end
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = out
                    joined.mux(packet)
            frames += count
