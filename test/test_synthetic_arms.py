"""The six arms: published chains, home postures free of contact, gaps that see a collision."""

import numpy as np
import pytest

from qwen_vla_ros.data.synthetic.arm_model import SELF, TABLE, ArmModel
from qwen_vla_ros.data.synthetic.arms import ARMS, TOOL_M
from qwen_vla_ros.data.synthetic.turns import about_x, about_z, euler, matrices, quaternions

# The flange at all joints zero, from the vendors' figures: sums of link lengths.
ZERO = {
    'franka_panda': (0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107 - TOOL_M),
    'ur10e': (0.6127 + 0.57155, 0.17415 + 0.11655 + TOOL_M, 0.1807 - 0.11985),
    'ur5e': (0.425 + 0.3922, 0.1333 + 0.0996 + TOOL_M, 0.1625 - 0.0997),
    'xarm7': (0.0525 + 0.0775 + 0.076, 0.0, 0.267 + 0.293 - 0.3425 - 0.097 - TOOL_M),
}
MODELS = {name: ArmModel(arm) for name, arm in ARMS.items()}


@pytest.mark.parametrize('name', ZERO)
def test_a_chain_at_zero_is_where_the_published_lengths_put_it(name):
    model = MODELS[name]
    position, _ = model.kinematics.forward(np.zeros(len(model.home)))
    assert position == pytest.approx(ZERO[name], abs=1e-6)


@pytest.mark.parametrize(
    ('name', 'height'),
    [
        ('kinova_gen3', 0.2848 + 0.4208 + 0.3143 + 0.1674 + TOOL_M),
        ('tm12', 0.1652 + 0.6361 + 0.5579 + 0.106),
    ],
)
def test_an_arm_that_stands_upright_at_zero_has_the_published_height(name, height):
    model = MODELS[name]
    position, _ = model.kinematics.forward(np.zeros(len(model.home)))
    assert position[2] == pytest.approx(height, abs=1e-6)


@pytest.mark.parametrize('name', ARMS)
def test_home_is_within_limits_and_free_with_the_hand_over_the_table(name):
    model = MODELS[name]
    assert (model.lower < model.home).all() and (model.home < model.upper).all()
    position, rotation = model.kinematics.forward(model.home)
    assert rotation[:, 2] == pytest.approx([0, 0, -1], abs=0.05)
    assert position[0] > 0.2 and position[2] > 0.1
    assert model.collision(model.home[None]) == ''


def test_a_hand_in_the_table_and_a_folded_arm_are_told_apart():
    model = MODELS['ur5e']
    position, rotation = model.kinematics.forward(model.home)
    low = model.kinematics.joints_for([*position[:2], 0.001], rotation, model.home)
    assert model.collision(np.stack([model.home, low])) == TABLE
    folded = model.home.copy()
    folded[2] = 3.1
    assert model.collision(folded[None]) == SELF


def test_many_rows_at_once_have_the_poses_of_each():
    model = MODELS['kinova_gen3']
    rows = model.home + np.random.default_rng(0).uniform(-0.4, 0.4, (5, 7))
    positions, rotations = model.poses(rows)
    for row, position, rotation in zip(rows, positions, rotations, strict=True):
        one, turn = model.kinematics.forward(row)
        assert position == pytest.approx(one, abs=1e-9)
        assert rotation == pytest.approx(turn, abs=1e-9)


def test_quaternions_and_angles_return_the_rotation():
    angles = np.linspace(-3.1, 3.1, 40)
    turns = np.array([about_z(a) @ about_x(2 * a) @ about_z(-a / 3) for a in angles])
    found = quaternions(turns)
    assert matrices(found) == pytest.approx(turns, abs=1e-12)
    assert ((found[1:] * found[:-1]).sum(1) > 0).all()
    roll, pitch, yaw = euler(turns).T
    again = [
        about_z(c) @ _about_y(b) @ about_x(a) for a, b, c in zip(roll, pitch, yaw, strict=True)
    ]
    assert np.array(again) == pytest.approx(turns, abs=1e-9)


def test_angles_at_a_pitch_of_ninety_degrees_still_return_the_rotation():
    turn = about_z(0.3) @ _about_y(np.pi / 2)
    roll, pitch, yaw = euler(turn)
    assert about_z(yaw) @ _about_y(pitch) @ about_x(roll) == pytest.approx(turn, abs=1e-6)


def _about_y(angle):
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
