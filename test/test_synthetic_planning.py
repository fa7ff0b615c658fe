"""Joint paths around obstacles, and the timing of motions."""

from itertools import pairwise

import numpy as np
import pytest

from qwen_vla_ros.data.synthetic.arm_model import ArmModel
from qwen_vla_ros.data.synthetic.arms import OPEN_M, PANDA
from qwen_vla_ros.data.synthetic.motions import (
    ACCELERATION,
    FREE,
    GRIP,
    LINE,
    RATE_HZ,
    TIP_SPEED,
    UNREACHABLE,
    Rejected,
    Step,
    perform,
)
from qwen_vla_ros.data.synthetic.planning import edge, path_between, rounded

LIMITS = (np.array([-2.0, -2.0]), np.array([2.0, 2.0]))
START, GOAL = np.array([-1.0, 0.0]), np.array([1.0, 0.0])
MODEL = ArmModel(PANDA)


def outside(rows):
    """No row inside the box |x| < 0.4, y > -1."""
    return not ((np.abs(rows[:, 0]) < 0.4) & (rows[:, 1] > -1.0)).any()


def test_the_straight_line_is_taken_where_it_is_free():
    rng = np.random.default_rng(0)
    path = path_between(START, GOAL, lambda rows: True, LIMITS, rng)
    assert path.tolist() == [START.tolist(), GOAL.tolist()]


def test_a_wall_is_gone_around_and_the_path_is_the_same_for_a_seed():
    paths = [
        path_between(START, GOAL, outside, LIMITS, np.random.default_rng(3)) for _ in range(2)
    ]
    assert paths[0].tolist() == paths[1].tolist()
    path = paths[0]
    assert (path[0] == START).all() and (path[-1] == GOAL).all() and len(path) > 2
    for one, other in pairwise(path):
        assert outside(edge(one, other))
    rows = rounded(path)
    assert (rows[0] == START).all() and (rows[-1] == GOAL).all()


def test_no_path_is_found_where_there_is_none():
    wall = lambda rows: not (np.abs(rows[:, 0]) < 0.4).any()  # noqa: E731
    assert path_between(START, GOAL, wall, LIMITS, np.random.default_rng(0)) is None
    inside = np.array([0.0, 0.0])
    assert path_between(START, inside, outside, LIMITS, np.random.default_rng(0)) is None


def moved(pace=0.5):
    position, rotation = MODEL.kinematics.forward(MODEL.home)
    steps = (
        Step(FREE, 'over', position + [0.1, 0.2, 0.0], rotation),
        Step(LINE, 'down', position + [0.1, 0.2, -0.15], rotation),
        Step(GRIP, 'close', opening=0.02),
    )
    rng = np.random.default_rng(0)
    return steps, perform(MODEL, MODEL.home, OPEN_M, steps, pace, rng)


def test_a_line_is_straight_and_ends_where_it_should():
    steps, made = moved()
    tips = MODEL.kinematics.tip_position(made.joints)
    down = tips[made.step == 1]
    assert down[-1] == pytest.approx(steps[1].position, abs=1e-4)
    assert np.abs(down[:, :2] - steps[1].position[:2]).max() < 5e-4
    assert (np.diff(down[:, 2]) < 1e-6).all()


def test_motions_rest_between_steps_and_keep_within_the_pace():
    _, made = moved(0.5)
    ends = np.flatnonzero(np.diff(made.step))
    assert np.abs(made.velocities[ends]).max() < 1e-9
    assert (np.abs(made.velocities) <= 0.5 * MODEL.speed + 1e-9).all()
    turning = np.diff(made.velocities, axis=0) * RATE_HZ
    assert np.abs(turning).max() <= 0.5 * ACCELERATION * 1.02
    tips = MODEL.kinematics.tip_position(made.joints)
    assert np.linalg.norm(np.diff(tips, axis=0), axis=1).max() * RATE_HZ <= 0.5 * TIP_SPEED * 1.01


def test_recorded_velocities_are_those_of_the_positions():
    _, made = moved()
    central = (made.joints[2:] - made.joints[:-2]) * RATE_HZ / 2
    assert np.abs(central - made.velocities[1:-1]).max() < 0.03


def test_only_the_fingers_move_while_they_close():
    _, made = moved()
    closing = made.step == 2
    assert np.ptp(made.joints[closing], axis=0).max() == 0
    assert made.opening[closing][-1] == pytest.approx(0.02)
    assert (made.opening[~closing] == OPEN_M).all()


def test_a_pose_out_of_reach_is_refused_by_its_reason():
    step = Step(FREE, 'far', np.array([2.0, 0.0, 0.3]), np.diag([1.0, -1.0, -1.0]))
    with pytest.raises(Rejected, match=UNREACHABLE):
        perform(MODEL, MODEL.home, OPEN_M, [step], 0.5, np.random.default_rng(0))
