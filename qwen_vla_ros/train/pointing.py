"""
Pointing: where in the first view the thing lies that the instruction is about.

A linear head reads the VLM's states of the first view's tokens: one logit a token, and the point
in the picture. A model that begins from nothing does not learn to find words in pixels from the
action loss alone; this dense loss makes it. The head is not part of a checkpoint.

Shapes: R rows of the batch that have a point, P tokens of the first view, C backbone width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PLACE_WEIGHT = 4.0  # of the point beside the token, as in grounding.py


class PointingHead(nn.Module):
    """States of image tokens -> which one, and where in the picture."""

    def __init__(self, width: int) -> None:
        """Build one linear layer."""
        super().__init__()
        self.read = nn.Linear(width, 3)

    def forward(self, states_RPC: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [R, P] and points [R, P, 2] in 0..1."""
        out = self.read(states_RPC)
        return out[..., 0], 0.5 + 0.5 * out[..., 1:]

    def loss(self, states_RPC: Tensor, token_R: Tensor, point_R2: Tensor) -> Tensor:
        """Return [R]: cross-entropy over tokens plus the point's error at the right token."""
        logits, points = self(states_RPC)
        chosen = points[torch.arange(len(token_R)), token_R]
        away = functional.smooth_l1_loss(2 * chosen, 2 * point_R2, reduction='none', beta=0.1)
        found = functional.cross_entropy(logits, token_R, reduction='none')
        return found + PLACE_WEIGHT * away.sum(-1)


def pointing_part(
    points: Sequence[tuple[float, float] | None], samples: Sequence[Mapping[str, Any]], merge: int
) -> dict[str, Tensor]:
    """
    Return point_row [R], point_token [R], point [R, 2] of encoded samples whose point is told.

    Empty where none is. merge: patches of a visual token along a side.
    """
    rows = [row for row, point in enumerate(points) if point is not None]
    if not rows:
        return {}
    tokens = []
    for row in rows:
        _, high, wide = (int(n) for n in samples[row]['image_grid_thw'][0])
        u, v = (min(max(value, 0.0), 0.9999) for value in points[row])
        tokens.append(int(v * (high // merge)) * (wide // merge) + int(u * (wide // merge)))
    return {
        'point_row': torch.tensor(rows),
        'point_token': torch.tensor(tokens),
        'point': torch.tensor([points[row] for row in rows], dtype=torch.float32),
        'point_tokens': torch.tensor([high * wide // merge**2]),
    }


def first_view(hidden_BTC: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the states [R, P, C] of the first view's tokens, of the rows that have a point."""
    rows, count = batch['point_row'], int(batch['point_tokens'])
    picture = batch['mm_token_type_ids'][rows].bool()
    first = picture & (picture.cumsum(1) <= count)
    return hidden_BTC[rows][first].view(len(rows), count, -1)
