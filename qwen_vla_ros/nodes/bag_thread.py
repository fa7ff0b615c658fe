"""
One bag and the thread that writes it: serialised bytes as they came (MCAP, zstd chunks).

What arrives while too much waits is dropped and counted. A kill loses what waits and the chunk
that is being filled, about 1 MB: the file keeps every chunk that was complete.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from qwen_vla_ros.nodes.inputs import type_name

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.rosbag2 import Writer

WAITING_BYTES = 256 * 2**20  # more than this waiting for the disk: drop
Watch = Callable[[str, int, Any], None]  # topic, time in ns, message


class BagThread:
    """put() never blocks; watched topics are decoded and shown to watch, in this thread."""

    def __init__(
        self,
        folder: Path,
        max_gb: float,
        embodiment: Embodiment,
        watch: Watch | None = None,
        watched: tuple[str, ...] = (),
    ) -> None:
        """Create the bag; QwenVlaError when the folder exists or rosbags is absent."""
        self._writer, self._store = _open_bag(folder, embodiment)
        self._folder, self._max_bytes = folder, max_gb * 2**30
        self._watch, self._watched = watch, frozenset(watched)
        self._connections: dict[str, Connection] = {}
        self._kinds: dict[str, str] = {}
        self._queue: SimpleQueue[tuple[str, int, bytes]] = SimpleQueue()
        self._waiting, self._written, self.dropped = 0, 0, 0
        self.counts: dict[str, int] = {}
        self.unreadable: dict[str, int] = {}
        self.full, self._lock = False, threading.Lock()
        self.failure = ''
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name='bag', daemon=True)
        self._thread.start()

    def add_topic(self, topic: str, kind: str) -> None:
        """Announce a topic; before its first put()."""
        with self._lock:
            self._kinds[topic], self.counts[topic] = kind, 0
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
        try:
            self._writer.close()
            with next(self._folder.glob('*.mcap')).open('rb') as file:
                os.fsync(file.fileno())
        except OSError as error:
            self.failure = f'recorder: cannot write to {self._folder}: {error}'
            return self.failure
        count = sum(self.counts.values())
        line = f'{count} messages, {self._written / 2**20:.0f} MB of data in {self._folder}'
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
            self.counts[topic] += 1
            self._written += len(data)
            self.full = self._file_bytes() > self._max_bytes
            if self._watch is not None and topic in self._watched:
                self._show(self._watch, topic, time_ns, data)

    def _show(self, watch: Watch, topic: str, time_ns: int, data: bytes) -> None:
        try:
            message = self._store.deserialize_cdr(data, self._kinds[topic])
        except Exception:  # whatever CDR raises; the bytes are in the bag as they came
            self.unreadable[topic] = self.unreadable.get(topic, 0) + 1
            return
        watch(topic, time_ns, message)

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
