"""
QwenVLA: Qwen3.5 backbone and action decoder behind two methods, loss and sample_actions.

A batch (see collate) holds: input_ids, mm_token_type_ids int64 [B, T]; attention_mask int64 [B, T]
only where samples were padded; position_ids int64 [3, B, T]; pixel_values uint8 [patches,
channels]; image_grid_thw int64 [images, 3], which stays on the host; image_index int64 [visual
tokens], their places in the flattened [B * T]; action_mask bool [B, H, K]; row_mask bool [B, H]
only where a robot's horizon is shorter than H; optionally actions float32 [B, H, K], state float32
[B, S], prefix float32 [B, d, K]. With picture int64 [B] (on the
host), pixel_values holds each distinct set of views once and picture says which one a sample has:
sentences that share a picture share the vision tower's work. For a model with a readout:
token_view and token_place, or points where there are no pictures (readout.py).

Shapes: B batch, T tokens, H horizon, K action channels, S state channels, V visual tokens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from qwen_vla_ros.model.action_decoder import ActionDecoder, Context
from qwen_vla_ros.model.config import QwenVLAConfig
from qwen_vla_ros.model.flow import (
    FlowDraw,
    channel_losses,
    draw_flow,
    interpolate,
    mean_of_channels,
)
from qwen_vla_ros.model.positions import mrope_positions
from qwen_vla_ros.model.readout import token_places
from qwen_vla_ros.model.sampling import NoisyStep, Velocity, flow_sde, guided, solve
from qwen_vla_ros.model.vision import Grids, look, plan_images

# Masks of a batch without padding: none, attention is causal by itself.
UNPADDED = {'full_attention': None, 'linear_attention': None}


class QwenVLA(nn.Module):
    """The policy network."""

    def __init__(self, config: QwenVLAConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        self.backbone = Qwen3_5ForConditionalGeneration(Qwen3_5Config(**config.backbone))
        width = self.backbone.config.text_config.hidden_size
        self.decoder = ActionDecoder(config.decoder, width, tuple(config.inputs.image_sizes))

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> 'QwenVLA':
        """Return the model of a checkpoint; checkpoint.from_pretrained() has the options."""
        from qwen_vla_ros.model.checkpoint import from_pretrained

        return from_pretrained(source, **options)

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.decoder.context_in.weight.device

    def noise_shape(self, batch: int) -> tuple[int, int, int]:
        """Return [B, H, K]."""
        return batch, self.config.decoder.horizon, self.config.decoder.action_dim

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the backbone's last hidden states [B, T, C] (paper 2.4), or see joined()."""
        features = self.see(batch) if 'pixel_values' in batch else None
        return self.read(batch, features)

    def see(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the visual tokens [V, C] of every image of the batch, in its order."""
        tower, picture = self.backbone.model.visual, batch.get('picture')
        grids: Grids = tuple(map(tuple, batch['image_grid_thw'].tolist()))
        if picture is None:
            return look(tower, batch['pixel_values'], plan_images(tower, grids))
        views, chosen = len(grids) // len(picture), picture.tolist()
        distinct = grids[: (max(chosen) + 1) * views]
        features = look(tower, batch['pixel_values'], plan_images(tower, distinct))
        merged = tower.spatial_merge_size**2
        counts = [rows * columns // merged for _, rows, columns in distinct]
        split = features.split(counts)
        return torch.cat([split[c * views + view] for c in chosen for view in range(views)])

    def read(self, batch: Mapping[str, Tensor], features: Tensor | None) -> Tensor:
        """Return the language model's hidden states [B, T, C] over text and visual tokens."""
        x_BTC = self.embed(batch, features)
        hidden = self.backbone.model.language_model(
            inputs_embeds=x_BTC,
            position_ids=batch['position_ids'],
            attention_mask=batch.get('attention_mask', UNPADDED),
            use_cache=False,
        ).last_hidden_state
        return self.joined(hidden, x_BTC)

    def joined(self, hidden_BTC: Tensor, x_BTC: Tensor) -> Tensor:
        """Return the states; for a readout [B, T, 2C], with what went into the language model."""
        if not self.config.decoder.readout_points:
            return hidden_BTC
        return torch.cat((hidden_BTC, x_BTC.to(hidden_BTC.dtype)), -1)

    def embed(self, batch: Mapping[str, Tensor], features: Tensor | None) -> Tensor:
        """Return [B, T, C]: embedded text with the visual tokens in their places."""
        x_BTC = self.backbone.get_input_embeddings()(batch['input_ids'])
        if features is None:
            return x_BTC
        flat = x_BTC.flatten(0, 1)
        return flat.index_copy(0, batch['image_index'], features.to(flat.dtype)).view_as(x_BTC)

    def context(self, batch: Mapping[str, Tensor]) -> Context:
        """Return what the decoder conditions on."""
        return self.condition(self.encode(batch), batch)

    def condition(self, hidden_BTC: Tensor, batch: Mapping[str, Tensor]) -> Context:
        """Return the context of hidden states; in 'prefix' mode with its keys and values."""
        context = self.decoder.context(
            hidden_BTC,
            batch['position_ids'],
            batch.get('attention_mask'),
            batch.get('state'),
            batch.get('row_mask'),
            batch,
        )
        prefix = self.config.decoder.attention == 'prefix'
        return self.decoder.prefill(context) if prefix else context

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
        computed (several losses share one backbone pass).
        """
        count, horizon, channels = batch['actions'].shape
        shape = (count * draws, horizon, channels)
        drawn = draw_flow(self.config.flow, shape, generator)
        losses = mean_of_channels(*self.channel_losses(batch, drawn, context))
        return losses.view(-1, draws).mean(1)

    def channel_losses(
        self, batch: Mapping[str, Tensor], drawn: FlowDraw, context: Context | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Return the loss of each channel, [R, K], and which channels have any valid step.

        drawn: R noise draws, the same number for each sample and its own in a row.
        """
        draws = len(drawn.noise) // len(batch['actions'])
        context = (self.context(batch) if context is None else context).repeat(draws)
        actions, mask = (batch[k].repeat_interleave(draws, 0) for k in ('actions', 'action_mask'))
        actions = torch.where(mask, actions, 0)
        noise = drawn.noise.to(actions) * mask
        tau_BH = drawn.tau.to(actions.device)
        if drawn.given is not None:
            given = drawn.given.to(actions.device)
            tau_BH = tau_BH.repeat(1, actions.shape[1]).masked_fill(given, 0.0)
            mask = mask & ~given[..., None]
        velocity = self.decoder(interpolate(actions, noise, tau_BH), tau_BH, context)
        return channel_losses(velocity, noise - actions, mask)

    def velocity(self, context: Context) -> Velocity:
        """Return the velocity field that a context conditions."""
        return lambda x_BHK, tau_BH: self.decoder(x_BHK, tau_BH, context)

    @torch.no_grad()
    def sample_actions(
        self,
        batch: Mapping[str, Tensor],
        steps: int | None = None,
        noise: Tensor | None = None,
        prefix: Tensor | None = None,
        frozen: int | None = None,
    ) -> Tensor:
        """
        Return normalised actions [B, H, K]; deterministic when noise [B, H, K] is given.

        steps     denoising steps; None: the config's
        prefix    [B, d, K] rows that run anyway, given clean at timestep 0 (the trained form)
        frozen    given: guided inpainting instead (models trained without a prefix); prefix is
                  then all that is left of the former chunk, its first `frozen` rows run anyway
        """
        flow = self.config.flow
        steps = steps or flow.denoising_steps
        context = self.context(batch)
        if noise is None:
            noise = torch.randn(batch['action_mask'].shape)
        noise = noise.to(self.device)
        mask = batch['action_mask'].to(noise.dtype)
        prefix = None if prefix is None else prefix.to(noise)
        field = self.velocity(context)
        if frozen is not None and prefix is not None:
            return guided(field, noise, steps, mask, prefix, frozen)
        return solve(field, noise, steps, mask, prefix, flow.sampler)

    @torch.no_grad()
    def explore(
        self,
        batch: Mapping[str, Tensor],
        steps: int | None = None,
        generator: torch.Generator | None = None,
        context: Context | None = None,
        noise_level: float | None = None,
        smooth: float = 0.0,
        strays_BHK: Tensor | None = None,
    ) -> tuple[Tensor, NoisyStep]:
        """
        Return actions [B, H, K] with one random step a sample, and that step (paper 4.2).

        NoisyStep.log_prob(model.velocity(context)) gives its log-probability again, with
        gradients, under any later weights. Where there is a draft the random step is the last:
        those before it end at the draft whatever the noise. noise_level: None: the config's;
        smooth, strays_BHK: see flow_sde().
        """
        flow = self.config.flow
        steps = steps or flow.denoising_steps
        context = self.context(batch) if context is None else context
        count = len(batch['input_ids'])
        shape = batch['action_mask'].shape
        noise = torch.randn(shape, generator=generator).to(self.device)
        index = torch.randint(steps, (count,), generator=generator)
        if context.draft_BHK is not None:
            index.fill_(steps - 1)
        level = flow.noise_level if noise_level is None else noise_level
        mask = batch['action_mask'].to(noise.dtype)
        return flow_sde(
            self.velocity(context), noise, steps, mask, index, level, generator, smooth, strays_BHK
        )

    def collate(
        self, samples: Sequence[Mapping[str, Any]], pixels: bool = True
    ) -> dict[str, Tensor]:
        """
        Pad transformed samples on the right and put them on the model's device.

        pixels=False leaves the images out, for a caller that brings their visual tokens.
        """
        lengths = [len(sample['input_ids']) for sample in samples]
        length = max(lengths)
        host: dict[str, np.ndarray] = {}
        for key in ('input_ids', 'mm_token_type_ids'):
            rows = [np.pad(s[key], (0, length - len(s[key]))) for s in samples]
            host[key] = np.stack(rows)
        if min(lengths) < length:
            real = np.arange(length) < np.asarray(lengths)[:, None]
            host['attention_mask'] = real.astype(np.int64)
        if samples[0].get('action_mask') is not None:
            rows = np.stack([sample['action_mask'].any(1) for sample in samples])
            if not rows.all():
                host['row_mask'] = rows
        merge = self.backbone.model.visual.spatial_merge_size
        is_image = host['mm_token_type_ids'].astype(bool)
        position = np.zeros((3, len(samples), length), np.int64)
        for row, sample in enumerate(samples):
            grids = sample.get('image_grid_thw', np.zeros((0, 3), np.int64)).tolist()
            count = lengths[row]
            position[:, row, :count] = mrope_positions(is_image[row, :count], grids, merge)
        host['position_ids'] = position
        host['image_index'] = np.flatnonzero(is_image)
        if self.config.decoder.readout_points:
            views = tuple(self.config.inputs.image_sizes)
            host |= token_places(is_image, lengths, samples, views, merge)
        keys = ['actions', 'action_mask', 'prefix']
        if self.config.decoder.state_input == 'continuous':
            keys.append('state')
        for key in keys:
            if samples[0].get(key) is not None:
                host[key] = np.stack([sample[key] for sample in samples])
        seen = [s for s in samples if pixels and len(s.get('image_grid_thw', ()))]
        if seen:
            host['pixel_values'] = np.concatenate([s['pixel_values'] for s in seen])
        batch = {key: torch.from_numpy(value).to(self.device) for key, value in host.items()}
        if seen:
            grids = np.concatenate([s['image_grid_thw'] for s in seen])
            batch['image_grid_thw'] = torch.from_numpy(grids)
        return batch
