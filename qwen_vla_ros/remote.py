"""
The same Policy across a socket: PolicyServer in the model's process, RemotePolicy in the robot's.

WebSocket frames of MessagePack; an array travels as its dtype (from a short list), shape and
bytes, so nothing that arrives can run code. The server greets every client with the policy's
metadata, answers GET /health with 'ok', works off the clients' requests one at a time in a thread
of its own, and answers what a policy refuses in words. It listens on loopback only unless told
otherwise; a token is then compared in constant time.
"""

import asyncio
import hmac
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from http import HTTPStatus

    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response
    from websockets.sync.client import ClientConnection

    from qwen_vla_ros.policy import Policy

try:
    import msgpack
    import websockets
except ModuleNotFoundError as error:
    raise QwenVlaError(f'remote policy: {error}; pip install websockets msgpack') from error

PROTOCOL = 1
DEFAULT_PORT = 8766
MAX_BYTES = 64 * 2**20
DTYPES = ('uint8', 'int32', 'int64', 'float16', 'float32', 'float64', 'bool')
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)

_logger = logging.getLogger(__name__)


class PolicyUnavailable(QwenVlaError):
    """The process of the model does not answer; the message names its address and the remedy."""


class ProtocolError(QwenVlaError):
    """Bytes that are no message of this protocol."""


# Messages ----------------------------------------------------------------------------------------


def pack(message: Mapping[str, Any]) -> bytes:
    """Return the bytes of a message made of plain values, sequences, mappings and arrays."""
    return msgpack.packb(message, default=_pack_array, use_bin_type=True)


def unpack(data: bytes) -> dict[str, Any]:
    """Return a message from its bytes; arrays are read-only views. Raises ProtocolError."""
    try:
        message = msgpack.unpackb(data, object_hook=_unpack_array, raw=False)
    except ProtocolError:
        raise
    except Exception as error:  # msgpack raises a dozen kinds for malformed bytes
        raise ProtocolError(f'not a message of this protocol ({error})') from error
    if not isinstance(message, dict) or not isinstance(message.get('type'), str):
        raise ProtocolError('not a message of this protocol (no type)')
    return message


