"""
One forward pass of training: both losses from one VLM pass, sample by sample.

It is a module with a forward() so that FSDP can gather the weights around it.

Shapes: A rows with actions, B rows, D draws a sample, K action channels, R rows
that point.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from qwen_vla_ros.model.answer import answer_losses
from qwen_vla_ros.model.flow import FlowDraw, mean_of_channels
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.train.mixed_batch import acting_part
from qwen_vla_ros.train.pointing import PointingHead, first_view


class Losses(nn.Module):
    """The policy network and how it is trained."""

    def __init__(self, model: QwenVLA, trains_backbone: bool, points: bool = False) -> None:
        """Freeze the VLM where only the decoder is trained; points: with a head that points."""
        super().__init__()
        width = model.backbone.config.text_config.hidden_size
        self.pointing = PointingHead(width) if points else None
        self.model, self.trains_backbone = model, trains_backbone
        if not trains_backbone:
            model.backbone.requires_grad_(False)

    def forward(
        self, batch: Mapping[str, Tensor], drawn: FlowDraw | None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor] | Tensor:
        """
        Return action [A], channel [A, K] (-1 where a channel has no step), text [B], pointing [R].

        Rows of the text loss without an answer are 0. noise [A, H, K]: return the policy's
        normalised actions [A, H, K] instead.
        """
        if noise is not None:
            return self.model.sample_actions(batch, noise=noise)
        with torch.set_grad_enabled(self.trains_backbone and torch.is_grad_enabled()):
            hidden = self.model.encode(batch)
        nothing = self._nothing(hidden)
        action, channel = nothing.new_zeros(0), nothing.new_zeros(0, 1)
        text = nothing.expand(len(hidden))
        if drawn is not None:
            action, channel = self._action(batch, hidden, drawn)
            action = action + nothing
        if 'answer_ids' in batch:
            text = text + answer_losses(self.model, hidden, batch)
        pointed = nothing.new_zeros(0)
        if self.pointing is not None and 'point_row' in batch:
            states = first_view(hidden, batch)
            pointed = self.pointing.loss(states, batch['point_token'], batch['point'])
        return action, channel, text, pointed

    def _action(
        self, batch: Mapping[str, Tensor], hidden: Tensor, drawn: FlowDraw
    ) -> tuple[Tensor, Tensor]:
        part = acting_part(batch)
        count = len(part['actions'])
        context = self.model.condition(hidden[:count], part)
        losses, active = self.model.channel_losses(part, drawn, context)
        draws = len(losses) // count
        channel = losses.detach().masked_fill(~active, 0).view(count, draws, -1).sum(1)
        seen = active.view(count, draws, -1).sum(1)
        channel = torch.where(seen > 0, channel / seen.clamp(min=1), -1.0)
        return mean_of_channels(losses, active).view(count, draws).mean(1), channel

    def _nothing(self, hidden: Tensor) -> Tensor:
        """
        Return 0 that depends on every trained weight at hand.

        So every process reduces the same gradients, whatever its samples use of the model.
        """
        zero = hidden.new_zeros((), dtype=torch.float32)
        for parameter in self.parameters():
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                zero = zero + parameter.flatten()[0] * 0
        return zero
