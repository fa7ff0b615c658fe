"""
Grounding co-training: which image token shows the object that the sentence names, and where it is.

A small head reads the backbone's states of the scene's image tokens: one logit a token and the
object's place on the table. A model trained from scratch does not start to ground words in pixels
from the action loss alone; this dense loss makes it. The head serves training and the
localisation figure only; it is not part of a checkpoint.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CENTRE = (0.30, 0.0)  # m, middle of the object area in base_link
SCALE = (0.10, 0.20)  # m, its half sizes


class GroundingHead(nn.Module):
    """States of image tokens [B, P, C] -> logits [B, P] and table places [B, P, 2] in m."""

    def __init__(self, width: int) -> None:
        """Build one linear layer."""
        super().__init__()
        self.read = nn.Linear(width, 3)
        self.register_buffer('centre', torch.tensor(CENTRE))
        self.register_buffer('scale', torch.tensor(SCALE))

    def forward(self, states_BPC: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and places."""
        out = self.read(states_BPC)
        return out[..., 0], self.centre + self.scale * out[..., 1:]

    def loss(self, states_BPC: Tensor, token_B: Tensor, place_B2: Tensor) -> Tensor:
        """Return [B]: cross-entropy over tokens plus the place's error at the right token."""
        logits, places = self(states_BPC)
        chosen = places[torch.arange(len(token_B)), token_B]
        distance = functional.smooth_l1_loss(
            (chosen - self.centre) / self.scale,
            (place_B2 - self.centre) / self.scale,
            reduction='none',
            beta=0.1,
        )
        return functional.cross_entropy(logits, token_B, reduction='none') + 4 * distance.sum(-1)

    @torch.no_grad()
    def error_m(self, states_BPC: Tensor, place_B2: Tensor) -> Tensor:
        """Return [B]: distance in m from the place read at the most likely token to the truth."""
        logits, places = self(states_BPC)
        chosen = places[torch.arange(len(logits)), logits.argmax(-1)]
        return (chosen - place_B2).norm(dim=-1)
