"""What Interbotix' driver does with each command and call."""

import math
from pathlib import Path

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.joint_commands import gripper_value
from qwen_vla_ros.sim.interbotix_arm import DriverDied, InterbotixArm
from qwen_vla_ros.sim.interbotix_config import read_modes, read_motor_config

S, MS = 1_000_000_000, 1_000_000
FOLDER = Path(__file__).parents[1] / 'config' / 'controllers'
CONFIG = read_motor_config(FOLDER / 'wx250s_motors.yaml')
MODES = read_modes(FOLDER / 'wx250s_modes.yaml', CONFIG)
ZERO = dict.fromkeys(CONFIG.joints, 0.0)
GRIPPER = CONFIG.grippers['gripper']


def arm(**changed):
    return InterbotixArm(CONFIG, {**MODES, **changed}, ZERO)


def at(driver, now_ns, name='waist'):
    return driver.sample(now_ns)[0][CONFIG.joints.index(name)]


def test_it_begins_asleep_and_publishes_motors_and_fingers():
    names, positions, velocities = InterbotixArm(CONFIG, MODES).joint_states(0)
    assert names == [*CONFIG.joints, 'left_finger', 'right_finger']
    assert positions[:7] == [0, -1.80, 1.55, 0, 0.8, 0, 0] and not any(velocities)
    # horn at 0: the rod alone spans to the finger
    assert positions[7] == pytest.approx(math.sqrt(0.024**2 - 0.014**2))
    assert positions[8] == -positions[7]


def test_a_group_takes_positions_in_the_order_of_its_list():
    driver = arm()
    assert driver.write_group('arm', [0.1, -0.2, 0.3, -0.4, 0.5, -0.6], S) is None
    assert driver.sample(S)[0] == pytest.approx([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.0])


def test_a_wrong_number_of_values_is_logged_and_nothing_moves():
    driver = arm()
    reason = driver.write_group('arm', [0.1] * 7, S)
    assert 'Number of commands (7) does not match' in reason and 'Will not execute' in reason
    assert at(driver, S) == 0.0


def test_an_unknown_joint_is_logged_and_ignored():
    assert "commanding joint 'gripperr'" in arm().write_single('gripperr', 0.1, S)


def test_an_unknown_group_ends_the_driver_and_the_motors_hold():
    driver = arm()
    driver.write_group('arm', [0.1] * 6, S)
    with pytest.raises(DriverDied, match='out_of_range'):
        driver.write_group('left_arm', [0.2] * 6, S)
    with pytest.raises(DriverDied):
        driver.write_group('arm', [0.2] * 6, S)
    assert at(driver, 2 * S) == 0.1


def test_a_goal_beyond_a_motors_limits_is_ignored_by_that_motor_alone():
    driver = arm()
    reason = driver.write_group('arm', [0.1, 2.5, 0.1, 0.1, 0.1, 0.1], S)
    assert 'shoulder: goal 2.500 rad outside -1.885 .. 1.990: ignored' in reason
    assert at(driver, S, 'shoulder') == 0.0 and at(driver, S, 'elbow') == 0.1


@pytest.mark.parametrize('mode', ['ext_position', 'current_based_position'])
def test_multi_turn_modes_know_no_limits(mode):
    driver = arm()
    driver.set_operating_modes('group', 'arm', mode, 'velocity', 0, 0, S)
    assert driver.write_group('arm', [7.0] * 6, S) is None and at(driver, S) == 7.0


def test_a_number_that_is_not_finite_moves_nothing():
    driver = arm()
    assert 'waist: nan' in driver.write_group('arm', [math.nan, 0, 0, 0, 0, 0], S)
    assert at(driver, S) == 0.0


def test_the_gripper_takes_the_opening_that_our_output_sends():
    driver, finger = arm(), 0.03
    options = {'conversion': 'opening', 'horn_m': 0.014, 'rod_m': 0.024}
    assert driver.write_single('gripper', gripper_value(finger, options), S) is None
    assert driver.joint_states(S)[1][7] == pytest.approx(finger)


def test_in_mode_position_it_takes_the_cranks_angle_that_our_output_sends():
    driver, finger = arm(), 0.03
    driver.set_operating_modes('single', 'gripper', 'position', 'velocity', 0, 0, S)
    options = {'conversion': 'crank', 'horn_m': 0.014, 'rod_m': 0.024}
    assert driver.write_single('gripper', gripper_value(finger, options), S) is None
    assert driver.joint_states(S)[1][7] == pytest.approx(finger)


@pytest.mark.parametrize('opening', [0.0, 0.002, 0.2])
def test_an_opening_out_of_the_cranks_reach_moves_nothing(opening):
    assert 'out of the reach' in arm().write_single('gripper', opening, S)


