"""
Everything that a policy sees and does, raw, into MCAP: one bag, or a bag an episode.

Without `episodes`, the bag `output` lasts from start to end of the node. With it, episodes begin
and end by the services ~/start, ~/stop, ~/discard (std_srvs/Trigger) and ~/label (SetBool: true is
success; it ends a running episode), in folders below `output`; the instruction of an episode is
the parameter `instruction`, or else what the policy was told (policy/instruction, or its status).
The contract is in each bag as the topic /qwen_vla/contract and in metadata.yaml. SIGINT and
SIGTERM close it properly.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from qwen_vla_ros.command import NOTHING, output_of
from qwen_vla_ros.data.bag_files import CONTRACT
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from qwen_vla_ros.nodes.bag_thread import BagThread
from qwen_vla_ros.nodes.episode_recording import EpisodeRecording, Limits
from qwen_vla_ros.nodes.inputs import input_topics, type_name
from qwen_vla_ros.nodes.parameters import declare, parameter
from qwen_vla_ros.nodes.qos import LATCHED, RECORDED, STREAM
from qwen_vla_ros.nodes.running import run
from qwen_vla_ros.output_kinds import OutputUnavailable


@dataclass(frozen=True)
class RecorderSettings:
    """Parameters of the recorder."""

    robot: str = parameter('widowx', 'name or path of the contract')
    output: str = parameter('', 'folder of the bag, must not exist yet; of episodes, may exist')
    episodes: bool = parameter(False, 'a bag an episode, by services, instead of one bag')
    instruction: str = parameter('', 'sentence of the next episodes', changeable=True)
    max_gb: float = parameter(20.0, 'stop to record at this size of a bag', 0.001, 10000.0)
    warn_free_gb: float = parameter(10.0, 'warn when the disk has less free', 0.0, 100000.0)
    stop_free_gb: float = parameter(2.0, 'end the episode when it has less', 0.0, 100000.0)
    policy_node: str = parameter('policy', 'name of the policy node')


class RecorderNode(Node):
    """Raw subscriptions in front of one bag, or of episodes."""

    def __init__(self, **options: Any) -> None:
        """Open the bag, or offer the services, and subscribe to everything."""
        super().__init__('recorder', **options)
        self.settings = declare(self, RecorderSettings)
        if not self.settings.output:
            raise QwenVlaError('recorder: say where to, with -p output:=<folder>')
        self._robot = Embodiment.load(self.settings.robot)
        warn = self.get_logger().warning
        self._topics = [
            (kind, self.resolve_topic_name(topic), qos)
            for kind, topic, qos in _topics(self._robot, self.settings.policy_node, warn)
        ]
        self._said, self._status = (
            self.resolve_topic_name(f'{self.settings.policy_node}/{name}')
            for name in ('instruction', 'status')
        )
        self.heard = ''
        self.silent = {self.resolve_topic_name(i.topic) for i in input_topics(self._robot)}
        self._bag: BagThread | None = None
        self.recording: EpisodeRecording | None = None
        self._told = 0
        contract = serialize_message(String(data=self._robot.text))
        if self.settings.episodes:
            self._offer_episodes(contract)
        else:
            self._open_one_bag(contract)
        for kind, topic, qos in self._topics:
            self._subscribe(kind, topic, qos)
        self.create_timer(1.0, self._report)
        self.get_logger().info(f'recording to {self.settings.output}')

    def close(self) -> None:
        """Write what waits and close the bag."""
        if self._bag is not None:
            print(f'recorder: {self._bag.close()}', flush=True)
        if self.recording is not None and self.recording.running:
            self._say(self.recording.stop(self._now_ns(), 'the end of the recorder'))

    def begin(self) -> str:
        """Start an episode with the instruction of now; QwenVlaError."""
        sentence = self.get_parameter('instruction').value or self.heard
        said = serialize_message(String(data=sentence))
        return self._episodes().start(self._now_ns(), sentence, said)

    def end(self, ended_by: str) -> list[str]:
        """Stop the episode, kept; QwenVlaError."""
        return self._episodes().stop(self._now_ns(), ended_by)

    def discard(self) -> str:
        """Discard the running episode or the last one; QwenVlaError."""
        return self._episodes().discard(self._now_ns())

    def label(self, success: bool) -> list[str]:
        """Label the running episode, which ends it, or the last one; QwenVlaError."""
        return self._episodes().label(success, self._now_ns())

    def _episodes(self) -> EpisodeRecording:
        assert self.recording is not None, 'asked for only with the parameter episodes'
        return self.recording

    def _open_one_bag(self, contract: bytes) -> None:
        self._bag = BagThread(Path(self.settings.output), self.settings.max_gb, self._robot)
        for kind, topic, _ in self._topics:
            self._bag.add_topic(topic, type_name(kind))
        self._bag.add_topic(CONTRACT, 'std_msgs/msg/String')
        self._bag.put(CONTRACT, self._now_ns(), contract)

    def _offer_episodes(self, contract: bytes) -> None:
        settings = self.settings
        self.recording = EpisodeRecording(
            Path(settings.output),
            self._robot,
            {topic: type_name(kind) for kind, topic, _ in self._topics},
            {i.source: self.resolve_topic_name(i.topic) for i in input_topics(self._robot)},
            Limits(settings.max_gb, settings.warn_free_gb, settings.stop_free_gb),
            contract,
        )
        for folder in self.recording.cut_off():
            self.get_logger().warning(
                f"{folder} was cut off; mend it by 'qwen-vla record --mend {folder}'"
            )
        for name, act in (
            ('start', self.begin),
            ('stop', lambda: self.end('service')),
            ('discard', self.discard),
        ):
            self.create_service(Trigger, f'~/{name}', self._answering(act))
        self.create_service(SetBool, '~/label', self._answer_label)

    def _answering(self, act: Callable[[], str | list[str]]) -> Callable[[Any, Any], Any]:
        """Return the callback of a Trigger."""

        def answer(_: Any, response: Any) -> Any:
            return self._answer(act, response)

        return answer

    def _answer_label(self, request: Any, response: Any) -> Any:
        return self._answer(lambda: self.label(request.data), response)

    def _answer(self, act: Callable[[], str | list[str]], response: Any) -> Any:
        try:
            told = act()
        except QwenVlaError as error:
            response.success, response.message = False, str(error)
            return response
        lines = [told] if isinstance(told, str) else told
        self._say(lines)
        response.success, response.message = True, '\n'.join(lines)
        return response

    def _subscribe(self, kind: type, topic: str, qos: Any) -> None:
        def take(data: bytes) -> None:
            if self._bag is not None:
                self._bag.put(topic, self._now_ns(), data)
                return
            self.silent.discard(topic)
            self._episodes().put(topic, self._now_ns(), data, qos is LATCHED)
            if topic == self._said:
                self._hear(deserialize_message(data, String).data)
            elif topic == self._status:
                self._hear(deserialize_message(data, PolicyStatus).instruction)

        self.create_subscription(kind, topic, take, qos, raw=True)

    def _hear(self, sentence: str) -> None:
        """Take what the policy was told: heard itself, or by what the policy says of it."""
        self.heard = sentence
        if sentence:
            self._episodes().heard(sentence)

    def _report(self) -> None:
        """Say once a second what went wrong since."""
        warn = self.get_logger().warning
        if self.recording is not None:
            self._say(self.recording.watch(self._now_ns(), warn))
            return
        assert self._bag is not None
        if self._bag.failure:
            raise QwenVlaError(self._bag.failure)
        if self._bag.dropped > self._told:
            cause = 'the bag has reached max_gb' if self._bag.full else 'the disk is slow'
            warn(f'{self._bag.dropped} messages dropped: {cause}')
            self._told = self._bag.dropped

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            print(f'recorder: {line}', flush=True)

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds


def _topics(
    embodiment: Embodiment, policy: str, warn: Callable[[str], Any]
) -> list[tuple[type, str, Any]]:
    """
    Return type, topic and QoS of all that belongs into the bag; warn of absent types.

    A topic has one type for a DDS participant: where layouts differ, that of the default layout.
    """
    found: list[tuple[type, str, Any]] = [
        (kind, topic, RECORDED) for _, kind, topic in input_topics(embodiment)
    ]
    found += [(CameraInfo, camera.info_topic, RECORDED) for camera in embodiment.cameras]
    outputs = {
        (group.output.type, group.output.topic)
        for groups in embodiment.layouts.values()
        for group in groups
        if group.output.type != NOTHING
    }
    default = {(g.output.type, g.output.topic) for g in embodiment.action_groups()}
    used = {topic for _, topic in default}  # others are choices
    types: dict[str, str] = {}
    for kind, topic in sorted(outputs, key=lambda item: (item not in default, item)):
        output = output_of(kind)
        if types.setdefault(topic, output.interface) != output.interface:
            warn(f'{topic} is recorded as {types[topic]}, not as {output.interface}')
            continue
        if output.is_action:  # it has no topic of its own; the joints tell what it did
            continue
        try:
            found.append((output.message_class(), topic, STREAM))
        except OutputUnavailable as error:
            if topic in used:
                warn(f'{topic} is not recorded: {error}')
    return [
        *found,
        (String, f'{policy}/instruction', LATCHED),
        (PolicyStatus, f'{policy}/status', LATCHED),
        (ActionChunk, f'{policy}/chunk', STREAM),
        (ActionChunk, f'{policy}/refused', STREAM),
        (DiagnosticArray, '/diagnostics', STREAM),
    ]


def main(args: list[str] | None = None) -> None:
    """Run until interrupted."""
    sys.exit(run(RecorderNode, args, settings=RecorderSettings))


if __name__ == '__main__':
    main()
