"""
A rosbag2 folder or file, opened: topics, times, messages, whatever it is stored in.

MCAP goes through mcap.py: nothing is read before it is asked for, several files of one recording
(a split bag) are one. SQLite, and bags that ros2 compressed as files or by message, go through
rosbags. A folder without metadata.yaml is read by its files; what was cut off is told by `lost`.
"""

import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from qwen_vla_ros.data.mcap import Channel, McapFile
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError

CONTRACT = '/qwen_vla/contract'
METADATA = 'metadata.yaml'
MEND = "mend it by 'qwen-vla record --mend {}'"


class Connection(NamedTuple):
    """One topic of a bag with one type."""

    topic: str
    msgtype: str
    msgcount: int


class McapBag:
    """The MCAP files of one recording as one; a context manager with the face of rosbags."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        """Remember which files; they are opened by `with`."""
        self._path, self._paths = path, files
        self._files: list[McapFile] = []
        self.connections: list[Connection] = []
        self.lost = ''

    def __enter__(self) -> 'McapBag':
        """Open the files and read what lies in them; QwenVlaError."""
        self._files = [McapFile(path) for path in self._paths]
        counts: dict[tuple[str, str], int] = {}
        for file in self._files:
            for channel in file.channels.values():
                key = channel.topic, channel.msgtype
                counts[key] = counts.get(key, 0) + file.counts.get(channel.id, 0)
        self.connections = [Connection(*key, count) for key, count in counts.items()]
        self.lost = '; '.join(
            f'{file.path.name}: {file.lost}' for file in self._files if file.lost
        )
        spans = [file.span for file in self._files if any(file.counts.values())]
        self.start_time = min((first for first, _ in spans), default=0)
        self.end_time = max((last + 1 for _, last in spans), default=0)
        self.message_count = sum(counts.values())
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the files; each is closed with the last view into it."""
        self._files = []

    def messages(
        self,
        connections: Sequence[Connection] = (),
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[tuple[Connection, int, memoryview]]:
        """Yield connection, time in ns and bytes, in time order, of all files together."""
        found = [self._of_file(file, connections, start, stop) for file in self._files]
        return found[0] if len(found) == 1 else merge(*found, key=itemgetter(1))

    def deserialize(self, data: memoryview, msgtype: str) -> Any:
        """Return the message of serialised bytes."""
        return self.types().deserialize_cdr(data, msgtype)

    @property
    def chunks_loaded(self) -> int:
        """Return how many chunks were read so far."""
        return sum(file.loaded for file in self._files)

    def _of_file(
        self, file: McapFile, wanted: Sequence[Connection], start: int | None, stop: int | None
    ) -> Iterator[tuple[Connection, int, memoryview]]:
        by_key = {(c.topic, c.msgtype): c for c in wanted or self.connections}
        channels = {
            channel.id: by_key[channel.topic, channel.msgtype]
            for channel in file.channels.values()
            if (channel.topic, channel.msgtype) in by_key
        }
        for time_ns, channel, data in file.messages(channels, start, stop):
            yield channels[channel], time_ns, data

    def types(self) -> Any:
        """Return the message types that the files define, as a typestore of rosbags."""
        channels = {c.msgtype: c for file in self._files for c in file.channels.values()}
        return _typestore(tuple(_definition(c) for c in channels.values()))


def _definition(channel: Channel) -> tuple[str, str, str]:
    return channel.msgtype, channel.encoding, channel.definition


@lru_cache(16)
def _typestore(definitions: tuple[tuple[str, str, str], ...]) -> Any:
    """Return rosbags' types of what files define; those of ROS 2 Jazzy where they define none."""
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    found: dict[Any, Any] = {}
    for name, encoding, text in definitions:
        if encoding == 'ros2msg':
            found.update(get_types_from_msg(text, name))
        elif encoding == 'ros2idl':
            line = '=' * 80 + '\n'
            parts = [part.split('\n', 1)[1] for part in text.split(line)[1:]] or [text]
            for part in parts:
                found.update(get_types_from_idl(part))
    if not found:
        return get_typestore(Stores.ROS2_JAZZY)
    store = get_typestore(Stores.EMPTY)
    store.register(found)
    return store


def open_bag(path: Path) -> Any:
    """
    Return a reader (a context manager); QwenVlaError says what cannot be read.

    It has connections (topic, msgtype, msgcount), start_time and end_time in ns, message_count,
    messages(connections, start, stop), deserialize(data, msgtype) and lost.
    """
    try:
        import rosbags  # noqa: F401 its types decode messages
    except ImportError as error:
        raise QwenVlaError(f"{path}: {error}; pip install 'qwen_vla_ros[data]'") from error
    if not path.exists():
        raise QwenVlaError(f'{path}: there is no such bag')
    files = [path] if path.is_file() else _mcap_files(path)
    if files and all(file.suffix == '.mcap' for file in files):
        return McapBag(path, files)
    kinds = {path.suffix} if path.is_file() else {file.suffix for file in path.iterdir()}
    if not kinds & {'.mcap', '.db3', '.bag', '.zstd', '.yaml'}:
        raise QwenVlaError(f'{path}: no bag in it (a file .mcap or .db3, or a folder of them)')
    return _Opened(path)


def _mcap_files(folder: Path) -> list[Path]:
    """Return the MCAP files of a bag in their order; [] when another way reads them."""
    metadata = folder / METADATA
    if not metadata.exists():
        return sorted(folder.glob('*.mcap'), key=_numbers)
    try:
        told = yaml.load(metadata.read_text(encoding='utf-8'), _LOADER)
        facts = told['rosbag2_bagfile_information']
        names = [Path(name).name for name in facts['relative_file_paths']]
        compressed = str(facts.get('compression_mode') or 'none').lower() != 'none'
        mcap = facts['storage_identifier'] == 'mcap'
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise QwenVlaError(
            f'{metadata}: cannot be read ({type(error).__name__}: '
            f'{" ".join(str(error).split())}); {MEND.format(folder)}, or remove it: the files '
            'tell the rest'
        ) from error
    lost = [name for name in names if not (folder / name).exists()]
    if lost:
        raise QwenVlaError(
            f'{folder}: {", ".join(lost)}: named in {METADATA} and not there; copy it again, or '
            f'{MEND.format(folder)} to do without'
        )
    return [] if compressed or not mcap else [folder / name for name in names]


_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


def _numbers(path: Path) -> tuple[int, str]:
    """Sort split files as they were written: x_2.mcap before x_10.mcap."""
    digits = path.stem.rpartition('_')[2]
    return (int(digits) if digits.isdigit() else 0), path.name


class _Opened:
    """rosbags' AnyReader, whose failures at opening are told in one line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        try:
            store = get_typestore(Stores.ROS2_JAZZY)
            self._reader = AnyReader([self._path], default_typestore=store)
            self._reader.open()
        except Exception as error:  # rosbags lets struct, sqlite3 and yaml errors through
            raise QwenVlaError(
                f'{self._path}: cannot be read ({type(error).__name__}: {error}); copy it again, '
                "or try 'ros2 bag reindex'"
            ) from error
        self._reader.lost = ''
        return self._reader

    def __exit__(self, *error: object) -> None:
        self._reader.close()


def read(
    path: Path,
    reader: Any,
    connections: Sequence[Any],
    start: int | None = None,
    stop: int | None = None,
) -> Iterator[tuple[str, int, Any]]:
    """Yield topic, time in ns and message; QwenVlaError where the file is damaged inside."""
    found = reader.messages(connections, start, stop) if connections else iter(())
    while True:
        try:
            item = next(found, None)
            message = item and reader.deserialize(item[2], item[0].msgtype)
        except QwenVlaError:
            raise
        except Exception as error:  # whatever decompression, sqlite3 or CDR raise
            raise QwenVlaError(
                f'{path}: damaged inside ({type(error).__name__}: {error}); copy it again, or '
                f'{MEND.format(path)}'
            ) from error
        if item is None:
            return
        yield item[0].topic, item[1], message


def contract_of(path: Path, reader: Any) -> Embodiment:
    """Return the contract that the recorder put into an open bag."""
    for connection in reader.connections:
        if connection.topic == CONTRACT:
            found = next(read(path, reader, [connection]), None)
            if found is not None:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / 'contract.yaml'
                    file.write_text(found[2].data, encoding='utf-8')
                    return Embodiment.load(file)
    raise QwenVlaError(f'{path}: no {CONTRACT} in it; say which robot it is')
