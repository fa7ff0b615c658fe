"""
MCAP files by their index: opening reads the summary, messages() only the chunks that hold them.

Chunks may be raw, zstd or lz4, with or without message indices, or absent. A file that was cut
(no footer: the recorder was killed) is scanned record by record when it is opened; all complete
chunks are there, and `lost` says what is not. Messages come in time order, as views into the file
(mapped) or the decompressed chunk, never copied; one thread loads the next chunk meanwhile. Memory
is that of the index and a few chunks, however long the file; it is closed with the last view. https://mcap.dev/spec
"""

import mmap
import os
import struct
import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import merge
from importlib import import_module
from itertools import accumulate, takewhile
from operator import itemgetter
from pathlib import Path
from zlib import crc32

from qwen_vla_ros.errors import QwenVlaError

MAGIC = b'\x89MCAP0\r\n'
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, INDEX = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
CHUNK_INDEX, STATISTICS, DATA_END = 0x08, 0x0B, 0x0F
FOOTER_BYTES = 9 + 20 + 8
HEAD, MESSAGE_HEAD, CHUNK_HEAD = (
    struct.Struct('<BQ'),
    struct.Struct('<HIQQ'),
    struct.Struct('<QQQI'),
)
PAIR = struct.Struct('<QQ')
_ZSTD = 'compression.zstd' if sys.version_info >= (3, 14) else 'backports.zstd'
AHEAD = 2  # chunks that are loaded before they are asked for
Found = tuple[int, int, memoryview]  # time in ns, channel, serialised message
Compressed = bytes | memoryview


class McapError(QwenVlaError):
    """A file that is no MCAP or is damaged; says file, place and remedy."""


