"""
A small node that listens to what a contract asks for, for `qwen-vla doctor --live`.

It publishes nothing and moves nothing.
"""

import os
import time
from functools import partial
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo

from qwen_vla_ros.compatibility.finding import Finding
from qwen_vla_ros.compatibility.listening import Listening, Live
from qwen_vla_ros.compatibility.registry import live_findings
from qwen_vla_ros.compatibility.training import Pairing
from qwen_vla_ros.nodes.inputs import input_topics
from qwen_vla_ros.nodes.qos import SENSOR, STATIC, STREAM
from qwen_vla_ros.nodes.qos_check import GraphCheck, Wanted
from qwen_vla_ros.nodes.ros_environment import PROFILE_VARIABLES, ros_environment

MATCH_S = 5.0  # discovery takes so long at most


class LiveListener:
    """Subscriptions of a node to everything that the live checks look at."""

    def __init__(self, node: Node, pair: Pairing) -> None:
        """Listen to cameras, states, camera_info, and tf where tf2_msgs is installed."""
        self._node, self._pair = node, pair
        self._listening = Listening(pair.embodiment)
        inputs = input_topics(pair.embodiment)
        self._graph = GraphCheck(node, [Wanted(*item, SENSOR) for item in inputs])
        self._infos: dict[str, tuple[int, int, str]] = {}
        self._frames: set[str] | None = None
        for source, kind, topic in inputs:
            self._subscribe(kind, topic, partial(self._hear, source), SENSOR)
        for camera in pair.embodiment.cameras:
            heard = partial(self._hear_info, camera.view)
            self._subscribe(CameraInfo, camera.info_topic, heard, SENSOR)
        self._listen_to_tf()

    def complete(self) -> bool:
        """Tell whether every source has been heard."""
        return all(stream.messages for stream in self._listening.streams(self._now()).values())

    def findings(self) -> list[Finding]:
        """Return the findings of all live checks."""
        frames = frozenset(self._frames) if self._frames is not None else None
        streams = self._listening.streams(self._now())
        live = Live(self._pair, streams, self._graph.problems(), self._infos, frames)
        return live_findings(live)

    def _subscribe(self, kind: type, topic: str, callback: Any, qos: QoSProfile) -> None:
        self._node.create_subscription(kind, topic, callback, qos)

    def _hear(self, source: str, message: Any) -> None:
        self._listening.hear(source, message, self._now())

    def _hear_info(self, view: str, message: CameraInfo) -> None:
        self._infos[view] = (message.width, message.height, message.header.frame_id)

    def _listen_to_tf(self) -> None:
        """Collect the frames of tf; without tf2_msgs the check of frames leaves tf out."""
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:
            return
        self._frames = set()
        self._subscribe(TFMessage, '/tf', self._hear_tf, STREAM)
        self._subscribe(TFMessage, '/tf_static', self._hear_tf, STATIC)

    def _hear_tf(self, message: Any) -> None:
        for transform in message.transforms:
            self._frames |= {transform.header.frame_id, transform.child_frame_id}

    def _now(self) -> int:
        return self._node.get_clock().now().nanoseconds


def listen_for(pair: Pairing, seconds: float) -> list[Finding]:
    """
    Listen for some seconds of this machine's clock and return the findings.

    Counted from when every source was heard, or from MATCH_S after the start.
    """
    environment = ros_environment()
    os.environ.update({n: environment[n] for n in PROFILE_VARIABLES if n in environment})
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    node = rclpy.create_node('qwen_vla_doctor', context=context)
    executor.add_node(node)
    try:
        listener = LiveListener(node, pair)
        begin = time.monotonic()
        while time.monotonic() < begin + MATCH_S and not listener.complete():
            executor.spin_once(timeout_sec=0.1)
        begin = time.monotonic()
        while time.monotonic() < begin + seconds:
            executor.spin_once(timeout_sec=0.1)
        return listener.findings()
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
