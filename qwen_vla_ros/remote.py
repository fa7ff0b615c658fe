"""
RemotePolicy: the policy of another process (policy_server.py), worn like a local one.

A thread of its own receives all the time and connects again by itself; wire.py has the messages.
Pictures go through shared memory where server and client see the same (shared_pictures.py); else
they are resized to what the model takes, by the very transform that the model's side would use,
and go through the socket.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # in 3.10 its own
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy_server import PolicyServer
from qwen_vla_ros.shared_pictures import FOLDER, SharedArea
from qwen_vla_ros.types import ActionChunk, Observation
from qwen_vla_ros.wire import (
    DEFAULT_PORT,
    MAX_BYTES,
    PROTOCOL,
    ProtocolError,
    observation_fields,
    pack,
    read_chunk,
    unpack,
)

try:
    import websockets
except ModuleNotFoundError as error:
    raise QwenVlaError(f'remote policy: {error}; pip install websockets msgpack') from error

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

__all__ = ['PolicyServer', 'PolicyUnavailable', 'ProtocolError', 'RemotePolicy', 'pack', 'unpack']

BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class PolicyUnavailable(QwenVlaError):
    """The process of the model does not answer; the message names its address and the remedy."""


class RemotePolicy:
    """
    A policy in another process, worn like a local one.

    A thread receives all the time, so `connected` turns False as soon as the server's socket
    closes, also between inferences; it then connects again by itself. `problem` says why there
    is no connection.
    """

    def __init__(
        self,
        address: str,
        timeout_s: float = 10.0,
        token: str | None = None,
        connect_timeout_s: float = 5.0,
        ping_s: float = 1.0,
        robot: str = '',
    ) -> None:
        """
        Connect to 'ws://host:port', 'host:port' or 'host'; PolicyUnavailable when nobody answers.

        timeout_s bounds one inference; ping_s is how soon a process that hangs is noticed. robot
        is the contract's name, for a server that drives several.
        """
        self._address = _websocket_address(address)
        self._url = f'{self._address}/?{urlencode({"robot": robot})}' if robot else self._address
        self._timeout_s, self._token, self._ping_s = timeout_s, token, ping_s
        self._lock = threading.Lock()
        self._connection: ClientConnection | None = None
        self._metadata: dict[str, Any] | None = None
        self.connections = 0  # each may be to a process that has just been started
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._number = 0
        self._area: SharedArea | None = None
        self._shares = False
        self._sharing = threading.Lock()
        self.transport = 'not used yet'
        self._ready, self._closed = threading.Event(), threading.Event()
        self._problem = f'nobody answers at {self._address}; start it with: qwen-vla serve'
        self.inference_s: float | None = None
        self._thread = threading.Thread(target=self._run, name='remote policy', daemon=True)
        self._thread.start()
        if not self._ready.wait(connect_timeout_s):
            self.close()
            raise PolicyUnavailable(f'remote policy: {self._problem}')

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return what the server's policy says of itself."""
        return self._metadata or {}

    @property
    def connected(self) -> bool:
        """Return whether the server is there at this moment."""
        return self._ready.is_set()

    @property
    def problem(self) -> str:
        """Return why there is no connection; empty when there is one."""
        return '' if self.connected else self._problem

    def infer(
        self,
        observation: Observation,
        prefix: np.ndarray | None = None,
        timeout_s: float | None = None,
    ) -> ActionChunk:
        """
        Infer over there. The server's own time for it is then in inference_s.

        Raises PolicyUnavailable when the server is gone or too slow, QwenVlaError with its words
        when the policy refuses.
        """
        timeout_s = timeout_s or self._timeout_s
        if not self._shares or not self._sharing.acquire(blocking=False):
            return self._infer(self._small(observation.images), {}, observation, prefix, timeout_s)
        try:
            places = self._write(observation.images)
            images = self._small(observation.images) if places is None else {}
            return self._infer(images, places or {}, observation, prefix, timeout_s)
        finally:
            self._sharing.release()

    def _infer(
        self,
        images: Mapping[str, np.ndarray],
        shared: Mapping[str, Any],
        observation: Observation,
        prefix: np.ndarray | None,
        timeout_s: float,
    ) -> ActionChunk:
        """Send an observation, its pictures inside or beside it; return the answer."""
        fields = {**observation_fields(observation), 'images': images, 'shared': shared}
        answer = self._call('infer', {'observation': fields, 'prefix': prefix}, timeout_s)
        chunk, self.inference_s = read_chunk(answer)
        return chunk

    def _write(self, images: Mapping[str, np.ndarray]) -> Mapping[str, Any] | None:
        """Write pictures into the shared area; return their places, None when none is shared."""
        size = SharedArea.bytes_for(images.values())
        area = self._area
        if area is None or area.size < size:
            try:
                area = SharedArea(size)
                try:
                    self._call('share', {'name': area.name, 'size': size}, self._timeout_s)
                finally:
                    area.unlink()
            except PolicyUnavailable:
                raise
            except QwenVlaError as error:
                self._shares, self.transport = False, f'socket ({error})'
                return None
            self._area, self.transport = area, 'shared memory'
        return area.write(images)

    def _small(self, images: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return pictures of the model's sizes, where its metadata tells them."""
        sizes = self.metadata.get('image_sizes')
        if not sizes:
            return images
        from qwen_vla_ros.transforms import ResizeImages

        wanted = {view: (int(size[0]), int(size[1])) for view, size in sizes.items()}
        return ResizeImages(wanted).forward({'images': images})['images']

    def reset(self) -> None:
        """Reset the policy over there."""
        self._call('reset', {}, self._timeout_s)

    def close(self) -> None:
        """End the connection for good."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.close()
        self._thread.join(timeout=5)

    def _call(self, kind: str, fields: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        with self._lock:
            connection = self._connection
            if connection is None or not self._ready.is_set():
                raise PolicyUnavailable(f'remote policy: {self._problem}')
            self._number += 1
            number = self._number
            future = self._waiting[number] = Future()
        try:
            connection.send(pack({'type': kind, 'id': number, **fields}))
            answer = future.result(timeout_s)
        except FutureTimeoutError as error:
            raise PolicyUnavailable(
                f'remote policy: no answer from {self._address} within {timeout_s:g} s; the '
                'model is too slow for this machine, or its process hangs'
            ) from error
        except websockets.ConnectionClosed as error:
            raise PolicyUnavailable(f'remote policy: lost {self._address}') from error
        finally:
            self._waiting.pop(number, None)
        if answer['type'] == 'error':
            raise QwenVlaError(f'remote policy: {answer.get("message", "refused")}')
        return answer

    def _run(self) -> None:
        """Connect, receive until the connection ends, and again."""
        attempt = 0
        while not self._closed.is_set():
            try:
                self._converse()
                attempt = 0
            except (OSError, QwenVlaError, websockets.WebSocketException) as error:
                self._problem = self._explain(error)
            finally:
                attempt = 0 if self._ready.is_set() else attempt
                self._lose()
            self._closed.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
            attempt += 1

    def _converse(self) -> None:
        """Hold one connection from its greeting to its end."""
        from websockets.sync.client import connect

        headers = {'Authorization': f'Bearer {self._token}'} if self._token else None
        with connect(
            self._url,
            additional_headers=headers,
            compression=None,
            proxy=None,
            open_timeout=2.0,
            close_timeout=0.5,
            ping_interval=self._ping_s,
            ping_timeout=self._ping_s,
            max_size=MAX_BYTES,
        ) as connection:
            self._greet(unpack(connection.recv(timeout=5.0)))
            self._connection = connection
            self.connections += 1
            self._ready.set()
            for data in connection:
                self._deliver(unpack(data))
            self._problem = f'{self._address} has closed the connection; restart qwen-vla serve'

    def _deliver(self, message: dict[str, Any]) -> None:
        """Hand an answer to the call that waits for it; one that comes too late is dropped."""
        number = message.get('id')
        if not isinstance(number, int):
            raise ProtocolError(f'{self._address} sent an answer without id')
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting.set_result(message)

    def _greet(self, message: dict[str, Any]) -> None:
        """Take the metadata; another policy than before is refused."""
        if message['type'] == 'error':
            raise QwenVlaError(f'{self._address}: {message.get("message", "refused")}')
        if message['type'] != 'metadata' or message.get('protocol') != PROTOCOL:
            raise ProtocolError(
                f'{self._address} speaks protocol {message.get("protocol")}, this program '
                f'{PROTOCOL}; install the same version on both sides'
            )
        metadata = message.get('metadata')
        if not isinstance(metadata, dict):
            raise ProtocolError(f'{self._address} does not say what policy it serves')
        self._shares = message.get('shares') is True and FOLDER.is_dir()
        self._area = None
        if not self._shares:
            self.transport = 'socket (one side has no shared memory)'
        if self._metadata is not None and metadata != self._metadata:
            keys = [key for key in metadata if metadata[key] != self._metadata.get(key)]
            raise ProtocolError(
                f'{self._address} now serves another policy ({", ".join(keys)} differ); serve the '
                'first one again, or configure this node anew'
            )
        self._metadata = metadata

    def _lose(self) -> None:
        """Tell everybody who waits that the connection is gone."""
        with self._lock:
            self._ready.clear()
            self._connection = None
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(PolicyUnavailable(f'remote policy: {self._problem}'))

    def _explain(self, error: Exception) -> str:
        """Return what a failed connection means to the user."""
        if isinstance(error, QwenVlaError):
            return str(error)
        if isinstance(error, websockets.InvalidStatus):
            if error.response.status_code == 401:
                return f'{self._address} wants another token'
            return f'{self._address} is no policy server (HTTP {error.response.status_code})'
        if isinstance(error, websockets.ConnectionClosed):
            return f'{self._address} is gone ({error}); restart it with: qwen-vla serve'
        if isinstance(error, (OSError, TimeoutError)):
            return f'nobody answers at {self._address} ({error}); start it with: qwen-vla serve'
        return f'{self._address} is no policy server ({error})'


def _websocket_address(address: str) -> str:
    """Return 'ws://host:port' for what a user may write; QwenVlaError when it is no address."""
    text = address if '://' in address else f'ws://{address}'
    scheme, _, rest = text.partition('://')
    if scheme not in ('ws', 'wss') or not rest:
        raise QwenVlaError(f'remote policy: {address!r} is no address; write ws://127.0.0.1:8766')
    host, _, port = rest.partition('/')[0].rpartition(':')
    if not host:
        return f'{scheme}://{port}:{DEFAULT_PORT}'
    if not port.isdigit():
        raise QwenVlaError(f'remote policy: {port!r} in {address!r} is no port number')
    return text
