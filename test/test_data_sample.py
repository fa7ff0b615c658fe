"""The one sample: what is refused, and by which name."""

import numpy as np
import pytest

from qwen_vla_ros.data.sample import Place, Sample, SampleError, spoken, window


def sample(**changed):
    fields = {
        'place': Place('set', 3, 7),
        'images': {'ego': np.zeros((2, 4, 3), np.uint8)},
        'instruction': 'touch it',
        'embodiment': 'stub',
        'actions': np.ones((2, 2), np.float32),
        'mask': np.ones((2, 2), bool),
        'action_names': ('waist', 'elbow'),
        'stamp_ns': 0,
        'state': np.zeros(1, np.float32),
        'state_names': ('waist',),
    }
    return Sample(**{**fields, **changed})


@pytest.mark.parametrize(
    ('key', 'changed'),
    [
        ('images.ego: expected', {'images': {'ego': np.zeros((2, 4), np.uint8)}}),
        ('instruction: is empty', {'instruction': ' '}),
        ('actions: .2, 2. for 1', {'action_names': ('waist',)}),
        ('mask: .2, 1.', {'mask': np.ones((2, 1), bool)}),
        ('mask: no action', {'mask': np.zeros((2, 2), bool)}),
        ('actions.elbow: row 1 is nan', {'actions': np.float32([[0, 0], [0, np.nan]])}),
        ('state.waist: is inf', {'state': np.float32([np.inf])}),
        ('state: float32 .2. for 1', {'state': np.zeros(2, np.float32)}),
    ],
)
def test_an_error_names_set_episode_frame_and_key(key, changed):
    with pytest.raises(SampleError, match=f'^set: episode 3, frame 7: {key}'):
        sample(**changed)


def test_what_the_mask_leaves_out_may_be_anything():
    actions = np.float32([[0, 0], [0, np.nan]])
    mask = np.isfinite(actions)
    assert sample(actions=actions, mask=mask).actions is actions


def test_a_window_beyond_the_end_is_masked():
    rows = np.array([[1.0], [2.0], [3.0]])
    actions, mask = window(rows, 1, 3)
    assert actions[mask].tolist() == [2.0, 3.0]
    assert mask.tolist() == [[True], [True], [False]]


def test_text_alone_needs_no_actions_but_an_answer():
    found = spoken(Place('set', 0, 1), {}, 'what is it?', 'a cup', (('hello', 'hello'),))
    assert (found.text, found.actions.shape, found.embodiment) == ('a cup', (0, 0), '')
    assert found.earlier == (('hello', 'hello'),)
    with pytest.raises(SampleError, match='^set: episode 0, frame 1: text: the answer is empty'):
        spoken(Place('set', 0, 1), {}, 'what is it?', ' ')
