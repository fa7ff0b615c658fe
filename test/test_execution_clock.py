"""Execution time: the robot's own, or slower, without a step in rate or time."""

import numpy as np
import pytest

from qwen_vla_ros.execution_clock import ExecutionClock

S = 1_000_000_000


def test_it_shows_the_robots_time_until_told_otherwise():
    clock = ExecutionClock()
    assert [clock.at(t) for t in (0, 5, 10**18)] == [0, 5, 10**18]
    assert clock.rate(7) == 1.0


def test_a_ramp_from_standstill_to_a_quarter():
    clock = ExecutionClock()
    clock.change(0.25, 10 * S, 2.0, begin=0.0)
    assert clock.at(10 * S) == 10 * S
    assert clock.rate(10 * S) == 0.0
    assert clock.rate(11 * S) == pytest.approx(0.125)
    assert clock.rate(12 * S) == pytest.approx(0.25)
    assert clock.at(12 * S) == pytest.approx(10.25 * S)
    assert clock.at(16 * S) == pytest.approx(11.25 * S)
    assert clock.at(9 * S) == 9 * S  # the past stays as it was


def test_rate_and_time_are_continuous_and_never_run_back():
    clock = ExecutionClock()
    clock.change(0.3, 1 * S, 1.0, begin=0.0)
    clock.change(1.0, round(1.5 * S), 1.0)
    times = np.arange(0, 4 * S, S // 1000)
    shown = np.array([clock.at(int(t)) for t in times], np.float64)
    rates = np.array([clock.rate(int(t)) for t in times])
    steps = np.diff(shown) / (S / 1000)
    assert (steps >= -1e-5).all()
    inside = (times > 1 * S) & (times < 4 * S)
    assert np.abs(np.diff(rates[inside])).max() < 0.003
    middle = (rates[1:] + rates[:-1]) / 2
    away = np.abs(times[1:] - 1 * S) > S // 500  # it began from rest there
    np.testing.assert_allclose(steps[away], middle[away], atol=1e-4)


def test_starting_anew_shows_the_robots_time_again():
    clock = ExecutionClock()
    clock.change(0.5, S, 0.0)
    assert clock.at(3 * S) == 2 * S
    assert clock.target == 0.5
    clock.restart()
    assert clock.at(3 * S) == 3 * S


def test_a_rate_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r'1\.5'):
        ExecutionClock().change(1.5, 0, 1.0)


def test_when_a_time_will_be_shown_while_the_rate_is_ramped_in():
    clock = ExecutionClock()
    assert clock.when(7 * S) == 7 * S
    clock.change(0.25, 10 * S, 2.0, begin=0.0)
    for instant in (round(10.5 * S), 11 * S, 12 * S, 20 * S):
        assert clock.when(clock.at(instant)) == pytest.approx(instant, abs=2000)
    assert clock.when(9 * S) == pytest.approx(10 * S, abs=1000)  # shown before the change


def test_a_clock_that_comes_to_a_stand_shows_no_later_time():
    clock = ExecutionClock()
    clock.change(0.0, 10 * S, 1.0)
    assert clock.when(round(10.4 * S)) is not None
    assert clock.when(11 * S) is None
