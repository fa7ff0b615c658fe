"""
The recent past of one camera, at its own slow rate, for policies that look back (navigation).

Frames are kept by their stamps, never invented: an episode that has just begun has fewer.
"""

from collections import deque

import numpy as np


class FrameHistory:
    """The last frames of a camera, at most `count`, about 1 / rate_hz apart."""

    def __init__(self, count: int, rate_hz: float) -> None:
        """Keep nothing yet."""
        self._period_ns = round(1e9 / rate_hz)
        # One more than shown: the newest kept frame may be too near to the present one.
        self._frames: deque[tuple[int, np.ndarray]] = deque(maxlen=count + 1)
        self._count = count

    def recent(self, stamp_ns: int) -> list[np.ndarray]:
        """
        Return the frames at least half a period before a stamp, oldest first.

        A stamp before what is kept means that the clock was set back: then there is no past.
        """
        if self._frames and stamp_ns < self._frames[-1][0]:
            self.clear()
        limit = stamp_ns - self._period_ns // 2
        found = [image for time_ns, image in self._frames if time_ns <= limit]
        return found[-self._count :] if self._count else []

    def push(self, stamp_ns: int, image: np.ndarray) -> None:
        """Keep a frame uint8 [h, w, 3] when a period has passed since the last one kept."""
        if self._frames and stamp_ns < self._frames[-1][0]:
            self.clear()  # the clock was set back: what is kept belongs to another time
        if not self._frames or stamp_ns - self._frames[-1][0] >= 0.9 * self._period_ns:
            self._frames.append((stamp_ns, image))

    def clear(self) -> None:
        """Forget everything, as an episode begins."""
        self._frames.clear()