def _pack_array(value: Any) -> dict[str, Any]:
    """Return an array as a mapping; everything else is a defect of the caller."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.name not in DTYPES:
        raise TypeError(f'cannot send {type(value).__name__} {getattr(value, "dtype", "")}')
    return {
        '__array__': value.dtype.name,
        'shape': list(value.shape),
        'data': np.ascontiguousarray(value).tobytes(),
    }


def _unpack_array(value: dict[str, Any]) -> Any:
    """Return a mapping, or the array that it stands for."""
    if '__array__' not in value:
        return value
    dtype, shape, data = value['__array__'], value.get('shape'), value.get('data')
    if dtype not in DTYPES:
        raise ProtocolError(f'an array of dtype {dtype!r}; allowed are {", ".join(DTYPES)}')
    sizes = isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)
    if not sizes or not isinstance(data, bytes):
        raise ProtocolError('an array without shape or bytes')
    count = 1
    for size in shape:
        count *= size
    if count * np.dtype(dtype).itemsize != len(data):
        raise ProtocolError(f'an array {dtype} {shape} with {len(data)} bytes')
    return np.frombuffer(data, dtype).reshape(shape)


def _observation_fields(observation: Observation) -> dict[str, Any]:
    return {
        'images': dict(observation.images),
        'state': observation.state,
        'state_names': list(observation.state_names),
        'instruction': observation.instruction,
        'stamp_ns': observation.stamp_ns,
        'embodiment': observation.embodiment,
        'sources_ns': dict(observation.sources_ns),
    }


def _observation(fields: Any) -> Observation:
    """Return the observation of a request; ProtocolError when a field is absent or odd."""
    try:
        images, state = dict(fields['images']), fields['state']
        if not all(isinstance(array, np.ndarray) for array in (state, *images.values())):
            raise TypeError('images and state must be arrays')
        return Observation(
            images=images,
            state=state,
            state_names=tuple(fields['state_names']),
            instruction=str(fields['instruction']),
            stamp_ns=int(fields['stamp_ns']),
            embodiment=str(fields['embodiment']),
            sources_ns=dict(fields['sources_ns']),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f'no observation in the request ({error!r})') from error


def _chunk_fields(chunk: ActionChunk) -> dict[str, Any]:
    return {
        'actions': chunk.actions,
        'names': list(chunk.names),
        'start_ns': chunk.start_ns,
        'step_s': chunk.step_s,
        'frame': chunk.frame,
    }


def _chunk(fields: Any) -> ActionChunk:
    """Return the chunk of an answer; ProtocolError when a field is absent or odd."""
    try:
        return ActionChunk(
            actions=np.asarray(fields['actions'], np.float32),
            names=tuple(fields['names']),
            start_ns=int(fields['start_ns']),
            step_s=float(fields['step_s']),
            frame=str(fields['frame']),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f'no chunk in the answer ({error!r})') from error


# Server ------------------------------------------------------------------------------------------


class PolicyServer:
    """
    Serve a policy to any number of clients, one request at a time.

    Use it as a context manager (a thread of its own), or call serve_forever().
    """

    def __init__(
        self,
        policy: 'Policy',
        host: str = '127.0.0.1',
        port: int = DEFAULT_PORT,
        token: str | None = None,
    ) -> None:
        """Serve on host and port (0: any free one, see address); token guards against others."""
        self._policy, self._host, self._port, self._token = policy, host, port, token
        self._worker = ThreadPoolExecutor(1, thread_name_prefix='policy')
        self._started: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Return 'ws://host:port' once it listens."""
        return f'ws://{self._host}:{self._started.result(timeout=10)}'

    def start(self) -> Self:
        """Listen in a thread; QwenVlaError when the port is taken."""
        self._thread = threading.Thread(target=self._run, name='policy server', daemon=True)
        self._thread.start()
        self._started.result(timeout=10)
        return self

    def stop(self) -> None:
        """Close all connections and wait until the running inference is done."""
        if self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)
        if self._thread is not None:
            self._thread.join()
        self._worker.shutdown()

    def serve_forever(self) -> None:
        """Listen in this thread until interrupted."""
        try:
            asyncio.run(self._serve())
        finally:
            self._worker.shutdown()

    def __enter__(self) -> Self:
        """Listen in a thread."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _run(self) -> None:
        """Run the event loop; what start() waits for gets the error."""
        try:
            asyncio.run(self._serve())
        except QwenVlaError as error:
            if not self._started.done():
                self._started.set_exception(error)

    async def _serve(self) -> None:
        from websockets.asyncio.server import serve

        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await serve(
                self._handle,
                self._host,
                self._port,
                process_request=self._admit,
                compression=None,
                max_size=MAX_BYTES,
                max_queue=4,
                close_timeout=0.5,
            )
        except OSError as error:
            raise QwenVlaError(
                f'policy server: cannot listen on {self._host}:{self._port} ({error.strerror}); '
                'choose another port or stop the process that has it'
            ) from error
        async with server:
            self._started.set_result(server.sockets[0].getsockname()[1])
            await self._end.wait()

    def _admit(self, connection: 'ServerConnection', request: 'Request') -> 'Response | None':
        """Answer /health; turn a client without the token away."""
        if request.path == '/health':
            return connection.respond(_status(200), 'ok\n')
        if self._token is None:
            return None
        given = request.headers.get('Authorization', '').removeprefix('Bearer ')
        if hmac.compare_digest(given.encode(), self._token.encode()):
            return None
        return connection.respond(_status(401), 'wrong or missing token\n')

    async def _handle(self, connection: 'ServerConnection') -> None:
        """Greet a client, then answer its requests; one that sends garbage is told and dropped."""
        try:
            greeting = {'type': 'metadata', 'protocol': PROTOCOL}
            await connection.send(pack({**greeting, 'metadata': dict(self._policy.metadata)}))
            async for data in connection:
                try:
                    answer = await self._answer(data)
                except ProtocolError as error:
                    await connection.send(pack({'type': 'error', 'id': -1, 'message': str(error)}))
                    await connection.close(1007, 'not the protocol')
                    return
                await connection.send(pack(answer))
        except websockets.ConnectionClosed:
            return

    async def _answer(self, data: str | bytes) -> dict[str, Any]:
        """Return the answer to one request; what the policy refuses is answered in words."""
        request = unpack(data if isinstance(data, bytes) else data.encode())
        number = request.get('id')
        if not isinstance(number, int) or request['type'] not in ('infer', 'reset'):
            raise ProtocolError(f'a request of unknown type {request["type"]!r} or without id')
        work = self._infer if request['type'] == 'infer' else self._reset
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._worker, work, request)
        except ProtocolError:
            raise
        except QwenVlaError as error:
            return {'type': 'error', 'id': number, 'message': str(error)}
        except Exception as error:  # the server must outlive a defect of a policy
            _logger.exception('the policy failed')
            text = f'the policy failed with {type(error).__name__}: {error}'
            return {'type': 'error', 'id': number, 'message': text}
        return {**answer, 'id': number}

    def _infer(self, request: dict[str, Any]) -> dict[str, Any]:
        observation, prefix = _observation(request.get('observation')), request.get('prefix')
        if prefix is not None and not isinstance(prefix, np.ndarray):
            raise ProtocolError('the prefix must be an array')
        begin = time.perf_counter()
        chunk = self._policy.infer(observation, prefix)
        seconds = time.perf_counter() - begin
        return {'type': 'chunk', 'chunk': _chunk_fields(chunk), 'inference_s': seconds}

    def _reset(self, request: dict[str, Any]) -> dict[str, Any]:
        self._policy.reset()
        return {'type': 'done'}


def _status(code: int) -> 'HTTPStatus':
    from http import HTTPStatus

    return HTTPStatus(code)


# Client ------------------------------------------------------------------------------------------


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
    ) -> None:
        """
        Connect to 'ws://host:port', 'host:port' or 'host'; PolicyUnavailable when nobody answers.

        timeout_s bounds one inference; ping_s is how soon a process that hangs is noticed.
        """
        self._address = _websocket_address(address)
        self._timeout_s, self._token, self._ping_s = timeout_s, token, ping_s
        self._lock = threading.Lock()
        self._connection: ClientConnection | None = None
        self._metadata: dict[str, Any] | None = None
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._number = 0
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
        fields = {'observation': _observation_fields(observation), 'prefix': prefix}
        answer = self._call('infer', fields, timeout_s or self._timeout_s)
        self.inference_s = float(answer['inference_s'])
        return _chunk(answer.get('chunk'))

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
        except TimeoutError as error:
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
            self._address,
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
            self._ready.set()
            for data in connection:
                message = unpack(data)
                waiting = self._waiting.get(message.get('id'))
                if waiting is not None:
                    waiting.set_result(message)
            self._problem = f'{self._address} has closed the connection; restart qwen-vla serve'

    def _greet(self, message: dict[str, Any]) -> None:
        """Take the metadata; another policy than before is refused."""
        if message['type'] != 'metadata' or message.get('protocol') != PROTOCOL:
            raise ProtocolError(
                f'{self._address} speaks protocol {message.get("protocol")}, this program '
                f'{PROTOCOL}; install the same version on both sides'
            )
        metadata = dict(message['metadata'])
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
