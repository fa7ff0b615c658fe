"""Device, dtype, and a model that is built without memory for its weights."""

import pytest
import torch

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.placement import build_empty, choose_device, choose_dtype, settle
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.weights import load_weights, own_tensors, save_weights

CPU = torch.device('cpu')


def test_auto_is_float32_on_a_cpu_and_bfloat16_on_cuda():
    assert choose_dtype('auto', CPU) is torch.float32
    assert choose_dtype('auto', torch.device('cuda')) is torch.bfloat16
    assert choose_dtype('float16', CPU) is torch.float16
    assert choose_dtype(torch.bfloat16, CPU) is torch.bfloat16


def test_unknown_names_are_refused():
    with pytest.raises(QwenVlaError, match="dtype 'int3' is unknown; choose auto, float32"):
        choose_dtype('int3', CPU)
    with pytest.raises(QwenVlaError, match="device 'xpu:7' cannot be used here"):
        choose_device('xpu:7')


def test_an_empty_model_of_the_full_size_takes_no_memory():
    model = build_empty(preset('4b'))
    real = sum(p.numel() for p in model.parameters() if not p.is_meta)
    total = sum(p.numel() for p in model.parameters())
    assert 5.6e9 < total < 5.8e9
    assert real < 1e6


def test_an_empty_model_that_was_filled_is_the_normal_one(tmp_path):
    normal = QwenVLA(preset('tiny')).eval()
    save_weights(own_tensors(normal), tmp_path, torch.float32)
    filled = build_empty(preset('tiny'))
    load_weights(filled, tmp_path, place=(CPU, torch.float32))
    settle(filled, CPU)
    for kind in ('named_parameters', 'named_buffers'):
        wanted, found = dict(getattr(normal, kind)()), dict(getattr(filled, kind)())
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, atol=0, rtol=0)
    assert all(parameter.requires_grad for parameter in filled.parameters())


def test_rotary_frequencies_stay_float32_in_half_precision(tmp_path):
    normal = QwenVLA(preset('tiny'))
    save_weights(own_tensors(normal), tmp_path, torch.float32)
    filled = build_empty(preset('tiny'))
    load_weights(filled, tmp_path, place=(CPU, torch.bfloat16))
    settle(filled, CPU)
    assert {value.dtype for value in filled.parameters()} == {torch.bfloat16}
    buffers = dict(normal.named_buffers())
    assert any('inv_freq' in name for name in buffers)
    for name, value in filled.named_buffers():
        torch.testing.assert_close(value, buffers[name], atol=0, rtol=0)


def test_weights_that_were_never_loaded_are_a_defect():
    with pytest.raises(RuntimeError, match='never loaded'):
        settle(build_empty(preset('tiny')), CPU)
