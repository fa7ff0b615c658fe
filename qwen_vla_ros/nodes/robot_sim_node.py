"""
A simulated robot on ROS: the topics, types, rates and controller semantics of the real one.

The contract says which: a WidowX 250s, or ALOHA's two ViperX 300s (robot_kinds.py). Publishes each
arm's joint states (50 Hz), the cameras with camera_info, /tf where tf2_msgs is installed, and
/clock when asked to (in slow motion with `pace`); is commanded as the parameter `driver` says: by
default as a joint_trajectory_controller on Jazzy is. Services ~/reset and ~/result, topic
~/target. The fault parameters may be set while it runs.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.camera_messages import camera_info_message, image_message, set_stamp
from qwen_vla_ros.nodes.parameters import declare, parameter
from qwen_vla_ros.nodes.qos import SENSOR, STREAM
from qwen_vla_ros.nodes.robot_kinds import ArmModel, kind_of
from qwen_vla_ros.nodes.running import run
from qwen_vla_ros.nodes.simulated_drivers import make_driver
from qwen_vla_ros.nodes.simulated_robot import SimulatedRobot
from qwen_vla_ros.nodes.transforms_publisher import transforms_publisher
from qwen_vla_ros.sim import cameras
from qwen_vla_ros.sim.arm import ARM_JOINTS
from qwen_vla_ros.sim.zero_errors import parse_zero_errors
from qwen_vla_ros.srv import ResetWorld, TaskResult

JOINT_NAMES = (*ARM_JOINTS, 'gripper', 'left_finger', 'right_finger')
SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class RobotSimSettings:
    """Parameters of robot_sim."""

    robot: str = parameter('widowx', 'name or path of the contract')
    seed: int = parameter(0, 'scene on the table at the start', 0, 2**31 - 1)
    task: str = parameter('', "its task: a sentence or a target; ALOHA: 'transfer', 'insertion'")
    world: str = parameter('', "widowx: 'tasks' to pick, place, push, stack; '' to touch")
    camera_rate: float = parameter(20.0, 'pictures a second and camera', 1.0, 30.0)
    driver: str = parameter('jtc-jazzy', 'who takes commands: see simulated_drivers.py')
    mode_configs: str = parameter('', "driver interbotix: a file of modes; '': ours")
    use_clock: bool = parameter(False, 'publish /clock and stamp with simulated time')
    pace: float = parameter(1.0, 'with use_clock: simulated seconds a second', 0.05, 1.0)
    mute_camera_scene: bool = parameter(False, 'fault: no scene images', changeable=True)
    mute_camera_wrist: bool = parameter(False, 'fault: no wrist images', changeable=True)
    mute_joint_states: bool = parameter(False, 'fault: no joint states', changeable=True)
    zero_errors: str = parameter('', 'fault: joints read so much more than they are: waist=0.05')
    nan_joints: bool = parameter(False, 'fault: the elbow reads NaN', changeable=True)


class RobotSimNode(Node):
    """Topics, services and parameters around a SimulatedRobot."""

    def __init__(self, **options: Any) -> None:
        """Build the world and start to publish."""
        super().__init__('robot_sim', **options)
        self.settings = declare(self, RobotSimSettings)
        self._embodiment = Embodiment.load(self.settings.robot)
        self._faults = {item.name: getattr(self.settings, item.name) for item in _fault_fields()}
        self.add_on_set_parameters_callback(self._set_faults)
        self._begin_ns, self._ticks = time.monotonic_ns(), 0
        self._create_publishers()
        self._robot = SimulatedRobot(
            self._simulated_ns if self.settings.use_clock else self._node_ns,
            self,
            self.settings.camera_rate,
            self.settings.seed,
            kind_of(self._embodiment, self.settings.world),
            self.settings.task,
            parse_zero_errors(self.settings.zero_errors),
        )
        self._driver = make_driver(self, self._robot, self.settings)
        self._robot.start()
        self._create_inputs()
        self.get_logger().info(f'scene {self.settings.seed}: {", ".join(self._names())}')

    def close(self) -> None:
        """Stop the simulation."""
        if hasattr(self, '_robot'):
            self._robot.stop()

    # What the simulation's thread calls ----------------------------------------------------------

    def on_tick(self, stamp_ns: int, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Publish the clock at every tick, joints and transforms at every second one."""
        if not self.context.ok():
            return
        self._ticks += 1
        self._driver.on_tick(stamp_ns, positions)
        with self._alive():
            self._publish_tick(stamp_ns, positions, velocities)

    def _publish_tick(self, stamp_ns: int, positions: np.ndarray, velocities: np.ndarray) -> None:
        if self._clock_publisher is not None:
            message = self._clock_class()
            set_stamp(message.clock, stamp_ns)
            self._clock_publisher.publish(message)
        if self._ticks % 2 or self._faults['mute_joint_states']:
            return
        if self._faults['nan_joints']:
            positions = np.where(np.arange(len(positions)) == 2, np.nan, positions)
        kind = self._robot.kind
        for publisher, place in zip(self._joint_states, kind.arms, strict=True):
            columns = place.columns
            publisher.publish(
                _joint_state(stamp_ns, kind.model, positions[columns], velocities[columns])
            )
        if self._transforms is not None:
            self._transforms(stamp_ns, self._robot.world)

    def on_image(
        self, view: str, stamp_ns: int, image: np.ndarray, info: cameras.CameraInfo
    ) -> None:
        """Publish a picture and its camera_info."""
        fault = 'mute_camera_scene' if view == 'ego' else 'mute_camera_wrist'
        if self._faults[fault] or not self.context.ok():
            return
        images, infos, frame_id = self._cameras[view]
        with self._alive():
            images.publish(image_message(stamp_ns, frame_id, image))
            infos.publish(camera_info_message(stamp_ns, frame_id, info))

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Let an interrupt end the context in the middle of publishing."""
        try:
            yield
        except RuntimeError:  # rclpy's RCLError
            if self.context.ok():
                raise

    # What the driver calls -----------------------------------------------------------------------

    def stamp_ns(self, message: Any) -> int:
        """Return a command's stamp as int ns of the robot's clock, 0 for none."""
        return message.header.stamp.sec * SECOND_NS + message.header.stamp.nanosec

    def on_command(self, topic: str, message: Any, reason: str | None) -> None:
        """Hear of every command, and why the driver does not carry it out."""
        if reason is not None:
            self.get_logger().error(f'{topic}: rejected: {reason}')

    # Wiring --------------------------------------------------------------------------------------

    def _create_publishers(self) -> None:
        sources = (self._embodiment.state, *self._embodiment.further_states)
        self._joint_states = [
            self.create_publisher(JointState, source.topic, SENSOR) for source in sources
        ]
        self._cameras = {
            camera.view: (
                self.create_publisher(Image, camera.topic, SENSOR),
                self.create_publisher(CameraInfo, camera.info_topic, SENSOR),
                camera.frame_id,
            )
            for camera in self._embodiment.cameras
        }
        self._transforms = transforms_publisher(self, self._embodiment)
        self._clock_publisher = None
        if self.settings.use_clock:
            self._clock_class = import_module('rosgraph_msgs.msg').Clock
            self._clock_publisher = self.create_publisher(self._clock_class, '/clock', STREAM)

    def _create_inputs(self) -> None:
        self.create_subscription(String, '~/target', self._on_target, STREAM)
        self.create_service(ResetWorld, '~/reset', self._on_reset)
        self.create_service(TaskResult, '~/result', self._on_result)

    def _on_target(self, message: String) -> None:
        try:
            self._robot.set_target(message.data)
        except QwenVlaError as error:
            self.get_logger().error(f'~/target: {error}')

    def _on_reset(
        self, request: ResetWorld.Request, response: ResetWorld.Response
    ) -> ResetWorld.Response:
        try:
            instruction, target, names = self._robot.reset(request.seed, request.task)
        except QwenVlaError as error:
            response.success, response.message = False, str(error)
            return response
        response.success = True
        response.instruction, response.target, response.objects = instruction, target, list(names)
        self.get_logger().info(f'scene {request.seed}: {", ".join(names)}; {instruction}')
        return response

    def _on_result(
        self, request: TaskResult.Request, response: TaskResult.Response
    ) -> TaskResult.Response:
        try:
            outcome = self._robot.result()
        except QwenVlaError as error:
            response.message = str(error)
            return response
        response.success, response.done = outcome.success, outcome.done
        response.target, response.touched = outcome.target, list(outcome.touched)
        response.first_touched = outcome.first_touched or ''
        response.elapsed_s = float(outcome.elapsed_s)
        response.message = getattr(outcome, 'told', '')
        return response

    def _set_faults(self, parameters: list[Parameter]) -> SetParametersResult:
        for item in parameters:
            if item.name in self._faults:
                self._faults[item.name] = item.value
                self.get_logger().warning(f'{item.name}: {item.value}')
        return SetParametersResult(successful=True)

    def _names(self) -> tuple[str, ...]:
        return self._robot.call(lambda: self._robot.world.scene.names)

    def _node_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _simulated_ns(self) -> int:
        """Return the time since the start, one second ahead as stamps of zero mean 'none'."""
        elapsed_ns = time.monotonic_ns() - self._begin_ns
        return round(elapsed_ns * self.settings.pace) + SECOND_NS


def _fault_fields() -> list[Any]:
    return [item for item in fields(RobotSimSettings) if item.metadata['changeable']]


def _joint_state(
    stamp_ns: int, model: ArmModel, positions: np.ndarray, velocities: np.ndarray
) -> JointState:
    """Return the message for an arm's joints [7] in the order of Interbotix' driver."""
    finger, speed, horn = positions[6], velocities[6], model.horn_m
    cosine = (horn**2 + finger**2 - model.rod_m**2) / (2 * horn * finger)
    crank = np.pi / 2 - np.arccos(np.clip(cosine, -1.0, 1.0))
    message = JointState(name=list(JOINT_NAMES))
    set_stamp(message.header.stamp, stamp_ns)
    message.position = [*positions[:6].tolist(), float(crank), float(finger), float(-finger)]
    message.velocity = [*velocities[:6].tolist(), 0.0, float(speed), float(-speed)]
    return message


def main(args: list[str] | None = None) -> None:
    """Run until interrupted."""
    sys.exit(run(RobotSimNode, args, settings=RobotSimSettings))


if __name__ == '__main__':
    main()
