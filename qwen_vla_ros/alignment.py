"""
Streams with times -> one set that belongs together, or why there is none.

The anchor of a set is a camera's newest frame: that one around which the nearest frames of the
other cameras lie closest together. Joints are interpolated to it. When no such set fits (skew, or
joints not there yet), the frames before are tried, until the age limit. Nothing is extrapolated.

Items are filed under their true times; messages, topics and clocks are observation.py's business.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from math import ceil
from typing import Any, NamedTuple

import numpy as np

STATE = 'state'
KEEP_S = 0.5


@dataclass(frozen=True)
class Missing:
    """Why there is no observation: source is a view tag or 'state'."""

    source: str
    reason: str

    def __str__(self) -> str:
        """Say both, as a status line wants it."""
        return f'{self.source}: {self.reason}'


class Match(NamedTuple):
    """One set: view -> (time, item) of the cameras, joints float64 [S] and their time."""

    anchor_ns: int
    frames: Mapping[str, tuple[int, Any]]
    state: np.ndarray
    state_ns: int


class Stream:
    """The newest items of one source, sorted by time; at least `capacity` are kept."""

    __slots__ = ('_capacity', '_full', 'items', 'times')

    def __init__(self, capacity: int) -> None:
        """Start empty; less than twice the capacity is held."""
        self._capacity, self._full = capacity, 2 * capacity
        self.times: list[int] = []
        self.items: list[Any] = []

    def add(self, time_ns: int, item: Any) -> bool:
        """File an item under its time; False for a time that is already there."""
        times = self.times
        if times and time_ns <= times[-1]:
            index = bisect_left(times, time_ns)
            if times[index] == time_ns:
                return False
            times.insert(index, time_ns)
            self.items.insert(index, item)
        else:
            times.append(time_ns)
            self.items.append(item)
        if len(times) >= self._full:
            del times[: -self._capacity]
            del self.items[: -self._capacity]
        return True

    def nearest(self, time_ns: int) -> int:
        """Return the index of the item nearest to a time; the stream must not be empty."""
        times = self.times
        if time_ns >= times[-1]:
            return len(times) - 1
        index = bisect_left(times, time_ns)
        if index and time_ns - times[index - 1] <= times[index] - time_ns:
            return index - 1
        return index

    def drop(self, time_ns: int) -> None:
        """Forget the item of a time, if it is still there."""
        index = bisect_left(self.times, time_ns)
        if index < len(self.times) and self.times[index] == time_ns:
            del self.times[index], self.items[index]


class Aligner:
    """One stream a source; finds the newest set of all sources that belongs together."""

    def __init__(
        self, camera_rates: Mapping[str, float], state_rate: float, skew_s: float, age_s: float
    ) -> None:
        """Set up for view -> Hz and the Hz of the joints; skew over all cameras, age of each."""
        self._rates = {**camera_rates, STATE: state_rate}
        self._views = tuple(camera_rates)
        self._skew_s, self._age_s = skew_s, age_s
        self._skew_ns, self._age_ns = round(skew_s * 1e9), round(age_s * 1e9)
        self._state_period_ns = round(1e9 / state_rate)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.streams = {
            name: Stream(max(4, ceil(KEEP_S * rate))) for name, rate in self._rates.items()
        }

    def match(self, now_ns: int) -> Match | tuple[Missing, ...]:
        """Return the newest set that fits, or for each source why there is none."""
        oldest = now_ns - self._age_ns
        for stream in self.streams.values():
            if not stream.times or stream.times[-1] < oldest:
                return self._stale(now_ns)
        problem: Missing | None = None
        for back in count(1):
            sets = self._sets(back, oldest)
            if not sets:
                return (problem,)
            for spread, anchor, chosen in sets:
                found = self._complete(spread, anchor, chosen)
                if isinstance(found, Match):
                    return found
                problem = problem or found

    def _sets(self, back: int, oldest: int) -> list[tuple[int, int, list[int]]]:
        """Return (spread, anchor, index a camera) around each camera's back-th newest frame."""
        streams = [self.streams[view] for view in self._views]
        sets = []
        for stream in streams:
            if back > len(stream.times) or stream.times[-back] < oldest:
                continue
            anchor = first = last = stream.times[-back]
            chosen = []
            for other in streams:
                if other is stream:
                    chosen.append(len(stream.times) - back)
                    continue
                index = other.nearest(anchor)
                chosen.append(index)
                time_ns = other.times[index]
                if time_ns < first:
                    first = time_ns
                elif time_ns > last:
                    last = time_ns
            sets.append((last - first, anchor, chosen))
        sets.sort()
        return sets

    def _complete(self, spread: int, anchor: int, chosen: list[int]) -> Match | Missing:
        streams = self.streams
        frames = {
            view: (streams[view].times[index], streams[view].items[index])
            for view, index in zip(self._views, chosen, strict=True)
        }
        if spread > self._skew_ns:
            view = max(frames, key=lambda name: abs(frames[name][0] - anchor))
            return Missing(
                view, f'skew {spread * 1e-9:.3f} s > {self._skew_s:g} s between the cameras'
            )
        state = self._state_at(anchor)
        return state if isinstance(state, Missing) else Match(anchor, frames, *state)

    def _state_at(self, anchor: int) -> tuple[np.ndarray, int] | Missing:
        """Return joints [S] at the anchor and the time they hold for."""
        times, rows = self.streams[STATE].times, self.streams[STATE].items
        after = bisect_right(times, anchor)
        if after == 0:
            return Missing(STATE, 'no joint state as old as the newest frames yet')
        low = times[after - 1]
        if after == len(times):
            if anchor - low > self._state_period_ns:
                behind = (anchor - low) * 1e-9
                return Missing(STATE, f'joint states are {behind:.3f} s behind the cameras')
            return np.array(rows[-1]), low
        gap = times[after] - low
        if gap > self._age_ns:
            return Missing(STATE, f'a gap of {gap * 1e-9:.2f} s around the newest frames')
        part = (anchor - low) / gap
        pairs = zip(rows[after - 1], rows[after], strict=True)
        return np.array([a + part * (b - a) for a, b in pairs]), anchor

    def _stale(self, now_ns: int) -> tuple[Missing, ...]:
        problems = []
        for name, stream in self.streams.items():
            if not stream.times:
                problems.append(Missing(name, 'never received'))
            elif now_ns - stream.times[-1] > self._age_ns:
                noun = 'joint state' if name == STATE else 'frame'
                age = (now_ns - stream.times[-1]) * 1e-9
                reason = f'last {noun} {age:.2f} s old (limit {self._age_s:g} s)'
                problems.append(Missing(name, reason))
        return tuple(problems)
