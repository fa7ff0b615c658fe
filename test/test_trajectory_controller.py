"""The behaviour of joint_trajectory_controller on Humble, Jazzy and Kilted."""

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.trajectory_controller import DISTRIBUTIONS, TrajectoryController

S = 1_000_000_000
NAMES = ('a', 'b')


@pytest.fixture
def controller() -> TrajectoryController:
    return TrajectoryController(NAMES, [0.0, 1.0])


def test_it_holds_the_first_position_until_a_trajectory_comes(
    controller: TrajectoryController,
) -> None:
    position, velocity = controller.sample(5 * S)
    assert position.tolist() == [0.0, 1.0] and velocity.tolist() == [0.0, 0.0]


def test_positions_alone_are_joined_linearly_from_the_present_state(
    controller: TrajectoryController,
) -> None:
    assert controller.accept(NAMES, [1.0, 2.0], [[1, 1], [1, 3]], None, 10 * S, 10 * S) is None
    position, velocity = controller.sample(round(10.5 * S))
    assert position == pytest.approx([0.5, 1.0]) and velocity == pytest.approx([1.0, 0.0])
    position, velocity = controller.sample(round(11.25 * S))
    assert position == pytest.approx([1.0, 1.5]) and velocity == pytest.approx([0.0, 2.0])


def test_points_with_velocities_are_joined_by_a_cubic(controller: TrajectoryController) -> None:
    rows, speeds = [[0, 1], [1, 1]], [[0.5, 0], [0, 0]]
    assert controller.accept(NAMES, [0.0, 2.0], rows, speeds, 10 * S, 10 * S) is None
    position, velocity = controller.sample(11 * S)
    # Hermite at half of T = 2 s: (p0 + p1) / 2 + T (v0 - v1) / 8, 3 (p1 - p0) / 2T - (v0 + v1) / 4
    assert position[0] == pytest.approx(0.5 + 2 * 0.5 / 8)
    assert velocity[0] == pytest.approx(0.75 - 0.125)
    assert controller.sample(10 * S)[1][0] == pytest.approx(0.5)


def test_a_cubic_meets_position_and_velocity_at_both_ends(
    controller: TrajectoryController,
) -> None:
    rows, speeds = [[0, 1], [1, 2], [5, 3]], [[0.5, 0], [2, -1], [0, 0]]
    controller.accept(NAMES, [0.0, 2.0, 3.0], rows, speeds, 10 * S, 10 * S)
    for beside in (-1, 0):
        position, velocity = controller.sample(12 * S + beside)
        assert position == pytest.approx([1, 2], abs=1e-6)
        assert velocity == pytest.approx([2, -1], abs=1e-6)


def test_it_holds_the_last_point_after_the_end(controller: TrajectoryController) -> None:
    controller.accept(NAMES, [1.0], [[2, 3]], None, 10 * S, 10 * S)
    for now in (11 * S, 1000 * S):
        position, velocity = controller.sample(now)
        assert position.tolist() == [2, 3] and velocity.tolist() == [0, 0]


def test_stamp_0_means_now(controller: TrajectoryController) -> None:
    controller.accept(NAMES, [2.0], [[2, 1]], None, 0, 10 * S)
    assert controller.sample(11 * S)[0] == pytest.approx([1.0, 1.0])


def test_a_stamp_in_the_future_is_approached_from_the_present_state(
    controller: TrajectoryController,
) -> None:
    controller.accept(NAMES, [0.0, 1.0], [[2, 1], [4, 1]], None, 12 * S, 10 * S)
    assert controller.sample(11 * S)[0] == pytest.approx([1.0, 1.0])
    assert controller.sample(round(12.5 * S))[0] == pytest.approx([3.0, 1.0])


def test_a_stamp_in_the_past_is_joined_where_the_trajectory_is_now(
    controller: TrajectoryController,
) -> None:
    controller.accept(NAMES, [0.0, 2.0], [[0, 1], [2, 1]], None, 9 * S, 10 * S)
    assert controller.sample(10 * S)[0] == pytest.approx([1.0, 1.0])


def test_a_newer_message_starts_from_the_desired_state_of_the_older(
    controller: TrajectoryController,
) -> None:
    controller.accept(NAMES, [2.0], [[2, 1]], None, 10 * S, 10 * S)
    controller.accept(NAMES, [1.0], [[0, 1]], None, 11 * S, 11 * S)
    assert controller.sample(11 * S)[0] == pytest.approx([1.0, 1.0])
    assert controller.sample(round(11.5 * S))[0] == pytest.approx([0.5, 1.0])


def test_a_replacement_with_velocities_keeps_position_and_velocity_continuous(
    controller: TrajectoryController,
) -> None:
    controller.accept(NAMES, [2.0], [[2, 1]], None, 10 * S, 10 * S)
    controller.accept(NAMES, [1.0], [[3, 1]], [[0, 0]], 11 * S, 11 * S)
    before = controller.sample(11 * S)
    assert before[0] == pytest.approx([1.0, 1.0]) and before[1] == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
def test_an_end_in_motion_is_accepted_on_humble_alone(distribution: str) -> None:
    controller = TrajectoryController(NAMES, [0.0, 1.0], distribution=distribution)
    reason = controller.accept(NAMES, [1.0], [[1, 1]], [[0.5, 0]], 10 * S, 10 * S)
    if distribution == 'humble':
        assert reason is None
    else:
        assert 'velocity of the last point is not zero' in reason


