"""
Nav2 in rehearsal: the actions follow_path and navigate_to_pose for a base that has odometry.

Listens to odom, commands cmd_vel (TwistStamped, or Twist) only while a goal runs. There are no
costmaps and no planner: what is asked for is driven straight. As in Nav2 the navigator drives
through the controller server, so a goal of navigate_to_pose ends one of follow_path and the other
way round. The parameter `active` may be set while it runs: an inactive server rejects goals.
"""

import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from qwen_vla_ros.nodes.goal_server import GoalServer
from qwen_vla_ros.nodes.parameters import declare, parameter
from qwen_vla_ros.nodes.qos import SENSOR, STREAM
from qwen_vla_ros.nodes.running import run
from qwen_vla_ros.output_kinds import message_class, set_stamp
from qwen_vla_ros.sim.navigation import (
    FOLLOW,
    NAVIGATE,
    Cycle,
    Navigation,
    NavigationGoal,
    NavigationSettings,
)
from qwen_vla_ros.sim.trajectory_goals import Ending

PERIOD_S = 0.05  # controller_frequency 20 Hz
LOST_S = 0.5  # odometry older than this: no transform
ACTIONS = {
    FOLLOW: 'nav2_msgs/action/FollowPath',
    NAVIGATE: 'nav2_msgs/action/NavigateToPose',
}


@dataclass(frozen=True)
class Nav2SimSettings:
    """Parameters of nav2_sim."""

    distribution: str = parameter('kilted', 'whose Nav2: humble, jazzy or kilted')
    linear: float = parameter(0.3, 'speed in m/s', 0.05, 2.0)
    angular: float = parameter(1.0, 'turning speed in rad/s', 0.1, 6.3)
    stamped: bool = parameter(True, 'cmd_vel as TwistStamped; false: Twist')
    active: bool = parameter(True, 'the lifecycle state of the servers', changeable=True)


class Nav2SimNode(Node):
    """Two action servers around two Navigations."""

    def __init__(self, **options: Any) -> None:
        """Serve; QwenVlaError names a missing nav2_msgs and what to install."""
        super().__init__('nav2_sim', **options)
        self.settings = declare(self, Nav2SimSettings)
        chosen = NavigationSettings(
            self.settings.distribution, self.settings.linear, self.settings.angular
        )
        self._parts = {kind: Navigation(kind, chosen) for kind in ACTIONS}
        self._servers = {
            kind: GoalServer(
                self,
                message_class(name),
                kind,
                partial(self._check, kind),
                partial(self._take, kind),
                self._parts[kind].cancel,
            )
            for kind, name in ACTIONS.items()
        }
        self._set_active(self.settings.active)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._pose: tuple[float, float, float] | None = None
        self._frame, self._heard_s = 'odom', 0.0
        self.create_subscription(Odometry, 'odom', self._on_odometry, SENSOR)
        kind = TwistStamped if self.settings.stamped else Twist
        self._speeds = self.create_publisher(kind, 'cmd_vel', STREAM)
        self.create_timer(PERIOD_S, self._on_cycle)

    def close(self) -> None:
        """Serve no longer."""
        for server in getattr(self, '_servers', {}).values():
            server.close()

    def _check(self, kind: str, goal: Any) -> str | None:
        return self._parts[kind].refusal()

    def _take(self, kind: str, key: bytes, goal: Any) -> None:
        other = NAVIGATE if kind == FOLLOW else FOLLOW
        self._end(other, self._parts[other].stop())
        self._end(kind, self._parts[kind].take(key, _read(kind, goal)))

    def _on_odometry(self, message: Odometry) -> None:
        place, turn = message.pose.pose.position, message.pose.pose.orientation
        self._pose = (place.x, place.y, 2.0 * float(np.arctan2(turn.z, turn.w)))
        self._frame, self._heard_s = message.header.frame_id, time.monotonic()

    def _on_cycle(self) -> None:
        pose = self._pose if time.monotonic() - self._heard_s < LOST_S else None
        for kind, part in self._parts.items():
            cycle = part.step(self.get_clock().now().nanoseconds * 1e-9, pose)
            if cycle.speed is not None:
                self._publish(*cycle.speed)
            self._end(kind, cycle.endings)
            if cycle.running is not None:
                self._servers[kind].feedback(cycle.running, self._feedback(kind, cycle, pose))

    def _end(self, kind: str, endings: list[Ending]) -> None:
        server = self._servers[kind]
        for ending in endings:
            result = server.action.Result()
            if hasattr(result, 'error_code'):  # humble's has none
                result.error_code = ending.code
            if hasattr(result, 'error_msg'):
                result.error_msg = ending.text
            if ending.text:
                self.get_logger().error(f'{kind}: {ending.text}')
            server.end(ending.key, ending.status, result)

    def _feedback(self, kind: str, cycle: Cycle, pose: Any) -> Any:
        message = self._servers[kind].action.Feedback()
        if kind == FOLLOW:
            message.distance_to_goal, message.speed = cycle.left_m, cycle.speed[0]
            return message
        message.distance_remaining = cycle.left_m
        seconds = int(cycle.since_s)
        message.navigation_time.sec = seconds
        message.navigation_time.nanosec = int((cycle.since_s - seconds) * 1e9)
        place = message.current_pose.pose
        message.current_pose.header.frame_id = self._frame
        place.position.x, place.position.y = pose[0], pose[1]
        place.orientation.z, place.orientation.w = np.sin(pose[2] / 2), np.cos(pose[2] / 2)
        return message

    def _publish(self, forward: float, turn: float) -> None:
        message = TwistStamped() if self.settings.stamped else Twist()
        twist = message
        if self.settings.stamped:
            set_stamp(message.header.stamp, self.get_clock().now().nanoseconds)
            message.header.frame_id, twist = 'base_link', message.twist
        twist.linear.x, twist.angular.z = forward, turn
        self._speeds.publish(message)

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for item in parameters:
            if item.name == 'active':
                self._set_active(item.value)
        return SetParametersResult(successful=True)

    def _set_active(self, active: bool) -> None:
        """Change the lifecycle state; a server that is deactivated ends its goals."""
        for kind, part in self._parts.items():
            part.active = active
            if not active:
                self._end(kind, part.stop())


def _read(kind: str, goal: Any) -> NavigationGoal:
    """Return what an action's goal asks for."""
    if kind == NAVIGATE:
        poses, frame = [goal.pose], goal.pose.header.frame_id
        more = {'behavior_tree': goal.behavior_tree}
    else:
        poses, frame = goal.path.poses, goal.path.header.frame_id
        more = {'controller': goal.controller_id, 'goal_checker': goal.goal_checker_id}
        more['progress_checker'] = getattr(goal, 'progress_checker_id', '')  # humble has none
    rows = [
        (
            item.pose.position.x,
            item.pose.position.y,
            2.0 * float(np.arctan2(item.pose.orientation.z, item.pose.orientation.w)),
        )
        for item in poses
    ]
    return NavigationGoal(frame, np.array(rows, np.float64).reshape(-1, 3), **more)


def main(args: list[str] | None = None) -> None:
    """Run until interrupted."""
    sys.exit(run(Nav2SimNode, args, settings=Nav2SimSettings))


if __name__ == '__main__':
    main()
