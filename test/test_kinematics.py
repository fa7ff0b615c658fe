import builtins
import math
import threading

import numpy as np
import pytest

from qwen_vla_ros import kinematics
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.kinematics import ArmKinematics, KinematicsError
from qwen_vla_ros.sim import arm as closed

CONTRACT = Embodiment.load('widowx')
TIP = 'ee_gripper_link'
WORKING = np.array([0.2, -0.3, 0.5, 0.1, 1.2, -0.2])  # over the table, hand down, not singular
# Joint origins of the description, from base_link to the tip: offset before the joint, its axis.
CHAIN = (
    ((0, 0, 0.072), 'z'),
    ((0, 0, 0.03865), 'y'),
    ((0.04975, 0, 0.25), 'y'),
    ((0.175, 0, 0), 'x'),
    ((0.075, 0, 0), 'y'),
    ((0.065, 0, 0), 'x'),
)
TIP_OFFSET = (0.043 + 0.023 + 0.027575, 0, 0)


@pytest.fixture(scope='module')
def arm():
    return ArmKinematics(CONTRACT.description_path, TIP)


def turn(axis, angle):
    c, s = math.cos(angle), math.sin(angle)
    if axis == 'x':
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == 'y':
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def by_hand(q):
    position, rotation = np.zeros(3), np.eye(3)
    for (offset, axis), angle in zip(CHAIN, q, strict=True):
        position = position + rotation @ offset
        rotation = rotation @ turn(axis, angle)
    return position + rotation @ TIP_OFFSET, rotation


def test_the_tip_at_zero_is_where_the_description_says(arm):
    position, rotation = arm.forward(np.zeros(6))
    np.testing.assert_allclose(position, [0.458325, 0.0, 0.36065], atol=1e-9)
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-12)


def test_forward_equals_the_chain_of_transforms(arm):
    rng = np.random.default_rng(1)
    for q in rng.uniform(arm.lower, arm.upper, (50, 6)):
        for ours, wanted in zip(arm.forward(q), by_hand(q), strict=True):
            np.testing.assert_allclose(ours, wanted, atol=1e-9)


def test_forward_equals_the_simulator(arm):
    rng = np.random.default_rng(4)
    for q in rng.uniform(closed.LOWER[:6], closed.UPPER[:6], (200, 6)):
        position, rotation = arm.forward(q)
        wanted, turned = closed.forward(np.append(q, 0.03))
        np.testing.assert_allclose(position, wanted, atol=1e-6)
        np.testing.assert_allclose(rotation, turned, atol=1e-6)
        np.testing.assert_array_equal(arm.tip_position(q), position)
    np.testing.assert_allclose(arm.lower, closed.LOWER[:6], atol=1e-8)
    np.testing.assert_allclose(arm.upper, closed.UPPER[:6], atol=1e-8)


def test_joints_in_another_order_are_refused():
    assert ArmKinematics(CONTRACT.description_path, TIP, closed.ARM_JOINTS).tip == TIP
    with pytest.raises(KinematicsError, match='the joints up to ee_gripper_link are waist, sho'):
        ArmKinematics(CONTRACT.description_path, TIP, closed.ARM_JOINTS[::-1])


def test_a_joint_without_limits_is_refused(tmp_path):
    endless = tmp_path / 'endless.urdf'
    text = CONTRACT.description_path.read_text()
    endless.write_text(text.replace('"waist" type="revolute"', '"waist" type="continuous"'))
    with pytest.raises(KinematicsError, match="joint 'waist' has no limits"):
        ArmKinematics(endless, TIP)


def test_description_and_contract_agree_on_names_and_limits(arm):
    assert arm.joint_names == CONTRACT.state_names[:6]
    limits = [CONTRACT.limits[name] for name in arm.joint_names]
    np.testing.assert_allclose(arm.lower, [limit.lower for limit in limits], atol=1e-5)
    np.testing.assert_allclose(arm.upper, [limit.upper for limit in limits], atol=1e-5)
    assert all(limit.lower >= low for limit, low in zip(limits, arm.lower, strict=True))
    assert all(limit.upper <= high for limit, high in zip(limits, arm.upper, strict=True))


def test_inverse_finds_200_random_poses_again(arm):
    rng = np.random.default_rng(2)
    for q in rng.uniform(arm.lower, arm.upper, (200, 6)):
        position, rotation = arm.forward(q)
        found = arm.joints_for(position, rotation, q + rng.uniform(-0.3, 0.3, 6))
        assert (found >= arm.lower).all() and (found <= arm.upper).all()
        again, turned = arm.forward(found)
        np.testing.assert_allclose(again, position, atol=1e-4)
        np.testing.assert_allclose(turned, rotation, atol=1e-3)


