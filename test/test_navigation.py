"""What Nav2 does with goals: accepted, replaced, cancelled, given up."""

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.navigation import (
    FOLLOW,
    NAVIGATE,
    Navigation,
    NavigationGoal,
    NavigationSettings,
)

STEP_S = 0.05


def path(*points, frame='odom', **more):
    return NavigationGoal(frame, np.array(points, np.float64).reshape(-1, 3), **more)


def driven(navigation, pose, seconds, stuck=False, start_s=0.0):
    """Drive a base from a pose; return the endings, where it is, and the speeds."""
    pose, endings, speeds = np.array(pose, np.float64), [], []
    for index in range(round(seconds / STEP_S)):
        cycle = navigation.step(start_s + index * STEP_S, pose)
        endings += cycle.endings
        if cycle.speed is not None:
            speeds.append(cycle.speed)
        forward, turn = cycle.speed or (0.0, 0.0)
        if not stuck:
            pose += STEP_S * np.array([forward * np.cos(pose[2]), forward * np.sin(pose[2]), turn])
    return endings, pose, np.array(speeds)


def told(endings):
    return [(ending.key, ending.status, ending.code) for ending in endings]


@pytest.mark.parametrize('goal', [(1.5, 0.0, 0.0), (0.5, 1.0, 1.5), (-1.0, -0.5, 3.0)])
def test_a_goal_is_reached_within_the_speeds_and_the_base_stands(goal):
    navigation = Navigation(NAVIGATE)
    assert navigation.refusal() is None and navigation.take('a', path(goal)) == []
    endings, pose, speeds = driven(navigation, (0, 0, 0), 20.0)
    assert told(endings) == [('a', 'succeeded', 0)]
    assert np.hypot(*(pose - goal)[:2]) <= 0.25
    assert abs((pose[2] - goal[2] + np.pi) % (2 * np.pi) - np.pi) <= 0.25
    assert speeds[-1].tolist() == [0.0, 0.0]
    assert speeds[:, 0].max() <= 0.3 and np.abs(speeds[:, 1]).max() <= 1.0


def test_a_path_is_followed_around_its_corner():
    corner = [(0.25 * i, 0.0, 0.0) for i in range(1, 5)] + [(1.0, 0.25 * i, 1.5) for i in range(5)]
    navigation = Navigation(FOLLOW)
    navigation.take('a', path(*corner))
    endings, pose, _ = driven(navigation, (0, 0, 0), 20.0)
    assert told(endings) == [('a', 'succeeded', 0)] and np.hypot(*(pose - corner[-1])[:2]) <= 0.25


def test_feedback_tells_what_is_left():
    navigation = Navigation(FOLLOW)
    navigation.take('a', path((1.0, 0, 0), (2.0, 0, 0)))
    first = navigation.step(5.0, (0, 0, 0))
    assert first.running == 'a' and first.left_m == pytest.approx(2.0) and first.since_s == 0.0
    assert navigation.step(6.0, (0.9, 0, 0)).left_m == pytest.approx(1.1)


def test_a_newer_goal_ends_the_older_as_aborted_without_a_code_at_the_next_cycle():
    navigation = Navigation(FOLLOW)
    navigation.take('a', path((2.0, 0, 0)))
    driven(navigation, (0, 0, 0), 1.0)
    assert navigation.take('b', path((0.0, 2.0, 0))) == [] and navigation.running == 'a'
    cycle = navigation.step(1.0, (0.1, 0, 0))
    assert told(cycle.endings) == [('a', 'aborted', 0)] and navigation.running == 'b'


def test_of_two_that_wait_the_older_ends_at_once():
    navigation = Navigation(FOLLOW)
    navigation.take('a', path((2.0, 0, 0)))
    assert told(navigation.take('b', path((1.0, 0, 0)))) == [('a', 'aborted', 0)]


def test_a_cancelled_goal_stops_the_base_at_once():
    navigation = Navigation(NAVIGATE)
    navigation.take('a', path((2.0, 0, 0)))
    driven(navigation, (0, 0, 0), 1.0)
    navigation.cancel('a')
    cycle = navigation.step(1.0, (0.1, 0, 0))
    assert told(cycle.endings) == [('a', 'canceled', 0)] and cycle.speed == (0.0, 0.0)
    assert navigation.step(1.05, (0.1, 0, 0)).speed is None


def test_an_inactive_server_rejects():
    navigation = Navigation(NAVIGATE)
    navigation.active = False
    assert 'not active' in navigation.refusal()


@pytest.mark.parametrize(
    ('goal', 'code'),
    [
        (path((1, 0, 0), controller='MPPI'), 101),
        (path((1, 0, 0), goal_checker='strict'), 100),
        (path((1, 0, 0), progress_checker='other'), 100),
        (path((1, 0, 0), frame='mars'), 102),
        (path(), 103),
        (path((np.nan, 0, 0)), 103),
    ],
)
@pytest.mark.parametrize('distribution', ['humble', 'jazzy'])
def test_faults_of_a_path_are_found_after_it_was_accepted(goal, code, distribution):
    navigation = Navigation(FOLLOW, NavigationSettings(distribution))
    assert navigation.refusal() is None
    navigation.take('a', goal)
    cycle = navigation.step(0.0, (0, 0, 0))
    assert told(cycle.endings) == [('a', 'aborted', 0 if distribution == 'humble' else code)]
    assert cycle.speed == (0.0, 0.0)


@pytest.mark.parametrize(('distribution', 'code'), [('jazzy', 0), ('kilted', 9002)])
def test_a_navigator_without_the_pose_of_the_base_gives_up(distribution, code):
    navigation = Navigation(NAVIGATE, NavigationSettings(distribution))
    navigation.take('a', path((1, 0, 0)))
    assert told(navigation.step(0.0, None).endings) == [('a', 'aborted', code)]


def test_another_behaviour_tree_does_not_replace_a_goal():
    navigation = Navigation(NAVIGATE)
    navigation.take('a', path((2.0, 0, 0)))
    navigation.step(0.0, (0, 0, 0))
    navigation.take('b', path((1.0, 0, 0), behavior_tree='other.xml'))
    assert told(navigation.step(0.1, (0, 0, 0)).endings) == [('b', 'aborted', 0)]
    assert navigation.running == 'a'
    fresh = Navigation(NAVIGATE)
    fresh.take('c', path((1.0, 0, 0), behavior_tree='other.xml'))
    assert told(fresh.step(0.0, (0, 0, 0)).endings) == [('c', 'aborted', 9001)]


def test_a_base_that_does_not_move_is_given_up_after_ten_seconds():
    navigation = Navigation(FOLLOW)
    navigation.take('a', path((5.0, 0, 0)))
    assert driven(navigation, (0, 0, 0), 9.9, stuck=True)[0] == []
    endings, _, speeds = driven(navigation, (0, 0, 0), 1.0, stuck=True, start_s=9.9)
    assert told(endings) == [('a', 'aborted', 105)] and speeds[-1].tolist() == [0.0, 0.0]


def test_another_action_that_takes_the_base_ends_everything():
    navigation = Navigation(FOLLOW)
    navigation.take('a', path((2.0, 0, 0)))
    navigation.step(0.0, (0, 0, 0))
    navigation.take('b', path((1.0, 0, 0)))
    assert told(navigation.stop()) == [('a', 'aborted', 0), ('b', 'aborted', 0)]
    assert navigation.step(0.1, (0, 0, 0)).speed is None


def test_an_unknown_distribution_is_refused():
    with pytest.raises(QwenVlaError, match="'iron'"):
        NavigationSettings('iron')
