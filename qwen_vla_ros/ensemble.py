"""
Temporal ensemble: one chunk out of all that overlap (the weights of ACT, arXiv 2304.13705).

    row(t) = sum_i w_i(t) row_i(t) / sum_i w_i(t),   w_i = exp(-DECAY * i), i = 0 for the oldest

A chunk that ends fades out over its last rows, so its absence makes no step.
"""

from collections.abc import Sequence

import numpy as np

from qwen_vla_ros.types import ActionChunk

DECAY = 0.01
MEMBERS = 64


def members_with(
    members: Sequence[ActionChunk], chunk: ActionChunk, now_ns: int
) -> tuple[ActionChunk, ...]:
    """Return the chunks that still say something about the future, the newest last."""
    return (*(member for member in members if member.end_ns > now_ns), chunk)[-MEMBERS:]


def averaged(members: Sequence[ActionChunk], fade_s: float) -> np.ndarray:
    """
    Return float64 [H, A]: the weighted average at each row of the newest chunk.

    fade_s  s over which a chunk that ends loses its weight
    """
    newest = members[-1]
    total, weights = np.zeros(newest.actions.shape), np.zeros((newest.horizon, 1))
    times = newest.start_ns + np.arange(newest.horizon) * (newest.step_s * 1e9)
    for index, member in enumerate(members):
        weight = np.full((newest.horizon, 1), np.exp(-DECAY * index))
        if member is not newest:
            left = np.clip((member.end_ns - times) * 1e-9 / fade_s, 0.0, 1.0)
            weight[:, 0] *= left**3 * (10 - 15 * left + 6 * left**2)
        weights += weight
        total += weight * _rows(member, times)
    return total / weights


def _rows(chunk: ActionChunk, times: np.ndarray) -> np.ndarray:
    """Return float64 [T, A]: linear between rows, constant beyond them."""
    at = (times - chunk.start_ns) * 1e-9 / chunk.step_s
    at = np.clip(at, 0, chunk.horizon - 1)
    low = np.minimum(at.astype(int), chunk.horizon - 2)
    rows = chunk.actions.astype(np.float64)
    return rows[low] + (at - low)[:, None] * (rows[low + 1] - rows[low])
