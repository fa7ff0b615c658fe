"""One box and one speed limit for each arm: which tip leaves it, on the robot with two arms."""

from dataclasses import replace

import numpy as np
import pytest

from qwen_vla_ros.embodiment import ContractError, Embodiment
from qwen_vla_ros.kinematics import KinematicsError
from qwen_vla_ros.safety import SafetyGate
from qwen_vla_ros.several_arms import tip_positions
from qwen_vla_ros.types import ActionChunk

ALOHA = Embodiment.load('aloha')
NAMES = ALOHA.action_names()
FINGERS = np.array([0.04 if name.endswith('finger') else 0.0 for name in NAMES])
ARM = [i for i, name in enumerate(NAMES) if not name.endswith('finger')]
HOME = FINGERS + np.array([ALOHA.park.positions.get(name, 0.0) for name in NAMES])


def gate(contract=ALOHA):
    return SafetyGate(contract, tip_position=tip_positions(contract, contract.action_groups()))


def turned(joint, angle, count=50):
    """Return a smooth chunk that turns one joint by an angle, from the home posture."""
    way = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, count))
    rows = HOME + np.outer(way, angle * np.eye(len(NAMES))[NAMES.index(joint)])
    return ActionChunk(rows.astype(np.float32), NAMES, 0, 0.02)


def test_tips_of_both_arms_mirror_one_another():
    left, right = tip_positions(ALOHA, ALOHA.action_groups())(HOME[ARM])[0]
    np.testing.assert_allclose(left * [-1, 1, 1], right, atol=1e-6)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_the_arm_that_leaves_its_box_is_named(side):
    boxes = tuple(
        replace(box, upper=(*box.upper[:2], 0.25)) if side in box.tip else box
        for box in ALOHA.workspaces
    )
    chunk = turned(f'{side}_elbow', -0.4)
    assert gate().check_chunk(chunk, 0).ok
    verdict = gate(replace(ALOHA, workspaces=boxes)).check_chunk(chunk, 0)
    assert f'workspace: {side}_ee_gripper_link.z' in verdict.reason
    assert (verdict.limit, verdict.unit) == (0.25, 'm')


def test_each_tip_has_a_speed_of_its_own():
    boxes = tuple(
        replace(box, speed=0.05 if 'right' in box.tip else None) for box in ALOHA.workspaces
    )
    slow = gate(replace(ALOHA, workspaces=boxes))
    assert slow.check_chunk(turned('left_waist', 0.5), 0).ok
    verdict = slow.check_chunk(turned('right_waist', 0.5), 0)
    assert 'speed of right_ee_gripper_link' in verdict.reason
    assert (verdict.limit, verdict.unit) == (0.05, 'm/s')


def test_a_tip_on_joints_that_nobody_commands_is_refused():
    left = [group for group in ALOHA.action_groups() if 'left' in group.name]
    with pytest.raises(KinematicsError, match='right_ee_gripper_link hangs on right_waist'):
        tip_positions(ALOHA, left)


@pytest.mark.parametrize(
    ('old', 'new', 'told'),
    [
        ('tip: right_ee_gripper_link', 'tip: left_ee_gripper_link', 'has two boxes'),
        ('frame: table, tip: right', 'frame: left_base_link, tip: right', 'all boxes are in one'),
        ('lower: [-0.30', 'lower: [0.50', r'workspaces\.right_arm: x: lower 0.5 is not below'),
        (
            'workspaces:\n',
            'workspace: {frame: t, tip: t, lower: [0, 0, 0], upper: [1, 1, 1]}\nworkspaces:\n',
            'workspaces: workspace is there as well',
        ),
    ],
)
def test_a_contract_with_boxes_at_odds_is_refused(tmp_path, old, new, told):
    assert old in ALOHA.text
    path = tmp_path / 'aloha.yaml'
    text = ALOHA.text.replace('robots/aloha.urdf', str(ALOHA.description_path))
    path.write_text(text.replace(old, new))
    with pytest.raises(ContractError, match=told):
        Embodiment.load(path)
