"""
What the policy intends, for rviz and Foxglove: markers, and the way drawn into the camera images.

    <policy>/markers                      visualization_msgs/MarkerArray
    <policy>/annotated/<view>             sensor_msgs/Image
    <policy>/annotated/<view>/compressed  sensor_msgs/CompressedImage (jpeg)

It works only while somebody subscribes: then it listens, and at `rate` draws the newest of what it
heard, never more. A projection needs camera_info and the camera's frame; what is missing is told
in the image and in the log, and nothing is drawn in a guessed place.
"""

import re
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from visualization_msgs.msg import MarkerArray

from qwen_vla_ros.embodiment import Embodiment, StateField, StateSource
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from qwen_vla_ros.nodes.annotated_view import AnnotatedView
from qwen_vla_ros.nodes.inputs import input_topics
from qwen_vla_ros.nodes.marker_messages import MarkerWriter
from qwen_vla_ros.nodes.parameters import declare, parameter
from qwen_vla_ros.nodes.policy_report import chunk_from
from qwen_vla_ros.nodes.qos import LATCHED, SENSOR, STREAM, VIEW
from qwen_vla_ros.nodes.running import run
from qwen_vla_ros.nodes.seen_frames import (
    SIMULATOR,
    Extrinsics,
    SeenFrames,
    read_extrinsics,
    simulated_extrinsics,
    tf_message,
)
from qwen_vla_ros.seeing.intention import Intention
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.seeing.picture import Picture
from qwen_vla_ros.seeing.rerun_view import RerunView
from qwen_vla_ros.state_reading import state_reader

NAMELESS, NAMELESS_S = '_NODE_NAME_UNKNOWN_', 3.0  # what rmw calls who is just discovered
NUMBER = re.compile(r'\d+(\.\d+)?')
POSE = tuple(StateField(name, unit) for name, unit in (('x', 'm'), ('y', 'm'), ('yaw', 'rad')))


@dataclass(frozen=True)
class VizSettings:
    """Parameters of the viewer."""

    robot: str = parameter('widowx', 'name or path of the contract')
    policy_node: str = parameter('policy', 'name of the policy node')
    rate: float = parameter(10.0, 'pictures a second, of markers and of each image', 0.5, 60.0)
    trail: float = parameter(6.0, 's of what was executed', 0.5, 60.0)
    body: bool = parameter(False, "draw the contract's capsules")
    frame_prefix: str = parameter('', "what stands before the URDF's links on tf, like wx250s/")
    rerun: str = parameter('', "'spawn', a file.rrd or a viewer's address; '': no Rerun")
    extrinsics: str = parameter('', "'parent child x y z qx qy qz qw; …' for frames not on tf")


