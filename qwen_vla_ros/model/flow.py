"""
Flow matching, the training side (paper 2.5); sampling.py walks the other way.

tau = 0 is clean, tau = 1 is noise: x_tau = (1 - tau) * actions + tau * noise, target velocity
v = noise - actions.

Shapes: B batch, H horizon, K action channels.
"""

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


def interpolate(actions_BHK: Tensor, noise_BHK: Tensor, tau_BH: Tensor) -> Tensor:
    """Return the point of the straight path at tau, row by row."""
    tau = tau_BH[..., None]
    return (1 - tau) * actions_BHK + tau * noise_BHK


def masked_loss(velocity_BHK: Tensor, target_BHK: Tensor, mask_BHK: Tensor) -> Tensor:
    """
    Return [B]: the two-level mean of the paper.

    First over the valid steps of each channel, then over the channels that have any.
    """
    mask = mask_BHK.to(velocity_BHK.dtype)
    squared = (velocity_BHK - target_BHK).square() * mask
    steps_BK = mask.sum(1)
    channel_BK = squared.sum(1) / steps_BK.clamp(min=1)
    return channel_BK.sum(1) / (steps_BK > 0).sum(1).clamp(min=1)
