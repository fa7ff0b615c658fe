"""Kinematics: pinocchio on the URDF against the closed formulas, and inverse against forward."""

import builtins
import threading

import numpy as np
import pytest

from qwen_vla_ros import kinematics
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.kinematics import ArmKinematics, KinematicsError
from qwen_vla_ros.sim import arm as closed

TIP = 'ee_gripper_link'
HOME = np.array([0.0, -0.6, 0.5, 0.0, 1.2, 0.0])


@pytest.fixture(scope='module')
def urdf():
    return Embodiment.load('widowx').description_path()


@pytest.fixture(scope='module')
def arm(urdf):
    return ArmKinematics(urdf, TIP, closed.ARM_JOINTS)


def postures(count, seed=0):
    draw = np.random.default_rng(seed)
    return draw.uniform(closed.LOWER[:6], closed.UPPER[:6], (count, 6))


def angle_between(a, b):
    return float(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1)))


def test_forward_equals_the_closed_formulas(arm):
    for q in postures(200):
        position, rotation = arm.forward(q)
        expected_position, expected_rotation = closed.forward(np.append(q, 0.03))
        np.testing.assert_allclose(position, expected_position, atol=1e-6)
        np.testing.assert_allclose(rotation, expected_rotation, atol=1e-6)
        np.testing.assert_allclose(arm.tip_position(q), expected_position, atol=1e-6)


def test_limits_of_the_description_are_those_of_the_simulator(arm):
    np.testing.assert_allclose(arm.lower, closed.LOWER[:6], atol=1e-9)
    np.testing.assert_allclose(arm.upper, closed.UPPER[:6], atol=1e-9)


def test_without_names_the_joints_are_those_between_root_and_tip(urdf):
    assert ArmKinematics(urdf, TIP).joints == closed.ARM_JOINTS


def test_joints_may_be_named_in_any_order(urdf, arm):
    turned = ArmKinematics(urdf, TIP, closed.ARM_JOINTS[::-1])
    q = postures(1)[0]
    np.testing.assert_allclose(turned.tip_position(q[::-1]), arm.tip_position(q), atol=1e-12)
    position, rotation = arm.forward(q)
    found = turned.joints_for(position, rotation, q[::-1] + 0.01)
    np.testing.assert_allclose(turned.forward(found)[0], position, atol=1e-4)


def test_inverse_brings_200_random_poses_back(arm):
    draw = np.random.default_rng(1)
    for q in postures(200, seed=2):
        position, rotation = arm.forward(q)
        seed = np.clip(q + draw.uniform(-0.3, 0.3, 6), arm.lower, arm.upper)
        found = arm.joints_for(position, rotation, seed)
        reached, turned = arm.forward(found)
        assert np.linalg.norm(reached - position) <= 1e-4
        assert angle_between(turned, rotation) <= 1e-3
        assert (found >= arm.lower).all() and (found <= arm.upper).all()


def test_a_chunk_of_zeros_keeps_the_joints(arm):
    np.testing.assert_array_equal(
        arm.chunk_to_joints(np.zeros((16, 6)), HOME), np.tile(HOME, (16, 1))
    )


def test_a_displacement_is_along_and_about_the_axes_of_the_base(arm):
    q = HOME + [0.7, 0, 0, 0.3, 0, -0.4]
    row = np.array([0.02, -0.03, 0.01, 0.1, -0.2, 0.3])
    start, turned = arm.forward(q)
    position, rotation = arm.forward(arm.chunk_to_joints(row[None], q)[0])
    roll, pitch, yaw = (np.asarray(value) for value in row[3:])
    turn = closed.rotation_z(yaw) @ closed.rotation_y(pitch) @ closed.rotation_x(roll)
    np.testing.assert_allclose(position, start + row[:3], atol=1e-4)
    assert angle_between(rotation, turn @ turned) <= 1e-3


def test_rows_are_relative_to_the_first_pose_not_to_each_other(arm):
    rows = np.zeros((5, 6))
    rows[:, 2] = [0.0, 0.01, 0.02, 0.02, 0.02]
    joints = arm.chunk_to_joints(rows, HOME)
    heights = [arm.tip_position(q)[2] - arm.tip_position(HOME)[2] for q in joints]
    np.testing.assert_allclose(heights, rows[:, 2], atol=1e-4)


def test_a_row_out_of_reach_is_named(arm):
    rows = np.zeros((4, 6))
    rows[2:, 0] = 1.0
    with pytest.raises(KinematicsError, match=r'row 2: ee_gripper_link cannot reach .* mm and'):
        arm.chunk_to_joints(rows, HOME)