class VizNode(Node):
    """Subscriptions that store, one timer that draws."""

    def __init__(self, **options: Any) -> None:
        """Offer the topics; nothing is heard until somebody looks."""
        super().__init__('viz', **options)
        self.settings = declare(self, VizSettings)
        self._embodiment = Embodiment.load(self.settings.robot)
        self._links = self._description()
        self._markers = MarkerWriter(1.0 / self.settings.rate)
        name = self.settings.policy_node
        self._marker_publisher = self.create_publisher(MarkerArray, f'{name}/markers', VIEW)
        self._views = [AnnotatedView(self, camera, name) for camera in self._embodiment.cameras]
        self._rerun = self._open_rerun()
        self._session: _Session | None = None
        self._said: dict[str, str] = {}
        self._extrinsics = read_extrinsics(self.settings.extrinsics)
        self._supposed: Extrinsics = ()
        self._tell_of_tf()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self.settings.rate, self._draw, clock=steady)

    def close(self) -> None:
        """End the recording."""
        if self._rerun is not None:
            self._rerun.close()

    def _open_rerun(self) -> RerunView | None:
        try:
            return RerunView(self.settings.rerun) if self.settings.rerun else None
        except QwenVlaError as error:
            self.get_logger().warning(str(error))
            return None

    def _tell_of_tf(self) -> None:
        """Say once that there is no tf, and which cameras nothing else tells of."""
        if tf_message() is not None:
            return
        known = {child for _, child, _ in self._extrinsics}
        if self._links is not None:
            known |= {self.settings.frame_prefix + link for link in self._links.names}
        frames = (camera.frame_id for camera in self._embodiment.cameras)
        lacking = [frame for frame in frames if frame not in known]
        self.get_logger().info(
            'no tf: tf2_msgs is not installed (apt install ros-$ROS_DISTRO-tf2-msgs); the URDF, '
            'odometry and the parameter extrinsics say where frames are'
            + (f'; they tell nothing of {", ".join(lacking)}' if lacking else '')
            + (f', unless {SIMULATOR} publishes the pictures' if lacking else '')
        )

    def _open(self) -> '_Session':
        session = _Session(self, self._embodiment, self._links, self.settings, self._extrinsics)
        session.frames.suppose(self._supposed)
        return session

    def _description(self) -> RobotLinks | None:
        try:
            return RobotLinks(self._embodiment.description_path)
        except QwenVlaError as error:
            self.get_logger().warning(f'no arm is drawn: {error}')
            return None

    def _draw(self) -> None:
        """Draw what somebody looks at; hear and keep nothing while nobody does."""
        watched = self._marker_publisher.get_subscription_count() > 0
        recorded = self._rerun is not None
        views = [view for view in self._views if view.watch(recorded)]
        if not watched and not views and not recorded:
            self._rest()
            return
        if self._session is None:
            self._session = self._open()
        now_ns = self.get_clock().now().nanoseconds
        picture = self._session.intention.picture(now_ns)
        if watched:
            self._marker_publisher.publish(self._markers.message(picture))
        else:
            self._markers.forget()
        if recorded:
            self._tell('rerun', self._record(picture, self._session.frames))
        show = self._rerun.show_image if recorded else None
        for view in views:
            problem = view.draw(picture, self._session.frames, show)
            if not (problem and self._suppose(view)):
                self._tell(view.name, problem)

    def _suppose(self, view: AnnotatedView) -> bool:
        """
        Take the places of the simulator's cameras, where it publishes a view.

        Returns whether to draw again before anything is told: they were taken, or DDS does not
        say yet, at most for NAMELESS_S, who publishes.
        """
        if self._supposed or self._session is None:
            return False
        publishers = self.get_publishers_info_by_topic(self.resolve_topic_name(view.topic))
        names = {publisher.node_name for publisher in publishers}
        if SIMULATOR not in names:
            self._session.waited += 1
            young = self._session.waited < NAMELESS_S * self.settings.rate
            return young and names <= {NAMELESS}
        self._supposed = simulated_extrinsics()
        self._session.frames.suppose(self._supposed)
        for other in self._views:
            other.forget_problem()
        self.get_logger().info(
            f'{view.name} is of {SIMULATOR}: its cameras hang as config/nodes/demo.yaml says'
        )
        return True

    def _record(self, picture: Picture, frames: SeenFrames) -> str:
        """Log a picture into Rerun, in the frame of its caption; return why it cannot be."""
        frames.place_links(picture.stamp_ns)
        try:
            self._rerun.show(
                picture, lambda frame: frames.pose(picture.frame, frame, picture.stamp_ns)
            )
        except QwenVlaError as error:
            return str(error)
        return ''

    def _rest(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
            self._markers.forget()

    def _tell(self, view: str, problem: str) -> None:
        """Log why a projection is not drawn, when that changes in more than a number."""
        kind = NUMBER.sub('#', problem)
        if kind != self._said.get(view, ''):
            self._said[view] = kind
            if problem:
                self.get_logger().warning(f'{view}: no projection: {problem}')
            else:
                self.get_logger().info(f'{view}: drawn')


class _Session:
    """What is heard while somebody looks."""

    def __init__(
        self,
        node: Node,
        embodiment: Embodiment,
        links: RobotLinks | None,
        settings: VizSettings,
        extrinsics: Extrinsics,
    ) -> None:
        prefix = settings.frame_prefix
        self.frames = SeenFrames(node, links, prefix, extrinsics)
        self.intention = Intention(embodiment, links, prefix, settings.trail, settings.body)
        self._node, self.waited = node, 0
        topic, kinds = settings.policy_node, {i.source: i.kind for i in input_topics(embodiment)}
        self._subscriptions = [
            node.create_subscription(ActionChunk, f'{topic}/chunk', self._on_chunk, STREAM),
            node.create_subscription(ActionChunk, f'{topic}/refused', self._on_refused, STREAM),
            node.create_subscription(PolicyStatus, f'{topic}/status', self._on_status, LATCHED),
            *(
                node.create_subscription(
                    kinds[source.name], source.topic, self._listener(source), SENSOR
                )
                for source in embodiment.states
            ),
        ]

    def close(self) -> None:
        """Hear nothing more."""
        self.frames.close()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _listener(self, source: StateSource) -> Any:
        if source.type == 'Odometry':
            read = state_reader(replace(source, prefix='', fields=POSE))
            return partial(self._guarded, partial(self._on_odometry, read))
        read, names = state_reader(source), [field.name for field in source.fields]
        return partial(self._guarded, partial(self._on_joints, read, names))

    def _on_joints(self, read: Any, names: list[str], message: Any) -> None:
        positions = dict(zip(names, read(message), strict=True))
        time_ns = self._time_ns(message)
        self.intention.take_joints(positions, time_ns)
        self.frames.take_joints({**self.intention.joints}, time_ns)

    def _on_odometry(self, read: Any, message: Any) -> None:
        pose, time_ns = read(message), self._time_ns(message)
        frame = message.header.frame_id or 'odom'
        self.intention.take_pose(frame, pose, time_ns)
        self.frames.take_odometry(frame, message.child_frame_id, pose, time_ns)

    def _on_chunk(self, message: ActionChunk) -> None:
        now_ns = self._now_ns()
        self._guarded(lambda m: self.intention.take_chunk(chunk_from(m), now_ns), message)

    def _on_refused(self, message: ActionChunk) -> None:
        now_ns = self._now_ns()
        self._guarded(
            lambda m: self.intention.take_refused(chunk_from(m), m.refused, now_ns), message
        )

    def _on_status(self, message: PolicyStatus) -> None:
        """Take a status by its own stamp: a latched one may be old."""
        self.intention.take_status(message, self._time_ns(message))

    def _guarded(self, take: Any, message: Any) -> None:
        try:
            take(message)
        except QwenVlaError as error:
            self._node.get_logger().warning(str(error), throttle_duration_sec=5.0)

    def _time_ns(self, message: Any) -> int:
        stamp = message.header.stamp
        return stamp.sec * 1_000_000_000 + stamp.nanosec or self._now_ns()

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds


def main(args: list[str] | None = None) -> None:
    """Run until interrupted."""
    sys.exit(run(VizNode, args, gently=True, settings=VizSettings))


if __name__ == '__main__':
    main()
