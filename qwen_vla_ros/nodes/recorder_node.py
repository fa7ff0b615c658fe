"""
Everything that a policy sees and does, into one rosbag2 folder (MCAP, zstd chunks).

Subscribes raw and writes the serialised bytes as they came, in a thread of its own; a message
that arrives while too much waits is dropped and counted. The contract is in the bag as the topic
/qwen_vla/contract and in metadata.yaml. SIGINT and SIGTERM close the bag properly; after a crash
the MCAP file still holds every chunk that was complete (no metadata.yaml then).
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String

from qwen_vla_ros.command import NOTHING, output_of
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from qwen_vla_ros.nodes.inputs import input_topics, type_name
from qwen_vla_ros.nodes.parameters import declare, parameter
from qwen_vla_ros.nodes.qos import LATCHED, RECORDED, STREAM
from qwen_vla_ros.nodes.running import run
from qwen_vla_ros.output_kinds import OutputUnavailable

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.rosbag2 import Writer

CONTRACT_TOPIC = '/qwen_vla/contract'
WAITING_BYTES = 256 * 2**20  # more than this waiting for the disk: drop


@dataclass(frozen=True)
class RecorderSettings:
    """Parameters of the recorder."""

    robot: str = parameter('widowx', 'name or path of the contract')
    output: str = parameter('', 'folder of the bag; must not exist yet')
    max_gb: float = parameter(20.0, 'stop to record at this size of the bag', 0.001, 10000.0)
    policy_node: str = parameter('policy', 'name of the policy node')


class RecorderNode(Node):
    """Raw subscriptions in front of a BagThread."""

    def __init__(self, **options: Any) -> None:
        """Open the bag and subscribe to everything."""
        super().__init__('recorder', **options)
        settings = declare(self, RecorderSettings)
        if not settings.output:
            raise QwenVlaError('recorder: say where to, with -p output:=<folder>')
        embodiment = Embodiment.load(settings.robot)
        self._bag = BagThread(Path(settings.output), settings.max_gb, embodiment)
        for kind, topic, qos in _topics(
            embodiment, settings.policy_node, self.get_logger().warning
        ):
            self._record(kind, self.resolve_topic_name(topic), qos)
        self._bag.put(CONTRACT_TOPIC, self._now_ns(), self._contract(embodiment))
        self.create_timer(1.0, self._report)
        self._told = 0
        self.get_logger().info(f'recording to {settings.output}')

    def close(self) -> None:
        """Write what waits and close the bag."""
        if hasattr(self, '_bag'):
            print(f'recorder: {self._bag.close()}', flush=True)

    def _record(self, kind: type, topic: str, qos: Any) -> None:
        self._bag.add_topic(topic, type_name(kind))
        self.create_subscription(
            kind, topic, lambda data: self._bag.put(topic, self._now_ns(), data), qos, raw=True
        )

    def _contract(self, embodiment: Embodiment) -> bytes:
        self._bag.add_topic(CONTRACT_TOPIC, 'std_msgs/msg/String')
        return serialize_message(String(data=embodiment.text))

    def _report(self) -> None:
        """Say once a second what went wrong since."""
        if self._bag.failure:
            raise QwenVlaError(self._bag.failure)
        if self._bag.dropped > self._told:
            cause = 'the bag has reached max_gb' if self._bag.full else 'the disk is slow'
            self.get_logger().warning(f'{self._bag.dropped} messages dropped: {cause}')
            self._told = self._bag.dropped

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds


class BagThread:
    """The bag and the thread that writes it; put() never blocks."""

    def __init__(self, folder: Path, max_gb: float, embodiment: Embodiment) -> None:
        """Create the bag; QwenVlaError when the folder exists or rosbags is absent."""
        self._writer, self._store = _open_bag(folder, embodiment)
        self._folder, self._max_bytes = folder, max_gb * 2**30
        self._connections: dict[str, Connection] = {}
        self._queue: SimpleQueue[tuple[str, int, bytes]] = SimpleQueue()
        self._waiting, self._written, self._count, self.dropped = 0, 0, 0, 0
        self.full, self._lock = False, threading.Lock()
        self.failure = ''
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name='bag', daemon=True)
        self._thread.start()

    def add_topic(self, topic: str, kind: str) -> None:
        """Announce a topic; before its first put()."""
        with self._lock:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._store
            )

    def put(self, topic: str, time_ns: int, data: bytes) -> None:
        """Queue a serialised message."""
        if self._waiting > WAITING_BYTES or self.full or self.failure:
            self.dropped += 1
            return
        with self._lock:
            self._waiting += len(data)
        self._queue.put((topic, time_ns, bytes(data)))

    def close(self) -> str:
        """Write what waits, close the bag, and return one line about it."""
        self._end.set()
        self._thread.join()
        if self.failure:
            return self.failure
        self._writer.close()
        line = f'{self._count} messages, {self._written / 2**20:.0f} MB of data in {self._folder}'
        return line + (f', {self.dropped} dropped' if self.dropped else '')

    def _run(self) -> None:
        while not (self._end.is_set() and self._queue.empty()):
            try:
                topic, time_ns, data = self._queue.get(timeout=0.1)
            except Empty:
                continue
            try:
                with self._lock:
                    self._waiting -= len(data)
                    self._writer.write(self._connections[topic], time_ns, data)
            except OSError as error:
                self.failure = f'recorder: cannot write to {self._folder}: {error}'
                return
            self._count += 1
            self._written += len(data)
            self.full = self._file_bytes() > self._max_bytes

    def _file_bytes(self) -> int:
        return self._writer.storage.bio.tell()


def _open_bag(folder: Path, embodiment: Embodiment) -> tuple['Writer', Any]:
    """Return an opened rosbag2 writer and the store of all message types, ours included."""
    try:
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
    except ModuleNotFoundError as error:
        raise QwenVlaError(f'recorder: {error}; pip install rosbags') from error
    if folder.exists():
        raise QwenVlaError(f'recorder: {folder} exists already; choose a new folder')
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    writer.set_custom_data('qwen_vla_contract', embodiment.text)
    writer.set_custom_data('qwen_vla_contract_sha256', embodiment.fingerprint())
    try:
        writer.open()
    except OSError as error:
        raise QwenVlaError(f'recorder: cannot create {folder}: {error.strerror}') from error
    return writer, bag_typestore()


def bag_typestore() -> Any:
    """Return rosbags' types of ROS 2 and our own, for writing and for reading our bags."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for kind in (ActionChunk, PolicyStatus):
        name = type_name(kind)
        definition = _message_file(kind.__name__).read_text(encoding='utf-8')
        store.register(get_types_from_msg(definition, name))
    return store


def _message_file(name: str) -> Path:
    """Return the .msg file of the source tree or of the installation."""
    import qwen_vla_ros.msg as messages

    own = Path('msg', f'{name}.msg')
    installed = [
        parent / 'share' / 'qwen_vla_ros' / own for parent in Path(messages.__file__).parents
    ]
    for path in (Path(__file__).parents[2] / own, *installed):
        if path.is_file():
            return path
    raise QwenVlaError(f'recorder: no {own}; install the package again')


def _topics(
    embodiment: Embodiment, policy: str, warn: Callable[[str], Any]
) -> list[tuple[type, str, Any]]:
    """Return type, topic and QoS of all that belongs into the bag; warn of absent types."""
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
    for kind, topic in sorted(outputs):
        output = output_of(kind)
        if output.is_action:  # it has no topic of its own; the joints tell what it did
            continue
        try:
            found.append((output.message_class(), topic, STREAM))
        except OutputUnavailable as error:
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
