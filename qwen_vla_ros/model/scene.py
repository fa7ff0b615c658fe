"""
What a readout (readout.py) knows of a scene: places in pictures, values, and both as features.

Shapes: B batch, T tokens, P points, V values, F features of a place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WAVES = 6  # the shortest is a 16th of a picture
VALUE_WAVES = 6  # of a value: 16 to 0.5
VALUE_SCALE = 4.0  # usual size of a value


@dataclass(frozen=True)
class Found:
    """
    Where the points are.

    logits_BPT1   of each token, last: not in the picture; -inf where a token is of no use
    place_BP2     (u, v) in 0..1 of the point's own picture
    seen_BP       probability that it is in the picture
    values_BV     estimates
    known_BV      logits: there is such a value
    """

    logits_BPT1: Tensor
    place_BP2: Tensor
    seen_BP: Tensor
    values_BV: Tensor | None = None
    known_BV: Tensor | None = None


@dataclass(frozen=True)
class Scene:
    """What a draft goes by: places, how surely they are in sight, values, how surely known."""

    place_BP2: Tensor
    seen_BP: Tensor
    values_BV: Tensor
    known_BV: Tensor

    @classmethod
    def told(cls, points_BP2: Tensor, values_BV: Tensor) -> 'Scene':
        """Return what is told; NaN: not in the picture, none."""
        place = points_BP2.nan_to_num(0.5, 0.5, 0.5)
        return cls(
            place, points_BP2.isfinite().all(-1).float(), *values_that_count(None, values_BV)
        )

    @classmethod
    def found(cls, found: Found) -> 'Scene':
        """Return what was found."""
        known = found.known_BV.sigmoid()
        return cls(found.place_BP2, found.seen_BP, found.values_BV, known)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all four."""
        return self.place_BP2, self.seen_BP, self.values_BV, self.known_BV


def place_features(place_BP2: Tensor, seen_BP: Tensor) -> Tensor:
    """Return places as waves, [B, P, F]; nothing of what is not seen."""
    rate = math.pi * 2.0 ** torch.arange(WAVES, device=place_BP2.device)
    angle = (place_BP2[..., None] * rate).flatten(-2)
    return torch.cat((2 * place_BP2 - 1, angle.sin(), angle.cos()), -1) * seen_BP[..., None]


def values_that_count(found: Found | None, told_BV: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the values that count and how surely there are such, each [B, V]."""
    if found is not None:  # what they are is taught by their own loss alone
        guess, sure = found.values_BV.detach(), found.known_BV.detach().sigmoid()
    if told_BV is None:
        return guess, sure
    values, known = told_BV.nan_to_num(0.0, 0.0, 0.0), told_BV.isfinite().float()
    if found is None:
        return values, known
    given = ~told_BV.isinf()
    return torch.where(given, values, guess), torch.where(given, known, sure)


def same_axis(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return which values are the same axis (thing_x) of two things."""
    axes = [
        (index, name[-2:]) for index, name in enumerate(names) if name[-2:] in ('_x', '_y', '_z')
    ]
    return [(a, b) for a, one in axes for b, other in axes if a < b and one == other]


def with_ways(
    values_BV: Tensor, known_BV: Tensor, pairs: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Return values and how surely they are known, with the ways from thing to thing."""
    if not pairs:
        return values_BV, known_BV
    from_, to = (list(side) for side in zip(*pairs, strict=True))
    ways = values_BV[:, to] - values_BV[:, from_]
    known = known_BV[:, to] * known_BV[:, from_]
    return torch.cat((values_BV, ways), -1), torch.cat((known_BV, known), -1)


def value_features(values_BV: Tensor, known_BV: Tensor) -> Tensor:
    """Return values as waves, [B, V * (2 + 2 VALUE_WAVES)]; nothing of what is not known."""
    rate = math.pi * 2.0 ** torch.arange(-3, VALUE_WAVES - 3, device=values_BV.device)
    angle = (values_BV[..., None] * rate).flatten(1)
    known = known_BV.repeat_interleave(VALUE_WAVES, 1)
    parts = (
        values_BV / VALUE_SCALE * known_BV,
        known_BV,
        angle.sin() * known,
        angle.cos() * known,
    )
    return torch.cat(parts, -1)


def waves(x_BS: Tensor, rates: Tensor) -> Tensor:
    """Return sines, then cosines, [B, 2 * S * rates]."""
    angle = (x_BS[..., None] * rates.to(x_BS.device)).flatten(1)
    return torch.cat((angle.sin(), angle.cos()), -1)
