"""The whole model: who gets gradients, what padding and mixtures change, what it can learn."""

import dataclasses

import numpy as np
import pytest
import torch

from qwen_vla_ros.model.action_decoder import ActionDecoder
from qwen_vla_ros.model.config import ActionDecoderConfig, FlowConfig, preset
from qwen_vla_ros.model.flow import interpolate, masked_loss, sample_tau
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.sampling import solve

IMAGE = 100  # id of the image token; 101 and 102 stand before and after


def build(attention: str = 'joint', flow: FlowConfig | None = None) -> QwenVLA:
    torch.manual_seed(0)
    plain = preset('tiny')
    decoder = dataclasses.replace(plain.decoder, attention=attention, state_input='none')
    return QwenVLA(dataclasses.replace(plain, decoder=decoder, flow=flow or FlowConfig()))


def sample(
    seed: int, words: int = 6, images: int = 1, rows: int = 16, channels: int = 7
) -> dict[str, np.ndarray]:
    """Return a sample of a robot with its own horizon, channels and number of views."""
    rng = np.random.default_rng(seed)
    ids = [token for _ in range(images) for token in (101, *[IMAGE] * 6, 102)]
    ids = np.array([*ids, *rng.integers(1, 90, words)])
    mask = np.zeros((16, 32), bool)
    mask[:rows, :channels] = True
    found = {
        'input_ids': ids,
        'mm_token_type_ids': (ids == IMAGE).astype(np.int64),
        'actions': (rng.uniform(-1, 1, (16, 32)) * mask).astype(np.float32),
        'action_mask': mask,
    }
    if images:
        found['image_grid_thw'] = np.array([[1, 4, 6]] * images)
        found['pixel_values'] = rng.integers(0, 256, (24 * images, 192), np.uint8)
    return found


def robots() -> list[dict[str, np.ndarray]]:
    """Return one sample each of an arm, two arms with three views, a base, and text alone."""
    return [
        sample(0),
        sample(1, words=3, images=3, channels=14),
        sample(2, words=9, rows=8, channels=3),
        sample(3, words=5, images=0, channels=8),
    ]


def opened(model: QwenVLA) -> QwenVLA:
    """Let the decoder's zero-initialised parts pass something."""
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_text_to_action_sends_no_gradient_into_the_backbone():
    model = opened(build())
    model.backbone.requires_grad_(False)
    batch = model.collate([sample(0, images=0), sample(1, words=9, images=0)])
    assert 'pixel_values' not in batch
    model.loss(batch, torch.Generator().manual_seed(0)).mean().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.decoder.parameters())


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
def test_pretraining_sends_gradients_into_every_part(attention):
    model = opened(build(attention))
    model.loss(model.collate(robots()), torch.Generator().manual_seed(0)).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    for part in ('backbone.model.visual', 'backbone.model.language_model', 'decoder.blocks.0'):
        assert sum(p.grad.abs().sum() for p in model.get_submodule(part).parameters()) > 0, part


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
def test_a_batch_of_mixed_robots_equals_one_by_one(attention):
    model = opened(build(attention)).eval()
    noise = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(1))
    together = model.sample_actions(model.collate(robots()), 4, noise)
    for row, item in enumerate(robots()):
        alone = model.sample_actions(model.collate([item]), 4, noise[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
@torch.no_grad()
def test_rows_beyond_a_robots_horizon_change_nothing(attention):
    model = opened(build(attention)).eval()
    short = sample(2, rows=8, channels=3)
    noise = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(1))
    padded = model.sample_actions(model.collate([short]), 4, noise)
    cut = {**short, 'action_mask': short['action_mask'][:8], 'actions': short['actions'][:8]}
    alone = model.sample_actions(model.collate([cut]), 4, noise[:, :8])
    torch.testing.assert_close(padded[:, :8], alone, atol=1e-6, rtol=0)
    assert (padded[:, 8:] == 0).all()


@torch.no_grad()
def test_padding_never_changes_a_valid_hidden_state():
    model = build().eval()
    short, long = sample(0, words=4), sample(1, words=40)
    alone = model.encode(model.collate([short]))
    beside = model.encode(model.collate([short, long]))[:1, : alone.shape[1]]
    torch.testing.assert_close(beside, alone, atol=1e-6, rtol=0)


def test_loss_looks_at_valid_entries_only():
    model = opened(build())
    batch = model.collate(robots())
    losses = model.loss(batch, torch.Generator().manual_seed(3))
    batch['actions'] = torch.where(batch['action_mask'], batch['actions'], torch.nan)
    again = model.loss(batch, torch.Generator().manual_seed(3))
    torch.testing.assert_close(losses, again)


def test_one_batch_is_learnt_by_heart():
    """With its noise held still, the loss of one mixed batch falls below 1e-3."""
    model = build(flow=FlowConfig('uniform'))
    batch = model.collate(robots())
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
    loss = torch.tensor(torch.inf)
    for _ in range(300):
        loss = model.loss(batch, torch.Generator().manual_seed(0)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    assert loss.item() < 1e-3


MEANS = torch.tensor([[0.6, -0.5, 0.3], [-0.6, 0.5, -0.1]])
SPREAD = torch.tensor([[0.12, 0.0, 0.0], [0.08, 0.06, 0.0], [0.0, 0.05, 0.1]])  # a Cholesky factor


def two_modes(count: int, make: torch.Generator) -> torch.Tensor:
    """Return [count, 1, 3]: 30 % around one mean, 70 % around the other, one covariance."""
    mode = (torch.rand(count, generator=make) < 0.7).long()
    return (MEANS[mode] + torch.randn(count, 3, generator=make) @ SPREAD.T)[:, None]


@pytest.mark.parametrize('attention', [pytest.param('joint', marks=pytest.mark.slow), 'prefix'])
def test_two_modes_with_known_covariance_are_learnt_and_sampled(attention):
    torch.manual_seed(0)
    config = ActionDecoderConfig(
        64, 2, 2, 128, 3, 1, attention, rotary_sections=(6, 5, 5), timestep_channels=64
    )
    decoder = ActionDecoder(config, 8)
    make = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(decoder.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 700)

    def field(x, tau):
        count = len(x)
        context = decoder.context(torch.ones(count, 1, 8), torch.zeros(3, count, 1).long())
        return decoder(x, tau, context)

    for _ in range(700):
        clean = two_modes(384, make)
        noise = torch.randn(clean.shape, generator=make)
        tau = sample_tau(FlowConfig('logit_normal'), 384, make)[:, None]
        velocity = field(interpolate(clean, noise, tau), tau)
        loss = masked_loss(velocity, noise - clean, torch.ones_like(clean, dtype=torch.bool))
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        noise = torch.randn(6000, 1, 3, generator=make)
        found = solve(field, noise, 20, torch.ones_like(noise))[:, 0]
    second = (found - MEANS[1]).norm(dim=1) < (found - MEANS[0]).norm(dim=1)
    assert second.float().mean().item() == pytest.approx(0.7, abs=0.05)
    for mode, rows in ((0, found[~second]), (1, found[second])):
        torch.testing.assert_close(rows.mean(0), MEANS[mode], atol=0.04, rtol=0)
        torch.testing.assert_close(rows.T.cov(), SPREAD @ SPREAD.T, atol=0.008, rtol=0)
