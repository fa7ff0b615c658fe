"""The estimate of memory: counted, and held against what autograd really keeps."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from qwen_vla_ros import cli
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
from qwen_vla_ros.model.adapters import attach_adapters
from qwen_vla_ros.model.config import QwenVLAConfig, preset
from qwen_vla_ros.model.int8 import quantise
from qwen_vla_ros.model.memory import ADAPTERS, Load, Sizes, estimate, gpu_memory
from qwen_vla_ros.model.qwen_vla import QwenVLA

WITHIN = 1.25  # what model/memory.py promises


def configured(name: str, attention: str, layers: int | None = None) -> QwenVLAConfig:
    """Return a preset in an attention mode; layers: only so many of each kind of part."""
    data = preset(name).to_dict()
    data['decoder']['attention'] = attention
    data['backbone']['image_token_id'] = 0
    if layers:
        data['backbone']['text_config'].update(vocab_size=1000, num_hidden_layers=2 * layers)
        data['backbone']['text_config']['full_attention_interval'] = 2
        data['backbone']['vision_config']['depth'] = layers
        data['decoder']['blocks'] = layers
    return QwenVLAConfig.from_dict(data)


def half_precision(config: QwenVLAConfig) -> QwenVLA:
    """Return a model of bfloat16 weights whose tables stay float32."""
    model = QwenVLA(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def batch(model: QwenVLA, load: Load) -> dict[str, torch.Tensor]:
    """Return a batch of the load."""
    vision, decoder = model.backbone.config.vision_config, model.config.decoder
    edge = load.image // vision.patch_size
    tokens = (edge // vision.spatial_merge_size) ** 2
    image = [*([0] * tokens), 9]
    ids = np.array(image * load.views + [7] * (load.text - load.views), np.int64)
    shape = (decoder.horizon, decoder.action_dim)
    sample = {
        'input_ids': ids,
        'mm_token_type_ids': (ids == 0).astype(np.int64),
        'pixel_values': np.zeros((load.views * edge**2, 3 * vision.patch_size**2), np.uint8),
        'image_grid_thw': np.array([(1, edge, edge)] * load.views, np.int64),
        'state': np.zeros(decoder.state_dim, np.float32),
        'actions': np.zeros(shape, np.float32),
        'action_mask': np.ones(shape, bool),
    }
    made = model.collate([sample] * load.batch)
    return {key: v.bfloat16() if v.dtype == torch.float32 else v for key, v in made.items()}


def kept_bytes(model: QwenVLA, function) -> tuple[object, int]:
    """Return the result and the bytes that wait for the backward pass, weights aside."""
    weights = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    storages, alive = {}, []

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        alive.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        result = function()
    return result, sum(storages.values())


def close(estimated: float, measured: float) -> bool:
    return 1 / WITHIN < estimated / measured < WITHIN


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
@pytest.mark.parametrize(('name', 'layers'), [('small', None), ('0.8b', 2)])
def test_activations_are_what_autograd_keeps(name, layers, attention):
    load = Load(batch=2, views=2, image=96, text=110)
    config = configured(name, attention, layers)
    model, sizes = half_precision(config), Sizes(config, load)
    inputs = batch(model, load)
    features, vision = kept_bytes(model, lambda: model.see(inputs))
    hidden, language = kept_bytes(model, lambda: model.read(inputs, features))
    generator = torch.Generator().manual_seed(0)
    _, action = kept_bytes(
        model, lambda: model.loss(inputs, generator, 1, model.condition(hidden, inputs))
    )
    assert inputs['input_ids'].shape[1] == sizes.tokens
    pairs = (
        (2 * sum(sizes.vision()), vision),
        (2 * sum(sizes.language()), language),
        (2 * sum(sizes.action()), action),
    )
    assert all(close(*pair) for pair in pairs), pairs
    everything = estimate(config, load)[-1]
    assert close(everything.activations, vision + language + action)


@pytest.mark.parametrize(
    ('name', 'layers', 'eight_bits'),
    [('0.8b', 2, False), ('small', None, False), ('small', None, True)],
)
def test_activations_of_adapters_are_what_autograd_keeps(name, layers, eight_bits):
    load = Load(batch=1, views=2, image=96, text=110)
    config = configured(name, 'prefix', layers)
    model = half_precision(config)
    if eight_bits:
        quantise(model)
    attach_adapters(model, ADAPTERS)
    inputs, generator = batch(model, load), torch.Generator().manual_seed(0)
    _, kept = kept_bytes(model, lambda: model.loss(inputs, generator))
    needs = {need.use: need for need in estimate(config, load)}
    estimated = needs['LoRA rank 16'].activations
    assert close(estimated, kept), estimated / kept


def peak_bytes(function) -> int:
    """Return the largest sum of what a call had allocated and not yet freed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        function()
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == '[memory]']
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
@pytest.mark.parametrize(('name', 'layers'), [('small', None), ('0.8b', 1)])
def test_inference_peaks_where_the_estimate_says(name, layers, attention):
    load = Load(batch=2, views=2, image=224, text=110)
    config = configured(name, attention, layers)
    model = half_precision(config)
    inputs, noise = batch(model, load), torch.zeros(model.noise_shape(2))
    model.sample_actions(inputs, 1, noise=noise)
    peak = peak_bytes(lambda: model.sample_actions(inputs, 2, noise=noise))
    need = estimate(config, load)[1]
    assert close(need.activations + need.cache, peak), (need.activations, need.cache, peak)


