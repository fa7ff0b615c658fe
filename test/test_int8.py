"""Weights in 8 bits: close, smaller, and a floor that adapters can be trained on."""

import numpy as np
import pytest
import torch
from torch import nn

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
from qwen_vla_ros.model.checkpoint import (
    TrainedRobot,
    from_pretrained,
    load_checkpoint,
    save_checkpoint,
)
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.int8 import Int8Linear, is_quantised, quantise, quantise_rows
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.policy import LocalPolicy, load_policy
from qwen_vla_ros.sim.environment import TabletopEnv

WIDOWX = Embodiment.load('widowx')


def test_rows_by_hand():
    stored, scale = quantise_rows(torch.tensor([[1.27, -0.64, 0.0], [0.0, 0.0, 0.0]]))
    assert stored.tolist() == [[127, -64, 0], [0, 0, 0]]
    torch.testing.assert_close(scale[0], torch.tensor([0.01]))


@pytest.mark.parametrize('bias', [True, False])
def test_a_layer_is_its_restored_weight(bias):
    torch.manual_seed(0)
    layer = nn.Linear(32, 8, bias=bias)
    small = Int8Linear(layer)
    x = torch.randn(5, 32)
    expected = nn.functional.linear(x, small.weight, layer.bias)
    torch.testing.assert_close(small(x), expected)
    row = layer.weight.abs().amax(1, keepdim=True)
    assert ((small.weight - layer.weight).abs() <= row / 254 + 1e-7).all()


def test_the_gradient_of_the_input_is_the_restored_weights():
    torch.manual_seed(0)
    small = Int8Linear(nn.Linear(32, 8))
    x = torch.randn(5, 32, requires_grad=True)
    gradient = torch.randn(5, 8)
    small(x).backward(gradient)
    torch.testing.assert_close(x.grad, gradient @ small.weight)


def test_the_backward_pass_keeps_8_bits_and_no_restored_weight():
    kept = []
    small = Int8Linear(nn.Linear(64, 64, bias=False))
    x = torch.randn(1, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        small(x)
    assert sorted(value.numel() * value.itemsize for value in kept) == [64 * 4, 64 * 64]


def test_linear_layers_of_backbone_and_decoder_change_and_nothing_else():
    model = QwenVLA(preset('tiny'))
    before = dict(model.named_parameters())
    names = quantise(model)
    assert 'backbone.model.language_model.layers.1.self_attn.q_proj' in names
    assert 'backbone.model.visual.blocks.0.attn.qkv' in names
    assert 'decoder.blocks.0.qkv' in names
    assert type(model.backbone.lm_head) is nn.Linear
    assert is_quantised(model)
    left = dict(model.named_parameters())
    assert set(before) - set(left) == {f'{name}.weight' for name in names}
    stored = sum(b.numel() * b.itemsize for n, b in model.named_buffers() if n.endswith('stored'))
    assert stored == sum(before[f'{name}.weight'].numel() for name in names)


def test_actions_of_the_bundled_checkpoint_stay_within_a_hundredth():
    exact, small = (
        load_checkpoint(bundled_checkpoint(), 'cpu', quantise=kind) for kind in (None, 'int8')
    )
    assert small.robot().metadata['quantised'] == 'int8'
    env = TabletopEnv()
    worst = 0.0
    for seed in range(3):
        env.reset(seed=seed)
        seen = env.observation()
        for name in env.world.object_positions():
            sample = exact.robot().pipeline.forward(
                {'images': seen.images, 'state': seen.state, 'instruction': f'touch the {name}'}
            )
            batch = exact.model.collate([sample])
            noise = torch.randn(exact.model.noise_shape(1))
            pair = [c.model.sample_actions(batch, 4, noise=noise) for c in (exact, small)]
            channels = len(WIDOWX.action_names())
            worst = max(worst, float((pair[0] - pair[1])[..., :channels].abs().max()))
    env.close()
    assert 0 < worst < 1e-2


def test_a_policy_runs_on_8_bits():
    env = TabletopEnv()
    env.reset(seed=1)
    exact, small = (
        load_policy(bundled_checkpoint(), WIDOWX, 'cpu', quantise=kind) for kind in (None, 'int8')
    )
    assert isinstance(small, LocalPolicy)
    pair = [policy.infer(env.observation()).actions for policy in (exact, small)]
    env.close()
    assert 0 < np.abs(pair[0] - pair[1]).max() < 0.02


def test_an_unknown_kind_is_refused():
    with pytest.raises(QwenVlaError, match="'int3' is unknown; choose int8"):
        from_pretrained(bundled_checkpoint(), 'cpu', quantise='int3')


def test_8_bits_are_not_saved_as_a_checkpoint(tmp_path):
    model = from_pretrained(bundled_checkpoint(), 'cpu', quantise='int8')
    with pytest.raises(QwenVlaError, match='quantise when loading'):
        save_checkpoint(tmp_path / 'x', model, None, [TrainedRobot(WIDOWX, 'abs_joint', None)], {})
    assert list(tmp_path.iterdir()) == []