@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
def test_what_all_distributions_reject(distribution: str) -> None:
    controller = TrajectoryController(NAMES, [0.0, 1.0], distribution=distribution)
    assert 'no points' in controller.accept(NAMES, [], [], None, 0, 10 * S)
    assert 'ended 1.000 s ago' in controller.accept(
        NAMES, [1.0, 2.0], [[0, 1], [1, 1]], None, 7 * S, 10 * S
    )
    assert 'strictly' in controller.accept(NAMES, [1.0, 1.0], [[0, 1], [1, 1]], None, 0, 10 * S)
    assert controller.accept(NAMES, [0.0], [[0, 1]], None, 10 * S, 10 * S) is None


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(QwenVlaError, match="'iron' is not one of humble, jazzy, kilted"):
        TrajectoryController(NAMES, [0.0, 1.0], distribution='iron')


@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
def test_a_name_that_comes_twice_passes_and_the_other_joint_gets_a_leftover(
    distribution: str,
) -> None:
    controller = TrajectoryController(NAMES, [1.0, 1.0], distribution=distribution)
    assert controller.accept(('a', 'a'), [1.0], [[5, 4]], None, 0, 10 * S) is None
    assert controller.sample(11 * S)[0].tolist() == [4, 0]
    controller.accept(NAMES, [1.0], [[2, 3]], None, 0, 12 * S)
    assert controller.accept(('a', 'a'), [1.0], [[5, 4]], None, 0, 14 * S) is None
    assert controller.sample(15 * S)[0].tolist() == [4, 3]


def test_a_point_without_velocities_is_joined_linearly(controller: TrajectoryController) -> None:
    rows, speeds = [[1, 1], [2, 1], [3, 1]], [[], [1, 0], [0, 0]]
    assert controller.accept(NAMES, [1.0, 2.0, 3.0], rows, speeds, 10 * S, 10 * S) is None
    assert controller.sample(round(11.25 * S))[0] == pytest.approx([1.25, 1.0])
    assert controller.sample(round(12.5 * S))[0] == pytest.approx([2.625, 1.0])


def test_by_default_real_controllers_start_at_the_measured_joints() -> None:
    controller = TrajectoryController(NAMES, [0.0, 1.0], from_desired=False)
    controller.accept(NAMES, [2.0], [[2, 1]], None, 10 * S, 10 * S, measured=[-1.0, 1.0])
    assert controller.sample(11 * S)[0] == pytest.approx([0.5, 1.0])
    with pytest.raises(QwenVlaError, match='measured'):
        controller.accept(NAMES, [2.0], [[2, 1]], None, 11 * S, 11 * S)


def test_another_order_of_joints_is_sorted_by_name(controller: TrajectoryController) -> None:
    controller.accept(('b', 'a'), [1.0], [[5, 4]], [[0, 0]], 10 * S, 10 * S)
    assert controller.sample(11 * S)[0].tolist() == [4, 5]


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'names': ('a',), 'positions': [[1], [2]]}, 'do not match'),
        ({'names': ('a', 'c')}, 'do not match'),
        ({'names': ('c', 'c')}, 'do not match'),
        ({'names': ('a', 'b', 'b')}, 'do not match'),
        ({'times_s': [1.0, 1.0]}, 'not strictly increasing'),
        ({'times_s': [2.0, 1.0]}, 'not strictly increasing'),
        ({'times_s': [1.0, np.nan]}, 'not strictly increasing'),
        ({'positions': [[1, 2]]}, 'positions must have 2 points of 2 values'),
        ({'positions': [[1, 2], [3]]}, 'positions must have 2 points of 2 values'),
        ({'velocities': [[0, 0]]}, 'velocities must have 2 points of 2 values'),
        ({'positions': [[1, np.nan], [1, 2]]}, 'positions hold a number that is not finite'),
        ({'velocities': [[np.inf, 0], [0, 0]]}, 'velocities hold a number that is not finite'),
        ({'velocities': [[0, 0], [0, 0.1]]}, 'velocity of the last point is not zero'),
        ({'stamp_ns': 7 * S}, 'ended 1.000 s ago'),
    ],
)
def test_a_bad_message_is_rejected_and_the_old_motion_goes_on(
    controller: TrajectoryController, change: dict[str, object], reason: str
) -> None:
    controller.accept(NAMES, [4.0], [[4, 1]], None, 8 * S, 8 * S)
    message = {
        'names': NAMES,
        'times_s': [1.0, 2.0],
        'positions': [[1, 2], [3, 4]],
        'velocities': None,
        'stamp_ns': 10 * S,
        'now_ns': 10 * S,
        **change,
    }
    assert reason in controller.accept(**message)
    assert controller.sample(10 * S)[0] == pytest.approx([2.0, 1.0])


def test_the_joint_limiter_cuts_what_is_sampled() -> None:
    controller = TrajectoryController(('a',), [0.0], limits=[(-1.0, 1.0)])
    controller.accept(('a',), [2.0], [[2.0]], None, 10 * S, 10 * S)
    assert controller.sample(round(10.5 * S))[0] == pytest.approx([0.5])
    position, velocity = controller.sample(round(11.5 * S))
    assert position.tolist() == [1.0] and velocity.tolist() == [0.0]


@pytest.mark.parametrize('held', [[0.0], [0.0, np.nan]])
def test_a_hold_without_a_position_for_each_joint_is_refused(
    controller: TrajectoryController, held: list[float]
) -> None:
    with pytest.raises(QwenVlaError, match='no position of'):
        controller.hold(held)
