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
BACK_NS = 10_000_000  # ticks of /clock may overtake one another
READINGS, SURE_NS = 5, 1_000_000
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
        self._last_ns, self._steady_ns, self._unsure_ns = self._both()
        self._moved_ns, self._leaps_ns = self._steady_ns, 0

    def read(self) -> Reading:
        """Return the time, after looking for a leap since the last reading."""
        with self._lock:
            now_ns, steady_ns, unsure_ns = self._both()
            passed, expected = now_ns - self._last_ns, max(steady_ns - self._steady_ns, 0)
            if self._leapt(passed, expected, self._unsure_ns + unsure_ns):
                self._leaps_ns += passed - expected
            if passed:
                self._moved_ns = steady_ns
            self._last_ns, self._steady_ns, self._unsure_ns = now_ns, steady_ns, unsure_ns
            return Reading(now_ns, self._leaps_ns, (steady_ns - self._moved_ns) * 1e-9)

    def _both(self) -> tuple[int, int, int]:
        """
        Return both clocks at one instant, and by how much the instants may differ.

        A thread may lose the processor between the two, so the steady clock is read around the
        other, several times if need be.
        """
        found = None
        for _ in range(READINGS):
            before = self._steady()
            now_ns = self._clock()
            unsure_ns = max(self._steady() - before, 0)
            if found is None or unsure_ns < found[2]:
                found = now_ns, before + unsure_ns // 2, unsure_ns
            if unsure_ns < SURE_NS:
                break
        return found

    def even_ns(self) -> int:
        """Return a time that goes on evenly: the clock's without its leaps."""
        reading = self.read()
        return reading.now_ns - reading.leaps_ns

    def _leapt(self, passed: int, expected: int, unsure: int) -> bool:
        if not self._simulated:
            return abs(passed - expected) > LEAP_NS + unsure
        return passed < -BACK_NS or passed > FASTEST * (expected + unsure) + PAUSE_NS
