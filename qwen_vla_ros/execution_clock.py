"""
The time that a motion runs in: the robot's own clock, or slower.

A scaled arm follows the very path of the policy, only later: its velocity is the path's times the
rate, its path the same. The rate changes by a smoothstep, so position, velocity and acceleration
stay continuous while it is ramped in. Chunks are filed under execution time (their start is an
instant of the past, so what the clock showed then is kept for a while), commands are read at the
execution time of their instant. Never runs backwards. No clock of its own: times come in as ns.
"""

import threading
from bisect import bisect_right
from dataclasses import dataclass

KEEP_NS = 30_000_000_000  # how far back an instant is still converted exactly


@dataclass(frozen=True)
class _Ramp:
    """From an instant on, the rate goes from one value to another and stays there."""

    start_ns: int
    shown_ns: float
    before: float
    after: float
    length_ns: float

    def rate(self, time_ns: int) -> float:
        part = self._part(time_ns)
        return self.before + (self.after - self.before) * part * part * (3 - 2 * part)

    def shown(self, time_ns: int) -> float:
        """Return the integral of the rate since the start, on top of what was shown there."""
        since, part = time_ns - self.start_ns, self._part(time_ns)
        if part < 1:
            eased = self.length_ns * (part**3 - part**4 / 2)
            return self.shown_ns + self.before * since + (self.after - self.before) * eased
        ramped = self.length_ns * (self.before + self.after) / 2
        return self.shown_ns + ramped + self.after * (since - self.length_ns)

    def _part(self, time_ns: int) -> float:
        if self.length_ns <= 0:
            return 1.0
        return min(max((time_ns - self.start_ns) / self.length_ns, 0.0), 1.0)


class ExecutionClock:
    """Robot time -> execution time, with a rate in [0, 1]. Thread-safe."""

    def __init__(self) -> None:
        """Run with the robot's clock."""
        self._lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        """Show the robot's time again, at full rate: nothing runs, or its clock was set back."""
        with self._lock:
            self._ramps = [_Ramp(0, 0.0, 1.0, 1.0, 0.0)]

    def change(self, rate: float, now_ns: int, ramp_s: float, begin: float | None = None) -> None:
        """Go over to a rate within ramp_s; begin: start from this rate (0 while at rest)."""
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f'execution clock: rate {rate} is not in 0..1')
        with self._lock:
            shown = self._at(now_ns).shown(now_ns)
            before = self._at(now_ns).rate(now_ns) if begin is None else begin
            ramp = _Ramp(now_ns, shown, before, rate, ramp_s * 1e9)
            self._ramps = [r for r in self._ramps if r.start_ns < now_ns]
            recent = bisect_right(self._ramps, now_ns - KEEP_NS, key=lambda r: r.start_ns)
            self._ramps = [*self._ramps[max(recent - 1, 0) :], ramp]

    def at(self, time_ns: int) -> int:
        """Return the execution time of an instant, in ns."""
        with self._lock:
            return round(self._at(time_ns).shown(time_ns))

    def when(self, shown_ns: int) -> int | None:
        """Return the instant from the last change on at which it shows a time; None: never."""
        with self._lock:
            ramp = self._ramps[-1]
            early, late = ramp.start_ns, ramp.start_ns + round(ramp.length_ns)
            if (missing := shown_ns - ramp.shown(late)) > 0:
                if ramp.after <= 0.0:
                    return None
                return late + round(missing / ramp.after)
            while late - early > 1000:  # a microsecond
                middle = (early + late) // 2
                early, late = (early, middle) if ramp.shown(middle) >= shown_ns else (middle, late)
            return late

    def rate(self, time_ns: int) -> float:
        """Return how fast execution time runs at an instant."""
        with self._lock:
            return self._at(time_ns).rate(time_ns)

    @property
    def target(self) -> float:
        """Return the rate that it goes to."""
        return self._ramps[-1].after

    def _at(self, time_ns: int) -> _Ramp:
        index = bisect_right(self._ramps, time_ns, key=lambda ramp: ramp.start_ns)
        return self._ramps[max(index - 1, 0)]
