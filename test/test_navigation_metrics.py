"""NE, SR, OSR, SPL and nDTW against cases worked out by hand from their definitions."""

import math

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.navigation_metrics import (
    dtw,
    mean_with_interval,
    normalised_dtw,
    path_weighted_success,
    score_episode,
    summarise_navigation,
)

REFERENCE = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]], float)


def score(track, stopped=True, radius=1.0):
    track = np.array(track, float)
    distances = np.linalg.norm(track - [4, 0], axis=1)  # an empty room: the way is straight
    return score_episode(track, distances, REFERENCE, 4.0, stopped, radius)


def test_the_reference_itself_is_perfect():
    found = score(REFERENCE)
    assert (found.error_m, found.success, found.oracle_success) == (0.0, True, True)
    assert (found.spl, found.ndtw, found.length_m) == (1.0, 1.0, 4.0)


def test_spl_of_a_detour_is_shortest_over_own_way():
    # over (0, 3) and (4, 3): 3 + 4 + 3 = 10 m for a goal 4 m away
    found = score([[0, 0], [0, 3], [4, 3], [4, 0]])
    assert found.success
    assert found.length_m == 10.0
    assert found.spl == pytest.approx(0.4)


def test_a_way_shorter_than_the_shortest_is_not_worth_more_than_one():
    # it stops at (3.5, 0), 0.5 m off: p = 3.5 < l = 4
    found = score([[0, 0], [3.5, 0]])
    assert found.error_m == 0.5
    assert found.spl == 1.0


def test_who_passes_the_goal_has_oracle_success_only():
    found = score([[0, 0], [4, 0], [4, 5]])
    assert (found.error_m, found.success, found.oracle_success, found.spl) == (5.0, False, True, 0)


def test_who_stands_on_the_goal_without_stopping_has_not_succeeded():
    found = score(REFERENCE, stopped=False)
    assert (found.error_m, found.success, found.oracle_success, found.spl) == (0.0, False, True, 0)


def test_the_radius_belongs_to_the_goal():
    assert score([[0, 0], [3, 0]], radius=1.0).success
    assert not score([[0, 0], [2.999, 0]], radius=1.0).success


def test_dtw_by_hand():
    # each point with the one below it: 0 + 1 + 1 + 0
    track = np.array([[0, 0], [1, 1], [2, 1], [3, 0]], float)
    reference = np.array([[0, 0], [1, 0], [2, 0], [3, 0]], float)
    assert dtw(track, reference) == 2.0
    assert normalised_dtw(track, reference, 1.0) == pytest.approx(math.exp(-0.5))
    assert normalised_dtw(track, reference, 3.0) == pytest.approx(math.exp(-2 / 12))


def test_dtw_may_keep_one_point_for_several():
    # the track stays at (0, 0): each reference point costs its own distance, 0 + 1 + 2
    assert dtw(np.zeros((1, 2)), np.array([[0, 0], [1, 0], [2, 0]], float)) == 3.0
    assert dtw(np.zeros((3, 2)), np.zeros((1, 2))) == 0.0


def test_dtw_keeps_the_order():
    there = np.array([[0, 0], [1, 0]], float)
    # backwards: (1,0)-(0,0) costs 1 and (0,0)-(1,0) costs 1
    assert dtw(there[::-1], there) == 2.0


def test_the_naive_recursion_gives_the_same():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(6, 2)), rng.normal(size=(5, 2))

    def naive(i, j):
        cost = float(np.linalg.norm(a[i] - b[j]))
        if i == 0 and j == 0:
            return cost
        before = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
        return cost + min(naive(*pair) for pair in before if min(pair) >= 0)

    assert dtw(a, b) == pytest.approx(naive(5, 4))


def test_spl_at_the_ends():
    assert path_weighted_success(True, 0.0, 0.0) == 1.0
    assert path_weighted_success(True, 0.0, 2.0) == 0.0
    assert path_weighted_success(False, 3.0, 3.0) == 0.0


def test_no_way_to_the_goal_is_none_and_counted():
    found = score_episode(np.zeros((1, 2)), [math.inf], REFERENCE, 4.0, True, 1.0)
    assert found.error_m is None
    assert not found.success
    summary = summarise_navigation([found, score(REFERENCE)])
    assert summary['NE_m']['unreachable'] == 1
    assert summary['NE_m']['mean'] == 0.0


def test_the_summary_has_means_and_intervals():
    summary = summarise_navigation([score(REFERENCE), score([[0, 0], [4, 0], [4, 5]])])
    assert summary['episodes'] == 2
    assert (summary['SR']['success'], summary['OSR']['success']) == (1, 2)
    assert summary['SPL']['mean'] == 0.5
    assert summary['SPL']['interval95'] == [0.0, 1.0]
    assert summary['NE_m']['mean'] == 2.5
    assert summarise_navigation([])['SPL'] == {'mean': None, 'interval95': None}


def test_the_interval_of_equal_values_is_that_value():
    assert mean_with_interval([0.25] * 5) == {'mean': 0.25, 'interval95': [0.25, 0.25]}


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        ((np.zeros((2, 2)), [1.0], REFERENCE, 1.0, True, 1.0), '1 distances for a track'),
        ((np.full((1, 2), np.nan), [1.0], REFERENCE, 1.0, True, 1.0), 'must be numbers'),
        ((np.zeros((1, 2)), [math.nan], REFERENCE, 1.0, True, 1.0), 'must be numbers'),
        ((np.zeros((1, 2)), [1.0], REFERENCE, -1.0, True, 1.0), 'below zero'),
        ((np.zeros((1, 2)), [1.0], REFERENCE, 1.0, True, 0.0), 'radius must be positive'),
        ((np.zeros((1, 2)), [1.0], np.zeros((0, 2)), 1.0, True, 1.0), 'without points'),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments, told):
    with pytest.raises(QwenVlaError, match=told):
        score_episode(*arguments)
