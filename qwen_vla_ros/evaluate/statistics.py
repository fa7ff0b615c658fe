"""Small-sample statistics: the Wilson interval of a success rate, percentiles of latencies."""

import math
from collections.abc import Iterable, Sequence

from qwen_vla_ros.errors import QwenVlaError

Z95 = 1.959963984540054


def wilson_interval(success: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """
    Return the Wilson score interval of success / trials; z = 1.96 gives 95 %.

    Stays inside [0, 1] and is honest at 0 and at all successes; no trials tell nothing: (0, 1).
    """
    if not 0 <= success <= trials:
        raise QwenVlaError(f'interval: {success} successes of {trials} trials are impossible')
    if trials == 0:
        return 0.0, 1.0
    rate, weight = success / trials, z * z / trials
    centre = (rate + weight / 2) / (1 + weight)
    half = z * math.sqrt(rate * (1 - rate) / trials + weight / (4 * trials)) / (1 + weight)
    low = 0.0 if success == 0 else max(0.0, centre - half)
    high = 1.0 if success == trials else min(1.0, centre + half)
    return low, high


def success_rate(outcomes: Iterable[bool]) -> dict[str, object]:
    """Return episodes, success, success_rate (None without episodes) and interval95."""
    outcomes = list(outcomes)
    trials, success = len(outcomes), sum(outcomes)
    return {
        'episodes': trials,
        'success': success,
        'success_rate': success / trials if trials else None,
        'interval95': list(wilson_interval(success, trials)),
    }


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the percentile, linear between neighbours; None of an empty sequence."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100.0
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p95 and p99."""
    return {f'p{percent}': percentile(values, percent) for percent in (50, 95, 99)}
