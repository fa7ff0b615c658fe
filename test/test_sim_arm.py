"""Kinematics of the simulated arm."""

import numpy as np
import pytest

from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.world import TabletopWorld


@pytest.fixture(scope='module')
def world() -> TabletopWorld:
    return TabletopWorld(render=False)


def test_forward_agrees_with_the_physics_model(world: TabletopWorld) -> None:
    rng = np.random.default_rng(0)
    for q in rng.uniform(arm.LOWER, arm.UPPER, (50, 7)):
        world.set_posture(q)
        position, rotation = arm.forward(q)
        assert np.abs(position - world.tip_position()).max() < 1e-6
        assert np.abs(rotation - world.data.site('tip').xmat.reshape(3, 3)).max() < 1e-6


def test_forward_at_zero_is_the_sum_of_the_published_link_lengths() -> None:
    position, rotation = arm.forward(np.zeros(7))
    x = 0.04975 + 0.175 + 0.075 + 0.065 + 0.043 + 0.023 + 0.027575
    assert position == pytest.approx([x, 0.0, 0.072 + 0.03865 + 0.25])
    assert rotation == pytest.approx(np.eye(3))


def test_inverse_undoes_forward_over_the_object_area() -> None:
    tips = np.random.default_rng(1).uniform((0.2, -0.2, 0.02), (0.4, 0.2, 0.14), (500, 3))
    joints = np.concatenate([arm.inverse(tips), np.full((500, 1), 0.02)], -1)
    position, rotation = arm.forward(joints)
    assert np.abs(position - tips).max() < 1e-9
    assert rotation[..., 2, 0] == pytest.approx(-1.0)
    assert arm.reachable(tips).all()


def test_a_point_out_of_reach_gives_a_finite_stretched_posture() -> None:
    far = np.array([0.9, 0.0, 0.3])
    assert np.isfinite(arm.inverse(far)).all()
    assert not arm.reachable(far)
