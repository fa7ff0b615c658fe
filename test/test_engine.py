"""The engine: every path gives what the plain model gives; nothing is read back to the host."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import FlowConfig, InputConfig, QwenVLAConfig, preset
from qwen_vla_ros.model.denoise import DenoisingLoop
from qwen_vla_ros.model.engine import Engine, EngineOptions
from qwen_vla_ros.model.graphs import shapes_of
from qwen_vla_ros.model.qwen_vla import QwenVLA

GRIDS = np.array([[1, 4, 6], [1, 2, 4]])
IMAGE = 100  # id of the image token; 101 and 102 stand before and after


def build(attention='prefix', sampler='euler', state='continuous') -> QwenVLA:
    """Return a tiny model without zero-initialised parts."""
    torch.manual_seed(0)
    plain = preset('tiny')
    model = QwenVLA(
        QwenVLAConfig(
            plain.backbone,
            dataclasses.replace(plain.decoder, attention=attention, state_input=state),
            FlowConfig(sampler=sampler, denoising_steps=3),
            InputConfig(),
        )
    )
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def sample(seed: int = 0, words: int = 7, prompt_first: bool = True, channels: int = 7) -> dict:
    """Return what the pipeline hands to the model: two images and a sentence."""
    rng = np.random.default_rng(seed)
    visual = [[101, *[IMAGE] * (rows * columns // 4), 102] for _, rows, columns in GRIDS]
    images = [token for part in visual for token in part]
    text = np.random.default_rng(words).integers(1, 90, words).tolist()
    ids = np.array([*text, *images] if prompt_first else [*images, *text])
    mask = np.zeros((16, 32), bool)
    mask[:, :channels] = True
    return {
        'input_ids': ids,
        'mm_token_type_ids': (ids == IMAGE).astype(np.int64),
        'pixel_values': rng.integers(0, 256, (32, 3 * 64), np.uint8),
        'image_grid_thw': GRIDS,
        'state': rng.normal(size=32).astype(np.float32),
        'action_mask': mask,
        'stable_tokens': words if prompt_first else 0,
    }


def noise(count: int = 1) -> torch.Tensor:
    return torch.randn(count, 16, 32, generator=torch.Generator().manual_seed(4))


def plainly(model: QwenVLA, samples: list[dict], prefix=None) -> torch.Tensor:
    return model.sample_actions(model.collate(samples), noise=noise(len(samples)), prefix=prefix)


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
@pytest.mark.parametrize('prompt_first', [True, False])
def test_engine_gives_what_the_model_gives(attention, prompt_first):
    model = build(attention)
    engine = Engine(model)
    for seed in (0, 1, 2):
        item = sample(seed, prompt_first=prompt_first)
        found = engine.sample_actions([item], noise())
        torch.testing.assert_close(found, plainly(model, [item]), atol=1e-5, rtol=0)
    assert engine.counts['prompts_reused'] == (2 if prompt_first else 0)


def test_a_padded_batch_equals_its_samples_one_by_one():
    model = build()
    samples = [sample(0, 4), sample(1, 9, channels=3), sample(2, 6)]
    together = Engine(model).sample_actions(samples, noise(3))
    for row, item in enumerate(samples):
        alone = Engine(model).sample_actions([item], noise(3)[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_heun_runs_through_the_engine():
    model = build(sampler='heun')
    item = sample()
    found = Engine(model).sample_actions([item], noise())
    torch.testing.assert_close(found, plainly(model, [item]), atol=1e-5, rtol=0)


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
def test_known_rows_come_back_unchanged(attention):
    model = build(attention)
    prefix = np.full((3, 32), 0.25, np.float32)
    prefix[:, 7:] = 0
    item = {**sample(), 'prefix': prefix}
    found = Engine(model).sample_actions([item], noise())
    torch.testing.assert_close(found[0, :3], torch.from_numpy(prefix))
    wanted = plainly(model, [item], torch.from_numpy(prefix)[None])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_guidance_runs_through_the_engine():
    model = build()
    item = {**sample(), 'prefix': np.full((4, 32), 0.2, np.float32)}
    found = Engine(model).sample_actions([item], noise(), frozen=2)
    batch = model.collate([item])
    wanted = model.sample_actions(batch, noise=noise(), prefix=batch['prefix'], frozen=2)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_another_sentence_is_read_anew():
    model = build()
    engine = Engine(model)
    for words in (7, 8, 7):
        item = sample(words, words)
        found = engine.sample_actions([item], noise())
        torch.testing.assert_close(found, plainly(model, [item]), atol=1e-5, rtol=0)
    assert engine.counts['prompts_reused'] == 0


def test_frames_seen_before_are_not_looked_at_again():
    model = build()
    engine, other = Engine(model), Engine(model, options=EngineOptions(frames=0))
    first, second = sample(0), sample(1)
    second['pixel_values'][:24] = first['pixel_values'][:24]
    for item in (first, second):
        found = engine.sample_actions([item], noise())
        torch.testing.assert_close(found, other.sample_actions([item], noise()))
    assert engine.counts['images_reused'] == 1
    assert other.counts['images_reused'] == 0


def test_only_recent_frames_are_kept():
    model = build()
    engine = Engine(model, options=EngineOptions(frames=2))
    for seed in (0, 1, 0):
        engine.sample_actions([sample(seed)], noise())
    assert engine.counts['images_reused'] == 0


class NoHostReads(TorchDispatchMode):
    """Fails on what a CUDA graph cannot hold: reading back, and shapes that depend on values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        assert name not in ('aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select')
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
def test_stages_read_nothing_back_to_the_host(attention):
    model = build(attention)
    engine = Engine(model)
    engine.sample_actions([sample(0)], noise())  # plans are made once, on the host
    calls = []

    def watched(*inputs):
        with NoHostReads():
            calls.append(shapes_of(inputs))
            return engine._act_on(*inputs)

    engine._act = watched
    for grids, stage in list(engine._look.items()):
        pixels = torch.zeros(32, 192, dtype=torch.uint8)
        with NoHostReads():
            assert stage(pixels).shape == (8, 32), grids
    for seed in (1, 2):
        engine.sample_actions([sample(seed)], noise())
    assert calls[0] == calls[1]  # the same shapes: one capture serves every call


