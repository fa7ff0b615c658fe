"""
What one output still has to send, in order of time. Thread-safe, no ROS.

A new plan takes over at its first instant; until then the older one goes on, as both follow one
motion. Whoever is late sends only the newest message that is due: where the arm should be now.
But for streams of positions: nothing smooths those on their way to the motors, so a node that was
kept from running leaves none out, sends what is due at least spacing_ns apart, and of a new plan
only what lies after the position sent last, its end at least.
"""

import threading
from collections import deque
from collections.abc import Sequence

from qwen_vla_ros.output_kinds import Timed

JUMP_NS = 500_000_000  # a clock that falls back further than this belongs to another time


class Timeline:
    """The messages of one output that are not sent yet."""

    def __init__(self, spacing_ns: int = 0) -> None:
        """Start empty; spacing_ns > 0: nothing is left out, and so far apart at least."""
        self._spacing_ns, self._sent_ns = spacing_ns, -spacing_ns
        self._newest: Timed | None = None  # of those sent
        self._lock = threading.Lock()
        self._ahead: deque[Timed] = deque()
        self._latest_ns = 0
        self.speed = (0.0, 0.0, 0.0)  # of the base, by the message sent last

    def put(self, timed: Sequence[Timed], now_ns: int) -> None:
        """Take the messages of a new plan, in order of time."""
        with self._lock:
            self._at(now_ns)
            if self._spacing_ns and self._newest is not None:
                timed = [one for one in timed if one.at_ns > self._newest.at_ns] or timed[-1:]
            if timed:
                while self._ahead and self._ahead[-1].at_ns >= timed[0].at_ns:
                    self._ahead.pop()
            self._ahead.extend(timed)

    def clear(self) -> None:
        """Forget what is not sent."""
        with self._lock:
            self._ahead.clear()

    def take(self, now_ns: int) -> Timed | None:
        """Return what is to be sent at now_ns, or None: the newest that is due, or the oldest."""
        with self._lock:
            self._at(now_ns)
            found = None
            if self._spacing_ns:
                if self._ahead and self._next_ns() <= now_ns:
                    found, self._sent_ns = self._ahead.popleft(), now_ns
                    self._newest = found
                return found
            while self._ahead and self._ahead[0].at_ns <= now_ns:
                found = self._ahead.popleft()
            if found is not None:
                self.speed = found.speed
            return found

    @property
    def next_ns(self) -> int | None:
        """Return the instant of the next message; None when nothing is left."""
        with self._lock:
            return self._next_ns() if self._ahead else None

    def _next_ns(self) -> int:
        return max(self._ahead[0].at_ns, self._sent_ns + self._spacing_ns)

    def _at(self, now_ns: int) -> None:
        """Forget what belongs to a time that is gone."""
        if now_ns < self._latest_ns - JUMP_NS:
            self._ahead.clear()
            self._sent_ns, self._newest = now_ns - self._spacing_ns, None
        self._latest_ns = now_ns
