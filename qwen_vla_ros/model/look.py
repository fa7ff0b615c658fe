"""
A few layers in which visual tokens, words and state attend to each other; the readout asks them.

They hold what no single point tells: which doorway leads on, where floor is free, what stands
beside.

Shapes: B batch, T tokens, C backbone width, A width of what is asked (words and state).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen_vla_ros.model.scene import WAVES, waves


class Look(nn.Module):
    """Visual tokens, words and state -> what the pictures as a whole say to them."""

    width, heads, asking = 128, 4, 2

    def __init__(self, layers: int, views: int, backbone_width: int, asked: int) -> None:
        """Build it."""
        super().__init__()
        self.outside = self.asking * self.width
        self.token = nn.Linear(backbone_width, self.width)
        self.view = nn.Embedding(views, self.width)
        self.place = nn.Linear(4 * WAVES, self.width)
        self.stress = nn.Linear(asked, self.width)
        self.asked = nn.Linear(asked, self.outside)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.width,
                self.heads,
                2 * self.width,
                0.0,
                'gelu',
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )

    def forward(
        self, seen_BTC: Tensor, asked_BA: Tensor, view_BT: Tensor, place_BT4: Tensor
    ) -> Tensor:
        """Return [B, outside]; tokens of no view do not count."""
        rate = math.pi * 2.0 ** torch.arange(WAVES)
        where = waves(place_BT4[..., :2].flatten(0, 1), rate).unflatten(0, place_BT4.shape[:2])
        x = self.token(seen_BTC) + self.view(view_BT.clamp(min=0))
        x = (x + self.place(where.to(x.dtype))) * (1 + self.stress(asked_BA))[:, None]
        x = torch.cat((self.asked(asked_BA).unflatten(-1, (self.asking, -1)), x), 1)
        none = functional.pad(view_BT < 0, (self.asking, 0))
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=none)
        return functional.layer_norm(x[:, : self.asking], x.shape[-1:]).flatten(1)
