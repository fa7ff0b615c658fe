"""
Who takes the commands of the simulated WidowX: the parameter `driver` of robot_sim.

    jtc-humble, jtc-jazzy, ...           joint_trajectory_controller, its topics and actions
    forward-humble, forward-jazzy, ...   forward_command_controller
    interbotix                           Interbotix' xs_sdk in its modes (mode_configs)

All but Interbotix' run as config/controllers/wx250s_ros2_control.yaml says.
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
from qwen_vla_ros.nodes.simulated_robot import SimulatedRobot
from qwen_vla_ros.sim import arm
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
        """Hear of the measured joints float64 [7]."""


def make_driver(node: Node, robot: SimulatedRobot, settings: Any) -> Driver:
    """
    Give the robot the controllers of settings.driver, and the node their topics.

    Raises QwenVlaError for a name that is not known and for a missing interbotix_xs_msgs.
    """
    name = settings.driver
    if name not in DRIVERS:
        raise QwenVlaError(f'parameter driver: {name!r} is not one of {", ".join(DRIVERS)}')
    if name == INTERBOTIX:
        return _interbotix(node, robot, settings.mode_configs)
    kind, _, distribution = name.partition('-')
    if kind == 'forward':
        forward = _controllers(robot, FORWARD_NAMES, ForwardController, distribution)
        return ForwardDriver(node, forward)
    return TrajectoryDriver(
        node, robot, _controllers(robot, NAMES, TrajectoryController, distribution)
    )


def _controllers(
    robot: SimulatedRobot, names: tuple[str, str], make: Callable[..., Any], distribution: str
) -> dict[str, Any]:
    limits = list(zip(arm.LOWER, arm.UPPER, strict=True))
    robot.arm = make(arm.ARM_JOINTS, np.zeros(6), limits[:6], distribution)
    robot.gripper = make(arm.GRIPPER_JOINTS, [arm.UPPER[6]], limits[6:], distribution)
    return dict(zip(names, (robot.arm, robot.gripper), strict=True))


def _interbotix(node: Node, robot: SimulatedRobot, modes: str) -> InterbotixDriver:
    folder = config_folder() / 'controllers'
    config = read_motor_config(folder / 'wx250s_motors.yaml')
    path = Path(modes) if modes else folder / 'wx250s_modes.yaml'
    motors = InterbotixArm(config, read_modes(path, config))
    robot.arm = MotorJoints(motors, arm.ARM_JOINTS)
    robot.gripper = MotorFinger(motors, 'gripper')
    return InterbotixDriver(node, robot, motors)
