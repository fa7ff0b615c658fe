"""
ros2_control's controllers in rehearsal: topics and actions around the simulated ones.

TrajectoryDriver   <name>/joint_trajectory, and <name>/follow_joint_trajectory where control_msgs
                   is installed
ForwardDriver      <name>/commands
"""

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from qwen_vla_ros.nodes.goal_server import GoalServer
from qwen_vla_ros.nodes.qos import COMMAND, STREAM
from qwen_vla_ros.output_kinds import OutputUnavailable, message_class
from qwen_vla_ros.sim.arm import JOINT_NAMES
from qwen_vla_ros.sim.forward_controller import ForwardController
from qwen_vla_ros.sim.trajectory_controller import TrajectoryController
from qwen_vla_ros.sim.trajectory_goals import Ending, Tolerances, TrajectoryGoals

FEEDBACK_TICKS = 5  # 20 Hz, action_monitor_rate


class TrajectoryDriver:
    """Trajectory controllers by name, with their topics and actions."""

    def __init__(
        self,
        node: Node,
        robot: Any,
        controllers: Mapping[str, TrajectoryController],
        first: int = 0,
    ) -> None:
        """
        Subscribe; the node has stamp_ns(message) and on_command(topic, message, reason).

        first is the arm's first column among the robot's measured joints.
        """
        self._parts = [_TrajectoryPart(node, robot, *item, first) for item in controllers.items()]

    def on_tick(self, now_ns: int, positions: np.ndarray) -> None:
        """Let the controllers compare the measured joints [7 a arm] with the desired ones."""
        for part in self._parts:
            part.on_tick(now_ns, positions)


class _TrajectoryPart:
    """One controller."""

    def __init__(
        self,
        node: Node,
        robot: Any,
        name: str,
        controller: TrajectoryController,
        first: int,
    ) -> None:
        self._node, self._robot, self._controller = node, robot, controller
        self._columns = [first + JOINT_NAMES.index(joint) for joint in controller.joint_names]
        self._measured, _ = controller.sample(0)
        self._lock, self._ticks = threading.Lock(), 0
        self._goals, self._server = TrajectoryGoals(controller), None
        topic = f'{name}/joint_trajectory'
        node.create_subscription(JointTrajectory, topic, partial(self._on_message, topic), COMMAND)
        try:
            action = message_class('control_msgs/action/FollowJointTrajectory')
        except OutputUnavailable as error:
            node.get_logger().info(f'{name}: no action follow_joint_trajectory: {error}')
            return
        self._topic = f'{name}/follow_joint_trajectory'
        self._server = GoalServer(node, action, self._topic, self._check, self._take, self._cancel)

    def on_tick(self, now_ns: int, positions: np.ndarray) -> None:
        self._measured = positions[self._columns]
        if self._server is None:
            return
        self._ticks += 1
        with self._lock:
            running = self._goals.running
            ending = self._goals.update(now_ns, self._measured)
        if ending is not None:
            self._end(ending)
        elif running is not None and self._ticks % FEEDBACK_TICKS == 0:
            self._server.feedback(running, self._feedback(now_ns))

    def _on_message(self, topic: str, message: JointTrajectory) -> None:
        reason = self._controller.accept(
            *self._read(message), self._robot.control_ns(), measured=self._measured
        )
        self._node.on_command(topic, message, reason)

    def _check(self, goal: Any) -> str | None:
        reason = self._controller.refusal(*self._read(goal.trajectory), self._robot.control_ns())
        if reason is not None:
            self._node.on_command(self._topic, goal.trajectory, reason)
        return reason

    def _take(self, key: bytes, goal: Any) -> None:
        asked = Tolerances(
            {item.name: item.position for item in goal.path_tolerance},
            {item.name: item.position for item in goal.goal_tolerance},
            goal.goal_time_tolerance.sec + goal.goal_time_tolerance.nanosec * 1e-9,
        )
        with self._lock:
            older = self._goals.accepted(key, asked)
            reason = self._controller.accept(
                *self._read(goal.trajectory), self._robot.control_ns(), measured=self._measured
            )
        self._node.on_command(self._topic, goal.trajectory, reason)
        if older is not None:
            self._end(older)

    def _cancel(self, key: bytes) -> None:
        with self._lock:
            ending = self._goals.cancel(key, self._measured)
        if ending is not None:
            self._end(ending)

    def _end(self, ending: Ending) -> None:
        result = self._server.action.Result()
        result.error_code, result.error_string = ending.code, ending.text
        self._server.end(ending.key, ending.status, result)

    def _feedback(self, now_ns: int) -> Any:
        message = self._server.action.Feedback(joint_names=list(self._controller.joint_names))
        position, velocity = self._controller.sample(now_ns)
        message.desired.positions, message.desired.velocities = list(position), list(velocity)
        message.actual.positions = list(self._measured)
        message.error.positions = list(position - self._measured)
        return message

    def _read(self, message: JointTrajectory) -> tuple[Any, ...]:
        """Return what a controller is told of a trajectory, but for the present time."""
        points = message.points
        moving = any(len(point.velocities) for point in points)
        return (
            list(message.joint_names),
            [point.time_from_start.sec + point.time_from_start.nanosec * 1e-9 for point in points],
            [point.positions for point in points],
            [point.velocities for point in points] if moving else None,
            self._node.stamp_ns(message),
        )


class ForwardDriver:
    """Forward position controllers by name, with their topics."""

    def __init__(
        self, node: Node, robot: Any, controllers: Mapping[str, ForwardController]
    ) -> None:
        """Subscribe; the node has on_command(topic, message, reason)."""
        self._node, self._robot = node, robot
        for name, controller in controllers.items():
            topic = f'{name}/commands'
            callback = partial(self._on_message, topic, controller)
            node.create_subscription(Float64MultiArray, topic, callback, STREAM)

    def on_tick(self, now_ns: int, positions: np.ndarray) -> None:
        """Nothing is measured."""

    def _on_message(
        self, topic: str, controller: ForwardController, message: Float64MultiArray
    ) -> None:
        reason = controller.accept(list(message.data), self._robot.control_ns())
        self._node.on_command(topic, message, reason)
