"""
PPO over chunks: advantages, the clipped losses, and what they are watched by (paper 4.2).

One decision is one chunk: its log-probability is that of the flow's one random denoising step,
summed over the chunk (model/sampling.py, flow-SDE), its reward what happened while it ran. The
value head reads the mean of all VLM states, through which it sends no gradient.

Shapes: T decisions in a row, N worlds, B decisions of a minibatch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.sampling import NoisyStep


@dataclass(frozen=True)
class Clips:
    """gamma, lambda, the range of ratios and values, and the weight of the value loss."""

    gamma: float = 0.99
    lam: float = 0.95
    ratio: float = 0.2
    value: float = 0.2
    value_weight: float = 1.0


class ActorCritic(nn.Module):
    """The policy network and its value head."""

    def __init__(self, model: QwenVLA) -> None:
        """Start the head at zero: no state is worth more than another."""
        super().__init__()
        self.model = model
        self.value = nn.Linear(model.backbone.config.text_config.hidden_size, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def values(self, hidden_BTC: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return [B]: the head on the mean of the real tokens' states, which get no gradient."""
        states = hidden_BTC.detach()[..., : self.value.in_features]  # a readout's are wider
        mask = batch.get('attention_mask')
        if mask is None:
            return self.value(states.mean(1))[:, 0]
        real = mask[..., None].to(states.dtype)
        return self.value((states * real).sum(1) / real.sum(1))[:, 0]

    def forward(
        self, batch: Mapping[str, Tensor], step: NoisyStep, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Return log-probabilities of known steps and values, [B] each, with gradients.

        hidden: the VLM's states [B, T, C], where they are known already
        """
        hidden = self.model.encode(batch) if hidden is None else hidden
        context = self.model.condition(hidden, batch)
        return step.log_prob(self.model.velocity(context)), self.values(hidden, batch)


def advantages(
    reward_TN: Tensor, value_TN: Tensor, ended_TN: Tensor, last_N: Tensor, clips: Clips
) -> Tensor:
    """
    Return generalised advantages [T, N].

    ended: the episode ended with this decision, what comes after belongs to another; last_N: the
    value of what each world shows after the last decision.
    """
    found = torch.zeros_like(reward_TN)
    carried, ahead = torch.zeros_like(last_N), last_N
    for t in range(len(reward_TN) - 1, -1, -1):
        goes_on = 1.0 - ended_TN[t].to(reward_TN.dtype)
        surprise = reward_TN[t] + clips.gamma * ahead * goes_on - value_TN[t]
        carried = surprise + clips.gamma * clips.lam * goes_on * carried
        found[t], ahead = carried, value_TN[t]
    return found


def losses(
    new_B: Tensor,
    old_B: Tensor,
    advantage_B: Tensor,
    value_B: Tensor,
    old_value_B: Tensor,
    clips: Clips,
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """
    Return the policy's and the value's loss, and kl, clip_fraction.

    new, old: log-probabilities; the value's target is old value + advantage, and its step is
    clipped like the ratio.
    """
    change = new_B - old_B
    ratio = change.exp()
    held = ratio.clamp(1 - clips.ratio, 1 + clips.ratio)
    normal = (advantage_B - advantage_B.mean()) / (advantage_B.std(correction=0) + 1e-6)
    policy = -torch.minimum(ratio * normal, held * normal).mean()
    wanted = old_value_B + advantage_B
    near = old_value_B + (value_B - old_value_B).clamp(-clips.value, clips.value)
    worse = torch.maximum((value_B - wanted).square(), (near - wanted).square())
    with torch.no_grad():
        told = {
            'kl': float((ratio - 1 - change).mean()),
            'clip_fraction': float(((ratio - 1).abs() > clips.ratio).float().mean()),
        }
    return policy, 0.5 * worse.mean(), told


def rows_of(step: NoisyStep, index: Tensor) -> NoisyStep:
    """Return some samples of a noisy step."""
    return NoisyStep(
        step.before[index],
        step.after[index],
        step.tau[index],
        step.tau_after[index],
        step.mask[index],
        step.noise_level,
        step.smooth,
    )


def join_steps(steps: list[NoisyStep]) -> NoisyStep:
    """Return noisy steps of several decisions as one."""
    parts = ('before', 'after', 'tau', 'tau_after', 'mask')
    joined = (torch.cat([getattr(step, part) for step in steps]) for part in parts)
    return NoisyStep(*joined, steps[0].noise_level, steps[0].smooth)
