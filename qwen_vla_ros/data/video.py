"""Pictures of an mp4 by their time, through PyAV: one alone, many in order, or some evenly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.data.remote import here
from qwen_vla_ros.errors import QwenVlaError


def frame_at(path: Path, time_s: float, tolerance_s: float) -> np.ndarray | None:
    """Return uint8 [h, w, 3] RGB of the frame at a time, or None; reads from the key frame on."""
    return next(frames_between(path, np.array([time_s]), tolerance_s))


def frames_between(
    path: Path, times_s: np.ndarray, tolerance_s: float
) -> Iterator[np.ndarray | None]:
    """Yield the frame at each of increasing times, None where none is within the tolerance."""
    try:
        import av
    except ImportError as error:
        raise QwenVlaError(f"{path}: {error}; pip install 'qwen_vla_ros[data]'") from error
    try:
        with av.open(str(here(path))) as file:
            stream = file.streams.video[0]
            stream.thread_type = 'AUTO'
            file.seek(max(int((times_s[0] - tolerance_s) / stream.time_base), 0), stream=stream)
            yield from _matched(file.decode(stream), times_s, tolerance_s)
    except (OSError, IndexError, av.FFmpegError) as error:
        raise QwenVlaError(f'{path}: the video cannot be read ({error})') from error


def evenly(path: Path, count: int) -> list[np.ndarray]:
    """Return `count` pictures of a film, each from the middle of its share of the time."""
    try:
        import av
    except ImportError as error:
        raise QwenVlaError(f"{path}: {error}; pip install 'qwen_vla_ros[data]'") from error
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            length_s, frame_s = float(file.duration / av.time_base), float(1 / stream.average_rate)
    except (OSError, IndexError, TypeError, ZeroDivisionError, av.FFmpegError) as error:
        raise QwenVlaError(f'{path}: the video cannot be read ({error})') from error
    times = (np.arange(count) + 0.5) * length_s / count
    found = [picture for picture in frames_between(path, times, frame_s) if picture is not None]
    if len(found) < count:
        raise QwenVlaError(f'{path}: the video is cut short; copy it again')
    return found


def _matched(
    decoded: Iterator[Any], times_s: np.ndarray, tolerance_s: float
) -> Iterator[np.ndarray | None]:
    frame = next(decoded, None)
    for time_s in times_s:
        while frame is not None and frame.time < time_s - tolerance_s:
            frame = next(decoded, None)
        fits = frame is not None and frame.time <= time_s + tolerance_s
        yield frame.to_ndarray(format='rgb24') if fits else None