@dataclass(frozen=True)
class Channel:
    """One topic of a file; encoding is that of the schema: ros2msg, ros2idl or ''."""

    id: int
    topic: str
    msgtype: str
    encoding: str
    definition: str


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies; index is channel -> place of its message index, None: there is none."""

    start: int
    end: int
    at: int  # of the record
    length: int
    index: dict[int, int] | None
    index_end: int = 0


@dataclass
class McapFile:
    """An open file. channels by number, counts of messages by channel, chunks by start time."""

    path: Path
    channels: dict[int, Channel] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    lost: str = ''
    loaded: int = 0  # chunks whose bytes were read so far

    def __post_init__(self) -> None:
        """Open, read the summary or scan; McapError."""
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._loose: list[tuple[int, int, int, int]] = []  # time, channel, place, size
        try:
            with self.path.open('rb') as file:
                self._size = os.fstat(file.fileno()).st_size
                if self._size == 0:
                    raise McapError(f'{self.path}: the file is empty; nothing was recorded in it')
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise McapError(f'{self.path}: cannot be opened ({error.strerror})') from error
        self._open()
        self.chunks.sort(key=lambda chunk: chunk.start)
        self._starts = [chunk.start for chunk in self.chunks]
        self._latest = list(accumulate((chunk.end for chunk in self.chunks), max))

    @property
    def span(self) -> tuple[int, int]:
        """Return the times of the first and the last message; (0, 0) when there is none."""
        starts = [chunk.start for chunk in self.chunks] + [item[0] for item in self._loose]
        ends = [chunk.end for chunk in self.chunks] + [item[0] for item in self._loose]
        return (min(starts), max(ends)) if starts else (0, 0)

    def messages(
        self, channels: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Found]:
        """Yield the messages of some channels with start <= time < stop, in time order."""
        low, high = start or 0, 2**64 if stop is None else stop
        wanted = frozenset(channels)
        chunks = self._within(wanted, low, high)
        pending: list[Found] = [
            (time, channel, self._view(at, size))
            for time, channel, at, size in self._loose
            if channel in wanted and low <= time < high
        ]
        pending.sort(key=itemgetter(0))
        with ThreadPoolExecutor(1, 'mcap') as pool:
            ahead: list[Future[list[Found]]] = []
            for number, chunk in enumerate(chunks):
                while len(ahead) < AHEAD and number + len(ahead) < len(chunks):
                    ahead.append(
                        pool.submit(self._load, chunks[number + len(ahead)], wanted, low, high)
                    )
                ready = list(takewhile(lambda found, due=chunk.start: found[0] < due, pending))
                yield from ready
                del pending[: len(ready)]
                found = ahead.pop(0).result()
                pending = list(merge(pending, found, key=itemgetter(0))) if pending else found
            yield from pending

    def _within(self, wanted: frozenset[int], low: int, high: int) -> list[Chunk]:
        """Return the chunks that may hold wanted messages, by start time."""
        begin = bisect_left(self._latest, low)  # before it, all chunks end earlier
        end = bisect_left(self._starts, high)
        return [
            chunk
            for chunk in self.chunks[begin:end]
            if chunk.end >= low and (chunk.index is None or not wanted.isdisjoint(chunk.index))
        ]

    def _load(self, chunk: Chunk, wanted: frozenset[int], low: int, high: int) -> list[Found]:
        """Return the wanted messages of a chunk, in time order."""
        self.loaded += 1
        found = []
        try:
            if chunk.index is None:
                records = self._records_inside(chunk)
                places = [at for kind, at, _ in records[1] if kind == MESSAGE]
                body = records[0]
            else:
                body = self._uncompressed(chunk)
                places = [at + HEAD.size for at in self._indexed(chunk, wanted, low, high)]
            for at in places:
                kind, size = HEAD.unpack_from(body, at - HEAD.size)
                channel, _, time, _ = MESSAGE_HEAD.unpack_from(body, at)
                known = kind == MESSAGE and channel in self.channels
                if not known or at + size > len(body) or not chunk.start <= time <= chunk.end:
                    raise McapError(f'{self.path}: damaged inside: a message in the {_at(chunk)}')
                if channel in wanted and low <= time < high:
                    found.append((time, channel, body[at + MESSAGE_HEAD.size : at + size]))
        except struct.error as error:
            raise McapError(f'{self.path}: damaged inside: the {_at(chunk)} ({error})') from error
        found.sort(key=itemgetter(0))
        return found

    def _indexed(self, chunk: Chunk, wanted: frozenset[int], low: int, high: int) -> list[int]:
        """Return the places of the wanted messages in an uncompressed chunk."""
        places = []
        for channel, at in (chunk.index or {}).items():
            if channel in wanted:
                _, body = self._record(at)
                pairs = PAIR.iter_unpack(body[6 : 6 + struct.unpack_from('<I', body, 2)[0]])
                places += [place for time, place in pairs if low <= time < high]
        return places

    def _uncompressed(self, chunk: Chunk) -> memoryview:
        """Return the records of a chunk."""
        page = chunk.at - chunk.at % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, page, chunk.at + chunk.length - page)
        _, body = self._record(chunk.at)
        _, _, size, checksum = CHUNK_HEAD.unpack_from(body)
        name, at = _text(body, CHUNK_HEAD.size)
        at += 8
        try:
            data = _DECOMPRESS[name](body[at:])
        except KeyError:
            raise McapError(f'{self.path}: compression {name!r} is not zstd or lz4') from None
        except Exception as error:  # each library has its own
            raise McapError(f'{self.path}: damaged inside: the {_at(chunk)} ({error})') from error
        if len(data) != size or (checksum and crc32(data) != checksum):
            raise McapError(f'{self.path}: damaged inside: the {_at(chunk)}; copy the file again')
        return memoryview(data)

    def _records_inside(self, chunk: Chunk) -> tuple[memoryview, list[tuple[int, int, int]]]:
        """Return the records of a chunk and (kind, place, size) of each."""
        body, at, found = self._uncompressed(chunk), 0, []
        while at + HEAD.size <= len(body):
            kind, size = HEAD.unpack_from(body, at)
            if not kind or at + HEAD.size + size > len(body):
                raise McapError(f'{self.path}: damaged inside: a record in the {_at(chunk)}')
            found.append((kind, at + HEAD.size, size))
            at += HEAD.size + size
        return body, found

    def _open(self) -> None:
        if self._read(0, 8) != MAGIC:
            raise McapError(f'{self.path}: not an MCAP file (its first bytes are not "MCAP")')
        tail = self._read(max(0, self._size - FOOTER_BYTES), FOOTER_BYTES)
        if len(tail) < FOOTER_BYTES or tail[-8:] != MAGIC or tail[0] != FOOTER:
            self._scan(self._size, cut=True)
            return
        summary = struct.unpack_from('<Q', tail, HEAD.size)[0]
        try:
            told = self._read_summary(summary) if summary else -1
        except (struct.error, UnicodeDecodeError) as error:
            raise McapError(
                f'{self.path}: damaged inside: the summary at byte {summary} ({error})'
            ) from error
        if told < 0 or told != sum(self.counts.values()) or (told and not self.chunks):
            self._scan(self._size - FOOTER_BYTES, cut=False)

    def _read_summary(self, at: int) -> int:
        """Take schemas, channels and chunks; return how many messages there should be, or -1."""
        told = -1
        body = memoryview(self._read(at, self._size - FOOTER_BYTES - at))
        place = 0
        while place + HEAD.size <= len(body):
            kind, size = HEAD.unpack_from(body, place)
            record = body[place + HEAD.size : place + HEAD.size + size]
            place += HEAD.size + size
            if kind == CHUNK_INDEX:
                self._take_chunk_index(record)
            elif kind == STATISTICS:
                told = struct.unpack_from('<Q', record)[0]
                pairs = struct.iter_unpack('<HQ', record[46:])
                self.counts = dict(pairs)
            else:
                self._take(kind, record)
        return told

    def _take_chunk_index(self, body: memoryview) -> None:
        start, end, at, length, size = struct.unpack_from('<QQQQI', body)
        index = dict(struct.iter_unpack('<HQ', body[36 : 36 + size]))
        index_bytes = struct.unpack_from('<Q', body, 36 + size)[0]
        if end or start < 2**63 - 1:  # else it holds no message
            known = index if index_bytes else None
            self.chunks.append(Chunk(start, end, at, length, known, at + length + index_bytes))

    def _take(self, kind: int, body: memoryview) -> None:
        """Keep a schema or a channel."""
        if kind == SCHEMA:
            name, at = _text(body, 2)
            encoding, at = _text(body, at)
            definition = _text(body, at)[0]
            self._schemas[struct.unpack_from('<H', body)[0]] = name, encoding, definition
        elif kind == CHANNEL:
            number, schema = struct.unpack_from('<HH', body)
            topic = _text(body, 4)[0]
            name, encoding, definition = self._schemas.get(schema, ('', '', ''))
            self.channels[number] = Channel(number, topic, name, encoding, definition)

    def _scan(self, end: int, cut: bool) -> None:
        """Find chunks and messages without a summary; cut: say what is lost."""
        self.chunks, self.counts, self._loose = [], {}, []
        at = len(MAGIC)
        while at + HEAD.size <= end:
            kind, size = HEAD.unpack_from(self._read(at, HEAD.size))
            whole = at + HEAD.size + size
            if whole > end or not HEADER <= kind <= DATA_END:
                break
            try:
                self._take_scanned(kind, at, size)
            except (McapError, struct.error, UnicodeDecodeError):
                break  # nothing behind it can be trusted; told below
            at = whole
        self._index_last()
        if cut:
            kept, first = sum(self.counts.values()), self.span
            seconds = (first[1] - first[0]) * 1e-9
            self.lost = (
                f'cut off: {kept} messages of {seconds:.1f} s are whole, '
                f'{self._size - at} of {self._size} bytes at its end are lost'
            )

    def _take_scanned(self, kind: int, at: int, size: int) -> None:
        """Take one record of a scan."""
        if kind == CHUNK:
            self._index_last()
            start, end, _, _ = CHUNK_HEAD.unpack(self._read(at + HEAD.size, CHUNK_HEAD.size))
            self.chunks.append(Chunk(start, end, at, HEAD.size + size, {}))
        elif kind == INDEX and self.chunks:
            channel, count = struct.unpack('<HI', self._read(at + HEAD.size, 6))
            known = self.chunks[-1].index
            if known is not None and channel not in known:
                known[channel] = at
                self.counts[channel] = self.counts.get(channel, 0) + count // PAIR.size
        elif kind == MESSAGE:
            channel, _, time, _ = MESSAGE_HEAD.unpack(
                self._read(at + HEAD.size, MESSAGE_HEAD.size)
            )
            place = at + HEAD.size + MESSAGE_HEAD.size
            self._loose.append((time, channel, place, size - MESSAGE_HEAD.size))
            self.counts[channel] = self.counts.get(channel, 0) + 1
        elif kind in (SCHEMA, CHANNEL):
            self._take(kind, self._record(at)[1])

    def _index_last(self) -> None:
        """
        Settle the last chunk of a scan.

        A chunk that carries new channels, or whose indices are not all there, is read.
        """
        if not self.chunks:
            return
        chunk = self.chunks[-1]
        if chunk.index and all(channel in self.channels for channel in chunk.index):
            return
        body, records = self._records_inside(chunk)
        counts: dict[int, int] = {}
        for kind, at, size in records:
            if kind == MESSAGE:
                channel = struct.unpack_from('<H', body, at)[0]
                counts[channel] = counts.get(channel, 0) + 1
            else:
                self._take(kind, body[at : at + size])
        if chunk.index is not None and set(chunk.index) == set(counts):
            return
        for channel, count in counts.items():
            if channel not in (chunk.index or {}):
                self.counts[channel] = self.counts.get(channel, 0) + count
        self.chunks[-1] = Chunk(chunk.start, chunk.end, chunk.at, chunk.length, None)
        if not counts:
            self.chunks.pop()

    def _record(self, at: int) -> tuple[int, memoryview]:
        kind, size = HEAD.unpack(self._read(at, HEAD.size))
        return kind, self._view(at + HEAD.size, size)

    def _view(self, at: int, size: int) -> memoryview:
        if at + size > self._size:
            raise McapError(
                f'{self.path}: damaged inside: {size} bytes should be at byte {at}; copy it again'
            )
        return memoryview(self._map)[at : at + size]

    def _read(self, at: int, size: int) -> bytes:
        return self._map[at : at + size]


def _at(chunk: Chunk) -> str:
    return f'chunk at byte {chunk.at}'


def _text(body: memoryview, at: int) -> tuple[str, int]:
    """Return a string and the place behind it."""
    size = struct.unpack_from('<I', body, at)[0]
    at += 4
    return str(body[at : at + size], 'utf-8'), at + size


def _zstd(data: Compressed) -> bytes:
    return import_module(_ZSTD).decompress(data)


def _lz4(data: Compressed) -> bytes:
    import lz4.frame

    return lz4.frame.decompress(data)


_DECOMPRESS: dict[str, Callable[[memoryview], Compressed]] = {
    '': lambda data: data,
    'zstd': _zstd,
    'lz4': _lz4,
}
