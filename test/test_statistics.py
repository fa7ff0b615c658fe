"""Statistics against values worked by hand."""

import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.statistics import (
    percentile,
    percentiles,
    success_rate,
    wilson_interval,
)


def test_interval_of_five_in_ten_with_z_two() -> None:
    # centre (0.5 + 0.2) / 1.4 = 0.5; half 2 sqrt(0.025 + 0.01) / 1.4 = 0.26726
    assert wilson_interval(5, 10, z=2.0) == pytest.approx((0.232739, 0.767261), abs=1e-6)


def test_interval_of_forty_in_fifty() -> None:
    # published value of the Wilson interval for 40 of 50 at 95 %
    assert wilson_interval(40, 50) == pytest.approx((0.6696, 0.8876), abs=1e-4)


def test_interval_without_success_starts_at_zero() -> None:
    # upper end z^2 / (n + z^2) = 3.841459 / 13.841459
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)


def test_interval_of_all_successes_ends_at_one() -> None:
    low, high = wilson_interval(10, 10)
    assert high == 1.0
    assert low == pytest.approx(10 / 13.841459, abs=1e-6)


def test_interval_without_trials_tells_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_interval_refuses_more_successes_than_trials() -> None:
    with pytest.raises(QwenVlaError, match='3 successes of 2 trials'):
        wilson_interval(3, 2)


def test_success_rate_counts() -> None:
    row = success_rate([True, False, True, True])
    assert (row['episodes'], row['success'], row['success_rate']) == (4, 3, 0.75)


def test_success_rate_of_nothing_is_unknown_not_zero() -> None:
    assert success_rate([])['success_rate'] is None


def test_percentile_is_linear_between_neighbours() -> None:
    assert percentile([40.0, 10.0, 30.0, 20.0], 50) == 25.0
    assert percentile([10.0, 20.0, 30.0, 40.0], 95) == pytest.approx(38.5)


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentiles([7.0]) == {'p50': 7.0, 'p95': 7.0, 'p99': 7.0}


def test_percentile_of_nothing_is_unknown() -> None:
    assert percentile([], 50) is None
