"""
The home check on a live robot: read the joints, and, only when told to, nudge each one.

A nudge goes through the contract's own outputs, so the driver, its units and its order are those
that a policy will meet. It is refused while somebody else commands the same topic.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState

from qwen_vla_ros.checks.home import Finding, judge_nudge
from qwen_vla_ros.command import output_of
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.motion import STOP, Motion
from qwen_vla_ros.nodes.outputs import Outputs
from qwen_vla_ros.nodes.qos import SENSOR
from qwen_vla_ros.output_kinds import JOINTS

READ_S, WAIT_S, SETTLE_S = 0.5, 5.0, 0.7
DISCOVERY_S = 4.5  # DDS may need 3 s to learn of a publisher: so long others are looked for
NUDGE_S, POINT_S = 1.5, 0.05


@dataclass(frozen=True)
class Nudges:
    """How far joints are nudged: rad and m."""

    rad: float = 0.05
    metres: float = 0.004


class ArmCheck:
    """A node for the time of a check; use as a context."""

    def __init__(self, embodiment: Embodiment) -> None:
        """Listen to the contract's joint states."""
        self._embodiment = embodiment
        self._names = tuple(field.name for field in embodiment.state.fields)
        self._units = {field.name: field.unit for field in embodiment.state.fields}
        self._heard: list[dict[str, float]] = []
        self._lock, self._begun = threading.Lock(), time.monotonic()
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node('arm_check', context=self._context)
        topic = embodiment.state.topic
        self._node.create_subscription(JointState, topic, self._hear, SENSOR)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> 'ArmCheck':
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the node."""
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        self._context.try_shutdown()

    def measure(self) -> dict[str, float]:
        """Return the median of the joints over half a second; QwenVlaError when none come."""
        with self._lock:
            self._heard.clear()
        deadline = time.monotonic() + WAIT_S
        while not self._heard:
            if time.monotonic() > deadline:
                topic = self._embodiment.state.topic
                raise QwenVlaError(
                    f'no joint states on {topic} within {WAIT_S:g} s; start the driver'
                )
            time.sleep(0.02)
        time.sleep(READ_S)
        with self._lock:
            heard = list(self._heard)
        names = [name for name in self._names if all(name in one for one in heard)]
        return {name: float(np.median([one[name] for one in heard])) for name in names}

    def nudge_all(self, nudges: Nudges | None = None) -> list[Finding]:
        """Move every joint of the default layout a little and back; return what was seen."""
        nudges = nudges or Nudges()
        groups = tuple(
            group
            for group in self._embodiment.layouts[self._embodiment.default_layout]
            if output_of(group.output.type).rows == JOINTS
        )
        names = tuple(name for group in groups for name in group.names)
        outputs = Outputs(self._node, groups, names)
        try:
            self._refuse_company([group.output.topic for group in groups])
            return [self._nudge(outputs, names, name, nudges) for name in names]
        finally:
            outputs.close()

    def _nudge(
        self, outputs: Outputs, names: tuple[str, ...], name: str, nudges: Nudges
    ) -> Finding:
        before = self.measure()
        start = np.array([before[joint] for joint in names])
        size = nudges.metres if self._units[name] == 'm' else nudges.rad
        limit = self._embodiment.limits[name]
        asked = size if start[names.index(name)] + size < limit.upper else -size
        there = start.copy()
        there[names.index(name)] += asked
        self._move(outputs, start, there)
        after = self.measure()
        self._move(outputs, there, start)
        return judge_nudge(name, asked, before, {joint: after[joint] for joint in names})

    def _move(self, outputs: Outputs, start: np.ndarray, end: np.ndarray) -> None:
        """Go from one posture to another, at rest at both ends, and wait."""
        times = np.arange(POINT_S, NUDGE_S + 1e-9, POINT_S)
        s = (times / NUDGE_S)[:, None]
        way = (end - start) * (s * s * (3.0 - 2.0 * s))
        speed = (end - start) * (6.0 * s * (1.0 - s)) / NUDGE_S
        now_ns = self._node.get_clock().now().nanoseconds
        outputs.send(Motion(times, start + way, speed, now_ns, STOP))
        time.sleep(NUDGE_S + SETTLE_S)

    def _refuse_company(self, topics: list[str]) -> None:
        time.sleep(max(0.0, self._begun + DISCOVERY_S - time.monotonic()))
        for topic in topics:
            told = self._node.get_publishers_info_by_topic(topic)
            others = sorted({info.node_name for info in told} - {self._node.get_name()})
            if others:
                raise QwenVlaError(
                    f'{topic}: {", ".join(others)} publishes there; stop policy and teleoperation'
                )

    def _hear(self, message: JointState) -> None:
        told: Mapping[str, float] = dict(zip(message.name, message.position, strict=False))
        with self._lock:
            self._heard.append({name: float(value) for name, value in told.items()})
