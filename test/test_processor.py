"""Tokens and patches: equal to transformers' own image processor, views between their tokens."""

import dataclasses

import numpy as np
import pytest
from transformers import Qwen2VLImageProcessorPil

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import InputConfig, preset
from qwen_vla_ros.model.processor import Processor, patchify, train_tokenizer

CONFIG = preset('tiny')
PROMPT = 'The robot is WidowX with single arm.'


@pytest.fixture(scope='module')
def tokenizer():
    return train_tokenizer([PROMPT] * 4, 400, CONFIG.inputs.image_sizes)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def images() -> dict[str, np.ndarray]:
    return {view: noise(*size) for view, size in CONFIG.inputs.image_sizes.items()}


def test_patches_equal_transformers_own():
    theirs = Qwen2VLImageProcessorPil(
        do_resize=False,
        patch_size=8,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    image = noise(96, 128)
    wanted = theirs(images=[image], return_tensors='np')
    ours = patchify(image, 8, 2).reshape(-1, 3, 1, 64) / 127.5 - 1
    doubled = np.broadcast_to(ours, (len(ours), 3, 2, 64)).reshape(len(ours), -1)
    np.testing.assert_allclose(doubled, wanted['pixel_values'], atol=1e-6)


def test_each_view_stands_between_its_tokens(tokenizer):
    sample = Processor(tokenizer, CONFIG)(images(), PROMPT)
    words = tokenizer.convert_ids_to_tokens(sample['input_ids'])
    for view, tokens in (('ego', 48), ('cam_right_wrist', 12)):
        begin, end = words.index(f'<|{view}_start|>'), words.index(f'<|{view}_end|>')
        assert words[begin + 1 : end] == [
            '<|vision_start|>',
            *['<|image_pad|>'] * tokens,
            '<|vision_end|>',
        ]
    assert sample['mm_token_type_ids'].sum() == 60
    assert sample['image_grid_thw'].tolist() == [[1, 12, 16], [1, 6, 8]]


@pytest.mark.parametrize('order', ['images_first', 'prompt_first'])
def test_order_of_images_and_prompt_is_the_configs(tokenizer, order):
    config = dataclasses.replace(CONFIG, inputs=InputConfig(CONFIG.inputs.image_sizes, order))
    ids = Processor(tokenizer, config)(images(), PROMPT)['input_ids']
    text = tokenizer.decode(ids)
    assert (text.index('The robot') < text.index('<|ego_start|>')) == (order == 'prompt_first')
    assert PROMPT in text


def test_tokenizer_without_view_tokens_is_refused():
    other = train_tokenizer([PROMPT], 400, ['cam_high'])
    with pytest.raises(QwenVlaError, match='ego_start'):
        Processor(other, CONFIG)


def test_image_size_that_does_not_fit_the_patches_is_refused(tokenizer):
    config = dataclasses.replace(
        CONFIG, inputs=InputConfig({'ego': (90, 128), 'cam_right_wrist': (48, 64)})
    )
    with pytest.raises(QwenVlaError, match='inputs.image_sizes.ego'):
        Processor(tokenizer, config)
