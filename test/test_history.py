"""The recent past of a camera: by stamps, never invented, forgotten with the episode."""

import dataclasses

import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.history import FrameHistory
from qwen_vla_ros.model.checkpoint import build_pipeline
from qwen_vla_ros.model.config import InputConfig, QwenVLAConfig, preset
from qwen_vla_ros.model.processor import Processor, train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.policy import LocalPolicy, describe_policy
from qwen_vla_ros.transforms import Quantiles
from qwen_vla_ros.types import Observation

WIDOWX = Embodiment.load('widowx')
SIZES = {'ego': (32, 32), 'cam_right_wrist': (32, 32)}


def frame(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def values(frames: list[np.ndarray]) -> list[int]:
    return [int(image[0, 0, 0]) for image in frames]


def test_frames_lie_a_period_apart_and_before_the_present_one():
    history = FrameHistory(3, 2.0)
    shown = []
    for tick in range(16):  # a camera at 5 Hz
        shown.append(values(history.recent(tick * 200_000_000)))
        history.push(tick * 200_000_000, frame(tick))
    # Kept at 0.0, 0.6, 1.2, 1.8, 2.4, 3.0 s: the first tick at least 0.45 s after the last.
    assert shown[:5] == [[], [], [0], [0], [0]]
    assert shown[15] == [6, 9, 12]


def test_an_episode_begins_without_a_past():
    history = FrameHistory(2, 2.0)
    history.push(0, frame(1))
    history.clear()
    assert history.recent(10**9) == []


def test_a_clock_that_was_set_back_ends_the_past():
    history = FrameHistory(2, 2.0)
    history.push(5 * 10**9, frame(1))
    history.push(10**9, frame(2))
    assert values(history.recent(2 * 10**9)) == [2]


def test_an_observation_from_before_what_is_kept_has_no_past():
    history = FrameHistory(3, 2.0)
    for second in range(4):
        history.push(second * 10**9, frame(second))
    assert history.recent(2 * 10**9) == []
    assert history.recent(10 * 10**9) == []


def policy(state_input: str) -> LocalPolicy:
    plain = preset('tiny')
    tokenizer = train_tokenizer([WIDOWX.prompt('touch it')] * 3, 400, ['history', *SIZES])
    backbone = plain.to_dict()['backbone']
    backbone['text_config']['vocab_size'] = len(tokenizer)
    ids = tokenizer.get_vocab()
    backbone['image_token_id'] = ids['<|image_pad|>']
    config = QwenVLAConfig(
        backbone,
        dataclasses.replace(plain.decoder, state_input=state_input),
        plain.flow,
        InputConfig(SIZES, 'prompt_first', history_frames=2, history_size=(16, 16)),
    )
    names = WIDOWX.action_names()
    ones = np.ones(len(names))
    statistics = {
        'actions': Quantiles(names, -ones, ones),
        'state': Quantiles(WIDOWX.state_names, -ones, ones),
    }
    model = QwenVLA(config)
    processor = Processor(tokenizer, config)
    layout = WIDOWX.default_layout
    pipeline = build_pipeline(config, processor, WIDOWX, layout, statistics)
    return LocalPolicy(model, pipeline, describe_policy(WIDOWX, layout))


def observation(seconds: float, state: float = 0.0) -> Observation:
    images = {view: np.full((48, 64, 3), int(seconds * 40), np.uint8) for view in SIZES}
    return Observation(
        images,
        np.full(len(WIDOWX.state_names), state, np.float32),
        WIDOWX.state_names,
        'touch it',
        round(seconds * 1e9),
        'widowx',
    )


def grids_seen(found: LocalPolicy) -> list[int]:
    """Return the number of images of each call from now on."""
    counts, plain = [], found._engine.sample_actions

    def watched(samples, *rest):
        counts.append(len(samples[0]['image_grid_thw']))
        return plain(samples, *rest)

    found._engine.sample_actions = watched
    return counts


def test_a_policy_shows_its_model_as_many_past_frames_as_there_are():
    found = policy('none')
    counts = grids_seen(found)
    for seconds in (0.0, 0.5, 1.0, 1.5):
        found.infer(observation(seconds))
    assert counts == [2, 3, 4, 4]
    found.reset()
    found.infer(observation(2.0))
    assert counts[-1] == 2


def test_past_frames_are_the_same_in_training_here_and_from_a_remote_robot():
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (48, 64, 3), np.uint8)
    step = policy('none')._pipeline.steps[0]
    sent = step.forward({'images': dict.fromkeys(SIZES, raw)})['images']
    seen = []
    for images in (dict.fromkeys(SIZES, raw), sent):
        found = policy('none')
        samples_seen(found, seen)
        for seconds in (0.0, 1.0):
            found.infer(dataclasses.replace(observation(seconds), images=images))
    trained = step.forward({'images': dict.fromkeys(SIZES, raw), 'history': raw[None]})
    np.testing.assert_array_equal(seen[1]['pixel_values'], seen[3]['pixel_values'])
    np.testing.assert_array_equal(seen[1]['history'][0], trained['history'][0])


def samples_seen(found: LocalPolicy, samples: list[dict]) -> list[dict]:
    """Return samples, to which every call from now on adds its own."""
    plain = found._engine.sample_actions

    def watched(given, *rest):
        samples.extend(given)
        return plain(given, *rest)

    found._engine.sample_actions = watched
    return samples


@pytest.mark.parametrize('state_input', ['text', 'continuous'])
def test_the_state_changes_what_the_model_reads_or_feels(state_input):
    """The untrained decoder's last layer is zero, so the inputs are compared, not the actions."""
    found = policy(state_input)
    samples = samples_seen(found, [])
    for state in (-1.0, 0.5):
        found.infer(observation(0.0, state))
    first, second = samples
    if state_input == 'text':
        decode = found._pipeline.steps[-1].processor.tokenizer.decode
        assert ' The state is 0 0 0 0 0 0 0.' in decode(first['input_ids'])
        assert ' The state is 192 192 192 192 192 192 192.' in decode(second['input_ids'])
        stable = first['stable_tokens']
        np.testing.assert_array_equal(first['input_ids'][:stable], second['input_ids'][:stable])
    else:
        np.testing.assert_array_equal(first['input_ids'], second['input_ids'])
        assert first['state'][0] == -1.0
        assert second['state'][0] == 0.5
