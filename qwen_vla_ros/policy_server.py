"""
A policy for other processes: greets every client with its metadata, answers one request at a time.

GET /health is answered with 'ok'; what the policy refuses is answered in words. It listens on
loopback only unless told otherwise; a token is then compared in constant time.
"""

import asyncio
import hmac
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.shared_pictures import FOLDER, SharedView
from qwen_vla_ros.wire import (
    DEFAULT_PORT,
    MAX_BYTES,
    PROTOCOL,
    ProtocolError,
    chunk_fields,
    pack,
    read_observation,
    unpack,
)

try:
    import websockets
except ModuleNotFoundError as error:
    raise QwenVlaError(f'policy server: {error}; pip install websockets msgpack') from error

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    from qwen_vla_ros.policy import Policy

_logger = logging.getLogger(__name__)


class PolicyServer:
    """
    Serve a policy to any number of clients, one request at a time.

    A policy with open(robot) gives every client one of its own: noise and history do not mix, and
    one model drives several robots. A client names its robot as ws://host:port/?robot=NAME.

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
        if not 0 <= port <= 65535:
            raise QwenVlaError(f'policy server: port {port}: choose one from 0 (any) to 65535')
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

    def start(self) -> 'PolicyServer':
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

    def __enter__(self) -> 'PolicyServer':
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
            return connection.respond(HTTPStatus.OK, 'ok\n')
        if self._token is None:
            return None
        given = request.headers.get('Authorization', '').removeprefix('Bearer ')
        if same_token(given, self._token):
            return None
        return connection.respond(HTTPStatus.UNAUTHORIZED, 'wrong or missing token\n')

    async def _handle(self, connection: 'ServerConnection') -> None:
        """Greet a client, then answer its requests; one that sends garbage is told and dropped."""
        try:
            greeting = {'type': 'metadata', 'protocol': PROTOCOL, 'shares': FOLDER.is_dir()}
            try:
                client = _Client(self._open(connection.request.path))
            except QwenVlaError as error:
                await connection.send(pack({'type': 'error', 'id': -1, 'message': str(error)}))
                return
            await connection.send(pack({**greeting, 'metadata': dict(client.policy.metadata)}))
            async for data in connection:
                try:
                    answer = await self._answer(data, client)
                except ProtocolError as error:
                    await connection.send(pack({'type': 'error', 'id': -1, 'message': str(error)}))
                    await connection.close(1007, 'not the protocol')
                    return
                await connection.send(pack(answer))
        except websockets.ConnectionClosed:
            return

    def _open(self, path: str) -> 'Policy':
        """Return the policy of a new client."""
        robot = parse_qs(urlsplit(path).query).get('robot', [''])[-1]
        opens = getattr(self._policy, 'open', None)
        return self._policy if opens is None else opens(robot)

    async def _answer(self, data: str | bytes, client: '_Client') -> dict[str, Any]:
        """Return the answer to one request; what the policy refuses is answered in words."""
        request = unpack(data if isinstance(data, bytes) else data.encode())
        number = request.get('id')
        works = {'infer': self._infer, 'reset': self._reset, 'share': self._share}
        if not isinstance(number, int) or request['type'] not in works:
            raise ProtocolError(f'a request of unknown type {request["type"]!r} or without id')
        work = partial(works[request['type']], request, client)
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._worker, work)
        except ProtocolError:
            raise
        except QwenVlaError as error:
            return {'type': 'error', 'id': number, 'message': str(error)}
        except Exception as error:  # the server must outlive a defect of a policy
            _logger.exception('the policy failed')
            text = f'the policy failed with {type(error).__name__}: {error}'
            return {'type': 'error', 'id': number, 'message': text}
        return {**answer, 'id': number}

    def _infer(self, request: dict[str, Any], client: '_Client') -> dict[str, Any]:
        observation = read_observation(request.get('observation'), client.area)
        prefix = request.get('prefix')
        if prefix is not None and not isinstance(prefix, np.ndarray):
            raise ProtocolError('the prefix must be an array')
        begin = time.perf_counter()
        chunk = client.policy.infer(observation, prefix)
        seconds = time.perf_counter() - begin
        return {'type': 'chunk', 'chunk': chunk_fields(chunk), 'inference_s': seconds}

    def _reset(self, request: dict[str, Any], client: '_Client') -> dict[str, Any]:
        client.policy.reset()
        return {'type': 'done'}

    def _share(self, request: dict[str, Any], client: '_Client') -> dict[str, Any]:
        name, size = request.get('name'), request.get('size')
        if not isinstance(name, str) or not isinstance(size, int):
            raise ProtocolError('a share without name and size')
        client.area = SharedView(name, size)
        return {'type': 'done'}


def same_token(given: str, token: str) -> bool:
    """Return whether two tokens are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), token.encode())


@dataclass
class _Client:
    """What belongs to one connection."""

    policy: 'Policy'
    area: SharedView | None = None