def test_a_pose_behind_a_limit_names_the_joint(arm):
    q = HOME.copy()
    q[5] = arm.upper[5] - 0.05
    position, rotation = arm.forward(q)
    hand = rotation @ closed.rotation_x(np.asarray(0.1))
    with pytest.raises(KinematicsError, match='at their limits: .*wrist_rotate'):
        arm.joints_for(position, hand, q)


def test_a_row_that_is_not_finite_is_named(arm):
    rows = np.zeros((3, 6))
    rows[1, 4] = np.nan
    with pytest.raises(KinematicsError, match='row 1: not finite'):
        arm.chunk_to_joints(rows, HOME)


def test_a_jump_of_a_joint_is_refused_with_row_and_joint(arm):
    rows = np.zeros((2, 6))
    rows[1, 5] = 1.3
    q = HOME + [0, 0, 0, 0, closed.STRAIGHT_DOWN - closed.pitch_of(HOME), 0]
    with pytest.raises(KinematicsError, match=r'row 1: \w+ would jump by'):
        arm.chunk_to_joints(rows, q)


def test_a_step_near_a_singularity_is_bounded(arm):
    stretched = np.array([0.0, np.arctan2(0.25, 0.04975) - 1e-4, 0.0, 0.0, 0.0, 0.0])
    stretched[2] = np.pi / 2 - stretched[1] - 0.1955
    position, rotation = arm.forward(stretched)
    for axis in range(3):
        error = np.zeros(6)
        error[axis] = 0.05
        step = arm._step(stretched, error)
        assert np.abs(step).max() <= kinematics.MAX_ITERATION_STEP + 1e-12
    aligned = HOME.copy()
    aligned[4] = 0.0  # forearm_roll and wrist_rotate about one line
    rows = np.zeros((8, 6))
    rows[:, 2] = np.linspace(0, 0.02, 8)
    joints = arm.chunk_to_joints(rows, aligned)
    assert np.abs(np.diff(joints, axis=0)).max() < 0.2


@pytest.mark.parametrize('rows', [np.zeros(6), np.zeros((2, 7))])
def test_a_wrong_shape_of_rows_is_told(arm, rows):
    with pytest.raises(KinematicsError, match='rows of 6 displacements'):
        arm.chunk_to_joints(rows, HOME)


def test_joints_of_wrong_shape_or_value_are_told(arm):
    with pytest.raises(KinematicsError, match='6 joints are wanted'):
        arm.tip_position(np.zeros(7))
    with pytest.raises(KinematicsError, match='not finite'):
        arm.tip_position(np.full(6, np.nan))


def test_a_wrong_description_is_named(urdf, tmp_path):
    with pytest.raises(KinematicsError, match='gone.urdf: no such robot description'):
        ArmKinematics(tmp_path / 'gone.urdf', TIP)
    with pytest.raises(KinematicsError, match="no link 'hand'; there are base_link"):
        ArmKinematics(urdf, 'hand')
    with pytest.raises(KinematicsError, match="no movable joint 'knee'; there are waist"):
        ArmKinematics(urdf, TIP, ['knee'])
    broken = tmp_path / 'broken.urdf'
    broken.write_text('<robot name="x"><link')
    with pytest.raises(KinematicsError, match=r'broken\.urdf: not a valid URDF'):
        ArmKinematics(broken, TIP)


def test_a_joint_without_limits_is_refused(urdf, tmp_path):
    text = urdf.read_text().replace('"waist" type="revolute"', '"waist" type="continuous"')
    endless = tmp_path / 'endless.urdf'
    endless.write_text(text)
    with pytest.raises(KinematicsError, match="the joint 'waist' has no position limits"):
        ArmKinematics(endless, TIP)


def test_without_pinocchio_the_remedy_is_told(urdf, monkeypatch):
    find = builtins.__import__

    def without(name, *rest, **named):
        if name == 'pinocchio':
            raise ImportError('No module named pinocchio')
        return find(name, *rest, **named)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(KinematicsError, match='pip install pin.*ros-<distro>-pinocchio'):
        ArmKinematics(urdf, TIP)


def test_threads_do_not_disturb_each_other(arm):
    tasks = [postures(300, seed) for seed in (3, 4)]
    results = {}

    def work(index):
        results[index] = np.array([arm.tip_position(q) for q in tasks[index]])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, qs in enumerate(tasks):
        expected = closed.forward(np.column_stack([qs, np.full(len(qs), 0.03)]))[0]
        np.testing.assert_allclose(results[index], expected, atol=1e-6)
