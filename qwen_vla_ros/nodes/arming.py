"""
What people say to the policy node beside the instruction: stages, stops, parking.

  ~/set_stage     SetStage     one step up with a reason, any step down
  ~/reset_safety  Trigger      release a latched gate; refused while its cause persists
  ~/estop         SetBool      press (true) or release (false) an emergency stop
  estop           Bool         the same by topic, latched; each topic or service releases its own
  ~/park          Trigger      come to rest, go to the park posture along a checked way, stay
  dead_man        Bool         held down: heard often enough (parameter dead_man)

In the shadow the command topics are listened to: what others command there is the reference.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.motion import Motion
from qwen_vla_ros.nodes.pilot import Pilot
from qwen_vla_ros.nodes.qos import COMMAND, LATCHED, STREAM
from qwen_vla_ros.srv import SetStage
from qwen_vla_ros.stages import SHADOW

TOPIC, SERVICE = 'topic estop', 'service ~/estop'


class ArmingServices:
    """Services and topics around one pilot; `send` takes the motions that they cause."""

    def __init__(
        self, node: Node, pilot: Pilot, send: Callable[[Motion | None], None], dead_man: bool
    ) -> None:
        """Offer the services and listen; dead_man: a dead-man switch is wanted."""
        self._node, self._pilot, self._send = node, pilot, send
        self._services = [
            node.create_service(kind, name, callback)
            for kind, name, callback in (
                (SetStage, '~/set_stage', self._set_stage),
                (Trigger, '~/reset_safety', self._reset),
                (SetBool, '~/estop', self._stop_by_service),
                (Trigger, '~/park', self._park),
            )
        ]
        topics = [(Bool, 'estop', self._stop_by_topic, LATCHED)]
        if dead_man:
            topics.append((Bool, 'dead_man', self._dead_man, STREAM))
        for group in pilot.groups:
            if group.output.type == 'JointTrajectory':
                heard = partial(self._overheard, group.name)
                topics.append((JointTrajectory, group.output.topic, heard, COMMAND))
        self._subscriptions = [node.create_subscription(*topic) for topic in topics]
        self._commanded: dict[str, dict[str, float]] = {}

    def close(self) -> None:
        """Destroy what was created."""
        for service in self._services:
            self._node.destroy_service(service)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _set_stage(self, request: Any, response: Any) -> Any:
        try:
            change, motion = self._pilot.request_stage(
                request.stage, request.reason, request.force
            )
        except QwenVlaError as error:
            response.success, response.message = False, str(error)
        else:
            self._send(motion)
            response.success, response.message = change.granted, str(change)
        response.stage = self._pilot.stages.stage
        self._log(response, f'stage {response.message}')
        return response

    def _reset(self, request: Any, response: Any) -> Any:
        response.success, response.message = self._pilot.reset_safety()
        return self._log(response, f'safety: {response.message}')

    def _park(self, request: Any, response: Any) -> Any:
        response.success, response.message, motion = self._pilot.park()
        self._send(motion)
        return self._log(response, response.message)

    def _stop_by_service(self, request: Any, response: Any) -> Any:
        self._send(self._pilot.emergency(SERVICE, request.data))
        response.success = True
        pressed = self._pilot.interlocks.estop
        if pressed and not request.data:
            response.success = False
            pressed = f'released here, but {pressed}: release it there'
        response.message = pressed or 'released; call ~/reset_safety to go on'
        return self._log(response, response.message)

    def _stop_by_topic(self, message: Bool) -> None:
        self._send(self._pilot.emergency(TOPIC, message.data))

    def _dead_man(self, message: Bool) -> None:
        now_ns = self._node.get_clock().now().nanoseconds
        self._pilot.interlocks.refresh(message.data, now_ns)

    def _overheard(self, group: str, message: JointTrajectory) -> None:
        """Take what another driver commands, while we command nothing ourselves."""
        if self._pilot.stages.stage != SHADOW or not message.points:
            return
        positions = message.points[-1].positions
        if len(positions) != len(message.joint_names) or not np.isfinite(positions).all():
            return
        self._commanded[group] = dict(zip(message.joint_names, positions, strict=True))
        told = {name: value for part in self._commanded.values() for name, value in part.items()}
        self._pilot.saw('commands', tuple(told), np.array(list(told.values())))

    def _log(self, response: Any, text: str) -> Any:
        log = self._node.get_logger()
        if response.success:
            log.info(text)
        else:
            log.warning(text)
        return response