def test_a_pose_out_of_reach_tells_how_close_the_arm_comes(arm):
    with pytest.raises(KinematicsError, match=r'closest misses by \d+\.\d mm'):
        arm.joints_for([1.5, 0.0, 0.3], np.eye(3), WORKING)


def test_a_joint_at_its_limit_is_named(arm):
    position, rotation = arm.forward(WORKING)
    q = WORKING.copy()
    q[4] = arm.upper[4] + 0.5
    position, rotation = by_hand(q)
    with pytest.raises(KinematicsError, match='with wrist_angle at the limit'):
        arm.joints_for(position, rotation, WORKING)


def test_rows_of_zeros_hold_the_joints(arm):
    joints = arm.chunk_to_joints(np.zeros((16, 6)), WORKING)
    np.testing.assert_array_equal(joints, np.tile(WORKING, (16, 1)))


def test_rows_move_the_tip_from_the_first_pose_along_the_axes_of_the_base(arm):
    rows = np.linspace(0, 1, 16)[:, None] * np.array([0.05, -0.06, -0.04, 0.1, -0.2, 0.3])
    start, rotation = arm.forward(WORKING)
    joints = arm.chunk_to_joints(rows, WORKING)
    for row, q in zip(rows, joints, strict=True):
        position, turned = arm.forward(q)
        np.testing.assert_allclose(position, start + row[:3], atol=1e-4)
        about = turn('z', row[5]) @ turn('y', row[4]) @ turn('x', row[3])
        np.testing.assert_allclose(turned, about @ rotation, atol=1e-3)
    assert np.abs(np.diff(joints, axis=0)).max() < 0.1


def test_the_row_that_cannot_be_reached_is_named(arm):
    rows = np.zeros((16, 6))
    rows[7:, 0] = 0.9
    with pytest.raises(KinematicsError, match='row 7: no posture'):
        arm.chunk_to_joints(rows, WORKING)


def test_a_row_with_nan_is_named(arm):
    rows = np.zeros((4, 6))
    rows[2, 1] = np.nan
    with pytest.raises(KinematicsError, match='row 2: .*not finite'):
        arm.chunk_to_joints(rows, WORKING)


def test_rows_of_another_width_are_refused(arm):
    with pytest.raises(KinematicsError, match=r'\[H, 6\] is wanted, got \[16, 7\]'):
        arm.chunk_to_joints(np.zeros((16, 7)), WORKING)


@pytest.mark.parametrize('axis', range(6))
@pytest.mark.parametrize('sign', [-1, 1])
def test_near_a_singular_posture_joints_move_in_bounded_steps_or_not_at_all(arm, axis, sign):
    """At zero the two rolls are in line, and the elbow of `stretched` is all but straight."""
    stretched = np.array([0.0, 0.9, -1.37, 0.0, 0.0, 0.0])
    for q in (np.zeros(6), stretched):
        rows = np.zeros((16, 6))
        rows[:, axis] = sign * np.linspace(0, 0.15, 16)
        try:
            joints = arm.chunk_to_joints(rows, q)
        except KinematicsError as error:
            assert str(error).startswith('row ')
            continue
        steps = np.diff(np.vstack([q, joints]), axis=0)
        assert np.abs(steps).max() <= 1.0
        assert (joints >= arm.lower).all() and (joints <= arm.upper).all()


def test_a_jump_to_another_posture_is_refused(arm):
    timid = ArmKinematics(CONTRACT.description_path, TIP, max_step_rad=0.05)
    rows = np.zeros((4, 6))
    rows[2:, 5] = 0.3
    with pytest.raises(KinematicsError, match=r'row 2: \w+ would turn by 0\.\d+ rad in one step'):
        timid.chunk_to_joints(rows, WORKING)
    assert len(arm.chunk_to_joints(rows, WORKING)) == 4


