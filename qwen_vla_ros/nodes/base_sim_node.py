"""
A simulated differential base in furnished rooms that is a ROS robot: config mobile_base.

Publishes odom (50 Hz), the front camera with camera_info, /tf where tf2_msgs is installed (odom to
base_link, base_link to the camera), and /clock when asked to. Takes cmd_vel as TwistStamped, or as
Twist (stamped: false); when it is silent for 0.5 s the base brakes. Services ~/reset and ~/result.
The fault parameters may be set while it runs.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.camera_messages import camera_info_message, image_message, set_stamp
from qwen_vla_ros.nodes.parameters import declare, parameter
from qwen_vla_ros.nodes.qos import COMMAND, SENSOR, STREAM
from qwen_vla_ros.nodes.running import run
from qwen_vla_ros.nodes.simulated_base import SimulatedBase
from qwen_vla_ros.sim.cameras import CameraInfo as SeenFrom
from qwen_vla_ros.sim.rooms.drive import TIMEOUT_S, Pose
from qwen_vla_ros.srv import ResetWorld, TaskResult

ODOM, BASE = 'odom', 'base_link'
SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class BaseSimSettings:
    """Parameters of base_sim."""

    robot: str = parameter('mobile_base', 'name or path of the contract')
    seed: int = parameter(0, 'house at the start', 0, 2**31 - 1)
    camera_rate: float = parameter(10.0, 'pictures a second', 1.0, 30.0)
    stamped: bool = parameter(True, 'cmd_vel as TwistStamped; false: Twist')
    drift: float = parameter(0.0, 'share by which odometry errs (0.02: 2 %)', 0.0, 0.5)
    use_clock: bool = parameter(False, 'publish /clock and stamp with simulated time')
    mute_camera: bool = parameter(False, 'fault: no images', changeable=True)
    mute_odom: bool = parameter(False, 'fault: no odometry', changeable=True)
    nan_odom: bool = parameter(False, 'fault: x reads NaN', changeable=True)


class BaseSimNode(Node):
    """Topics, services and parameters around a SimulatedBase."""

    def __init__(self, **options: Any) -> None:
        """Build the house and start to publish."""
        super().__init__('base_sim', **options)
        self.settings = declare(self, BaseSimSettings)
        self._embodiment = _contract(self.settings.robot)
        changeable = [f.name for f in fields(BaseSimSettings) if f.metadata['changeable']]
        self._faults = {name: getattr(self.settings, name) for name in changeable}
        self.add_on_set_parameters_callback(self._set_faults)
        self._begin_ns, self._ticks = time.monotonic_ns(), 0
        self._create_publishers()
        self._base = SimulatedBase(
            self._simulated_ns if self.settings.use_clock else self._node_ns,
            self,
            self.settings.camera_rate,
            self.settings.seed,
            self.settings.drift,
        )
        self._base.start()
        kind = TwistStamped if self.settings.stamped else Twist
        take = self._on_stamped if self.settings.stamped else self._on_twist
        self.create_subscription(kind, 'cmd_vel', take, COMMAND)
        self.create_service(ResetWorld, '~/reset', self._on_reset)
        self.create_service(TaskResult, '~/result', self._on_result)
        self.get_logger().info(f'house {self.settings.seed}: {self._base.task.instruction!r}')

    def close(self) -> None:
        """Stop the simulation."""
        if hasattr(self, '_base'):
            self._base.stop()

    # What the simulation's thread calls ----------------------------------------------------------

    def on_tick(self, stamp_ns: int, odometry: Pose, linear: float, angular: float) -> None:
        """Publish the clock at every tick, odometry and transforms at every second one."""
        if not self.context.ok():
            return
        self._ticks += 1
        with self._alive():
            self._publish_tick(stamp_ns, odometry, linear, angular)

    def _publish_tick(self, stamp_ns: int, odometry: Pose, linear: float, angular: float) -> None:
        if self._clock_publisher is not None:
            message = self._clock_class()
            set_stamp(message.clock, stamp_ns)
            self._clock_publisher.publish(message)
        if self._ticks % 2 or self._faults['mute_odom']:
            return
        message = _odometry(stamp_ns, odometry, linear, angular)
        if self._faults['nan_odom']:
            message.pose.pose.position.x = float('nan')
        self._odometry.publish(message)
        if self._transforms is not None:
            moving = _transform(stamp_ns, ODOM, BASE, (*odometry[:2], 0.0), _about_z(odometry[2]))
            fixed = self._camera_transform
            transforms = [moving]
            if fixed is not None:
                set_stamp(fixed.header.stamp, stamp_ns)
                transforms.append(fixed)
            self._transforms.publish(self._transforms_class(transforms=transforms))

    def on_image(self, stamp_ns: int, image: np.ndarray, info: SeenFrom) -> None:
        """Publish a picture and its camera_info."""
        if self._camera_transform is None:
            turn = _quaternion(info.rotation)
            self._camera_transform = _transform(
                stamp_ns, BASE, self._frame_id, tuple(info.position), turn
            )
        if self._faults['mute_camera'] or not self.context.ok():
            return
        with self._alive():
            self._images.publish(image_message(stamp_ns, self._frame_id, image))
            self._infos.publish(camera_info_message(stamp_ns, self._frame_id, info))

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Let an interrupt end the context in the middle of publishing."""
        try:
            yield
        except RuntimeError:  # rclpy's RCLError
            if self.context.ok():
                raise

    # Wiring --------------------------------------------------------------------------------------

    def _create_publishers(self) -> None:
        (camera,) = self._embodiment.cameras
        self._frame_id = camera.frame_id
        self._odometry = self.create_publisher(Odometry, self._embodiment.state.topic, SENSOR)
        self._images = self.create_publisher(Image, camera.topic, SENSOR)
        self._infos = self.create_publisher(CameraInfo, camera.info_topic, SENSOR)
        self._camera_transform: TransformStamped | None = None
        self._transforms = self._clock_publisher = None
        try:
            self._transforms_class = import_module('tf2_msgs.msg').TFMessage
            self._transforms = self.create_publisher(self._transforms_class, '/tf', STREAM)
        except ImportError:
            self.get_logger().info(
                'no /tf: tf2_msgs is not installed (apt install ros-$ROS_DISTRO-tf2-msgs)'
            )
        if self.settings.use_clock:
            self._clock_class = import_module('rosgraph_msgs.msg').Clock
            self._clock_publisher = self.create_publisher(self._clock_class, '/clock', STREAM)

    def _on_stamped(self, message: TwistStamped) -> None:
        stamp = message.header.stamp
        stamp_ns = stamp.sec * SECOND_NS + stamp.nanosec
        now_ns = self._simulated_ns() if self.settings.use_clock else self._node_ns()
        age_s = (now_ns - stamp_ns) * 1e-9
        if stamp_ns and age_s > TIMEOUT_S:
            self.get_logger().warning(
                f'cmd_vel: a command of {age_s:.2f} s ago is left out', throttle_duration_sec=1.0
            )
            return
        self._on_twist(message.twist)

    def _on_twist(self, message: Twist) -> None:
        try:
            self._base.command(message.linear.x, message.angular.z)
        except QwenVlaError as error:
            self.get_logger().error(f'cmd_vel: {error}', throttle_duration_sec=1.0)

    def _on_reset(
        self, request: ResetWorld.Request, response: ResetWorld.Response
    ) -> ResetWorld.Response:
        try:
            task = self._base.reset(request.seed, request.task)
        except QwenVlaError as error:
            response.success, response.message = False, str(error)
            return response
        response.success = True
        response.instruction, response.target = task.instruction, task.goal.name
        response.objects = [piece.name for piece in task.house.pieces]
        self.get_logger().info(f'house {request.seed}: {task.instruction!r}')
        return response

    def _on_result(
        self, request: TaskResult.Request, response: TaskResult.Response
    ) -> TaskResult.Response:
        try:
            arrival = self._base.result()
        except QwenVlaError as error:
            response.message = str(error)
            return response
        response.success, response.done = arrival.success, arrival.done
        response.target, response.touched = arrival.goal, list(arrival.bumped)
        response.first_touched = arrival.bumped[0] if arrival.bumped else ''
        response.elapsed_s = float(arrival.elapsed_s)
        if not arrival.success:
            response.message = f'{arrival.distance_m:.2f} m from the goal'
        return response

    def _set_faults(self, parameters: list[Parameter]) -> SetParametersResult:
        for item in parameters:
            if item.name in self._faults:
                self._faults[item.name] = item.value
                self.get_logger().warning(f'{item.name}: {item.value}')
        return SetParametersResult(successful=True)

    def _node_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _simulated_ns(self) -> int:
        """Return the time since the start, one second ahead as stamps of zero mean 'none'."""
        return time.monotonic_ns() - self._begin_ns + SECOND_NS


