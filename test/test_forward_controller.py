"""What a forward_command_controller does with each message, by distribution."""

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.forward_controller import ForwardController
from qwen_vla_ros.sim.trajectory_controller import DISTRIBUTIONS

NAMES, LIMITS = ('a', 'b'), [(-1.0, 1.0), (0.0, 2.0)]
LATER = [name for name in DISTRIBUTIONS if name != 'humble']


def made(distribution):
    return ForwardController(NAMES, [0.0, 1.0], LIMITS, distribution)


@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
def test_positions_are_forwarded_within_the_motors_limits_and_hold_for_ever(distribution):
    controller = made(distribution)
    assert controller.accept([0.5, 3.0]) is None
    position, velocity = controller.sample(10**18)
    assert position.tolist() == [0.5, 2.0] and velocity.tolist() == [0.0, 0.0]


def test_on_humble_a_wrong_size_holds_and_the_next_good_message_is_taken():
    controller = made('humble')
    assert '3 values for 2 joints' in controller.accept([0.1, 0.2, 0.3])
    assert controller.sample(0)[0].tolist() == [0.0, 1.0]
    assert controller.accept([0.5, 0.5]) is None


@pytest.mark.parametrize('distribution', LATER)
def test_from_jazzy_on_a_wrong_size_ends_the_controller(distribution):
    controller = made(distribution)
    assert 'deactivated' in controller.accept([0.1])
    assert 'not active' in controller.accept([0.5, 0.5])
    assert controller.sample(0)[0].tolist() == [0.0, 1.0]
    controller.activate()
    assert controller.accept([0.5, 0.5]) is None


@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
def test_a_number_that_is_not_finite_never_reaches_the_simulated_motors(distribution):
    controller = made(distribution)
    assert 'not finite' in controller.accept([np.nan, 0.5])
    assert controller.active and controller.sample(0)[0].tolist() == [0.0, 1.0]


def test_an_empty_message_is_an_error_on_humble_and_nothing_later():
    assert '0 values' in made('humble').accept([])
    later = made('jazzy')
    assert 'no command' in later.accept([]) and later.active


def test_bad_arguments_are_refused():
    with pytest.raises(QwenVlaError, match="'iron'"):
        made('iron')
    with pytest.raises(QwenVlaError, match='2 numbers'):
        made('jazzy').hold([0.0])


def test_a_simulation_that_is_late_sees_what_was_commanded_at_its_instant():
    controller = made('jazzy')
    for index in range(1, 4):
        assert controller.accept([0.1 * index, 1.0], index * 20) is None
    assert [controller.sample(now)[0][0] for now in (10, 20, 39, 40, 65)] == pytest.approx(
        [0.0, 0.1, 0.1, 0.2, 0.3]
    )
