"""
The metrics of manipulation, once: success, route completion and DOMINO's manipulation score.

    SR   success
    RC   route completion 0 .. 100: 100 for a success; else the share of the way to where the
         target last was that the nearer arm's tip has made, 0 where it is no nearer
    MS   RC, times 0.5 if the target left the workspace, times 0.8 for each thing that was hit

As DOMINO's script/eval_metrics.py (H-EmbodVis/DOMINO) computes them: a tip that began within 1 cm
of that place counts full within 5 cm and half beyond; without motion of the target (a static task)
RC is 100 or 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.navigation_metrics import mean_with_interval
from qwen_vla_ros.evaluate.statistics import success_rate

OUT_OF_BOUNDS, COLLISION = 0.5, 0.8
AT_ONCE_M, THERE_M = 0.01, 0.05


@dataclass(frozen=True)
class ManipulationScore:
    """One episode: success, route completion and manipulation score (0 .. 100)."""

    success: bool
    route_completion: float
    score: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able copy."""
        return asdict(self)


def score_manipulation(
    success: bool,
    begins: Sequence[np.ndarray] = (),
    ends: Sequence[np.ndarray] = (),
    target: np.ndarray | None = None,
    collisions: int = 0,
    out_of_bounds: bool = False,
) -> ManipulationScore:
    """
    Return the metrics of one episode.

    begins, ends   [3] m each: where the tips of the arms were first and last
    target         [3] m, where the moving target last was; None: a static task
    collisions     different things beside the target that were hit
    out_of_bounds  the target left the workspace
    """
    if collisions < 0:
        raise QwenVlaError(f'manipulation score: {collisions} collisions')
    route = 100.0 if success else 0.0
    if not success and target is not None:
        if len(begins) != len(ends) or not len(begins):
            raise QwenVlaError('manipulation score: a first and a last place of each tip are due')
        shares = [route_share(begin, end, target) for begin, end in zip(begins, ends, strict=True)]
        route = 100.0 * max(shares)
    penalty = COLLISION**collisions * (OUT_OF_BOUNDS if out_of_bounds else 1.0)
    return ManipulationScore(bool(success), route, route * penalty)


def route_share(begin: np.ndarray, end: np.ndarray, target: np.ndarray) -> float:
    """Return how much of the way from begin to target lies behind end, 0 .. 1."""
    places = np.array([begin, end, target], np.float64)
    if places.shape != (3, 3) or not np.isfinite(places).all():
        raise QwenVlaError('manipulation score: places are three finite numbers each')
    far, near = np.linalg.norm(places[:2] - places[2], axis=1)
    if far < AT_ONCE_M:
        return 1.0 if near < THERE_M else 0.5
    return float(np.clip((far - near) / far, 0.0, 1.0))


def summarise_manipulation(scores: Sequence[ManipulationScore]) -> dict[str, Any]:
    """Return SR with its Wilson interval, MS and RC with those of a bootstrap."""
    return {
        'episodes': len(scores),
        'SR': success_rate(score.success for score in scores),
        'MS': mean_with_interval([score.score for score in scores]),
        'RC': mean_with_interval([score.route_completion for score in scores]),
    }