def _contract(name: str) -> Embodiment:
    """Return the contract; QwenVlaError unless it is that of a base with one camera."""
    embodiment = Embodiment.load(name)
    if embodiment.state.type != 'Odometry' or len(embodiment.cameras) != 1:
        raise QwenVlaError(
            f'base_sim: {name} is no base with odometry and one camera; see mobile_base'
        )
    return embodiment


def _odometry(stamp_ns: int, pose: Pose, linear: float, angular: float) -> Odometry:
    message = Odometry(child_frame_id=BASE)
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = ODOM
    place, turn = message.pose.pose.position, message.pose.pose.orientation
    place.x, place.y = pose[0], pose[1]
    turn.w, turn.x, turn.y, turn.z = _about_z(pose[2])
    message.twist.twist.linear.x, message.twist.twist.angular.z = linear, angular
    # as diff_drive_controller publishes it for this base (locobot_base_controllers.yaml)
    diagonal = np.diag([0.001, 0.001, 0.001, 0.001, 0.001, 0.01]).ravel()
    message.pose.covariance = message.twist.covariance = diagonal
    return message


def _transform(
    stamp_ns: int, parent: str, child: str, place: Any, turn: tuple[float, ...]
) -> TransformStamped:
    """Return a transform; turn is w, x, y, z."""
    message = TransformStamped(child_frame_id=child)
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = parent
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = (float(value) for value in place)
    rotation.w, rotation.x, rotation.y, rotation.z = turn
    return message


def _about_z(yaw: float) -> tuple[float, float, float, float]:
    """Return the quaternion w, x, y, z of a turn about z."""
    return float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))


def _quaternion(rotation: np.ndarray) -> tuple[float, ...]:
    """Return the quaternion w, x, y, z of a rotation [3, 3]."""
    w = 0.5 * np.sqrt(max(0.0, 1.0 + float(np.trace(rotation))))
    twice = rotation - rotation.T
    axis = np.array([twice[2, 1], twice[0, 2], twice[1, 0]]) / (4.0 * w)
    return float(w), *(float(value) for value in axis)


def main(args: list[str] | None = None) -> None:
    """Run until interrupted."""
    sys.exit(run(BaseSimNode, args, settings=BaseSimSettings))


if __name__ == '__main__':
    main()
