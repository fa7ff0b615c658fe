"""Tokens, grids, positions and patches: equal to transformers' own where that one runs."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessorPil, Qwen3_5Config, Qwen3_5Model, Qwen3VLProcessor

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import InputConfig, QwenVLAConfig, preset
from qwen_vla_ros.model.positions import mrope_positions
from qwen_vla_ros.model.processor import Processor, chat_turn, train_tokenizer
from qwen_vla_ros.patches import patchify, resize

CONFIG = preset('tiny')
PROMPT = 'The robot is WidowX with single arm. Please execute: touch the red block.'


@pytest.fixture(scope='module')
def tokenizer():
    return train_tokenizer([PROMPT] * 4, 400, ['history', *CONFIG.inputs.image_sizes])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def images() -> dict[str, np.ndarray]:
    return {view: noise(*size) for view, size in CONFIG.inputs.image_sizes.items()}


def configured(**inputs) -> QwenVLAConfig:
    plain = {'image_sizes': CONFIG.inputs.image_sizes}
    return dataclasses.replace(CONFIG, inputs=InputConfig(**{**plain, **inputs}))


def theirs() -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        do_resize=False,
        patch_size=8,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def normalised(patches: np.ndarray) -> np.ndarray:
    """Return what transformers makes of the same pixels: scaled, and doubled in time."""
    frame = patches.reshape(len(patches), 3, 1, -1) / 127.5 - 1
    return np.broadcast_to(frame, (len(patches), 3, 2, frame.shape[-1])).reshape(len(patches), -1)


@pytest.mark.parametrize('order', ['images_first', 'prompt_first'])
@pytest.mark.parametrize('template', ['plain', 'chat'])
def test_ids_grids_pixels_and_positions_equal_transformers_own(tokenizer, order, template):
    ours = Processor(tokenizer, configured(order=order, template=template))
    sample = ours(images(), PROMPT)
    views = ''.join(
        f'<|{view}_start|><|vision_start|><|image_pad|><|vision_end|><|{view}_end|>'
        for view in CONFIG.inputs.image_sizes
    )
    text = views + PROMPT if order == 'images_first' else PROMPT + views
    if template == 'chat':
        text = tokenizer.apply_chat_template(
            [{'role': 'user', 'content': text}], tokenize=False, add_generation_prompt=True
        )
    other = object.__new__(Qwen3VLProcessor)  # its constructor wants torchvision's video part
    other.tokenizer, other.image_processor = tokenizer, theirs()
    pictures = other.image_processor(images=list(images().values()), return_tensors='np')
    for index in range(len(images())):
        placeholder = '<|image_pad|>'
        other.image_token = placeholder
        full = other.replace_image_token(pictures, index)
        text = text.replace(placeholder, '<|place|>' * (len(full) // len(placeholder)), 1)
    wanted = tokenizer(text.replace('<|place|>', placeholder))['input_ids']
    np.testing.assert_array_equal(sample['input_ids'], wanted)
    np.testing.assert_array_equal(sample['image_grid_thw'], pictures['image_grid_thw'])
    np.testing.assert_allclose(
        normalised(sample['pixel_values']), pictures['pixel_values'], atol=1e-6
    )
    with torch.device('meta'):
        model = Qwen3_5Model(Qwen3_5Config(**CONFIG.backbone))
    kind = sample['mm_token_type_ids']
    position, _ = model.get_rope_index(
        torch.tensor(wanted)[None],
        torch.from_numpy(kind)[None],
        image_grid_thw=torch.from_numpy(sample['image_grid_thw']),
    )
    found = mrope_positions(kind.astype(bool), sample['image_grid_thw'].tolist(), 2)
    np.testing.assert_array_equal(found, position[:, 0].numpy())


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
    ids = Processor(tokenizer, configured(order=order))(images(), PROMPT)['input_ids']
    text = tokenizer.decode(ids)
    assert (text.index('The robot') < text.index('<|ego_start|>')) == (order == 'prompt_first')
    assert PROMPT in text


@pytest.mark.parametrize('template', ['plain', 'chat'])
def test_leading_tokens_stay_with_the_sentence(tokenizer, template):
    processor = Processor(tokenizer, configured(order='prompt_first', template=template))
    first = processor(images(), PROMPT, state=' The state is 1 2.')
    second = processor(images(), PROMPT, state=' The state is 200 3.')
    stable = first['stable_tokens']
    assert stable == second['stable_tokens'] > 5
    np.testing.assert_array_equal(first['input_ids'][:stable], second['input_ids'][:stable])
    assert tokenizer.decode(first['input_ids'][:stable]).endswith(PROMPT)
    text = tokenizer.decode(first['input_ids'])
    assert f'{PROMPT} The state is 1 2.<|ego_start|>' in text


def test_no_token_stays_when_images_come_first(tokenizer):
    assert Processor(tokenizer, configured())(images(), PROMPT)['stable_tokens'] == 0


def test_chat_template_is_the_tokenizers_own(tokenizer):
    assert chat_turn(tokenizer) == ('<|im_start|>user\n', '<|im_end|>\n<|im_start|>assistant\n')
    bare = train_tokenizer([PROMPT], 300, CONFIG.inputs.image_sizes)
    bare.chat_template = None
    with pytest.raises(QwenVlaError, match='no chat template'):
        Processor(bare, configured(template='chat'))


@pytest.mark.parametrize('past', [0, 1, 3])
def test_past_frames_stand_before_the_views_as_many_as_there_are(tokenizer, past):
    config = configured(history_frames=3, history_size=(32, 32))
    frames = [noise(32, 32, seed) for seed in range(past)]
    sample = Processor(tokenizer, config)(images(), PROMPT, frames)
    assert sample['image_grid_thw'].tolist() == [*[[1, 4, 4]] * past, [1, 12, 16], [1, 6, 8]]
    text = tokenizer.decode(sample['input_ids'])
    assert ('<|history_start|>' in text) == (past > 0)
    if past:
        inside = text[text.index('<|history_start|>') : text.index('<|history_end|>')]
        assert inside.count('<|vision_start|>') == past
        assert text.index('<|history_end|>') < text.index('<|ego_start|>')
        np.testing.assert_array_equal(sample['pixel_values'][:16], patchify(frames[:1], 8, 2))


def test_more_past_than_asked_for_is_cut_to_the_newest(tokenizer):
    config = configured(history_frames=2, history_size=(32, 32))
    frames = [noise(32, 32, seed) for seed in range(4)]
    sample = Processor(tokenizer, config)(images(), PROMPT, frames)
    np.testing.assert_array_equal(sample['pixel_values'][:32], patchify(frames[2:], 8, 2))


@pytest.mark.parametrize('mark', ['<|image_pad|>', '<|im_end|>', '<|ego_end|>'])
@pytest.mark.parametrize('template', ['plain', 'chat'])
def test_a_sentence_with_our_marks_is_refused(tokenizer, mark, template):
    processor = Processor(tokenizer, configured(template=template))
    with pytest.raises(QwenVlaError, match='prompt: it holds the special token'):
        processor(images(), f'{PROMPT} {mark}')


def test_a_sentence_of_broken_letters_is_refused(tokenizer):
    with pytest.raises(QwenVlaError, match='is not text'):
        Processor(tokenizer, CONFIG)(images(), 'touch the \ud800 block')


@pytest.mark.parametrize(
    'image', [noise(96, 96), noise(96, 128)[..., 0], noise(96, 128).astype(np.uint16)]
)
def test_an_image_of_another_form_is_refused_by_name(tokenizer, image):
    with pytest.raises(QwenVlaError, match=r'observation\.images\.ego: expected uint8 \[96, 128'):
        Processor(tokenizer, CONFIG)({**images(), 'ego': image}, PROMPT)
    config = configured(history_frames=2, history_size=(32, 32))
    with pytest.raises(QwenVlaError, match=r'observation\.history: expected uint8 \[32, 32'):
        Processor(tokenizer, config)(images(), PROMPT, [image])


def test_a_sentence_alone_leaves_one_token_to_read(tokenizer):
    sample = Processor(tokenizer, configured(image_sizes={}, order='prompt_first'))({}, PROMPT)
    assert sample['stable_tokens'] == len(sample['input_ids']) - 1
    assert sample['image_grid_thw'].shape == (0, 3)


@pytest.mark.parametrize(
    ('inputs', 'words'),
    [
        ({'history_frames': -1}, 'history_frames'),
        ({'history_frames': 1, 'history_rate_hz': 0.0}, 'history_rate_hz'),
        (
            {'image_sizes': {'history': (32, 32)}, 'history_frames': 1, 'history_view': 'history'},
            'name of the past frames',
        ),
        ({'image_sizes': {'ego': (0, 0)}}, '0x0'),
    ],
)
def test_inputs_that_cannot_be_are_refused(tokenizer, inputs, words):
    with pytest.raises(QwenVlaError, match=words):
        Processor(tokenizer, configured(**inputs))


def test_a_template_without_the_users_words_is_refused():
    other = train_tokenizer([PROMPT], 300, CONFIG.inputs.image_sizes)
    other.chat_template = '<|im_start|>user'
    with pytest.raises(QwenVlaError, match="leaves the user's words out"):
        chat_turn(other)


def test_tokenizer_without_view_tokens_is_refused():
    other = train_tokenizer([PROMPT], 400, ['cam_high'])
    with pytest.raises(QwenVlaError, match='ego_start'):
        Processor(other, CONFIG)


def test_image_size_that_does_not_fit_the_patches_is_refused(tokenizer):
    sizes = {'ego': (90, 128), 'cam_right_wrist': (48, 64)}
    with pytest.raises(QwenVlaError, match=r'inputs\.image_sizes\.ego'):
        Processor(tokenizer, configured(image_sizes=sizes))
    with pytest.raises(QwenVlaError, match=r'inputs\.history_size'):
        Processor(tokenizer, configured(history_frames=2, history_size=(30, 32)))


@pytest.mark.parametrize('size', [(96, 128), (48, 64)])
def test_whole_factors_are_area_averages(size):
    import cv2

    image = noise(480, 640)
    wanted = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resize(image, *size), wanted)


@pytest.mark.parametrize('size', [(224, 224), (256, 256), (480, 640), (512, 672), (100, 601)])
def test_resized_smooth_images_keep_their_colours(size):
    y, x = np.mgrid[0:480, 0:640]
    smooth = np.stack((x / 640, y / 480, (x / 640 + y / 480) / 2), -1)
    found = resize((smooth * 255).astype(np.uint8), *size)
    y, x = (np.mgrid[0 : size[0], 0 : size[1]] + 0.5) / np.array(size)[:, None, None]
    wanted = np.stack((x, y, (x + y) / 2), -1) * 255
    assert found.shape == (*size, 3)
    assert np.abs(found - wanted).max() <= 2.5


@pytest.mark.parametrize('side', [224, 256])
@pytest.mark.parametrize('upright', [True, False])
def test_fine_stripes_are_averaged_not_aliased(side, upright):
    stripes = np.zeros((480, 640, 3), np.uint8)
    stripes[(slice(None), slice(None, None, 2)) if upright else slice(None, None, 2)] = 255
    found = resize(stripes, side, side).astype(int)
    assert np.abs(found - 127.5).max() <= 1.5


@pytest.mark.parametrize('size', [(376, 672), (481, 641), (720, 1280), (480, 848), (1080, 1920)])
def test_cameras_of_any_size_are_seen_without_skipping_pixels(size):
    """Grain averages out: an output pixel stands for at least a good part of those it covers."""
    found = resize(noise(*size), 224, 224).astype(float)
    covered = size[0] * size[1] / 224**2
    averaged = 255 / 12**0.5 / covered**0.5
    assert found.std() < 1.25 * averaged
