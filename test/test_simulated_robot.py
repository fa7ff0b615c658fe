"""The thread that owns the simulation: what others ask of it is done there, or they are told."""

from types import SimpleNamespace

import pytest

from qwen_vla_ros.errors import QwenVlaError
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
