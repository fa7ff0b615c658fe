"""What becomes of FollowJointTrajectory goals, by distribution."""

import numpy as np
import pytest

from qwen_vla_ros.sim.trajectory_controller import DISTRIBUTIONS, TrajectoryController
from qwen_vla_ros.sim.trajectory_goals import (
    NO_TOLERANCES,
    Ending,
    Tolerances,
    TrajectoryGoals,
)

S = 1_000_000_000
NAMES = ('a', 'b')


def started(tolerances=NO_TOLERANCES, asked=NO_TOLERANCES, distribution='jazzy'):
    """Goals of a controller on the way from 0 to 2 rad (joint a) between 10 s and 12 s."""
    controller = TrajectoryController(NAMES, [0.0, 0.0], distribution=distribution)
    controller.accept(NAMES, [2.0], [[2, 0]], None, 10 * S, 10 * S)
    goals = TrajectoryGoals(controller, tolerances)
    assert goals.accepted('first', asked) is None
    return controller, goals


def test_a_goal_succeeds_at_its_end_when_nothing_is_checked():
    _, goals = started()
    assert goals.update(11 * S, np.array([9.0, 9.0])) is None
    ending = goals.update(12 * S, np.array([9.0, 9.0]))
    assert ending == Ending('first', 'succeeded', 0, 'Goal successfully reached!')
    assert goals.running is None


@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
def test_a_newer_goal_ends_the_older_as_the_distribution_does(distribution):
    _, goals = started(distribution=distribution)
    ending = goals.accepted('second')
    status = 'canceled' if distribution == 'humble' else 'aborted'
    assert (ending.key, ending.status, ending.code) == ('first', status, -1)
    assert goals.running == 'second'


def test_a_cancelled_goal_holds_the_measured_joints():
    controller, goals = started()
    assert goals.cancel('another', np.zeros(2)) is None
    assert goals.cancel('first', np.array([0.9, 0.1])) == Ending('first', 'canceled')
    assert controller.sample(13 * S)[0].tolist() == [0.9, 0.1]


def test_a_goal_whose_joints_lag_is_aborted_on_the_way_and_holds_there():
    controller, goals = started(Tolerances({'a': 0.1}, {}))
    assert goals.update(11 * S, np.array([0.91, 0.0])) is None
    ending = goals.update(11 * S, np.array([0.89, 0.0]))
    assert (ending.status, ending.code) == ('aborted', -4)
    assert controller.sample(12 * S)[0].tolist() == [0.89, 0.0]


def test_a_goal_that_is_not_reached_is_aborted_after_the_goal_time():
    _, goals = started(Tolerances({}, {'a': 0.1}, 0.5))
    short = np.array([1.8, 0.0])
    assert goals.update(12 * S, short) is None and goals.update(round(12.4 * S), short) is None
    ending = goals.update(round(12.6 * S), short)
    assert (ending.status, ending.code) == ('aborted', -5) and 'goal_time' in ending.text


def test_without_a_goal_time_nothing_is_given_up():
    _, goals = started(Tolerances({}, {'a': 0.1}))
    assert goals.update(1000 * S, np.array([1.8, 0.0])) is None
    assert goals.update(1000 * S, np.array([1.95, 0.0])).status == 'succeeded'


@pytest.mark.parametrize(
    ('asked', 'status'),
    [
        (Tolerances({'a': 0.5}, {}), None),  # wider than the controller's 0.1
        (Tolerances({'a': 0.0}, {}), 'aborted'),  # 0: the controller's
        (Tolerances({'a': -1.0}, {}), None),  # erased
        (Tolerances({'a': -2.0}, {}), 'aborted'),  # illegal: the controller's
        (Tolerances({'a': 0.5, 'c': 1.0}, {}), 'aborted'),  # an unknown joint: the controller's
        (Tolerances({}, {}, -3.0), 'aborted'),
    ],
)
def test_a_goal_brings_tolerances_of_its_own(asked, status):
    _, goals = started(Tolerances({'a': 0.1}, {}), asked)
    ending = goals.update(11 * S, np.array([0.7, 0.0]))
    assert (ending and ending.status) == status
