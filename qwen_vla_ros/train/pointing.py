"""
The loss that teaches a readout (model/readout.py) where its points are.

Points of a sample: [P, 2] (u, v) in 0..1 of their pictures; NaN: not in the picture, which is
learnt too; inf: not told. Shapes: B samples, P points, T tokens.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qwen_vla_ros.model.scene import Found

PLACE_WEIGHT = 10.0
BETA = 0.02  # of a picture: below it the error counts by its square
VALUE_WEIGHT, VALUE_BETA, VALUE_ERROR = 2.0, 0.05, 0.1
KNOWN_WEIGHT = 0.5  # of each value's "there is such", which may be what a base decides by
TOLD_ERROR, TOLD_RATE = 0.012, 0.9  # of a picture: what is told strays; so often it is seen


def points_of(told: Mapping[str, tuple[float, float] | None], names: Sequence[str]) -> np.ndarray:
    """Return float32 [P, 2] of what a sample tells."""
    nowhere, untold = (np.nan, np.nan), (np.inf, np.inf)
    rows = [(told[name] or nowhere) if name in told else untold for name in names]
    return np.array(rows, np.float32).reshape(-1, 2)


def told_of(
    points_P2: Tensor, values_V: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """
    Return what a model is told of a sample's points and values: some way off.

    share: of the samples; the others are told nothing (inf). Now and then a point is told away.
    """
    moved = points_P2 + TOLD_ERROR * torch.randn(points_P2.shape, generator=generator)
    lost = torch.rand(len(points_P2), generator=generator) > TOLD_RATE
    moved = torch.where(lost[:, None] & ~points_P2.isinf(), torch.nan, moved)
    blur = VALUE_ERROR * torch.rand((), generator=generator)
    values = values_V + blur * torch.randn(values_V.shape, generator=generator)
    silent = torch.rand((), generator=generator) >= share
    return moved.masked_fill(silent, torch.inf), values.masked_fill(silent, torch.inf)


def pointing_losses(
    found: Found, points_BP2: Tensor, values_BV: Tensor, batch: Mapping[str, Tensor]
) -> Tensor:
    """Return [B]: what is wrong with the points, and with the values."""
    return _point_losses(found, points_BP2, batch) + _value_losses(found, values_BV, points_BP2)


def _value_losses(found: Found, values_BV: Tensor, points_BP2: Tensor) -> Tensor:
    """Return [B]: the values' error, and the entropy of whether there are any."""
    if found.values_BV is None:
        return points_BP2.new_zeros(len(points_BP2))
    losses = value_losses(found.values_BV, found.known_BV, values_BV)
    told = ~points_BP2.isinf().all(-1).all(-1)  # a sample that tells no points tells no values
    return losses * told


def value_losses(guess_BV: Tensor, known_BV: Tensor, values_BV: Tensor) -> Tensor:
    """Return [B]: guesses' and logits' error about values, NaN where there is none."""
    there = values_BV.isfinite()
    right = values_BV.nan_to_num(0.0)
    error = functional.smooth_l1_loss(guess_BV, right, reduction='none', beta=VALUE_BETA)
    error = error.masked_fill(~there, 0).sum(-1) / there.sum(-1).clamp(min=1)
    known = functional.binary_cross_entropy_with_logits(known_BV, there.float(), reduction='none')
    return VALUE_WEIGHT * error + KNOWN_WEIGHT * known.sum(-1)


def _point_losses(found: Found, points_BP2: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return [B]: cross-entropy over tokens and "not there", and the found places' error."""
    logits, seen = found.logits_BPT1, points_BP2.isfinite().all(-1)
    useful = ~points_BP2.isinf().any(-1) & (logits[..., :-1] > -torch.inf).any(-1)
    middle, cell = batch['token_place'][:, None].split(2, -1)
    points = points_BP2.nan_to_num(0.5, 0.5, 0.5)
    away = ((points[:, :, None] - middle).abs() / cell.clamp(min=1e-6)).amax(-1)
    nearest = away.masked_fill(logits[..., :-1] == -torch.inf, torch.inf).argmin(-1)
    right = torch.where(seen, nearest, logits.shape[-1] - 1)
    entropy = functional.cross_entropy(logits.flatten(0, 1), right.flatten(), reduction='none')
    error = functional.smooth_l1_loss(found.place_BP2, points, reduction='none', beta=BETA)
    loss = entropy.view_as(right) + PLACE_WEIGHT * error.sum(-1) * seen
    return loss.masked_fill(~useful, 0).sum(-1) / useful.sum(-1).clamp(min=1)
