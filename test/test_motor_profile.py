"""The profile that a Dynamixel motor lays over its goals."""

import numpy as np
import pytest

from qwen_vla_ros.sim.motor_profile import (
    ACCELERATION_UNIT,
    VELOCITY_UNIT,
    MotorProfile,
    ProfileRegisters,
)

S = 1_000_000_000


def followed(registers, goals, position=0.0):
    """Positions and velocities [T] at 1 kHz over 4 s; goals: {s: rad}."""
    profile, found = MotorProfile(position, registers), []
    for ms in range(4000):
        if ms / 1000 in goals:
            profile.aim(goals[ms / 1000], ms * S // 1000)
        found.append(profile.sample(ms * S // 1000))
    return np.array(found).T


def test_units_are_the_vendors():
    assert pytest.approx(3.14, abs=0.005) == 131 * VELOCITY_UNIT
    assert pytest.approx(5.6, abs=0.05) == 15 * ACCELERATION_UNIT


def test_0_0_hands_a_goal_straight_on():
    position, velocity = followed(ProfileRegisters(), {1.0: 0.7})
    assert position[999] == 0.0 and position[1000] == 0.7 and not velocity.any()


def test_a_velocity_profile_keeps_its_limits_and_arrives_at_rest():
    position, velocity = followed(ProfileRegisters('velocity', 20, 5), {0.0: 0.5})
    speed, rate = 20 * VELOCITY_UNIT, 5 * ACCELERATION_UNIT
    assert velocity.max() == pytest.approx(speed, rel=1e-6)
    assert np.abs(np.diff(velocity)).max() <= rate * 1e-3 * 1.001
    whole = 0.5 / speed + speed / rate  # trapezoid: cruise plus half of both ramps
    assert position[int(whole * 1000) - 2] < 0.5 and position[int(whole * 1000) + 2] == 0.5
    assert np.diff(position).min() >= 0.0


def test_without_an_acceleration_the_speed_is_constant():
    position, velocity = followed(ProfileRegisters('velocity', 20, 0), {0.0: -0.5})
    assert set(np.round(velocity, 9)) == {0.0, round(-20 * VELOCITY_UNIT, 9)}
    assert position[-1] == -0.5


def test_an_acceleration_alone_is_no_profile():
    position, velocity = followed(ProfileRegisters('velocity', 0, 5), {1.0: 0.5})
    assert position[1000] == 0.5 and not velocity.any()


def test_a_short_way_never_reaches_the_speed_limit():
    position, velocity = followed(ProfileRegisters('velocity', 131, 5), {0.0: 0.5})
    peak = np.sqrt(5 * ACCELERATION_UNIT * 0.5)
    assert velocity.max() == pytest.approx(peak, rel=0.01)
    assert position[int(np.argmax(velocity))] == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize('second', [0.9, -0.4, 0.21])
def test_a_goal_on_the_way_is_reached_without_a_jump_of_speed(second):
    registers = ProfileRegisters('velocity', 40, 8)
    position, velocity = followed(registers, {0.0: 0.6, 0.3: second})
    assert np.abs(np.diff(velocity)).max() <= 8 * ACCELERATION_UNIT * 1e-3 * 1.001
    assert np.abs(np.diff(position)).max() <= 40 * VELOCITY_UNIT * 1e-3 * 1.001
    assert position[-1] == second and velocity[-1] == 0.0


def test_a_time_profile_takes_its_time_whatever_the_way():
    for goal in (0.1, 1.5):
        position, velocity = followed(ProfileRegisters('time', 2000, 300), {0.0: goal})
        assert position[1990] < goal and position[2000] == goal
        assert velocity.max() == pytest.approx(goal / 1.7)  # whole less one ramp
        assert velocity[150] == pytest.approx(velocity.max() / 2)


def test_the_ramp_of_a_time_profile_is_at_most_half_of_it():
    position, velocity = followed(ProfileRegisters('time', 1000, 900), {0.0: 1.0})
    assert int(np.argmax(velocity)) == pytest.approx(500, abs=1) and position[1000] == 1.0


def test_a_stream_of_goals_is_followed_late_by_the_default_profile_and_at_once_by_0_0():
    """What the vendor's modes.yaml (time, 2000, 300) does to 50 Hz commands of 0.5 rad/s."""
    goals = {round(0.02 * index, 3): 0.01 * index for index in range(200)}
    wanted = 0.5 * np.arange(4000) / 1000
    lag = {}
    for name, registers in (
        ('default', ProfileRegisters('time', 2000, 300)),
        ('ros2_control', ProfileRegisters('velocity', 131, 25)),
        ('none', ProfileRegisters()),
    ):
        position, _ = followed(registers, goals)
        lag[name] = np.abs(wanted - position)[2000:].max() / 0.5
    assert lag['none'] <= 0.02
    assert 0.02 < lag['ros2_control'] < 0.1
    assert lag['default'] > 1.0
