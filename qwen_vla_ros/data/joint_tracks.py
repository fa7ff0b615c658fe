"""
The measured joints of a bag over true time, read in short blocks when they are asked for.

True time is the header stamp minus the stream's latency offset. Blocks lie in the time at which
messages were heard, so a little more than what is asked for is read around it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qwen_vla_ros.embodiment import StateSource
from qwen_vla_ros.image_decoding import InputError
from qwen_vla_ros.state_reading import state_reader

BLOCK_NS = 500_000_000
AROUND_NS = 500_000_000  # beyond the age limit: how late a joint message may have been heard
KEPT_BLOCKS = 64
Messages = Callable[[int, int], Iterator[Any]]
Rows = tuple[np.ndarray, np.ndarray]


class JointTracks:
    """One source of state of one bag; messages(start, stop): what was heard in [start, stop)."""

    def __init__(
        self, source: StateSource, messages: Messages, span: tuple[int, int], late_s: float
    ) -> None:
        """span: when the first and the last message of the bag were heard; nothing is read."""
        self.names = [field.name for field in source.fields]
        self._messages = messages
        self._first_ns, self._last_ns = span
        self._offset_ns = round(source.latency_offset_s * 1e9)
        self._around_ns = AROUND_NS + round(late_s * 1e9)
        self._row_of = state_reader(source)
        self._blocks: OrderedDict[int, Rows] = OrderedDict()
        self._ends: tuple[int, int] | None = None

    def ends(self) -> tuple[int, int] | None:
        """Return the true times of the first and the last usable message; None: there is none."""
        if self._ends is None:
            count = (self._last_ns - self._first_ns) // BLOCK_NS + 1
            first = next((b for b in range(count) if len(self._block(b)[0])), None)
            if first is None:
                return None
            last = next(b for b in reversed(range(count)) if len(self._block(b)[0]))
            self._ends = int(self._block(first)[0].min()), int(self._block(last)[0].max())
        return self._ends

    def at(self, times_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the joints [T, J], linearly between messages, and which times are known [T].

        What lies outside the recorded messages repeats the nearest one.
        """
        ends = self.ends()
        assert ends is not None, 'a bag without usable joints is refused when it is opened'
        inside = np.clip(times_ns, *ends)
        known, rows = self._between(int(inside.min()), int(inside.max()))
        columns = [
            np.interp(times_ns - self._first_ns, known - self._first_ns, rows[:, column])
            for column in range(len(self.names))
        ]
        return np.stack(columns, 1), (times_ns >= ends[0]) & (times_ns <= ends[1])

    def _between(self, low_ns: int, high_ns: int) -> Rows:
        """Return the rows of a stretch and those around it, by increasing true time."""
        begin = (low_ns + self._offset_ns - self._around_ns - self._first_ns) // BLOCK_NS
        end = (high_ns + self._offset_ns + self._around_ns - self._first_ns) // BLOCK_NS
        last = (self._last_ns - self._first_ns) // BLOCK_NS
        begin, end = min(max(begin, 0), last), max(min(end, last), 0)
        wide = begin, end
        found = [self._block(block) for block in range(begin, end + 1)]
        while not self._encloses(found, low_ns, high_ns) and (begin > 0 or end < last):
            begin, end = max(begin - 1, 0), min(end + 1, last)  # a stretch that lacks joints
            before = [self._block(begin)] if begin < wide[0] else []
            after = [self._block(end)] if end > wide[1] else []
            found, wide = before + found + after, (begin, end)
        times = np.concatenate([block[0] for block in found])
        rows = np.concatenate([block[1] for block in found])
        _, newest = np.unique(times[::-1], return_index=True)
        order = len(times) - 1 - newest
        return times[order], rows[order]

    @staticmethod
    def _encloses(found: list[Rows], low_ns: int, high_ns: int) -> bool:
        times = np.concatenate([block[0] for block in found])
        return bool(len(times)) and times.min() <= low_ns and times.max() >= high_ns

    def _block(self, number: int) -> Rows:
        """Return true times [N] and rows [N, J] of what was heard within a block."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        times: list[int] = []
        rows: list[tuple[float, ...]] = []
        start = self._first_ns + number * BLOCK_NS
        for message in self._messages(start, start + BLOCK_NS):
            stamp = message.header.stamp
            try:
                rows.append(self._row_of(message))
            except InputError:
                continue
            times.append(stamp.sec * 1_000_000_000 + stamp.nanosec - self._offset_ns)
        values = np.array(rows, np.float64).reshape(len(rows), len(self.names))
        self._blocks[number] = np.array(times, np.int64), values
        while len(self._blocks) > KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[number]
