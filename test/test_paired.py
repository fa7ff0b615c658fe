"""McNemar's exact test and the paired difference, worked by hand."""

import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.paired import compare_paired, mcnemar_exact


@pytest.mark.parametrize(
    ('a', 'b', 'p'),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (6, 1, 2 * (1 + 7) / 128),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_the_exact_p_value(a, b, p):
    assert mcnemar_exact(a, b) == pytest.approx(p)


def test_worlds_of_both_are_counted():
    first = {1: True, 2: True, 3: False, 4: False, 5: True}
    second = {1: True, 2: False, 3: False, 4: True, 6: True}
    found = compare_paired(first, second)
    told = {key: found[key] for key in ('worlds', 'both', 'only_first', 'only_second', 'neither')}
    assert told == {'worlds': 4, 'both': 1, 'only_first': 1, 'only_second': 1, 'neither': 1}
    assert (found['difference'], found['p']) == (0.0, 1.0)


def test_a_clear_difference_has_an_interval_above_zero():
    first = dict.fromkeys(range(20), True)
    second = {seed: seed < 5 for seed in range(20)}
    found = compare_paired(first, second)
    low, high = found['interval95']
    assert 0.5 < low < found['difference'] == 0.75 < high <= 1.0
    assert found['p'] == pytest.approx(2 / 2**15)


def test_runs_without_a_common_world_are_refused():
    with pytest.raises(QwenVlaError, match='no world in common'):
        compare_paired({1: True}, {2: True})
    with pytest.raises(QwenVlaError, match='below zero'):
        mcnemar_exact(-1, 2)
