"""
The statistics that LeRobot keeps of a feature: min, max, mean, std, count and five quantiles.

Of pictures per colour in [0, 1], shaped [3, 1, 1]. Of an episode they are exact; those of a set
come from one pass (statistics.Counter), not from averaging the episodes' quantiles.
"""

from typing import Any

import numpy as np

from qwen_vla_ros.data.statistics import Counter

QUANTILES = {'q01': 0.01, 'q10': 0.10, 'q50': 0.50, 'q90': 0.90, 'q99': 0.99}
Stats = dict[str, Any]


def vector_stats(rows: np.ndarray) -> Stats:
    """Return the statistics of rows [F, W] as lists of W numbers."""
    rows = rows.astype(np.float64)
    found = {'min': rows.min(0), 'max': rows.max(0), 'mean': rows.mean(0), 'std': rows.std(0)}
    found |= {name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()}
    return {key: value.tolist() for key, value in found.items()} | {'count': [len(rows)]}


class RunningStats:
    """vector_stats() of a whole set, episode by episode."""

    def __init__(self, width: int) -> None:
        """Count nothing yet."""
        self._bins = Counter([str(i) for i in range(width)])
        self._low, self._high = np.full(width, np.inf), np.full(width, -np.inf)
        self._mean, self._squares = np.zeros(width), np.zeros(width)

    def add(self, rows: np.ndarray) -> None:
        """Count rows [F, W]."""
        rows = rows.astype(np.float64)
        before, count = self._bins.rows, len(rows)
        self._bins.add(rows, 'statistics')
        self._low = np.minimum(self._low, rows.min(0))
        self._high = np.maximum(self._high, rows.max(0))
        away = rows.mean(0) - self._mean
        self._mean = self._mean + away * count / (before + count)
        self._squares += rows.var(0) * count + away**2 * before * count / (before + count)

    def result(self) -> Stats:
        """Return the statistics as lists of W numbers."""
        rows = self._bins.rows
        found = {'min': self._low, 'max': self._high, 'mean': self._mean}
        lists = {key: value.tolist() for key, value in found.items()}
        lists['std'] = np.sqrt(self._squares / rows).tolist()
        quantiles = {n: list(self._bins.quantile(share)) for n, share in QUANTILES.items()}
        return lists | quantiles | {'count': [rows]}


def pixel_stats(counts: np.ndarray, frames: int) -> Stats:
    """Return the statistics of pixels counted by colour and value, int [3, 256]."""
    levels = np.arange(256) / 255
    total = counts.sum(1)
    mean = counts @ levels / total
    found = {
        'min': levels[(counts > 0).argmax(1)],
        'max': levels[255 - (counts[:, ::-1] > 0).argmax(1)],
        'mean': mean,
        'std': np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0)),
    }
    reached = np.cumsum(counts, 1)
    for name, share in QUANTILES.items():
        found[name] = levels[(reached > share * (total - 1)[:, None]).argmax(1)]
    shaped = {key: value.reshape(3, 1, 1).tolist() for key, value in found.items()}
    return shaped | {'count': [frames]}