def test_a_position_for_a_gripper_in_the_vendors_default_mode_pwm_does_nothing():
    driver = arm()
    driver.set_operating_modes('single', 'gripper', 'pwm', 'velocity', 0, 0, S)
    assert driver.write_single('gripper', 0.06, S) is None  # truncated to a duty of 0
    assert at(driver, 2 * S, 'gripper') == 0.0
    driver.write_single('gripper', 442.5, S)
    assert at(driver, 2 * S, 'gripper') == pytest.approx(4.8 * 442 / 885)
    driver.write_single('gripper', -900, 2 * S)
    assert at(driver, 9 * S, 'gripper') == pytest.approx(-math.pi)  # runs to its limit


def test_velocity_and_current_modes_run_in_proportion():
    driver = arm()
    driver.set_operating_modes('single', 'waist', 'velocity', 'velocity', 0, 0, S)
    driver.write_single('waist', 0.5, S)
    assert at(driver, 3 * S) == pytest.approx(1.0)
    driver.set_operating_modes('single', 'waist', 'current', 'velocity', 0, 0, 3 * S)
    assert at(driver, 4 * S) == pytest.approx(1.0)
    driver.write_single('waist', -3209.0, 3 * S)
    assert at(driver, 3 * S + 100 * MS) == pytest.approx(1.0 - 0.48)


def test_a_motor_that_left_its_groups_mode_ignores_the_group():
    driver = arm()
    driver.set_operating_modes('single', 'elbow', 'pwm', 'velocity', 0, 0, S)
    reason = driver.write_group('arm', [0.1] * 6, S)
    assert reason == 'elbow: the motor is in mode pwm and ignores position commands'
    assert at(driver, S, 'elbow') == 0.0 and at(driver, S) == 0.1


def test_the_profile_of_a_mode_filters_and_registers_change_it():
    driver = arm()
    driver.set_operating_modes('group', 'arm', 'position', 'time', 2000, 300, S)
    driver.write_group('arm', [1.0] * 6, S)
    assert 0.3 < at(driver, 2 * S) < 0.7 and at(driver, 3 * S) == 1.0
    driver.set_registers('group', 'arm', 'Profile_Velocity', 0)
    assert driver.registers('group', 'arm', 'Profile_Velocity') == [0] * 6
    assert driver.registers('single', 'waist', 'Profile_Acceleration') == [300]
    driver.write_group('arm', [0.5] * 6, 4 * S)
    assert at(driver, 4 * S) == 0.5


def test_current_based_position_leaves_the_registers_of_the_profile():
    driver = arm()
    driver.set_operating_modes('group', 'arm', 'position', 'time', 2000, 300, S)
    driver.set_operating_modes('group', 'arm', 'current_based_position', 'velocity', 0, 0, S)
    driver.write_group('arm', [1.0] * 6, S)
    assert at(driver, 2 * S) < 0.7


def test_a_change_of_mode_holds_the_joint_where_it_is():
    driver = arm()
    driver.set_operating_modes('group', 'arm', 'position', 'time', 2000, 300, S)
    driver.write_group('arm', [1.0] * 6, S)
    before = at(driver, 2 * S)
    driver.set_operating_modes('group', 'arm', 'position', 'velocity', 0, 0, 2 * S)
    assert at(driver, 3 * S) == pytest.approx(before)


def test_an_unknown_mode_changes_no_motor_but_the_group_believes_it():
    driver = arm()
    assert 'mode' in driver.set_operating_modes('group', 'arm', 'fast', 'velocity', 0, 0, S)
    assert driver.info('single', 'waist')['mode'] == 'position'
    assert driver.info('group', 'arm')['mode'] == 'fast'
    assert 'Invalid command' in driver.write_group('arm', [0.1] * 6, S)
    assert at(driver, S) == 0.0


def test_without_torque_the_arm_falls_to_where_it_sleeps_and_takes_nothing():
    driver = arm()
    assert driver.enable_torque('group', 'arm', False, S) is None
    assert driver.fallen() == list(CONFIG.groups['arm'])
    assert at(driver, S + 100 * MS, 'shoulder') < -0.01
    assert at(driver, 3 * S, 'shoulder') == pytest.approx(-1.80)
    assert 'without torque' in driver.write_group('arm', [0.1] * 6, 3 * S)
    driver.enable_torque('group', 'arm', True, 4 * S)
    assert at(driver, 5 * S, 'shoulder') == pytest.approx(-1.80) and not driver.fallen()
    assert driver.write_group('arm', [0.1] * 6, 5 * S) is None


def test_services_name_what_is_not_there():
    driver = arm()
    assert "Group 'legs' does not exist" in driver.enable_torque('group', 'legs', False, S)
    assert "Joint 'knee' does not exist" in driver.set_registers('single', 'knee', 'x', 1)
    assert "cmd_type was 'all'" in driver.set_operating_modes('all', 'arm', 'pwm', 'time', 0, 0, S)
    assert driver.registers('group', 'legs', 'x') == []
    assert 'does not exist' in driver.info('group', 'legs')


