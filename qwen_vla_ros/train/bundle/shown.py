"""
What each visual token of a room shows: labels for all of a picture, not for a point a sentence.

A linear layer that is thrown away tells from each token the kind, the colour and the room of what
is there, and how far away it is; vision tower and merger learn for it. The labels are the rays of
sim/rooms/sight.py, several a token.

Shapes: B pictures, T visual tokens of a picture, C backbone width, K classes.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen_vla_ros.sim.rooms.sight import FLOOR, NO_COLOUR, NO_ROOM, NOTHING

CLASSES = (NOTHING + 1, NO_COLOUR + 1, NO_ROOM + 1)
LEAST_CM, MIDDLE_CM = 5.0, 150.0  # of a distance, whose logarithm is learnt
DISTANCE_WEIGHT, BETA = 2.0, 0.2
THING = 5.0  # how much more a token of furniture counts than one of floor or wall


class Shown(nn.Module):
    """The labels of a set's pictures, and the layer that learns them."""

    def __init__(self, rays: np.ndarray, grid: tuple[int, int], width: int) -> None:
        """Take the rays int16 [F, rows, columns, 4], the rows and columns of tokens, and C."""
        super().__init__()
        frames, rows, columns, _ = rays.shape
        down, across = rows // grid[0], columns // grid[1]
        parts = rays.reshape(frames, grid[0], down, grid[1], across, 4).transpose(0, 1, 3, 2, 4, 5)
        self._rays = parts.reshape(frames, grid[0] * grid[1], down * across, 4)
        self.tell = nn.Linear(width, sum(CLASSES) + 1)

    def loss(self, tokens_BTC: Tensor, pictures: np.ndarray) -> Tensor:
        """Return what is wrong with what tokens of some pictures show."""
        *kinds, away = self.tell(tokens_BTC).float().split((*CLASSES, 1), -1)
        rays = torch.from_numpy(self._rays[pictures])
        thing_BT = (rays[..., 0] < FLOOR).float().mean(2)
        weight_BT = 1 + (THING - 1) * thing_BT
        loss = tokens_BTC.new_zeros(())
        for index, (count, logits) in enumerate(zip(CLASSES, kinds, strict=True)):
            share_BTK = functional.one_hot(rays[..., index].long(), count).float().mean(2)
            entropy = -(share_BTK * logits.log_softmax(-1)).sum(-1)
            loss = loss + (entropy * weight_BT).mean()
        right = (rays[..., 3].float().clamp(min=LEAST_CM).log() - math.log(MIDDLE_CM)).mean(2)
        return loss + DISTANCE_WEIGHT * functional.smooth_l1_loss(away[..., 0], right, beta=BETA)