def test_two_threads_get_their_own_answers(arm):
    rng = np.random.default_rng(3)
    wrong = []

    def work(postures):
        for q in postures:
            if np.abs(arm.forward(q)[0] - by_hand(q)[0]).max() > 1e-9:
                wrong.append(q)

    threads = [
        threading.Thread(target=work, args=(rng.uniform(arm.lower, arm.upper, (300, 6)),))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize('q', [np.zeros(7), [0, 0, np.nan, 0, 0, 0]], ids=['seven', 'nan'])
def test_joints_of_another_number_or_nan_are_refused(arm, q):
    with pytest.raises(KinematicsError, match='6 finite numbers are wanted'):
        arm.forward(q)


def test_a_matrix_that_does_not_rotate_is_refused(arm):
    for matrix in (2 * np.eye(3), np.diag([1.0, 1.0, -1.0])):
        with pytest.raises(KinematicsError, match='rotation matrix'):
            arm.joints_for([0.3, 0, 0.2], matrix, WORKING)


def test_an_unknown_tip_is_refused_with_the_known_links():
    with pytest.raises(KinematicsError, match="no link 'tool0'; it has .*ee_gripper_link"):
        ArmKinematics(CONTRACT.description_path, 'tool0')


def test_a_missing_or_broken_description_is_refused(tmp_path):
    with pytest.raises(KinematicsError, match='no such robot description'):
        ArmKinematics(tmp_path / 'none.urdf', TIP)
    broken = tmp_path / 'broken.urdf'
    broken.write_text('<robot name="x"><link')
    with pytest.raises(KinematicsError, match=r'broken\.urdf: not a URDF'):
        ArmKinematics(broken, TIP)


def test_without_pinocchio_the_message_says_what_to_install(monkeypatch):
    load = builtins.__import__

    def without(name, *args, **kwargs):
        if name == 'pinocchio':
            raise ImportError('absent')
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(KinematicsError, match='pip install pin.*ros-<distro>-pinocchio'):
        ArmKinematics(CONTRACT.description_path, TIP)


def test_the_singular_value_is_small_where_the_rolls_are_in_line(arm):
    assert arm.singular_value(np.zeros(6)) < 1e-9
    assert arm.singular_value(WORKING) > 0.04
    turned = WORKING.copy()
    turned[4] = 0.05  # the wrist all but straight
    assert 0.0 < arm.singular_value(turned) < 0.01


def test_a_row_that_fails_near_a_singular_posture_says_so(arm):
    straight = np.array([0.0, -0.3, 0.5, 0.0, 0.0, 0.0])
    rows = np.zeros((6, 6))
    rows[:, 5] = np.linspace(0, 0.3, 6)
    rows[:, 1] = np.linspace(0, 0.1, 6)
    with pytest.raises(KinematicsError, match=r'row \d: .*near a singular posture'):
        arm.chunk_to_joints(rows, straight)


def turns_near_a_singular_posture(arm):
    """The largest turn of a joint for each of 100 displacements of about 1 mm; NaN: refused."""
    rng, found = np.random.default_rng(5), []
    for _ in range(100):
        q = np.array([0.1, -0.3, 0.5, 0.2, rng.uniform(-0.05, 0.05), -0.2])
        row = rng.normal(0.0, 1.0, (1, 6)) * np.array([1e-3] * 3 + [5e-3] * 3)
        try:
            found.append(np.abs(arm.chunk_to_joints(row, q) - q).max())
        except KinematicsError as error:
            assert 'singular' in str(error)
            found.append(np.nan)
    return np.array(found)


def test_damping_near_a_singular_posture_turns_less_or_refuses(arm, monkeypatch):
    damped = turns_near_a_singular_posture(arm)
    monkeypatch.setattr(kinematics, 'SINGULAR_DAMPING_M', 0.0)
    undamped = turns_near_a_singular_posture(arm)
    assert np.isnan(damped).sum() > np.isnan(undamped).sum()
    assert np.nanmean(damped) < 0.9 * np.nanmean(undamped)
    assert np.isfinite(damped).mean() > 0.5


@pytest.mark.parametrize('tip', ['ee_gripper_link', 'left_finger_link'])
def test_many_rows_at_once_equal_one_by_one(tip):
    arm = ArmKinematics(CONTRACT.description_path, tip)
    rng = np.random.default_rng(3)
    rows = rng.uniform(-3.0, 3.0, (40, len(arm.joint_names)))
    alone = [arm.joint_transforms(row) for row in rows]
    np.testing.assert_allclose(arm.joint_transforms(rows), alone, atol=1e-12)
    tips = [arm.tip_position(row) for row in rows]
    np.testing.assert_allclose(arm.tip_position(rows), tips, atol=1e-12)


def test_rows_that_are_not_finite_are_refused(arm):
    rows = np.zeros((3, 6))
    rows[1, 2] = np.nan
    with pytest.raises(KinematicsError, match='6 finite numbers are wanted'):
        arm.tip_position(rows)
