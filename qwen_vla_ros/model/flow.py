"""
Flow matching, the training side (paper 2.5); sampling.py walks the other way.

tau = 0 is clean, tau = 1 is noise: x_tau = (1 - tau) * actions + tau * noise, target velocity
v = noise - actions.

Shapes: B batch, H horizon, K action channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen_vla_ros.model.config import FlowConfig


def sample_tau(config: FlowConfig, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw tau [count] in [0, 1] from p(tau)."""
    if config.distribution == 'logit_normal':
        mean, deviation = config.logit_normal
        return torch.sigmoid(mean + deviation * torch.randn(count, generator=generator))
    uniform = torch.rand(2, count, generator=generator)
    if config.distribution == 'uniform':
        return uniform[0]
    # Beta(a, 1) and Beta(1, b) have closed inverses; a product of powers covers both, so the
    # draw needs no library that ignores the generator.
    a, b = config.beta
    if b != 1.0:
        raise ValueError(f'flow.beta: only Beta(a, 1) is drawn here, got b = {b}')
    near_one = uniform[0] ** (1.0 / a)
    return near_one if config.dense_end == 'noise' else 1.0 - near_one


@dataclass(frozen=True)
class FlowDraw:
    """Noise [B, H, K], tau [B, 1], and which rows are given clean, bool [B, H] (None: none)."""

    noise: Tensor
    tau: Tensor
    given: Tensor | None = None

    @staticmethod
    def join(draws: 'Sequence[FlowDraw]') -> 'FlowDraw':
        """Return the draws of several samples as one."""
        given = [draw.given for draw in draws if draw.given is not None]
        return FlowDraw(
            torch.cat([draw.noise for draw in draws]),
            torch.cat([draw.tau for draw in draws]),
            torch.cat(given) if given else None,
        )


def draw_flow(
    config: FlowConfig, shape: tuple[int, int, int], generator: torch.Generator | None
) -> FlowDraw:
    """Return what chance decides of one training pass over actions [B, H, K]."""
    count, horizon, _ = shape
    noise = torch.randn(shape, generator=generator)
    tau = sample_tau(config, count, generator)[:, None]
    if not config.prefix_rate:
        return FlowDraw(noise, tau)
    chance = torch.rand(count, generator=generator) < config.prefix_rate
    length = torch.randint(1, config.prefix_rows + 1, (count,), generator=generator) * chance
    return FlowDraw(noise, tau, torch.arange(horizon)[None] < length[:, None])


def interpolate(actions_BHK: Tensor, noise_BHK: Tensor, tau_BH: Tensor) -> Tensor:
    """Return the point of the straight path at tau, row by row."""
    tau = tau_BH[..., None]
    return (1 - tau) * actions_BHK + tau * noise_BHK


def channel_losses(
    velocity_BHK: Tensor, target_BHK: Tensor, mask_BHK: Tensor
) -> tuple[Tensor, Tensor]:
    """Return [B, K], the mean over the valid steps of each channel, and which have any, bool."""
    mask = mask_BHK.to(velocity_BHK.dtype)
    squared = (velocity_BHK - target_BHK).square() * mask
    steps_BK = mask.sum(1)
    return squared.sum(1) / steps_BK.clamp(min=1), steps_BK > 0


def mean_of_channels(channel_BK: Tensor, active_BK: Tensor) -> Tensor:
    """Return [B]: the mean over the channels that have any valid step; others are zero."""
    return channel_BK.sum(1) / active_BK.sum(1).clamp(min=1)


def masked_loss(velocity_BHK: Tensor, target_BHK: Tensor, mask_BHK: Tensor) -> Tensor:
    """
    Return [B]: the two-level mean of the paper.

    First over the valid steps of each channel, then over the channels that have any.
    """
    return mean_of_channels(*channel_losses(velocity_BHK, target_BHK, mask_BHK))
