"""The sandwich: every action comes back as it went in, and wrong statistics are refused."""

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.transforms import (
    CountFromState,
    NormaliseActions,
    NormaliseState,
    PadActions,
    Pipeline,
    Quantiles,
    ResizeImages,
    WriteState,
)

TWO = Quantiles(('a', 'b'), np.array([-1.0, 0.0]), np.array([3.0, 0.5]))


def test_actions_come_back_through_the_pipeline():
    pipeline = Pipeline([NormaliseActions(TWO), PadActions(3, 2, 5, 4)])
    actions = np.array([[0.0, 0.1], [1.5, 0.4], [3.0, 0.5]], np.float32)
    inside = pipeline.forward({'actions': actions})
    assert inside['actions'].shape == (5, 4)
    assert inside['action_mask'].sum() == 6
    np.testing.assert_allclose(pipeline.inverse(inside)['actions'], actions, atol=1e-6)


def test_quantiles_map_to_plus_and_minus_one_and_actions_beyond_are_clipped():
    scaled = NormaliseActions(TWO).forward({'actions': np.array([[-1.0, 0.5], [7.0, -9.0]])})
    assert scaled['actions'].tolist() == [[-1.0, 1.0], [1.0, -1.0]]


def test_state_is_not_clipped_and_is_padded():
    state = NormaliseState(TWO, 3).forward({'state': np.array([5.0, 0.25])})['state']
    assert state.tolist() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize('high', [-1.0, float('nan')])
def test_statistics_that_do_not_increase_are_refused_by_name(high):
    with pytest.raises(QwenVlaError, match='statistics: a'):
        Quantiles(('a',), np.array([-1.0]), np.array([high]))


def test_missing_view_is_named():
    with pytest.raises(QwenVlaError, match='cam_right_wrist'):
        ResizeImages({'cam_right_wrist': (8, 8)}).forward({'images': {}})


def test_resize_averages_areas():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, 2)
    small = ResizeImages({'ego': (2, 2)}).forward({'images': {'ego': image}})['images']['ego']
    assert small[..., 0].tolist() == [[3, 5], [11, 13]]


@pytest.mark.parametrize('image', [np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_named(image):
    with pytest.raises(QwenVlaError, match=r'observation\.images\.ego: image: expected uint8'):
        ResizeImages({'ego': (2, 2)}).forward({'images': {'ego': image}})


@pytest.mark.parametrize('step', [NormaliseState(TWO, 4), WriteState(TWO)])
def test_a_state_that_is_no_measurement_is_refused_by_name(step):
    with pytest.raises(QwenVlaError, match='b: a value is not a finite number'):
        step.forward({'state': np.array([0.0, np.nan], np.float32)})
    with pytest.raises(QwenVlaError, match=r'1 channels given for 2 \(a, b\)'):
        step.forward({'state': np.array([0.0], np.float32)})


def test_a_state_wider_than_the_model_is_refused():
    with pytest.raises(QwenVlaError, match='room for 1'):
        NormaliseState(TWO, 1).forward({'state': np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    'sample',
    [
        {'actions': np.zeros((2, 2))},
        {'actions': np.zeros((3, 1))},
        {'prefix': np.zeros((4, 2))},
        {'prefix': np.zeros((1, 3))},
    ],
)
def test_actions_and_prefixes_of_another_task_are_refused(sample):
    with pytest.raises(QwenVlaError, match=r'the task has \[3, 2\]'):
        PadActions(3, 2, 5, 4).forward(sample)


@pytest.mark.parametrize(
    ('state', 'bin_index'),
    [(-3.0, 0), (-1.0, 0), (-0.999, 0), (0.0, 128), (0.999, 255), (9.0, 255)],
)
def test_state_becomes_one_of_256_bins_and_keeps_its_numbers(state, bin_index):
    quantiles = Quantiles(('a',), np.array([-1.0]), np.array([1.0]))
    sample = WriteState(quantiles).forward({'state': np.array([state], np.float32)})
    assert sample['state_text'] == f' The state is {bin_index}.'
    assert sample['state'].tolist() == [np.float32(state)]


def test_a_prefix_comes_back_even_beyond_the_quantiles():
    prefix = np.array([[-1.0, 0.5], [7.0, -9.0]], np.float32)
    pipeline = Pipeline([NormaliseActions(TWO), PadActions(3, 2, 5, 4)])
    given = pipeline.forward({'prefix': prefix})['prefix']
    assert given.tolist() == [[-1.0, 1.0, 0.0, 0.0], [3.0, -37.0, 0.0, 0.0]]
    rows = np.concatenate([given, np.zeros((3, 4))])
    np.testing.assert_allclose(pipeline.inverse({'actions': rows})['actions'][:2], prefix)


def test_actions_counted_from_the_state_come_back():
    step = CountFromState.of(('b', 'free', 'a'), ('a', 'b'))
    assert step.columns == ((0, 1), (2, 0))
    state = np.array([0.5, -0.25], np.float32)
    rows = np.array([[-0.25, 3.0, 0.5], [0.0, 4.0, 1.0]], np.float32)
    given = step.forward({'state': state, 'actions': rows, 'prefix': rows[:1]})
    assert given['actions'].tolist() == [[0.0, 3.0, 0.0], [0.25, 4.0, 0.5]]
    assert given['prefix'].tolist() == [[0.0, 3.0, 0.0]]
    np.testing.assert_array_equal(step.inverse(given)['actions'], rows)
