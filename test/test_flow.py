"""Flow matching: the path, the loss's two-level mean, p(tau)."""

import pytest
import torch

from qwen_vla_ros.model.config import FlowConfig
from qwen_vla_ros.model.flow import interpolate, masked_loss, sample_tau


def test_loss_is_the_mean_over_steps_then_over_active_channels():
    velocity = torch.tensor([[[1.0, 2.0, 9.0], [3.0, 0.0, 9.0]]])
    mask = torch.tensor([[[True, True, False], [True, False, False]]])
    # channel 0: (1 + 9) / 2 = 5, channel 1: 4 / 1 = 4, channel 2 inactive
    assert masked_loss(velocity, torch.zeros_like(velocity), mask).item() == pytest.approx(4.5)


def test_path_runs_from_clean_to_noise():
    clean, noise = torch.zeros(1, 2, 1), torch.ones(1, 2, 1)
    at = interpolate(clean, noise, torch.tensor([[0.0, 0.25]]))
    assert at.flatten().tolist() == [0.0, 0.25]


@pytest.mark.parametrize(
    ('config', 'mean'),
    [
        (FlowConfig('beta', dense_end='noise'), 0.6),  # Beta(1.5, 1)
        (FlowConfig('beta', dense_end='clean'), 0.4),
        (FlowConfig('logit_normal'), 0.5),
        (FlowConfig('logit_normal', logit_normal=(1.0, 1e-6)), 0.7311),
        (FlowConfig('uniform'), 0.5),
    ],
)
def test_mean_of_p_tau(config, mean):
    tau = sample_tau(config, 40_000, torch.Generator().manual_seed(0))
    assert tau.min() >= 0
    assert tau.max() <= 1
    assert tau.mean().item() == pytest.approx(mean, abs=0.01)
