"""The thread that owns the simulation: what others ask of it is done there, or they are told."""

import itertools
import time
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


def test_a_world_that_was_held_up_catches_up_without_a_jump_of_the_arm():
    clock, stamps, speeds = [1_000_000_000], [], []

    def on_tick(stamp_ns, _, velocities):
        stamps.append(stamp_ns)
        speeds.append(abs(velocities[0]))

    heard = SimpleNamespace(on_tick=on_tick, on_image=lambda *_: None)
    robot = SimulatedRobot(lambda: clock[0], heard, 20.0, 1)
    robot.start()
    try:
        arm = robot.controllers[0]
        first, _ = arm.sample(clock[0])
        last = first + 0.1 * np.eye(len(first))[0] * 30.0
        arm.accept(arm.joint_names, [30.0], [last], None, 0, clock[0])
        for held_up_s, slips in ((0.0, 0), (0.3, 0), (1.5, 0), (3.0, 1)):
            for forward_s in (*[0.01] * 50, held_up_s):
                clock[0] += round(forward_s * 1e9)
                give_up = time.monotonic() + 20.0
                while not stamps or stamps[-1] < clock[0] - 10_000_000:
                    assert time.monotonic() < give_up, 'the world stands'
                    time.sleep(0.001)
            assert robot.slips == slips
            if not slips:
                assert max(speeds) < 0.13  # it is to go at 0.1 rad/s
                assert set(np.diff(stamps)) == {10_000_000}
        assert max(np.diff(stamps)) > 2_000_000_000
    finally:
        robot.stop()


def test_zero_errors_of_two_arms_are_refused():
    kind = AlohaTable({'left': '', 'right': ''})
    with pytest.raises(QwenVlaError, match='of a robot of one arm'):
        SimulatedRobot(lambda: 0, LISTENER, 20.0, 1, kind, zero_errors={'waist': 0.1})
