"""The DiT: its published budget, its two attention modes, its blindness to padding."""

import dataclasses

import pytest
import torch
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextRotaryEmbedding

from qwen_vla_ros.model.action_decoder import ActionDecoder, rotary_table
from qwen_vla_ros.model.config import preset


def millions(*modules: torch.nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


def test_published_decoder_has_the_papers_budget():
    with torch.device('meta'):
        decoder = ActionDecoder(preset('4b').decoder, 2560)
    table = {
        'block': (millions(decoder.blocks[0]), 70.8),
        'action projections': (millions(decoder.action_in, decoder.action_out), 4.9),
        'VLM to DiT': (millions(decoder.context_in), 3.9),
        'timestep': (millions(decoder.timestep), 2.8),
        'output modulation': (millions(decoder.modulation_out), 4.7),
        'total': (millions(decoder), 1150),
    }
    for part, (ours, paper) in table.items():
        print(f'{part:20} {ours:8.2f} M, paper {paper} M')
        assert ours == pytest.approx(paper, abs=0.05 if paper < 100 else 5), part


@pytest.mark.parametrize(('name', 'billions'), [('4b', 4.539), ('2b', 2.213), ('0.8b', 0.853)])
def test_published_backbones_have_their_size(name, billions):
    with torch.device('meta'):
        backbone = Qwen3_5ForConditionalGeneration(Qwen3_5Config(**preset(name).backbone))
    assert millions(backbone) / 1e3 == pytest.approx(billions, abs=1e-3)


def test_rotary_sections_equal_the_backbones():
    config = Qwen3_5Config(**preset('4b').backbone).text_config
    theirs = Qwen3_5TextRotaryEmbedding(config)
    position = torch.randint(0, 50, (3, 2, 7), generator=torch.Generator().manual_seed(0))
    cos, sin = theirs(torch.zeros(1), position)
    ours = rotary_table(position, (11, 11, 10), 1e7)[:, :, 0]
    torch.testing.assert_close(ours[0], cos[..., :32])
    torch.testing.assert_close(ours[1], sin[..., :32])


def scrambled(attention: str) -> ActionDecoder:
    """Return a small decoder without zero-initialised parts."""
    torch.manual_seed(0)
    config = dataclasses.replace(preset('tiny').decoder, attention=attention)
    decoder = ActionDecoder(config, 24)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return decoder.eval()


def inputs(decoder: ActionDecoder, tokens: int = 9):
    make = torch.Generator().manual_seed(3)
    hidden = torch.randn(2, tokens, 24, generator=make)
    position = torch.arange(tokens).expand(3, 2, -1)
    state = torch.randn(2, decoder.config.state_dim, generator=make)
    noisy = torch.randn(2, 16, decoder.config.action_dim, generator=make)
    return hidden, position, state, noisy


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
@torch.no_grad()
def test_padding_never_changes_a_valid_output(attention):
    decoder = scrambled(attention)
    hidden, position, state, noisy = inputs(decoder)
    tau = torch.full((2, 16), 0.3)
    mask = torch.ones(2, 9)
    plain = decoder(noisy, tau, decoder.context(hidden, position, mask, state))
    padded_hidden = torch.cat((hidden, torch.full((2, 4, 24), 7.0)), 1)
    padded_position = torch.cat((position, torch.zeros(3, 2, 4, dtype=torch.long)), -1)
    padded_mask = torch.cat((mask, torch.zeros(2, 4)), 1)
    context = decoder.context(padded_hidden, padded_position, padded_mask, state)
    torch.testing.assert_close(decoder(noisy, tau, context), plain, atol=1e-5, rtol=0)


@torch.no_grad()
def test_cached_context_equals_context_computed_in_the_same_pass():
    decoder = scrambled('prefix')
    hidden, position, state, noisy = inputs(decoder)
    context = decoder.context(hidden, position, torch.ones(2, 9), state)
    cached = decoder.prefill(context)
    for tau in (1.0, 0.4):
        tau_BH = torch.full((2, 16), tau)
        torch.testing.assert_close(
            decoder(noisy, tau_BH, cached), decoder(noisy, tau_BH, context), atol=1e-5, rtol=0
        )


@torch.no_grad()
def test_in_joint_mode_the_context_sees_the_timestep_in_prefix_mode_it_does_not():
    first = scrambled('prefix')
    joint = scrambled('joint')
    assert [p.shape for p in first.parameters()] == [p.shape for p in joint.parameters()]
    hidden, position, state, noisy = inputs(first)
    tau = torch.full((2, 16), 0.6)
    context = first.context(hidden, position, torch.ones(2, 9), state)
    assert not torch.allclose(first(noisy, tau, context), joint(noisy, tau, context))


@torch.no_grad()
def test_repeated_context_serves_several_draws():
    decoder = scrambled('prefix')
    hidden, position, state, noisy = inputs(decoder)
    context = decoder.prefill(decoder.context(hidden, position, torch.ones(2, 9), state))
    tau = torch.full((4, 16), 0.5)
    many = decoder(noisy.repeat_interleave(2, 0), tau, context.repeat(2))
    once = decoder(noisy, tau[:2], context)
    torch.testing.assert_close(many, once.repeat_interleave(2, 0), atol=1e-6, rtol=0)
