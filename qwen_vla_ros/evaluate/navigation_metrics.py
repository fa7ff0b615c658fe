"""
The metrics of instruction following, once: NE, SR, OSR, SPL, nDTW, with their intervals.

    NE    navigation error: length in m of the shortest way from where it ended to the goal
    SR    success: it stopped by itself, and NE is within the goal's radius
    OSR   oracle success: some point of its way was within that radius, stopped there or not
    SPL   success weighted by path length: SR * l / max(p, l), l the shortest way, p its own
    nDTW  exp(-DTW / (|R| d)): its way beside the reference R, d the radius

SR, SPL: Anderson et al., On Evaluation of Embodied Navigation Agents, 2018 (arXiv:1807.06757).
NE, OSR: Anderson et al., Vision-and-Language Navigation, CVPR 2018 (arXiv:1711.07280).
nDTW: Ilharco et al., General Evaluation for Instruction Conditioned Navigation using Dynamic Time
Warping, 2019 (arXiv:1907.05446). Where the goal is a region, NE is the way to its edge, the radius
of SR and OSR is 0, and nDTW needs a d of its own.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.statistics import success_rate

RESAMPLES = 2000


@dataclass(frozen=True)
class NavigationScore:
    """
    One episode's metrics.

    error_m         NE in m; None when no way leads to the goal from where it ended
    success         SR of the one episode
    oracle_success  OSR of the one episode
    spl, ndtw       0 .. 1
    length_m        of its own way
    shortest_m      of the shortest way from its start
    """

    error_m: float | None
    success: bool
    oracle_success: bool
    spl: float
    ndtw: float
    length_m: float
    shortest_m: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able copy."""
        return asdict(self)


def score_episode(
    track: np.ndarray,
    distances_m: Sequence[float],
    reference: np.ndarray,
    shortest_m: float,
    stopped: bool,
    radius_m: float = 0.0,
    dtw_radius_m: float | None = None,
    aligned: np.ndarray | None = None,
) -> NavigationScore:
    """
    Return the metrics of one episode.

    track         [N, 2 or 3] m, where it was, the start first
    distances_m   [N] m, length of the shortest way from each point to the goal (inf: none)
    reference     [M, 2 or 3] m, the reference way
    shortest_m    m, length of the shortest way from the start
    stopped       it ended by its own will
    radius_m      m, within which the goal counts as reached
    dtw_radius_m  m, d of nDTW; by default radius_m
    aligned       [K, 2 or 3] m, the track sampled as the reference is, for nDTW; by default track
    """
    track, distances = np.asarray(track, np.float64), np.asarray(distances_m, np.float64)
    if track.ndim != 2 or len(track) != len(distances) or not len(track):
        raise QwenVlaError(
            f'navigation metrics: {len(distances)} distances for a track {list(track.shape)}'
        )
    if not np.isfinite(track).all() or np.isnan(distances).any():
        raise QwenVlaError('navigation metrics: track and distances must be numbers')
    error, length = float(distances[-1]), path_length(track)
    success = bool(stopped and error <= radius_m)
    beside = track if aligned is None else aligned
    return NavigationScore(
        error_m=error if np.isfinite(error) else None,
        success=success,
        oracle_success=bool((distances <= radius_m).any()),
        spl=path_weighted_success(success, shortest_m, length),
        ndtw=normalised_dtw(beside, reference, radius_m if dtw_radius_m is None else dtw_radius_m),
        length_m=length,
        shortest_m=float(shortest_m),
    )


def path_length(track: np.ndarray) -> float:
    """Return the length in m of a way [N, 2 or 3]."""
    return float(np.linalg.norm(np.diff(track, axis=0), axis=1).sum())


def path_weighted_success(success: bool, shortest_m: float, length_m: float) -> float:
    """Return S * l / max(p, l); 1 for a success that started on the goal and stayed."""
    if shortest_m < 0.0 or length_m < 0.0:
        raise QwenVlaError('navigation metrics: a length below zero')
    longer = max(shortest_m, length_m)
    return float(success) if longer == 0.0 else float(success) * shortest_m / longer


def dtw(track: np.ndarray, reference: np.ndarray) -> float:
    """Return the least sum of distances in m over all monotonic alignments of two ways."""
    track, reference = np.asarray(track, np.float64), np.asarray(reference, np.float64)
    if not len(track) or not len(reference):
        raise QwenVlaError('navigation metrics: a way without points')
    costs = np.linalg.norm(track[:, None] - reference[None], axis=-1)
    above = np.full(len(reference) + 1, np.inf)
    above[0] = 0.0
    for row in costs:
        here = np.full_like(above, np.inf)
        for index, cost in enumerate(row):
            here[index + 1] = cost + min(above[index], above[index + 1], here[index])
        above = here
    return float(above[-1])


def normalised_dtw(track: np.ndarray, reference: np.ndarray, radius_m: float) -> float:
    """Return nDTW 0 .. 1 of a way beside a reference; radius_m scales it."""
    if not radius_m > 0.0:
        raise QwenVlaError(f'nDTW: the radius must be positive, got {radius_m}')
    return float(np.exp(-dtw(track, reference) / (len(reference) * radius_m)))


def summarise_navigation(scores: Sequence[NavigationScore]) -> dict[str, Any]:
    """
    Return episodes and each metric's mean with its 95 % interval; None without episodes.

    SR and OSR have Wilson intervals, the others those of a bootstrap over episodes with a fixed
    seed. NE is over the episodes that have one; unreachable counts the others.
    """
    errors = [score.error_m for score in scores if score.error_m is not None]
    return {
        'episodes': len(scores),
        'SR': success_rate(score.success for score in scores),
        'OSR': success_rate(score.oracle_success for score in scores),
        'SPL': mean_with_interval([score.spl for score in scores]),
        'NE_m': {**mean_with_interval(errors), 'unreachable': len(scores) - len(errors)},
        'nDTW': mean_with_interval([score.ndtw for score in scores]),
        'length_m': mean_with_interval([score.length_m for score in scores]),
    }


def mean_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and interval95 (bootstrap, percentiles); None of an empty sequence."""
    if not len(values):
        return {'mean': None, 'interval95': None}
    sample = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).integers(len(sample), size=(RESAMPLES, len(sample)))
    low, high = np.percentile(sample[drawn].mean(1), [2.5, 97.5])
    return {'mean': float(sample.mean()), 'interval95': [float(low), float(high)]}
