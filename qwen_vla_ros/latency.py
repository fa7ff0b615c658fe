"""
How late chunks are, in rows of the policy, and whether a chunk lasts until the next one.

A chunk of H rows starts at its observation. The next observation is taken `executed` rows later
(replan, or the delay d when that is longer), and its chunk comes d rows after that. So it covers
the delay as long as executed + d + margin <= H - 1. Beyond that the arm finishes each chunk and
holds, until RECOVERY calls in a row were well within.
"""

import math
from collections import deque

WINDOW = 100
RECOVERY = 5
HYSTERESIS = 0.8  # share of the limit that counts as well within


class DelayEnvelope:
    """The newest delays against what a chunk covers. Not thread-safe: its owner locks."""

    def __init__(self, horizon: int, replan_rows: float = 0.0, margin_rows: float = 0.0) -> None:
        """
        Set up with no delay known.

        horizon      rows of a chunk
        replan_rows  rows between two observations, at least
        margin_rows  rows that must be left when the next chunk comes (what a command reaches)
        """
        cover = horizon - 1 - margin_rows
        self.limit = max(0.0, min(cover / 2, cover - replan_rows))
        self._delays: deque[float] = deque(maxlen=WINDOW)
        self._exceeded = False

    @property
    def exceeded(self) -> bool:
        """Return whether chunks do not last until the next one."""
        return self._exceeded

    @property
    def p95(self) -> float | None:
        """
        Return the 95th percentile of the newest delays in rows; None before the first.

        From two delays on the largest one never counts: one slow call is no slow model.
        """
        if not self._delays:
            return None
        ordered = sorted(self._delays)
        rank = min(math.ceil(0.95 * len(ordered)), len(ordered) - 1)
        return ordered[max(rank, 1) - 1]

    @property
    def told(self) -> str:
        """Return why each chunk is finished before the next is asked for; '' when it is not."""
        if not self._exceeded:
            return ''
        return (
            f'latency: p95 of {self.p95:.1f} rows exceeds the {self.limit:.1f} that a chunk '
            'covers; each chunk is finished, then the arm holds until the next'
        )

    def note(self, rows: float) -> None:
        """Take the delay of a chunk, in rows from its observation until it came."""
        self._delays.append(rows)
        if not self._exceeded:
            self._exceeded = len(self._delays) > 1 and self.p95 > self.limit
            return
        newest = list(self._delays)[-RECOVERY:]
        if len(newest) == RECOVERY and max(newest) <= HYSTERESIS * self.limit:
            self._exceeded = False
            self._delays = deque(newest, WINDOW)