@pytest.mark.parametrize('attention', ['joint', 'prefix'])
@pytest.mark.parametrize('known', [0, 3])
def test_nothing_is_made_on_another_device_than_the_models(attention, known):
    """On the meta device every operation between devices fails."""
    engine = Engine(build(attention).to('meta'))
    item = sample()
    if known:
        item['prefix'] = np.zeros((known, 32), np.float32)
    found = engine.sample_actions([item], noise())
    assert (found.device.type, found.dtype, found.shape) == ('meta', torch.float32, (1, 16, 32))


@pytest.mark.parametrize('name', ['4b', '2b', '0.8b'])
def test_the_published_sizes_run_whole_on_the_meta_device(name):
    with torch.device('meta'):
        model = QwenVLA(preset(name))
    config = model.backbone.config
    image = [config.image_token_id] * 49
    ids = np.array([config.vision_start_token_id, *image, config.vision_end_token_id, 5, 6])
    item = {
        'input_ids': ids,
        'mm_token_type_ids': (ids == config.image_token_id).astype(np.int64),
        'pixel_values': np.zeros((196, 3 * 16 * 16), np.uint8),
        'image_grid_thw': np.array([[1, 14, 14]]),
        'action_mask': np.ones((16, 64), bool),
    }
    found = Engine(model, steps=2).sample_actions([item], torch.empty(1, 16, 64))
    assert found.shape == (1, 16, 64)


def test_paths_are_told_and_unknown_ones_refused():
    engine = Engine(build())
    told = engine.describe()
    assert (told['path'], told['cuda_graphs'], told['dtype']) == ('eager', False, 'float32')
    assert told['gated_delta'] in ('torch', 'fla')
    with pytest.raises(QwenVlaError, match='turbo'):
        EngineOptions(path='turbo')
    if not torch.cuda.is_available():
        with pytest.raises(QwenVlaError, match='needs a GPU'):
            Engine(build(), options=EngineOptions(path='graph'))


@torch.no_grad()
def test_denoising_loop_has_at_most_half_of_the_plain_loops_operators():
    class Count(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.total += 1
            return function(*args, **(kwargs or {}))

    model = build()
    context = model.context(model.collate([sample()]))
    mask, loop = torch.ones(1, 16, 32), DenoisingLoop(model.decoder, 10)
    with Count() as ours:
        loop(context, noise(), mask)
    with Count() as plain:
        model.sample_actions(model.collate([sample()]), 10, noise())
    assert ours.total < 0.6 * plain.total


@pytest.mark.slow
def test_compiled_path_gives_what_the_eager_path_gives():
    model = build()
    engine = Engine(model, options=EngineOptions(path='compile'))
    for seed in (0, 1):
        item = sample(seed)
        found = engine.sample_actions([item], noise())
        torch.testing.assert_close(found, plainly(model, [item]), atol=1e-4, rtol=0)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


@needs_gpu
@pytest.mark.parametrize('path', ['graph', 'compile'])
def test_gpu_paths_give_what_the_eager_path_gives(path):
    model = build().cuda()
    engine = Engine(model, options=EngineOptions(path=path))
    eager = Engine(model, options=EngineOptions(path='eager'))
    for seed in (0, 1, 2):
        item = sample(seed)
        wanted = eager.sample_actions([item], noise().cuda())
        found = engine.sample_actions([item], noise().cuda())
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
