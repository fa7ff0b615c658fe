"""
Pictures from one process to another of the same machine through shared memory, not the socket.

The client makes a file in /dev/shm, the server opens it by name and the name is gone at once, so
nothing is left behind. Only plain files of the same user are opened, read-only; a place outside
the area is refused. Where that cannot be (another machine, container or user) the pictures travel
through the socket, and RemotePolicy.transport says why.
"""

import mmap
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

FOLDER = Path('/dev/shm')
NAME = re.compile(r'qwen_vla_[0-9a-f]{32}')
MAX_BYTES = 256 * 2**20
ALIGNMENT = 64
KEEP = 16
UNHELD = 3  # references of an array in a list during a loop that asks for their number


class SharingRefused(QwenVlaError):
    """An area that cannot be shared; the message says why."""


class SharedArea:
    """The client's side: write arrays, say where they lie."""

    def __init__(self, size: int) -> None:
        """Reserve size bytes; SharingRefused when the machine has no room for them."""
        self.size, self.name = size, f'qwen_vla_{secrets.token_hex(16)}'
        self._path = FOLDER / self.name
        try:
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SharingRefused(f'{FOLDER}: {error.strerror}') from error
        try:
            os.posix_fallocate(file, 0, size)
            self._bytes = np.frombuffer(mmap.mmap(file, size), np.uint8)
        except OSError as error:
            self.unlink()
            raise SharingRefused(f'{FOLDER} has no room for {size} bytes') from error
        finally:
            os.close(file)

    @staticmethod
    def bytes_for(arrays: Iterable[np.ndarray]) -> int:
        """Return the size of an area that holds arrays."""
        return sum(_padded(array.nbytes) for array in arrays)

    def unlink(self) -> None:
        """Take the name away; who has the area open keeps it."""
        self._path.unlink(missing_ok=True)

    def write(self, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
        """Copy uint8 arrays into the area; return name -> {offset, shape}."""
        places, offset = {}, 0
        for name, array in arrays.items():
            target = self._bytes[offset : offset + array.nbytes].reshape(array.shape)
            np.copyto(target, array)
            places[name] = {'offset': offset, 'shape': list(array.shape)}
            offset += _padded(array.nbytes)
        return places


class SharedView:
    """The server's side: copies of what lies in a client's area."""

    def __init__(self, name: str, size: int) -> None:
        """Open an area by name; SharingRefused when it is not ours to read."""
        if not NAME.fullmatch(name) or not 0 < size <= MAX_BYTES:
            raise SharingRefused(f'no shared area is called {name!r} of {size} bytes')
        try:
            file = os.open(FOLDER / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise SharingRefused(
                f'the server does not see the area ({error.strerror}): another machine, '
                'container or user'
            ) from error
        try:
            facts = os.fstat(file)
            plain = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()
            if not plain or facts.st_size != size:
                raise SharingRefused('the area is not a plain file of this user and size')
            self._bytes = np.frombuffer(mmap.mmap(file, size, prot=mmap.PROT_READ), np.uint8)
        finally:
            os.close(file)
        self._kept: list[np.ndarray] = []

    def read(self, places: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return copies of uint8 arrays by name; SharingRefused for a place outside the area."""
        found = {}
        for name, place in places.items():
            offset, shape = place['offset'], place['shape']
            whole = isinstance(offset, int) and offset >= 0 and isinstance(shape, list)
            if not whole or not all(isinstance(n, int) and n >= 0 for n in shape):
                raise SharingRefused(f'{name}: no place in the area')
            count = 1
            for length in shape:
                count *= length
            if offset + count > len(self._bytes):
                raise SharingRefused(f'{name}: outside the area')
            target = self._free(count)
            np.copyto(target, self._bytes[offset : offset + count])
            found[name] = target.reshape(shape)
        return found

    def _free(self, size: int) -> np.ndarray:
        """Return memory that nobody holds any more: pages that are new cost more than the copy."""
        for kept in self._kept:
            if kept.nbytes == size and sys.getrefcount(kept) == UNHELD:
                return kept
        made = np.empty(size, np.uint8)
        self._kept = [*self._kept[-KEEP + 1 :], made]
        return made


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
