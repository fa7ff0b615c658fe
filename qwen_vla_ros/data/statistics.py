"""
q01 and q99 of each channel of a data set and embodiment, in one pass, with a hash (paper, eq. 5).

Rows are counted in fixed bins that widen by powers of two as larger numbers come, so that memory
does not grow and neither the order of episodes nor the number of passes changes the result. A
quantile is wrong by one bin at most: 1 / 32768 of twice the largest magnitude of its channel.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.transforms import Quantiles

BINS = 2**16  # even: a doubling of the range joins pairs around zero


@dataclass(frozen=True)
class SetStatistics:
    """Quantiles of one data set and embodiment, the number of rows, and their hash."""

    source: str
    embodiment: str
    names: tuple[str, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    rows: int

    def quantiles(self) -> Quantiles:
        """Return what normalises; QwenVlaError names a channel that never moves."""
        return Quantiles(self.names, np.array(self.q01), np.array(self.q99))

    def as_dict(self) -> dict[str, object]:
        """Return what is stored as JSON, the hash included."""
        return {
            'source': self.source,
            'embodiment': self.embodiment,
            'names': list(self.names),
            'q01': list(self.q01),
            'q99': list(self.q99),
            'rows': self.rows,
            'sha256': self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """Return the sha256 of names, quantiles and embodiment, for checkpoints to carry."""
        return fingerprint(self.embodiment, self.names, self.q01, self.q99)


def fingerprint(
    embodiment: str, names: Sequence[str], q01: Sequence[float], q99: Sequence[float]
) -> str:
    """Return the sha256 that tells one set of quantiles from every other."""
    content = [embodiment, list(names), [float(q) for q in q01], [float(q) for q in q99]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Counter:
    """Counts of rows in BINS bins a channel, over [-2^k, 2^k) with a k of its own."""

    def __init__(self, names: Sequence[str]) -> None:
        """Count nothing yet."""
        self.names = tuple(names)
        self.rows = 0
        self._exponents = np.full(len(self.names), -20)
        self._counts = np.zeros((len(self.names), BINS), np.int64)

    def add(self, rows: np.ndarray, place: str) -> None:
        """Count rows [F, A]; QwenVlaError names place, row and channel of what is no number."""
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            raise QwenVlaError(f'{place}: {list(rows.shape)} for {len(self.names)} channels')
        bad = np.argwhere(~np.isfinite(rows))
        if len(bad):
            row, column = bad[0]
            raise QwenVlaError(
                f'{place}: {self.names[column]}: row {row} is {rows[row, column]}, not a number'
            )
        if not len(rows):
            return
        self._widen(np.abs(rows).max(0))
        for column, values in enumerate(rows.T.astype(np.float64)):
            scale = BINS // 2 / 2.0 ** self._exponents[column]  # a power of two: exact
            index = np.floor(values * scale).astype(int) + BINS // 2
            self._counts[column] += np.bincount(index, minlength=BINS)
        self.rows += len(rows)

    def quantile(self, share: float) -> tuple[float, ...]:
        """Return, for each channel, the middle of the bin that holds a share of the rows."""
        if not self.rows:
            raise QwenVlaError('statistics: no row was counted')
        reached = np.cumsum(self._counts, 1) > share * (self.rows - 1)
        middle = (reached.argmax(1) + 0.5) / (BINS // 2) - 1
        return tuple((middle * 2.0**self._exponents).tolist())

    def histogram(self, channel: int, bars: int) -> tuple[np.ndarray, float, float]:
        """Return counts [bars] of a channel between its smallest and largest bin, and these."""
        counts = self._counts[channel]
        held = np.flatnonzero(counts)
        if not len(held):
            raise QwenVlaError('statistics: no row was counted')
        first, last = int(held[0]), int(held[-1]) + 1
        bar = (np.arange(first, last) - first) * bars // (last - first)
        size = 2.0 ** int(self._exponents[channel]) / (BINS // 2)
        found = np.bincount(bar, counts[first:last], minlength=bars).astype(np.int64)
        return found, (first - BINS // 2) * size, (last - BINS // 2) * size

    def _widen(self, largest: np.ndarray) -> None:
        """Double a channel's range until its largest magnitude lies inside."""
        quarter = BINS // 4
        for column, magnitude in enumerate(largest):
            while magnitude >= 2.0 ** self._exponents[column]:
                joined = self._counts[column].reshape(-1, 2).sum(1)
                self._counts[column] = 0
                self._counts[column, quarter : quarter + len(joined)] = joined
                self._exponents[column] += 1


def measure(
    source: str, embodiment: str, names: Sequence[str], episodes: Iterable[np.ndarray]
) -> SetStatistics:
    """Return the statistics of episodes, each a matrix of rows [F, A]; one pass."""
    counter = Counter(names)
    for episode, rows in enumerate(episodes):
        counter.add(rows, f'{source}: episode {episode}')
    return SetStatistics(
        source,
        embodiment,
        tuple(names),
        counter.quantile(0.01),
        counter.quantile(0.99),
        counter.rows,
    )
