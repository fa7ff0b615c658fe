"""
Who takes the commands of the simulated robot, each arm in its namespace: parameter `driver`.

    jtc-humble, jtc-jazzy, ...           joint_trajectory_controller, its topics and actions
    forward-humble, forward-jazzy, ...   forward_command_controller
    interbotix                           Interbotix' xs_sdk in its modes (mode_configs)

All but Interbotix' run as config/controllers/<arm>_ros2_control.yaml says.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rclpy.node import Node

from qwen_vla_ros.embodiment import config_folder
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.controller_driver import ForwardDriver, TrajectoryDriver
from qwen_vla_ros.nodes.interbotix_driver import InterbotixDriver
from qwen_vla_ros.nodes.robot_kinds import ArmPlace
from qwen_vla_ros.nodes.simulated_robot import SimulatedRobot
from qwen_vla_ros.sim.arm import ARM_JOINTS, GRIPPER_JOINTS
from qwen_vla_ros.sim.forward_controller import ForwardController
from qwen_vla_ros.sim.interbotix_arm import InterbotixArm
from qwen_vla_ros.sim.interbotix_config import read_modes, read_motor_config
from qwen_vla_ros.sim.interbotix_joints import MotorFinger, MotorJoints
from qwen_vla_ros.sim.trajectory_controller import DISTRIBUTIONS, TrajectoryController

INTERBOTIX = 'interbotix'
DRIVERS = (
    *(f'jtc-{name}' for name in DISTRIBUTIONS),
    *(f'forward-{name}' for name in DISTRIBUTIONS),
    INTERBOTIX,
)
NAMES = ('arm_controller', 'gripper_controller')
FORWARD_NAMES = ('arm_position_controller', 'gripper_position_controller')


class Driver(Protocol):
    """What robot_sim tells of every tick."""

    def on_tick(self, now_ns: int, positions: np.ndarray) -> None:
        """Hear of the measured joints float64 [7 a arm]."""


def make_driver(node: Node, robot: SimulatedRobot, settings: Any) -> Driver:
    """
    Give each arm the controllers of settings.driver, and the node their topics.

    Raises QwenVlaError for a name that is not known and for a missing interbotix_xs_msgs.
    """
    name = settings.driver
    if name not in DRIVERS:
        raise QwenVlaError(f'parameter driver: {name!r} is not one of {", ".join(DRIVERS)}')
    return _Together([_driver(node, robot, place, settings) for place in robot.kind.arms])


class _Together:
    """The drivers of all arms."""

    def __init__(self, drivers: list[Driver]) -> None:
        self._drivers = drivers

    def on_tick(self, now_ns: int, positions: np.ndarray) -> None:
        for driver in self._drivers:
            driver.on_tick(now_ns, positions)


def _driver(node: Node, robot: SimulatedRobot, place: ArmPlace, settings: Any) -> Driver:
    """Return the driver of one arm."""
    if settings.driver == INTERBOTIX:
        return _interbotix(node, robot, place, settings.mode_configs)
    kind, _, distribution = settings.driver.partition('-')
    if kind == 'forward':
        forward = _controllers(robot, place, FORWARD_NAMES, ForwardController, distribution)
        return ForwardDriver(node, robot, forward)
    controllers = _controllers(robot, place, NAMES, TrajectoryController, distribution)
    return TrajectoryDriver(node, robot, controllers, place.first)


def _controllers(
    robot: SimulatedRobot,
    place: ArmPlace,
    names: tuple[str, str],
    make: Callable[..., Any],
    distribution: str,
) -> dict[str, Any]:
    geometry = robot.kind.model.geometry
    limits = list(zip(geometry.lower, geometry.upper, strict=True))
    made = [
        make(ARM_JOINTS, np.zeros(6), limits[:6], distribution),
        make(GRIPPER_JOINTS, [geometry.upper[6]], limits[6:], distribution),
    ]
    _give(robot, place, made)
    return {f'{place.namespace}{name}': one for name, one in zip(names, made, strict=True)}


def _interbotix(
    node: Node, robot: SimulatedRobot, place: ArmPlace, modes: str
) -> InterbotixDriver:
    model, folder = robot.kind.model, config_folder() / 'controllers'
    config = read_motor_config(folder / f'{model.name}_motors.yaml')
    path = Path(modes) if modes else folder / f'{model.name}_modes.yaml'
    motors = InterbotixArm(config, read_modes(path, config))
    _give(robot, place, [MotorJoints(motors, ARM_JOINTS), MotorFinger(motors, 'gripper')])
    return InterbotixDriver(node, robot, motors, place.namespace, model.geometry)


def _give(robot: SimulatedRobot, place: ArmPlace, controllers: list[Any]) -> None:
    """Put the controllers of an arm in the place of those that the robot has."""
    index = 2 * robot.kind.arms.index(place)
    robot.controllers[index : index + 2] = controllers
