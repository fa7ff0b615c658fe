"""The thread that owns the simulation: what others ask of it is done there, or they are told."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.robot_kinds import AlohaTable
from qwen_vla_ros.nodes.simulated_robot import SimulatedRobot

LISTENER = SimpleNamespace(on_tick=lambda *_: None, on_image=lambda *_: None)


def test_a_simulation_that_does_not_answer_is_told():
    robot = SimulatedRobot(lambda: 0, LISTENER, 20.0, 1)
    with pytest.raises(QwenVlaError, match=r'does not answer within 0\.05 s; restart robot_sim'):
        robot.call(lambda: 1, timeout_s=0.05)


def test_an_error_in_the_simulations_thread_reaches_the_caller():
    robot = SimulatedRobot(lambda: 0, LISTENER, 20.0, 1)
    robot.start()
    try:
        assert robot.call(lambda: 7) == 7
        with pytest.raises(QwenVlaError, match='moon'):
            robot.set_target('moon')
    finally:
        robot.stop()


def test_an_arm_with_an_error_of_its_zero_reads_more_and_stands_where_it_stood():
    clock, read = itertools.count(1_000_000_000, 20_000_000), []
    heard = SimpleNamespace(
        on_tick=lambda _, positions, __: read.append(positions), on_image=lambda *_: None
    )
    robot = SimulatedRobot(lambda: next(clock), heard, 20.0, 1, zero_errors={'shoulder': 0.05})
    robot.start()
    try:
        true = robot.call(lambda: robot.world.positions())
        posture = np.array(robot.world.scene.posture)
        desired = np.concatenate([part.sample(0)[0] for part in robot.controllers])
    finally:
        robot.stop()
    off = [0, 0.05, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(desired - posture, off, atol=1e-9)
    np.testing.assert_allclose(true, posture, atol=5e-3)  # sags under its weight
    np.testing.assert_allclose(read[-1] - posture, off, atol=5e-3)


def test_zero_errors_of_two_arms_are_refused():
    kind = AlohaTable({'left': '', 'right': ''})
    with pytest.raises(QwenVlaError, match='of a robot of one arm'):
        SimulatedRobot(lambda: 0, LISTENER, 20.0, 1, kind, zero_errors={'waist': 0.1})
