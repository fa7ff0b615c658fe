"""Leaps of a clock, told from its running slowly, standing, and being read seldom."""

import pytest

from qwen_vla_ros.clock_watch import ClockWatch
from qwen_vla_ros.interlocks import Interlocks

MS, S = 1_000_000, 1_000_000_000


class Times:
    """A robot's clock and the steady one, set by hand."""

    def __init__(self, simulated):
        self.robot, self.steady = 7 * S, 100 * S
        self.watch = ClockWatch(lambda: self.robot, simulated, lambda: self.steady)

    def after(self, robot, steady):
        self.robot += robot
        self.steady += steady
        return self.watch.read()


@pytest.mark.parametrize('simulated', [False, True])
@pytest.mark.parametrize('leap', [5 * S, -5 * S, -100 * MS])
def test_a_leap_is_told_once_and_time_goes_on_evenly(simulated, leap):
    times = Times(simulated)
    even = times.watch.even_ns()
    assert times.after(10 * MS, 10 * MS).leaps_ns == 0
    reading = times.after(10 * MS + leap, 10 * MS)
    assert reading == (7 * S + 20 * MS + leap, leap, 0.0)
    assert times.watch.even_ns() == even + 20 * MS
    assert times.after(10 * MS, 10 * MS).leaps_ns == leap


@pytest.mark.parametrize('simulated', [False, True])
def test_a_clock_that_is_read_seldom_does_not_leap(simulated):
    assert Times(simulated).after(60 * S, 60 * S).leaps_ns == 0


@pytest.mark.parametrize('speed', [0, 0.1, 1, 3])
def test_a_simulated_clock_has_a_speed_of_its_own(speed):
    times = Times(simulated=True)
    for _ in range(50):
        assert times.after(round(speed * 10 * MS), 10 * MS).leaps_ns == 0


def test_a_system_clock_that_is_slewed_does_not_leap():
    times = Times(simulated=False)
    for _ in range(50):
        assert times.after(11 * MS, 10 * MS).leaps_ns == 0


def test_ticks_that_overtake_one_another_are_no_leap():
    times = Times(simulated=True)
    assert times.after(-4 * MS, 1 * MS).leaps_ns == 0
    assert times.after(14 * MS, 10 * MS).leaps_ns == 0


def test_a_clock_that_stands_is_told_until_it_moves():
    times = Times(simulated=True)
    assert times.after(0, 300 * MS).stands_s == pytest.approx(0.3)
    assert times.after(0, 300 * MS).stands_s == pytest.approx(0.6)
    assert times.after(10 * MS, 10 * MS).stands_s == 0.0


def test_a_dead_man_switch_leaps_with_the_clock():
    interlocks = Interlocks(0.3)
    interlocks.refresh(True, 10 * S)
    assert interlocks.dead_man(15 * S)
    interlocks.leap(5 * S)
    assert interlocks.dead_man(15 * S) == ''


def test_a_thread_that_loses_the_processor_between_the_clocks_sees_no_leap():
    """Every second reading of the steady clock comes 150 ms late, all of them, and never."""
    for late in ((0, 150), (150, 150), (0, 0)):
        times = Times(simulated=False)
        count = 0

        def steady(times=times, late=late):
            nonlocal count
            count += 1
            waited = late[count % 2] * MS
            times.steady += waited
            times.robot += waited
            return times.steady

        times.watch = ClockWatch(lambda times=times: times.robot, False, steady)
        for _ in range(20):
            assert times.after(10 * MS, 10 * MS).leaps_ns == 0
        assert times.after(2 * S, 10 * MS).leaps_ns == pytest.approx(2 * S, abs=400 * MS)
