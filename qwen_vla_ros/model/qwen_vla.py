"""
QwenVLA: Qwen3.5 backbone and action decoder behind two methods, loss and sample_actions.

A batch (see collate) holds: input_ids, attention_mask, mm_token_type_ids int64 [B, T];
pixel_values float32 [patches, channels]; image_grid_thw int64 [images, 3]; action_mask bool
[B, H, K]; optionally actions float32 [B, H, K], state float32 [B, S], prefix float32 [B, d, K].
With picture int64 [B], pixel_values holds each distinct set of views once and picture says which
one a sample has: sentences that share a picture share the vision tower's work.

Shapes: B batch, T tokens, H horizon, K action channels, S state channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from qwen_vla_ros.model.action_decoder import ActionDecoder, Context
from qwen_vla_ros.model.config import QwenVLAConfig
from qwen_vla_ros.model.flow import euler, interpolate, masked_loss, sample_tau


class QwenVLA(nn.Module):
    """The policy network."""

    def __init__(self, config: QwenVLAConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        self.backbone = Qwen3_5ForConditionalGeneration(Qwen3_5Config(**config.backbone))
        width = self.backbone.config.text_config.hidden_size
        self.decoder = ActionDecoder(config.decoder, width)

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.decoder.context_in.weight.device

    def noise_shape(self, batch: int) -> tuple[int, int, int]:
        """Return [B, H, K]."""
        return batch, self.config.decoder.horizon, self.config.decoder.action_dim

    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the backbone's last hidden states [B, T, C] and M-RoPE positions [3, B, T]."""
        model = self.backbone.model
        position_3BT, _ = model.get_rope_index(
            batch['input_ids'],
            batch['mm_token_type_ids'],
            image_grid_thw=batch.get('image_grid_thw'),
            attention_mask=batch['attention_mask'],
        )
        output = model(
            input_ids=batch['input_ids'],
            attention_mask=batch['attention_mask'],
            position_ids=position_3BT,
            mm_encoder_outputs={'image': self.see(batch)} if 'pixel_values' in batch else None,
            mm_token_type_ids=batch['mm_token_type_ids'],
            use_cache=False,
        )
        return output.last_hidden_state, position_3BT

    def see(self, batch: Mapping[str, Tensor]) -> BaseModelOutputWithPooling:
        """Return the vision tower's features of every image of the batch, in its order."""
        grid, picture = batch['image_grid_thw'], batch.get('picture')
        if picture is None:
            return self.backbone.model.get_image_features(
                batch['pixel_values'], grid, return_dict=True
            )
        views = len(grid) // len(picture)
        distinct = int(picture.max()) + 1
        features = self.backbone.model.get_image_features(
            batch['pixel_values'], grid[: distinct * views], return_dict=True
        ).pooler_output
        order = picture[:, None] * views + torch.arange(views, device=picture.device)
        chosen = tuple(features[index] for index in order.flatten().tolist())
        return BaseModelOutputWithPooling(pooler_output=chosen)

    def context(self, batch: Mapping[str, Tensor]) -> Context:
        """Return what the decoder conditions on."""
        hidden_BTC, position_3BT = self.encode(batch)
        return self.decoder.context(
            hidden_BTC, position_3BT, batch['attention_mask'], batch.get('state')
        )

    def loss(
        self,
        batch: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        draws: int = 1,
        context: Context | None = None,
    ) -> Tensor:
        """
        Return the action loss of each sample, [B] (paper 2.5, two-level masked mean).

        draws: noise draws a sample, sharing one backbone pass. context: given when it is already
        computed (frozen backbone).
        """
        context = self.context(batch) if context is None else context
        if self.config.decoder.attention == 'prefix':
            context = self.decoder.prefill(context)
        context = context.repeat(draws)
        actions, mask = (batch[k].repeat_interleave(draws, 0) for k in ('actions', 'action_mask'))
        count, horizon, _ = actions.shape
        noise = torch.randn(actions.shape, generator=generator).to(actions) * mask
        tau_BH = sample_tau(self.config.flow, count, generator).to(actions.device)
        tau_BH = tau_BH[:, None].repeat(1, horizon)
        given = self._given_rows(count, horizon, generator).to(actions.device)
        tau_BH = tau_BH.masked_fill(given, 0.0)
        noisy = interpolate(actions, noise, tau_BH)
        velocity = self.decoder(noisy, tau_BH, context)
        losses = masked_loss(velocity, noise - actions, mask & ~given[..., None])
        return losses.view(-1, draws).mean(1)

    def _given_rows(self, count: int, horizon: int, generator: torch.Generator | None) -> Tensor:
        """Return bool [B, H]: rows given clean, for trained-prefix real-time chunking."""
        chance = torch.rand(count, generator=generator) < self.config.flow.prefix_rate
        length = torch.randint(1, 5, (count,), generator=generator) * chance
        return torch.arange(horizon)[None] < length[:, None]

    @torch.inference_mode()
    def sample_actions(
        self,
        batch: Mapping[str, Tensor],
        steps: int,
        noise: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Return normalised actions [B, H, K]; deterministic when noise [B, H, K] is given."""
        context = self.context(batch)
        if self.config.decoder.attention == 'prefix':
            context = self.decoder.prefill(context)
        if noise is None:
            noise = torch.randn(self.noise_shape(len(batch['input_ids'])))
        dtype = context.tokens_BTD.dtype
        return euler(
            lambda x, tau: self.decoder(x, tau, context),
            noise.to(self.device, dtype),
            steps,
            batch['action_mask'].to(dtype),
            None if prefix is None else prefix.to(self.device, dtype),
        )

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad transformed samples on the right and put them on the model's device."""
        length = max(len(sample['input_ids']) for sample in samples)
        batch: dict[str, Tensor] = {}
        for key in ('input_ids', 'mm_token_type_ids'):
            rows = [np.pad(s[key], (0, length - len(s[key]))) for s in samples]
            batch[key] = torch.from_numpy(np.stack(rows))
        real = [np.arange(length) < len(sample['input_ids']) for sample in samples]
        batch['attention_mask'] = torch.from_numpy(np.stack(real).astype(np.int64))
        for key in ('pixel_values', 'image_grid_thw'):
            batch[key] = torch.from_numpy(np.concatenate([sample[key] for sample in samples]))
        for key in ('actions', 'action_mask', 'state', 'prefix'):
            if samples[0].get(key) is not None:
                batch[key] = torch.from_numpy(np.stack([sample[key] for sample in samples]))
        return {key: value.to(self.device) for key, value in batch.items()}
