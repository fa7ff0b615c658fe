"""
Two policies on the same worlds: what of the difference is chance.

McNemar's exact test (McNemar 1947; the binomial form) looks at the worlds where only one of the
two succeeded: had they equal chances, each such world would be a fair coin. The interval of the
difference is that of a bootstrap over worlds, with a fixed seed.
"""

import math
from collections.abc import Mapping
from typing import Any

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.navigation_metrics import mean_with_interval


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of so many worlds where only one of two succeeded."""
    if min(only_first, only_second) < 0:
        raise QwenVlaError('McNemar: a number of worlds below zero')
    trials = only_first + only_second
    if trials == 0:
        return 1.0
    tail = sum(math.comb(trials, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2.0 * tail / 2**trials)


def compare_paired(first: Mapping[Any, bool], second: Mapping[Any, bool]) -> dict[str, Any]:
    """
    Return how first does beside second, on the worlds (keys) that both have.

    worlds, both, only_first, only_second, neither; difference (mean of first minus second) with
    interval95; p of McNemar's exact test. QwenVlaError when they have no world in common.
    """
    common = [key for key in first if key in second]
    if not common:
        raise QwenVlaError('comparison: the two runs have no world in common')
    pairs = [(bool(first[key]), bool(second[key])) for key in common]
    counts = {
        'both': pairs.count((True, True)),
        'only_first': pairs.count((True, False)),
        'only_second': pairs.count((False, True)),
        'neither': pairs.count((False, False)),
    }
    spread = mean_with_interval([float(a) - float(b) for a, b in pairs])
    return {
        'worlds': len(common),
        **counts,
        'difference': spread['mean'],
        'interval95': spread['interval95'],
        'p': mcnemar_exact(counts['only_first'], counts['only_second']),
    }
