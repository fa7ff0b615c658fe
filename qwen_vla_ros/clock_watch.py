"""
Leaps of the robot's clock, seen against the machine's steady one.

A clock may be set (NTP, a person, a simulation that begins anew); the arm is where it is all the
same. Whoever executes a motion reads `now_ns - leaps_ns`: that goes on evenly across every leap.
A simulated clock may run slower than the steady one, stand, or run up to FASTEST times as fast.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

LEAP_NS = 20_000_000  # a system clock that is slewed stays far below
FASTEST, PAUSE_NS = 3, 200_000_000  # of a simulated clock: ticks of /clock may come in bursts


class Reading(NamedTuple):
    """The clock's time, and the sum of all leaps so far (ns); stands_s: since it last moved."""

    now_ns: int
    leaps_ns: int
    stands_s: float


class ClockWatch:
    """A clock with memory. Thread-safe."""

    def __init__(
        self,
        clock: Callable[[], int],
        simulated: bool = False,
        steady: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Watch a clock in ns; simulated: it is /clock and need not run as the steady one does."""
        self._clock, self._simulated, self._steady = clock, simulated, steady
        self._lock = threading.Lock()
        self._last_ns, self._steady_ns = clock(), steady()
        self._moved_ns, self._leaps_ns = self._steady_ns, 0

    def read(self) -> Reading:
        """Return the time, after looking for a leap since the last reading."""
        with self._lock:
            now_ns, steady_ns = self._clock(), self._steady()
            passed, expected = now_ns - self._last_ns, max(steady_ns - self._steady_ns, 0)
            if self._leapt(passed, expected):
                self._leaps_ns += passed - expected
            if passed:
                self._moved_ns = steady_ns
            self._last_ns, self._steady_ns = now_ns, steady_ns
            return Reading(now_ns, self._leaps_ns, (steady_ns - self._moved_ns) * 1e-9)

    def even_ns(self) -> int:
        """Return a time that goes on evenly: the clock's without its leaps."""
        reading = self.read()
        return reading.now_ns - reading.leaps_ns

    def _leapt(self, passed: int, expected: int) -> bool:
        if not self._simulated:
            return abs(passed - expected) > LEAP_NS
        return passed < 0 or passed > FASTEST * expected + PAUSE_NS
