"""What happened on one source: counts, histograms over all time, percentiles of late."""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

EDGES_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
RECENT = 500


@dataclass
class Spread:
    """A histogram of seconds over EDGES_S, the last bin open; the newest values beside it."""

    bins: list[int] = field(default_factory=lambda: [0] * (len(EDGES_S) + 1))
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def add(self, seconds: float) -> None:
        """Count a value."""
        self.bins[bisect_right(EDGES_S, seconds)] += 1
        self.recent.append(seconds)

    def percentiles(self) -> tuple[float, float, float] | None:
        """Return p50, p95 and p99 in s of the newest values; None before the first."""
        if not self.recent:
            return None
        p50, p95, p99 = np.percentile(list(self.recent), (50, 95, 99))
        return float(p50), float(p95), float(p99)


@dataclass
class Counts:
    """Counts of one source: age is now minus its time, skew the distance from the anchor."""

    received: int = 0
    refused: int = 0
    duplicates: int = 0
    age: Spread = field(default_factory=Spread)
    skew: Spread = field(default_factory=Spread)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            'received': self.received,
            'refused': self.refused,
            'duplicates': self.duplicates,
            'age': list(self.age.bins),
            'skew': list(self.skew.bins),
            'age_s': self.age.percentiles(),
            'skew_s': self.skew.percentiles(),
        }


def told_bins(bins: list[int]) -> str:
    """Return a histogram for a reader: '<5:12 <10:3 ms', empty bins left out."""
    names = [*(f'<{edge * 1e3:g}' for edge in EDGES_S), f'>={EDGES_S[-1] * 1e3:g}']
    told = [f'{name}:{count}' for name, count in zip(names, bins, strict=True) if count]
    return f'{" ".join(told)} ms' if told else 'none'
