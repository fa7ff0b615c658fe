"""
One forward pass of training: both losses from one VLM pass, sample by sample.

It is a module with a forward() so that FSDP can gather the weights around it.

Shapes: A rows with actions, B rows, D draws a sample, K action channels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import smooth_l1_loss

from qwen_vla_ros.model.answer import answer_losses
from qwen_vla_ros.model.flow import FlowDraw, mean_of_channels
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.train.mixed_batch import acting_part
from qwen_vla_ros.train.pointing import pointing_losses

DRAFT_BETA = 0.02  # of the normalised range: below it an error counts by its square


def draft_losses(draft_BHK: Tensor, actions_BHK: Tensor, mask_BHK: Tensor) -> Tensor:
    """Return [B]: the error of drafted rows, over steps, then over channels."""
    rows = min(draft_BHK.shape[1], actions_BHK.shape[1])
    draft, mask_BHK = draft_BHK[:, :rows].float(), mask_BHK[:, :rows]
    actions = torch.where(mask_BHK, actions_BHK[:, :rows], 0)
    error = smooth_l1_loss(draft, actions, reduction='none', beta=DRAFT_BETA)
    steps = mask_BHK.sum(1)
    error = (error * mask_BHK).sum(1) / steps.clamp(min=1)
    return error.sum(1) / (steps > 0).sum(1).clamp(min=1)


class Losses(nn.Module):
    """The policy network and how it is trained."""

    def __init__(self, model: QwenVLA, trains_backbone: bool) -> None:
        """Freeze the VLM where only the decoder is trained."""
        super().__init__()
        self.model, self.trains_backbone = model, trains_backbone
        if not trains_backbone:
            model.backbone.requires_grad_(False)

    def forward(
        self, batch: Mapping[str, Tensor], drawn: FlowDraw | None, noise: Tensor | None = None
    ) -> tuple[Tensor, ...] | Tensor:
        """
        Return action [A], channel [A, K], text [B], pointing [A], draft [A].

        channel: -1 where a channel has no step; pointing, draft: [0] without a readout. Rows of
        the text loss without an answer are 0. noise [A, H, K]: return the policy's normalised
        actions [A, H, K] instead.
        """
        if noise is not None:
            return self.model.sample_actions(batch, noise=noise)
        with torch.set_grad_enabled(self.trains_backbone and torch.is_grad_enabled()):
            hidden = self.model.encode(batch)
        nothing = self._nothing(hidden)
        action, channel = nothing.new_zeros(0), nothing.new_zeros(0, 1)
        pointed = draft = nothing.new_zeros(0)
        text = nothing.expand(len(hidden))
        if drawn is not None:
            action, channel, pointed, draft = self._action(batch, hidden, drawn)
            action = action + nothing
        if 'answer_ids' in batch:
            text = text + answer_losses(self.model, hidden, batch)
        return action, channel, text, pointed, draft

    def _action(
        self, batch: Mapping[str, Tensor], hidden: Tensor, drawn: FlowDraw
    ) -> tuple[Tensor, ...]:
        part = acting_part(batch)
        count = len(part['actions'])
        context = self.model.condition(hidden[:count], part)
        losses, active = self.model.channel_losses(part, drawn, context)
        draws = len(losses) // count
        channel = losses.detach().masked_fill(~active, 0).view(count, draws, -1).sum(1)
        seen = active.view(count, draws, -1).sum(1)
        channel = torch.where(seen > 0, channel / seen.clamp(min=1), -1.0)
        pointed = draft = losses.new_zeros(0)
        if context.found is not None:
            pointed = pointing_losses(context.found, part['points'], part['values'], part)
        if context.draft_BHK is not None:
            draft = draft_losses(context.draft_BHK, part['actions'], part['action_mask'])
        action = mean_of_channels(losses, active).view(count, draws).mean(1)
        return action, channel, pointed, draft

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
