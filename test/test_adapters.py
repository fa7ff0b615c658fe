"""LoRA: attached, trained, saved alone, and put onto the right checkpoint only."""

import json
import shutil
import sys

import pytest
import torch

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.adapters import (
    AdapterConfig,
    adapted_layers,
    attach_adapters,
    fingerprint,
    load_adapters,
    merge_adapters,
    save_adapters,
)
from qwen_vla_ros.model.checkpoint import TrainedRobot, from_pretrained, save_checkpoint
from qwen_vla_ros.model.int8 import quantise
from qwen_vla_ros.model.weights import CheckpointError
from qwen_vla_ros.train.supervised import TrainRun, build_model

WIDOWX = Embodiment.load('widowx')
BOTH = AdapterConfig(('language', 'vision', 'decoder'), rank=4, alpha=8.0)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """Return the folder of a tiny checkpoint with random weights."""
    folder = tmp_path_factory.mktemp('checkpoints') / 'tiny'
    model, tokenizer = build_model(TrainRun('tiny', (), 0), WIDOWX)
    torch.manual_seed(4)
    for name, parameter in model.decoder.named_parameters():
        if name.startswith(('action_out', 'modulation_out')) or '.modulation.' in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_checkpoint(folder, model, tokenizer, [TrainedRobot(WIDOWX, 'abs_joint', None)], {})
    return folder


def batch(model):
    """Return a batch of two sentences without images, and its noise."""
    samples = [
        {
            'input_ids': torch.arange(10, 10 + length).numpy(),
            'mm_token_type_ids': torch.zeros(length, dtype=torch.int64).numpy(),
            'state': torch.linspace(-1, 1, 32).numpy(),
            'actions': torch.zeros(16, 32).numpy(),
            'action_mask': torch.ones(16, 32, dtype=torch.bool).numpy(),
        }
        for length in (9, 14)
    ]
    noise = torch.randn(model.noise_shape(2), generator=torch.Generator().manual_seed(0))
    return model.collate(samples), noise


def act(model):
    inputs, noise = batch(model)
    return model.sample_actions(inputs, 4, noise=noise)


def trained(base, config=BOTH):
    """Return a model whose adapters took three steps."""
    model = from_pretrained(base, 'cpu')
    attach_adapters(model, config)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        generator = torch.Generator().manual_seed(1)
        model.loss(batch(model)[0], generator).mean().backward()
        optimiser.step()
    return model


@pytest.fixture(scope='module')
def saved(base, tmp_path_factory):
    """Return the trained model and the folder of its adapters."""
    model = trained(base)
    folder = tmp_path_factory.mktemp('adapters') / 'lora'
    save_adapters(model, folder, base)
    return model, folder


def test_fresh_adapters_change_nothing_and_alone_are_trained(base):
    model = from_pretrained(base, 'cpu')
    before = act(model)
    layers = attach_adapters(model, BOTH)
    torch.testing.assert_close(act(model), before, atol=0, rtol=0)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {
        f'{layer}.lora_{side}.default.weight' for layer in layers for side in 'AB'
    }


def test_training_moves_the_adapters_and_not_the_weights(base, saved):
    model, _ = saved
    plain = from_pretrained(base, 'cpu').state_dict()
    for name, value in model.state_dict().items():
        if '.lora_' not in name:
            own = plain[name.replace('.base_layer', '')]
            torch.testing.assert_close(value, own, atol=0, rtol=0)
    assert (act(model) - act(from_pretrained(base, 'cpu'))).abs().max() > 1e-3


@pytest.mark.parametrize('merge', [True, False])
def test_saved_adapters_act_as_the_trained_model(base, saved, merge):
    model, folder = saved
    again = from_pretrained(base, 'cpu')
    report = load_adapters(again, folder, base, merge)
    assert len(report.loaded) == 2 * len(adapted_layers(from_pretrained(base, 'cpu'), BOTH))
    torch.testing.assert_close(act(again), act(model), atol=1e-5, rtol=0)
    assert any('.lora_' in name for name in again.state_dict()) is not merge


def test_unmerged_adapters_can_be_trained_on(base, saved):
    again = from_pretrained(base, 'cpu')
    load_adapters(again, saved[1], base, merge=False)
    again.loss(batch(again)[0], torch.Generator().manual_seed(1)).mean().backward()
    gradients = [p.grad for name, p in again.named_parameters() if 'lora_B' in name]
    assert all(p.requires_grad for name, p in again.named_parameters() if '.lora_' in name)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)


