"""Flow matching: the loss's two-level mean, the sampler, p(tau)."""

import pytest
import torch

from qwen_vla_ros.model.config import FlowConfig
from qwen_vla_ros.model.flow import euler, interpolate, masked_loss, sample_tau


def test_loss_is_the_mean_over_steps_then_over_active_channels():
    velocity = torch.tensor([[[1.0, 2.0, 9.0], [3.0, 0.0, 9.0]]])
    mask = torch.tensor([[[True, True, False], [True, False, False]]])
    # channel 0: (1 + 9) / 2 = 5, channel 1: 4 / 1 = 4, channel 2 inactive
    assert masked_loss(velocity, torch.zeros_like(velocity), mask).item() == pytest.approx(4.5)


def test_path_runs_from_clean_to_noise():
    clean, noise = torch.zeros(1, 2, 1), torch.ones(1, 2, 1)
    at = interpolate(clean, noise, torch.tensor([[0.0, 0.25]]))
    assert at.flatten().tolist() == [0.0, 0.25]


@pytest.mark.parametrize('steps', [1, 4, 10])
def test_euler_is_exact_on_a_straight_path(steps):
    clean = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2))
    found = euler(lambda x, tau: noise - clean, noise, steps, torch.ones_like(noise))
    torch.testing.assert_close(found, clean, atol=1e-6, rtol=0)


def test_given_rows_come_back_unchanged_with_their_own_timestep_zero():
    prefix, seen = torch.full((1, 2, 3), 0.5), []

    def velocity(x, tau):
        seen.append((x[:, :2].clone(), tau[0].tolist()))
        return torch.ones_like(x)

    noise = torch.randn(1, 4, 3)
    found = euler(velocity, noise, 2, torch.ones_like(noise), prefix)
    torch.testing.assert_close(found[:, :2], prefix)
    torch.testing.assert_close(found[:, 2:], noise[:, 2:] - 1)
    assert [tau for _, tau in seen] == [[0, 0, 1, 1], [0, 0, 0.5, 0.5]]
    assert all(torch.equal(rows, prefix) for rows, _ in seen)


def test_masked_channels_stay_zero():
    mask = torch.zeros(1, 2, 3)
    mask[..., :1] = 1
    found = euler(lambda x, tau: torch.ones_like(x), torch.randn(1, 2, 3), 3, mask)
    assert (found[..., 1:] == 0).all()
    assert (found[..., :1] != 0).all()


@pytest.mark.parametrize(
    ('config', 'mean'),
    [
        (FlowConfig('beta', dense_end='noise'), 0.6),  # Beta(1.5, 1)
        (FlowConfig('beta', dense_end='clean'), 0.4),
        (FlowConfig('logit_normal'), 0.5),
        (FlowConfig('uniform'), 0.5),
    ],
)
def test_mean_of_p_tau(config, mean):
    tau = sample_tau(config, 40_000, torch.Generator().manual_seed(0))
    assert tau.min() >= 0
    assert tau.max() <= 1
    assert tau.mean().item() == pytest.approx(mean, abs=0.01)
