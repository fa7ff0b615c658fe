"""
Interbotix' xs_sdk in rehearsal: its topics and services around InterbotixArm.

commands/joint_group, commands/joint_single, commands/joint_trajectory; torque_enable,
reboot_motors, get_robot_info, set_operating_modes, set_motor_pid_gains,
set_motor_registers, get_motor_registers. The types are those of the interbotix_xs_msgs that is
installed. Services answer as the real driver does: empty, also when nothing was done, which is
logged. joint_states are robot_sim's, in the driver's order.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node

from qwen_vla_ros.output_kinds import message_class
from qwen_vla_ros.sim.arm import JOINT_NAMES, WX250S
from qwen_vla_ros.sim.interbotix_arm import DriverDied, InterbotixArm
from qwen_vla_ros.sim.interbotix_config import CURRENT, PWM, VELOCITY
from qwen_vla_ros.sim.six_axis import SixAxisArm

DEPTH = 10  # of its queues, reliable: xs_sdk_obj.cpp
GAINS = {
    'kp_pos': 'Position_P_Gain',
    'ki_pos': 'Position_I_Gain',
    'kd_pos': 'Position_D_Gain',
    'k1': 'Feedforward_1st_Gain',
    'k2': 'Feedforward_2nd_Gain',
    'kp_vel': 'Velocity_P_Gain',
    'ki_vel': 'Velocity_I_Gain',
}
EFFORTS = {VELOCITY: 'velocities', PWM: 'effort', CURRENT: 'effort'}


class InterbotixDriver:
    """Topics and services of one arm."""

    def __init__(
        self,
        node: Node,
        robot: Any,
        arm: InterbotixArm,
        namespace: str = '',
        geometry: SixAxisArm = WX250S,
    ) -> None:
        """
        Subscribe and serve in a namespace; the node has on_command(topic, message, reason).

        geometry has the limits that get_robot_info tells.

        Raises OutputUnavailable where interbotix_xs_msgs is not installed.
        """
        self._node, self._robot, self._arm = node, robot, arm
        self._geometry = geometry
        for topic, kind, take in (
            ('commands/joint_group', 'JointGroupCommand', self._group),
            ('commands/joint_single', 'JointSingleCommand', self._single),
            ('commands/joint_trajectory', 'JointTrajectoryCommand', self._trajectory),
        ):
            topic = namespace + topic
            callback = partial(self._on_command, topic, take)
            kind = message_class(f'interbotix_xs_msgs/msg/{kind}')
            node.create_subscription(kind, topic, callback, DEPTH)
        for service, kind, answer in (
            ('torque_enable', 'TorqueEnable', self._torque),
            ('reboot_motors', 'Reboot', self._reboot),
            ('get_robot_info', 'RobotInfo', self._info),
            ('set_operating_modes', 'OperatingModes', self._modes),
            ('set_motor_pid_gains', 'MotorGains', self._gains),
            ('set_motor_registers', 'RegisterValues', self._set_registers),
            ('get_motor_registers', 'RegisterValues', self._get_registers),
        ):
            service = namespace + service
            callback = partial(self._on_call, service, answer)
            node.create_service(message_class(f'interbotix_xs_msgs/srv/{kind}'), service, callback)

    def on_tick(self, now_ns: int, positions: np.ndarray) -> None:
        """Nothing: the motors close their loops themselves."""

    def _on_command(self, topic: str, take: Callable[[Any], str | None], message: Any) -> None:
        try:
            reason = take(message)
        except DriverDied as error:
            reason = str(error)
        self._node.on_command(topic, message, reason)

    def _on_call(
        self, service: str, answer: Callable[[Any, Any], str | None], request: Any, response: Any
    ) -> Any:
        try:
            reason = answer(request, response)
        except DriverDied as error:
            reason = str(error)
        if reason is not None:
            self._node.get_logger().error(f'{service}: {reason}')
        return response

    # Commands ------------------------------------------------------------------------------------

    def _group(self, message: Any) -> str | None:
        return self._arm.write_group(message.name, list(message.cmd), self._robot.control_ns())

    def _single(self, message: Any) -> str | None:
        return self._arm.write_single(message.name, message.cmd, self._robot.control_ns())

    def _trajectory(self, message: Any) -> str | None:
        told = self._arm.info(message.cmd_type, message.name)
        column = EFFORTS.get(told['mode'], 'positions') if isinstance(told, dict) else 'positions'
        points = message.traj.points
        times = [(point.time_from_start.sec, point.time_from_start.nanosec) for point in points]
        rows = [list(getattr(point, column)) for point in points]
        now_ns = self._robot.control_ns()
        return self._arm.write_trajectory(message.cmd_type, message.name, times, rows, now_ns)

    # Services ------------------------------------------------------------------------------------

    def _torque(self, request: Any, _: Any) -> str | None:
        now_ns = self._robot.control_ns()
        return self._arm.enable_torque(request.cmd_type, request.name, request.enable, now_ns)

    def _reboot(self, request: Any, _: Any) -> str | None:
        """Let go of the arm, and hold it again when asked to."""
        now_ns, names = self._robot.control_ns(), (request.cmd_type, request.name)
        said = self._arm.enable_torque(*names, False, now_ns)
        return self._arm.enable_torque(*names, True, now_ns) if request.enable else said

    def _modes(self, request: Any, _: Any) -> str | None:
        return self._arm.set_operating_modes(
            request.cmd_type,
            request.name,
            request.mode,
            request.profile_type,
            request.profile_velocity,
            request.profile_acceleration,
            self._robot.control_ns(),
        )

    def _gains(self, request: Any, _: Any) -> str | None:
        said = None
        for field, register in GAINS.items():
            value = getattr(request, field)
            said = self._arm.set_registers(request.cmd_type, request.name, register, value)
        return said

    def _set_registers(self, request: Any, _: Any) -> str | None:
        return self._arm.set_registers(request.cmd_type, request.name, request.reg, request.value)

    def _get_registers(self, request: Any, response: Any) -> str | None:
        response.values = self._arm.registers(request.cmd_type, request.name, request.reg)
        return None

    def _info(self, request: Any, response: Any) -> str | None:
        told = self._arm.info(request.cmd_type, request.name)
        if isinstance(told, str):
            return told
        for field, value in told.items():
            setattr(response, field, value)
        columns = [JOINT_NAMES.index(name) for name in told['joint_names']]
        response.joint_lower_limits = self._geometry.lower[columns].tolist()
        response.joint_upper_limits = self._geometry.upper[columns].tolist()
        response.joint_velocity_limits = self._geometry.velocity[columns].tolist()
        return None