def test_robot_info_speaks_of_the_finger_in_the_place_of_the_gripper():
    info = arm().info('group', 'all')
    assert info['joint_names'] == [*CONFIG.joints[:6], 'left_finger']
    assert info['joint_state_indices'] == [0, 1, 2, 3, 4, 5, 7]
    assert info['joint_ids'] == [1, 2, 4, 6, 7, 8, 9] and info['num_joints'] == 7
    assert info['joint_sleep_positions'][:6] == [0, -1.80, 1.55, 0, 0.8, 0]
    assert info['joint_sleep_positions'][6] == pytest.approx(GRIPPER.finger(0.0))
    assert info['name'] == ['all', 'arm'] and info['profile_type'] == 'velocity'
    assert arm().info('single', 'gripper')['mode'] == 'linear_position'


def points(*seconds):
    return [(int(s), round(s % 1 * S)) for s in seconds]


def test_a_trajectory_leaves_its_first_point_out_and_comes_a_step_early():
    driver, rows = arm(), [[value] * 6 for value in (0.0, 0.1, 0.2, 0.3)]
    assert driver.write_trajectory('group', 'arm', points(0, 0.2, 0.4, 0.6), rows, 10 * S) is None
    found = [at(driver, 10 * S + round(t * S)) for t in (0.0, 0.19, 0.21, 0.39, 0.41, 9.0)]
    assert found == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])


def test_a_trajectory_across_a_full_second_waits_3_seconds_and_a_half():
    driver, rows = arm(), [[value] * 6 for value in (0.0, 0.1, 0.2)]
    driver.write_trajectory('group', 'arm', points(0.9, 1.1, 1.3), rows, 10 * S)
    wait_s = (2**32 - 800 * MS) / S
    assert at(driver, 10 * S + round((wait_s - 0.01) * S)) == 0.1
    assert at(driver, 10 * S + round((wait_s + 0.01) * S)) == 0.2


def test_a_second_trajectory_is_rejected_while_the_first_runs():
    driver, rows = arm(), [[0.0], [0.1], [0.2]]
    times = points(0, 0.4, 0.8)
    assert driver.write_trajectory('single', 'waist', times, rows, S) is None
    assert 'still moving' in driver.write_trajectory('single', 'waist', times, rows, S + MS)
    assert 'fewer than 2' in driver.write_trajectory('single', 'waist', [(0, 0)], [[0.0]], 9 * S)
    with pytest.raises(DriverDied):
        driver.write_trajectory('group', 'legs', times, rows, 9 * S)


def test_placing_begins_anew():
    driver = arm()
    driver.set_operating_modes('single', 'waist', 'velocity', 'velocity', 0, 0, S)
    driver.write_single('waist', 1.0, S)
    driver.place({'waist': 0.5})
    assert at(driver, 9 * S) == 0.5


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('[1, 2]', 'a mapping is expected'),
        ('joint_order: [waist]', 'not a motor config'),
        ('{joint_order: [a], sleep_positions: [0], motors: {b: {ID: 1}}}', "'a' is not among"),
        ('{joint_order: [a], sleep_positions: [0, 1], motors: {a: {ID: 1}}}', 'not a motor'),
        ('joint_order: [', 'cannot be read'),
    ],
)
def test_a_bad_motor_config_is_told(tmp_path, text, words):
    (tmp_path / 'motors.yaml').write_text(text)
    with pytest.raises(QwenVlaError, match=words):
        read_motor_config(tmp_path / 'motors.yaml')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('groups: {legs: {}}', "groups: 'legs' is not one of all, arm"),
        ('groups: {arm: {operating_mode: fast}}', "operating_mode: 'fast' is not one of position"),
        ('singles: {gripper: {profile_type: slow}}', "profile_type: 'slow'"),
        ('groups: {arm: {profile_velocity: 1.5}}', 'profile_velocity: an integer from 0 on'),
        ('groups: {arm: {profile_acceleration: -1}}', 'profile_acceleration: an integer'),
    ],
)
def test_bad_modes_are_told(tmp_path, text, words):
    (tmp_path / 'modes.yaml').write_text(text)
    with pytest.raises(QwenVlaError, match=words):
        read_modes(tmp_path / 'modes.yaml', CONFIG)


def test_modes_left_out_are_position_without_a_profile(tmp_path):
    (tmp_path / 'modes.yaml').write_text('groups: {arm: {torque_enable: false}}')
    modes = read_modes(tmp_path / 'modes.yaml', CONFIG)
    driver = InterbotixArm(CONFIG, modes, ZERO)
    assert driver.fallen() == list(CONFIG.groups['arm'])
    assert np.allclose(driver.sample(0)[0], 0.0)


def test_a_simulation_that_is_late_sees_the_goal_of_its_instant():
    driver = arm()
    for index in range(1, 4):
        driver.write_group('arm', [0.1 * index] * 6, S + 20 * index * MS)
    found = [at(driver, S + now * MS) for now in (10, 20, 39, 40, 65)]
    assert found == pytest.approx([0.0, 0.1, 0.1, 0.2, 0.3])
