"""Samplers: exact on straight paths, equal among themselves where they must be."""

import math
from dataclasses import replace

import pytest
import torch

from qwen_vla_ros.model.sampling import (
    flow_sde,
    guided,
    prefix_weights,
    scheduler_solve,
    sde_step,
    solve,
)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def curved(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Return a velocity field that bends in x and in tau."""
    return torch.sin(2 * x) + tau[..., None] ** 2 - 0.5


@pytest.mark.parametrize('steps', [1, 4, 10])
def test_euler_is_exact_on_a_straight_path(steps):
    clean = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2))
    found = solve(lambda x, tau: noise - clean, noise, steps, torch.ones_like(noise))
    torch.testing.assert_close(found, clean, atol=1e-6, rtol=0)


def test_given_rows_come_back_unchanged_with_their_own_timestep_zero():
    prefix, seen = torch.full((1, 2, 3), 0.5), []

    def velocity(x, tau):
        seen.append((x[:, :2].clone(), tau[0].tolist()))
        return torch.ones_like(x)

    noise = torch.randn(1, 4, 3)
    found = solve(velocity, noise, 2, torch.ones_like(noise), prefix)
    torch.testing.assert_close(found[:, :2], prefix)
    torch.testing.assert_close(found[:, 2:], noise[:, 2:] - 1)
    assert [tau for _, tau in seen] == [[0, 0, 1, 1], [0, 0, 0.5, 0.5]]
    assert all(torch.equal(rows, prefix) for rows, _ in seen)


def test_masked_channels_stay_zero():
    mask = torch.zeros(1, 2, 3)
    mask[..., :1] = 1
    found = solve(lambda x, tau: torch.ones_like(x), torch.randn(1, 2, 3), 3, mask)
    assert (found[..., 1:] == 0).all()
    assert (found[..., :1] != 0).all()


@pytest.mark.parametrize('steps', [1, 4, 7, 10])
def test_scheduler_route_agrees_with_our_loop(steps):
    noise, mask = draw(2, 5, 3), torch.ones(2, 5, 3)
    ours = solve(curved, noise, steps, mask)
    torch.testing.assert_close(
        scheduler_solve(curved, noise, steps, mask), ours, atol=1e-6, rtol=0
    )


def test_heun_errs_with_the_square_of_the_step():
    noise, mask = draw(2, 5, 3).double(), torch.ones(2, 5, 3)
    truth = solve(curved, noise, 4000, mask, method='heun')
    errors = {
        (method, steps): (solve(curved, noise, steps, mask, method=method) - truth).abs().max()
        for method in ('euler', 'heun')
        for steps in (20, 40)
    }
    assert errors['euler', 20] / errors['euler', 40] == pytest.approx(2, rel=0.2)
    assert errors['heun', 20] / errors['heun', 40] == pytest.approx(4, rel=0.2)
    assert errors['heun', 20] < errors['euler', 40] / 10


def test_unknown_sampler_and_no_steps_are_refused():
    noise = draw(1, 2, 1)
    with pytest.raises(ValueError, match='midpoint'):
        solve(curved, noise, 2, torch.ones_like(noise), method='midpoint')
    with pytest.raises(ValueError, match='0 is not at least 1'):
        solve(curved, noise, 0, torch.ones_like(noise))


def test_soft_mask_is_one_then_falls_then_zero():
    weights = prefix_weights(10, 7, 3)
    assert weights[:3].tolist() == [1, 1, 1]
    assert weights[7:].tolist() == [0, 0, 0]
    assert (weights[3:7].diff() < 0).all()
    ramp = 4 / 5  # row 3: (7 - 3) / (7 - 3 + 1)
    assert weights[3].item() == pytest.approx(ramp * (math.exp(ramp) - 1) / (math.e - 1))


def independent(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Return the exact velocity of a standard normal: its clean rows have nothing in common."""
    t = tau[..., None]
    return (2 * t - 1) / (t**2 + (1 - t) ** 2) * x


def test_guidance_pulls_the_given_rows_to_the_former_chunk_and_leaves_the_rest():
    noise, mask = draw(4, 10, 2), torch.ones(4, 10, 2)
    former = draw(4, 6, 2, seed=5)
    free = solve(independent, noise, 10, mask)
    held = guided(independent, noise, 10, mask, former, frozen=4)
    before = (free[:, :4] - former[:, :4]).abs().mean()
    after = (held[:, :4] - former[:, :4]).abs().mean()
    assert after < 0.1 * before
    torch.testing.assert_close(held[:, 6:], free[:, 6:], atol=1e-5, rtol=0)


def test_guidance_without_strength_is_plain_euler():
    noise, mask = draw(2, 6, 2), torch.ones(2, 6, 2)
    found = guided(curved, noise, 5, mask, draw(2, 3, 2), frozen=2, strength=0.0)
    torch.testing.assert_close(found, solve(curved, noise, 5, mask), atol=1e-6, rtol=0)


def test_stochastic_step_without_noise_is_the_euler_step():
    x, tau, after = draw(2, 3, 1), torch.tensor([1.0, 0.6]), torch.tensor([0.8, 0.4])
    slope = curved(x, tau[:, None].expand(2, 3))
    mean, deviation = sde_step(slope, x, tau, after, 0.0)
    torch.testing.assert_close(mean, x - (tau - after)[:, None, None] * slope)
    assert deviation.tolist() == [[[0.0]], [[0.0]]]


def test_log_probability_is_that_of_the_drawn_step_and_carries_gradients():
    noise, mask = draw(3, 4, 2), torch.ones(3, 4, 2)
    mask[1, 2:] = 0
    index = torch.tensor([0, 2, 3])
    make = torch.Generator().manual_seed(2)
    _, step = flow_sde(independent, noise, 4, mask, index, 0.5, make)
    assert step.tau.tolist() == [1.0, 0.5, 0.25]
    scale = torch.ones((), requires_grad=True)
    found = step.log_prob(lambda x, tau: scale * independent(x, tau))
    slope = independent(step.before, step.tau[:, None].expand(3, 4))
    mean, deviation = sde_step(slope, step.before, step.tau, step.tau_after, 0.5)
    normal = torch.distributions.Normal(mean, deviation.expand_as(mean))
    wanted = (normal.log_prob(step.after) * mask).sum((1, 2))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    found.sum().backward()
    assert scale.grad.abs() > 0


def test_smooth_noise_strays_from_row_to_row_and_its_density_is_that_of_such_rows():
    count, rows, smooth = 4000, 5, 0.8
    noise, mask = draw(count, rows, 1), torch.ones(count, rows, 1)
    mask[:, :1] = 0  # rows 2 to 4 of 5 count
    mask[:, 4:] = 0
    make, index = torch.Generator().manual_seed(2), torch.full((count,), 3)
    _, step = flow_sde(independent, noise, 4, torch.ones_like(mask), index, 0.5, make, smooth)
    slope = independent(step.before, step.tau[:, None].expand(count, rows))
    mean, deviation = sde_step(slope, step.before, step.tau, step.tau_after, 0.5)
    strayed = ((step.after - mean) / deviation)[..., 0]
    apart = torch.arange(rows)
    wanted = smooth ** (apart[:, None] - apart[None]).abs()
    torch.testing.assert_close(torch.corrcoef(strayed.T), wanted.float(), atol=0.05, rtol=0)
    covariance = deviation[0, 0, 0].square() * wanted[1:4, 1:4]
    normal = torch.distributions.MultivariateNormal(mean[:, 1:4, 0], covariance)
    found = replace(step, mask=mask).log_prob(independent)
    torch.testing.assert_close(found, normal.log_prob(step.after[:, 1:4, 0]), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize('noise_level', [0.3, 0.7])
def test_stochastic_walk_keeps_the_distribution(noise_level):
    """Any one noisy step leaves the marginals of the flow as they are (here: a normal)."""
    count = 60_000
    noise, mask = draw(count, 1, 1), torch.ones(count, 1, 1)
    index = torch.randint(1, 40, (count,), generator=torch.Generator().manual_seed(1))
    make = torch.Generator().manual_seed(3)
    found, _ = flow_sde(independent, noise, 40, mask, index, noise_level, make)
    assert found.mean().item() == pytest.approx(0, abs=0.02)
    assert found.std().item() == pytest.approx(1, abs=0.03)


def test_flow_sde_refuses_an_index_beyond_the_walk():
    noise = draw(1, 2, 1)
    with pytest.raises(ValueError, match=r'\[4\] for 4 steps'):
        flow_sde(curved, noise, 4, torch.ones_like(noise), torch.tensor([4]), 0.5)