def test_a_merged_model_is_saved_as_a_checkpoint_of_its_own(base, saved, tmp_path):
    model = from_pretrained(base, 'cpu', adapters=saved[1])
    tokenizer = build_model(TrainRun('tiny', (), 0), WIDOWX)[1]
    save_checkpoint(
        tmp_path / 'merged', model, tokenizer, [TrainedRobot(WIDOWX, 'abs_joint', None)], {}
    )
    again = from_pretrained(tmp_path / 'merged', 'cpu').state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again[name], value, atol=0, rtol=0)


def test_adapters_are_not_saved_inside_a_checkpoint(saved, tmp_path):
    with pytest.raises(CheckpointError, match='merge_adapters'):
        save_checkpoint(
            tmp_path / 'x', saved[0], None, [TrainedRobot(WIDOWX, 'abs_joint', None)], {}
        )


def test_another_checkpoint_is_refused_by_its_fingerprint(base, saved, tmp_path):
    other, tokenizer = build_model(TrainRun('tiny', (), 0, seed=9), WIDOWX)
    save_checkpoint(
        tmp_path / 'other', other, tokenizer, [TrainedRobot(WIDOWX, 'abs_joint', None)], {}
    )
    model = from_pretrained(tmp_path / 'other', 'cpu')
    with pytest.raises(CheckpointError, match=r'trained on another checkpoint .*\(tiny, finger'):
        load_adapters(model, saved[1], tmp_path / 'other')
    assert fingerprint(base) != fingerprint(tmp_path / 'other')


def test_a_copy_of_the_checkpoint_is_the_same_checkpoint(base, tmp_path):
    assert fingerprint(shutil.copytree(base, tmp_path / 'copy')) == fingerprint(base)


def test_another_configuration_is_another_checkpoint(base, tmp_path):
    copy = shutil.copytree(base, tmp_path / 'copy')
    data = json.loads((copy / 'config.json').read_text())
    data['decoder']['rotary_theta'] = 5e3
    (copy / 'config.json').write_text(json.dumps(data))
    assert fingerprint(copy) != fingerprint(base)


def test_a_folder_without_its_base_is_refused(base, saved, tmp_path):
    copy = shutil.copytree(saved[1], tmp_path / 'copy')
    (copy / 'base.json').unlink()
    with pytest.raises(CheckpointError, match='base.json.*which checkpoint'):
        load_adapters(from_pretrained(base, 'cpu'), copy, base)


def test_a_truncated_adapter_file_is_named(base, saved, tmp_path):
    copy = shutil.copytree(saved[1], tmp_path / 'copy')
    path = copy / 'adapter_model.safetensors'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match='adapter_model.safetensors: truncated'):
        load_adapters(from_pretrained(base, 'cpu'), copy, base)


def test_named_modules_only(base):
    model = from_pretrained(base, 'cpu')
    layers = adapted_layers(model, AdapterConfig(('language',), ('q_proj', 'v_proj')))
    root = 'backbone.model.language_model.layers'
    assert layers == [
        f'{root}.{n}.self_attn.{side}' for n in (1, 3) for side in ('q_proj', 'v_proj')
    ]
    with pytest.raises(QwenVlaError, match="no linear layer 'q_prj' in language; there are"):
        adapted_layers(model, AdapterConfig(modules=('q_prj',)))
    with pytest.raises(QwenVlaError, match="part 'head' is unknown; choose language"):
        adapted_layers(model, AdapterConfig(('head',)))


def test_a_second_set_is_refused(base):
    model = from_pretrained(base, 'cpu')
    attach_adapters(model, BOTH)
    with pytest.raises(QwenVlaError, match='has some already'):
        attach_adapters(model, BOTH)


def test_adapters_train_on_8_bit_weights_and_are_not_merged_into_them(base):
    model = from_pretrained(base, 'cpu')
    quantise(model)
    before = act(model)
    attach_adapters(model, BOTH)
    torch.testing.assert_close(act(model), before, atol=0, rtol=0)
    model.loss(batch(model)[0], torch.Generator().manual_seed(1)).mean().backward()
    gradient = model.decoder.blocks[0].qkv.lora_B['default'].weight.grad
    assert gradient.abs().max() > 0
    with pytest.raises(QwenVlaError, match='8-bit weights cannot take them in'):
        merge_adapters(model)


def test_adapters_of_a_half_precision_model_are_float32(base):
    model = from_pretrained(base, 'cpu', 'bfloat16')
    attach_adapters(model, BOTH)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if '.lora_' in name else torch.bfloat16)
    assert torch.isfinite(act(model)).all()


def test_without_peft_the_remedy_is_told(base, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(CheckpointError, match='pip install peft'):
        load_adapters(from_pretrained(base, 'cpu'), saved[1], base)
