"""
Streams with times -> one set that belongs together, or why there is none.

The anchor of a set is a camera's newest frame: that one around which the nearest frames of the
other cameras lie closest together. Every state is interpolated to it. When no such set fits (skew,
or a state not there yet), the frames before are tried, until the age limit. Nothing is
extrapolated.

Items are filed under their true times; messages, topics and clocks are observation.py's business.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, inf, pi
from typing import Any, NamedTuple

KEEP_S = 0.5


@dataclass(frozen=True)
class Missing:
    """Why there is no observation: source is a view tag, 'state' or 'state.<key>'."""

    source: str
    reason: str

    def __str__(self) -> str:
        """Say both, as a status line wants it."""
        return f'{self.source}: {self.reason}'


class Match(NamedTuple):
    """One set: view -> (time, item) of the cameras, source -> (time, row) of the states."""

    anchor_ns: int
    frames: Mapping[str, tuple[int, Any]]
    states: Mapping[str, tuple[int, Sequence[float]]]


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
        last = len(times) - 1
        if time_ns >= times[last]:
            return last
        index = bisect_left(times, time_ns)
        if index and time_ns - times[index - 1] <= times[index] - time_ns:
            return index - 1
        return index

    def drop(self, time_ns: int) -> None:
        """Forget the item of a time, if it is still there."""
        index = bisect_left(self.times, time_ns)
        if index < len(self.times) and self.times[index] == time_ns:
            del self.times[index], self.items[index]

    def drop_after(self, time_ns: int) -> None:
        """Forget what is later than a time."""
        index = bisect_right(self.times, time_ns)
        del self.times[index:], self.items[index:]


class Aligner:
    """One stream a source; finds the newest set of all sources that belongs together."""

    def __init__(
        self,
        camera_rates: Mapping[str, float],
        state_rates: Mapping[str, float],
        skew_s: float,
        age_s: float,
        future_s: float = inf,
        angles: Mapping[str, Sequence[int]] | None = None,
        keep: int | None = None,
    ) -> None:
        """
        Set up for view -> Hz and state source -> Hz.

        skew_s is over all cameras, age_s of each source; items more than future_s ahead of the
        clock are forgotten when they are met (the clock was set back). angles names the columns of
        a state that turn over at +-pi: they are interpolated the short way round. keep is how many
        items of a source are held at least; KEEP_S of them if not given.
        """
        self._keep = keep
        self._rates = {**camera_rates, **state_rates}
        self._views, self._states = tuple(camera_rates), tuple(state_rates)
        self._skew_s, self._age_s = skew_s, age_s
        self._skew_ns, self._age_ns = round(skew_s * 1e9), round(age_s * 1e9)
        self._future_ns = future_s * 1e9
        self._periods_ns = {name: round(1e9 / rate) for name, rate in state_rates.items()}
        self._angles = {name: tuple(found) for name, found in (angles or {}).items() if found}
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.streams = {
            name: Stream(self._keep or max(4, ceil(KEEP_S * rate)))
            for name, rate in self._rates.items()
        }
        self._all = tuple(self.streams.values())
        self._cameras = tuple(self.streams[view] for view in self._views)

    def match(self, now_ns: int) -> Match | tuple[Missing, ...]:
        """Return the newest set that fits, or for each source why there is none."""
        oldest, latest = now_ns - self._age_ns, now_ns + self._future_ns
        fresh = True
        for stream in self._all:
            times = stream.times
            if not times or not oldest <= times[-1] <= latest:
                stream.drop_after(latest)
                fresh = fresh and bool(times) and times[-1] >= oldest
        if not fresh:
            return self._stale(now_ns)
        problems: tuple[Missing, ...] = ()
        for back in count(1):
            sets = self._sets(back, oldest)
            if not sets:
                return problems
            for spread, anchor, chosen in sets:
                found = self._complete(spread, anchor, chosen)
                if type(found) is Match:
                    return found
                problems = problems or found

    def _sets(self, back: int, oldest: int) -> list[tuple[int, int, list[int]]]:
        """Return (spread, anchor, index a camera) around each camera's back-th newest frame."""
        sets = []
        for stream in self._cameras:
            times = stream.times
            if back > len(times) or times[-back] < oldest:
                continue
            anchor = first = last = times[-back]
            chosen = []
            for other in self._cameras:
                if other is stream:
                    chosen.append(-back)
                    continue
                index, time_ns = -1, other.times[-1]
                if anchor < time_ns:
                    index = other.nearest(anchor)
                    time_ns = other.times[index]
                chosen.append(index)
                if time_ns < first:
                    first = time_ns
                elif time_ns > last:
                    last = time_ns
            sets.append((last - first, anchor, chosen))
        sets.sort()
        return sets

    def _complete(
        self, spread: int, anchor: int, chosen: list[int]
    ) -> Match | tuple[Missing, ...]:
        frames = {
            view: (stream.times[index], stream.items[index])
            for view, stream, index in zip(self._views, self._cameras, chosen, strict=True)
        }
        if spread > self._skew_ns:
            view = max(frames, key=lambda name: abs(frames[name][0] - anchor))
            reason = f'skew {spread * 1e-9:.3f} s > {self._skew_s:g} s between the cameras'
            return (Missing(view, reason),)
        states, missing = {}, []
        for name in self._states:
            found = self._state_at(name, anchor)
            if type(found) is Missing:
                missing.append(found)
            states[name] = found
        return tuple(missing) if missing else Match(anchor, frames, states)

    def _state_at(self, name: str, anchor: int) -> tuple[int, Sequence[float]] | Missing:
        """Return the time that a state holds for, and its row at the anchor."""
        stream = self.streams[name]
        times, rows = stream.times, stream.items
        after = bisect_right(times, anchor)
        if after == 0:
            return Missing(name, 'no state as old as the newest frames yet')
        low = times[after - 1]
        if after == len(times):
            if anchor - low > self._periods_ns[name]:
                return Missing(name, f'{(anchor - low) * 1e-9:.3f} s behind the cameras')
            return low, rows[-1]
        gap = times[after] - low
        if gap > self._age_ns:
            return Missing(name, f'a gap of {gap * 1e-9:.2f} s around the newest frames')
        part = (anchor - low) / gap
        before, behind = rows[after - 1], rows[after]
        row = [a + part * (b - a) for a, b in zip(before, behind)]  # noqa: B905 (equal)
        if name in self._angles:
            for column in self._angles[name]:
                turn = _turned(behind[column] - before[column])
                row[column] = _turned(before[column] + part * turn)
        return anchor, row

    def _stale(self, now_ns: int) -> tuple[Missing, ...]:
        problems = []
        for name, stream in self.streams.items():
            if not stream.times:
                problems.append(Missing(name, 'never received'))
            elif now_ns - stream.times[-1] > self._age_ns:
                noun = 'state' if name in self._states else 'frame'
                age = (now_ns - stream.times[-1]) * 1e-9
                reason = f'last {noun} {age:.2f} s old (limit {self._age_s:g} s)'
                problems.append(Missing(name, reason))
        return tuple(problems)


def _turned(angle: float) -> float:
    """Return an angle in rad brought into [-pi, pi)."""
    return (angle + pi) % (2 * pi) - pi
