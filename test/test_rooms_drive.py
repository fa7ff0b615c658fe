"""The differential base: arcs, limits, silence, walls, and odometry that drifts."""

import numpy as np
import pytest

from qwen_vla_ros.sim.rooms.drive import (
    MAX_ANGULAR,
    MAX_LINEAR,
    MAX_LINEAR_ACCELERATION,
    DifferentialBase,
    Drift,
    inverted,
    joined,
    moved,
)


def driven(base, linear, angular, seconds, free=lambda pose: True):
    speeds = []
    for _ in range(round(seconds / 0.01)):
        base.command(linear, angular)
        base.step(0.01, free)
        speeds.append(base.linear)
    return np.array(speeds)


def test_an_arc_is_exact():
    x, y, yaw = moved((1.0, 2.0, np.pi / 2), np.pi / 2, np.pi / 2)  # a quarter of a circle, r = 1
    np.testing.assert_allclose((x, y), (0.0, 3.0), atol=1e-12)
    assert abs(yaw) == pytest.approx(np.pi)


def test_poses_join_and_come_apart():
    frame, pose = (1.0, 2.0, 0.7), (0.3, -0.4, 2.9)
    np.testing.assert_allclose(joined(inverted(frame), joined(frame, pose)), pose, atol=1e-12)


def test_speed_rises_within_the_acceleration_and_ends_at_the_limit():
    base = DifferentialBase()
    speeds = driven(base, 5.0, 0.0, 1.0)
    assert np.diff(speeds, prepend=0.0).max() <= MAX_LINEAR_ACCELERATION * 0.01 + 1e-12
    assert speeds[-1] == pytest.approx(MAX_LINEAR)
    assert base.pose[1] == base.pose[2] == 0.0


def test_too_much_is_scaled_as_a_whole():
    base = DifferentialBase()
    driven(base, 2 * MAX_LINEAR, MAX_ANGULAR, 1.0)
    assert base.linear == pytest.approx(MAX_LINEAR)
    assert base.angular == pytest.approx(MAX_ANGULAR / 2)


def test_a_silent_topic_brings_the_base_to_rest():
    base = DifferentialBase()
    driven(base, 0.3, 0.5, 1.0)
    for _ in range(45):
        base.step(0.01)
    assert base.linear == pytest.approx(0.3)
    for _ in range(60):
        base.step(0.01)
    assert (base.linear, base.angular) == (0.0, 0.0)


def test_a_wall_stops_the_way_and_not_the_turn():
    base = DifferentialBase()
    driven(base, 0.3, 0.2, 2.0, free=lambda pose: pose[0] < 0.1)
    assert base.pose[0] < 0.1
    assert base.linear == 0.0
    assert base.blocked
    assert base.pose[2] > 0.3
    np.testing.assert_allclose(base.odometry, base.pose, atol=1e-9)  # wheels that stand count none


def test_odometry_without_drift_is_where_the_base_is_from_its_start():
    base = DifferentialBase((2.0, 1.0, 0.5))
    driven(base, 0.2, 0.4, 3.0)
    np.testing.assert_allclose(joined((2.0, 1.0, 0.5), base.odometry), base.pose, atol=1e-9)


def test_drift_grows_with_the_way_and_is_the_seeds():
    ways = []
    for seed in (1, 1, 2):
        base = DifferentialBase(drift=Drift.sample(0.05, seed), seed=seed)
        driven(base, 0.3, 0.1, 5.0)
        ways.append(np.hypot(*np.subtract(base.odometry, base.pose)[:2]))
    assert ways[0] == ways[1] != ways[2]
    assert 0.005 < ways[0] < 0.3
    assert Drift.sample(0.0, 3) == Drift()
