"""
TFRecord files and the tf.train.Example inside, without tensorflow.

A record is uint64 length, uint32 masked crc32c of it, the bytes, uint32 masked crc32c of those. An
Example is a protobuf map name -> list of bytes, float32 or int64; it is walked, not parsed: what
nobody asks for (pictures, above all) is stepped over unread.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

HEAD, FOOT = 12, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LISTS = _BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
Value = list[memoryview] | np.ndarray


class Damaged(ValueError):
    """Bytes that are no Example; who knows the file and the record tells them."""


def records(path: Path) -> Iterator[tuple[int, memoryview]]:
    """Yield offset and content of every record; lengths are checked, contents are not read."""
    try:
        with path.open('rb') as file:
            if not file.seek(0, 2):
                return
            # not closed here: it lives as long as the contents that were handed out
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise QwenVlaError(f'{path}: {error.strerror or error}') from error
    offset = 0
    while offset < len(view):
        start = offset + HEAD
        length = _length(path, offset, bytes(view[offset:start]))
        if start + length + FOOT > len(view):
            raise _cut(path, offset)
        yield offset, view[start : start + length]
        offset = start + length + FOOT


def record_at(path: Path, offset: int) -> memoryview:
    """Return the content of the record at an offset; QwenVlaError where a checksum is wrong."""
    try:
        with path.open('rb') as file:
            file.seek(offset)
            length = _length(path, offset, file.read(HEAD))
            data = file.read(length + FOOT)
    except OSError as error:
        raise QwenVlaError(f'{path}: {error.strerror or error}') from error
    if len(data) < length + FOOT:
        raise _cut(path, offset)
    if struct.unpack_from('<I', data, length)[0] != _masked(data[:length]):
        raise QwenVlaError(
            f'{path}: the record at byte {offset} is damaged (its checksum is wrong); copy it '
            'again'
        )
    return memoryview(data)[:length]


def features(example: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Yield name and undecoded value of each feature; Damaged where it is no Example."""
    for number, body in _lengths(example):
        if number != 1:
            continue
        for _, entry in _lengths(body):
            parts = dict(_lengths(entry))
            if 1 in parts:
                yield str(parts[1], 'utf-8', 'replace'), parts.get(2, memoryview(b''))


def value(feature: memoryview) -> Value:
    """Return a feature's list: bytes as views, numbers as float32 or int64."""
    for kind, body in _lengths(feature):
        if kind == _BYTES_LIST:
            return [item for number, item in _lengths(body) if number == 1]
        if kind == _FLOAT_LIST:
            return _floats(body)
        if kind == _INT64_LIST:
            return _integers(body)
    raise Damaged('an empty feature')


def _length(path: Path, offset: int, head: bytes) -> int:
    if len(head) < HEAD:
        raise _cut(path, offset)
    length, check = struct.unpack('<QI', head)
    if check != _masked(head[:8]):
        raise QwenVlaError(
            f'{path}: no record begins at byte {offset} (its checksum is wrong); copy it again'
        )
    return length


def _masked(data: bytes) -> int:
    """Return the crc32c as TFRecord stores it."""
    try:
        import google_crc32c
    except ImportError as error:
        raise QwenVlaError(f"TFRecord: {error}; pip install 'qwen_vla_ros[data]'") from error
    check = google_crc32c.value(data)
    return ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _cut(path: Path, offset: int) -> QwenVlaError:
    return QwenVlaError(f'{path}: it ends inside the record at byte {offset}; copy it again')


def _lengths(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of the length-delimited fields of a message, skipping others."""
    for number, kind, start, stop in _fields(data):
        if kind == _BYTES:
            yield number, data[start:stop]


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, and where the content of each field of a message lies."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        start = at
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        elif kind == _BYTES:
            length, start = _varint(data, at)
            at = start + length
        else:
            raise Damaged(f'wire type {kind}')
        if at > len(data):
            raise Damaged('a field that is longer than its message')
        yield number, kind, start, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a varint and where the next byte lies."""
    found = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
        shift += 7
    raise Damaged('a number without an end')


def _floats(body: memoryview) -> np.ndarray:
    parts = [body[start:stop] for _, _, start, stop in _fields(body)]
    if any(len(part) % 4 for part in parts):
        raise Damaged('a list of floats of a broken length')
    return np.frombuffer(b''.join(parts), '<f4')


def _integers(body: memoryview) -> np.ndarray:
    """Return int64 [N] of varints, packed or one by one."""
    parts = [body[start:stop] for _, _, start, stop in _fields(body)]
    raw = np.frombuffer(b''.join(parts), np.uint8)
    if not len(raw):
        return np.zeros(0, np.int64)
    if raw[-1] >= 0x80:
        raise Damaged('a number without an end')
    starts = np.concatenate([[0], np.flatnonzero(raw < 0x80)[:-1] + 1])
    places = np.arange(len(raw)) - np.repeat(starts, np.diff([*starts, len(raw)]))
    if places.max() > 9:
        raise Damaged('a number of more than 64 bits')
    bits = (raw & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.add.reduceat(bits, starts).view(np.int64)