def test_parameters_are_counted_on_the_model():
    config = preset('tiny')
    model = QwenVLA(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    needs = {need.use: need for need in estimate(config, Load(image=96))}
    everything = needs['everything']
    assert everything.weights == 2 * count
    assert everything.weights + everything.gradients + everything.optimiser == 16 * count
    frozen = needs['decoder alone, backbone frozen']
    decoder = sum(parameter.numel() for parameter in model.decoder.parameters())
    assert frozen.gradients + frozen.optimiser == 14 * decoder
    attach_adapters(model, ADAPTERS)
    adapters = sum(p.numel() for name, p in model.named_parameters() if '.lora_' in name)
    assert needs['LoRA rank 16'].weights == 2 * count + 4 * adapters
    assert needs['LoRA rank 16'].optimiser == 8 * adapters


def test_8_bit_weights_are_counted_on_the_quantised_model():
    config = preset('tiny')
    model = half_precision(config)
    quantise(model)
    stored = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bytes_ = sum(v.numel() * v.itemsize for name, v in stored.items() if 'inv_freq' not in name)
    assert estimate(config, Load(image=96))[0].weights == bytes_


def test_the_cache_is_the_decoders_keys_and_values():
    config = configured('tiny', 'prefix')
    load = Load(batch=2, views=2, image=96, text=110)
    model = half_precision(config)
    inputs = batch(model, load)
    context = model.context(inputs)
    real = sum(v.numel() * v.itemsize for pair in context.keys_values for v in pair)
    states = 2 * 2 * config.decoder.blocks * config.decoder.width * 2  # one state token a sample
    assert estimate(config, load)[0].cache == real - states


def test_the_largest_batch_fits_and_one_more_does_not():
    config, memory = preset('4b'), 60e9
    need = next(n for n in estimate(config, Load()) if n.use == 'LoRA rank 16')
    most = need.largest_batch(memory)
    assert most > 1
    totals = [
        next(n for n in estimate(config, Load(batch=b)) if n.use == need.use).total
        for b in (most, most + 1)
    ]
    assert totals[0] <= memory < totals[1]
    assert need.largest_batch(10e9) == 0


@pytest.mark.parametrize(
    ('text', 'size'), [('24GB', 24e9), ('24', 24e9), ('79.5 gb', 79.5e9), ('24GiB', 24 * 2**30)]
)
def test_memory_is_read_in_gb_and_gib(text, size):
    assert gpu_memory(text) == (size, 'as given')


@pytest.mark.parametrize('text', ['x', '-3', '0', '24 TB'])
def test_wrong_memory_is_refused(text):
    with pytest.raises(QwenVlaError, match='--gpu'):
        gpu_memory(text)


def test_the_machines_own_gpu_is_asked_when_none_is_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(QwenVlaError, match='no GPU; name its memory'):
        gpu_memory(None)


@pytest.mark.parametrize('model', ['tiny', str(bundled_checkpoint())])
def test_doctor_prints_what_fits(model, capsys):
    words = ['doctor', '--model', model, '--gpu', '24GB', '--image', '96', '--views', '2']
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    lines = {line[:32].strip(): line.split() for line in told.splitlines()}
    assert lines['inference, bfloat16'][-2] == 'yes'
    assert '72 image tokens, 100 of text; 24.0 GB' in told


@pytest.mark.parametrize(
    ('words', 'says'),
    [(['--image', '100'], 'image 100: not a multiple of'), (['--batch', '0'], 'batch 0')],
)
def test_an_impossible_load_is_refused(words, says, capsys):
    assert cli.main(['doctor', '--model', 'tiny', '--gpu', '8', *words]) == 2
    assert says in capsys.readouterr().err


def test_memory_without_a_model_is_refused(capsys):
    assert cli.main(['doctor', '--gpu', '24GB']) == 2
    assert '--gpu: of which model?' in capsys.readouterr().err
