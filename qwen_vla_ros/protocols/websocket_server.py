"""
A policy for the clients of openpi and starVLA: WebSocket, MessagePack, metadata as a greeting.

openpi   request: the observation itself. answer: {actions: float32 [H, A], server_timing:
         {infer_ms, prev_total_ms}}; an error is a frame of text. GET /healthz: OK.
starVLA  request: {examples: [{image, lang, state}], ...}, bare or as the payload of {type:
         'infer', request_id, payload}; {type: 'ping'}. answer: {status, ok, type, request_id,
         data: {actions: float32 [B, H, A]}}, of navigation {outputs, output}.

What a policy or we refuse is answered in words and the connection stays, so that a long run of a
benchmark survives one bad request; only what is not MessagePack at all ends it.
"""

import logging
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np
import websockets

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy_server import PolicyServer, same_token
from qwen_vla_ros.protocols.messages import pack_openpi, unpack_openpi
from qwen_vla_ros.wire import ProtocolError

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    from qwen_vla_ros.protocols.seat import Seat, Session

OPENPI_PORT, STARVLA_PORT = 8000, 10093
_logger = logging.getLogger(__name__)


class OpenpiServer(PolicyServer):
    """Serve a seat to unmodified openpi clients; the token is their api_key."""

    def __init__(
        self,
        seat: 'Seat',
        host: str = '127.0.0.1',
        port: int = OPENPI_PORT,
        token: str | None = None,
    ) -> None:
        """Serve on host and port (0: any free one)."""
        super().__init__(seat.policy, host, port, token)
        self._seat = seat

    def _admit(self, connection: 'ServerConnection', request: 'Request') -> 'Response | None':
        """Answer the health check; turn a client without the key away."""
        if request.path in ('/healthz', '/health'):
            return connection.respond(HTTPStatus.OK, 'OK\n')
        given = request.headers.get('Authorization', '')
        for scheme in ('Api-Key ', 'Bearer '):
            given = given.removeprefix(scheme)
        if self._token is None or same_token(given, self._token):
            return None
        return connection.respond(HTTPStatus.UNAUTHORIZED, 'wrong or missing key\n')

    async def _handle(self, connection: 'ServerConnection') -> None:
        """Greet, then answer one request after the other."""
        import asyncio

        loop, total_s = asyncio.get_running_loop(), None
        try:
            session = await loop.run_in_executor(self._worker, self._seat.open)
            await connection.send(pack_openpi(self._greeting()))
            async for data in connection:
                started = time.perf_counter()
                try:
                    request = unpack_openpi(data if isinstance(data, bytes) else data.encode())
                except ProtocolError as error:
                    await connection.send(self._refusal({}, str(error)))
                    await connection.close(1007, 'not MessagePack')
                    return
                work = partial(self._reply, request, session, total_s)
                await connection.send(await loop.run_in_executor(self._worker, work))
                total_s = time.perf_counter() - started
        except websockets.ConnectionClosed:
            return

    def _greeting(self) -> dict[str, Any]:
        return dict(self._seat.metadata)

    def _reply(self, request: Any, session: 'Session', total_s: float | None) -> bytes | str:
        """Return the frame that answers a request; what is refused is told in words."""
        try:
            return self._answer_with(request, session, total_s)
        except QwenVlaError as error:
            return self._refusal(request, str(error))
        except Exception as error:  # the server must outlive a defect of a policy
            _logger.exception('the policy failed')
            words = f'the policy failed with {type(error).__name__}: {error}'
            return self._refusal(request, words)

    def _answer_with(self, request: Any, session: 'Session', total_s: float | None) -> bytes:
        if not isinstance(request, dict):
            raise ProtocolError('a request is a mapping of keys')
        begin = time.perf_counter()
        (answer,) = session.answer([request])
        timing = {'infer_ms': (time.perf_counter() - begin) * 1e3}
        if total_s is not None:
            timing['prev_total_ms'] = total_s * 1e3
        return pack_openpi({**answer, 'server_timing': timing})

    def _refusal(self, request: Any, words: str) -> bytes | str:
        return words


class StarvlaServer(OpenpiServer):
    """Serve a seat to starVLA's clients."""

    def _greeting(self) -> dict[str, Any]:
        """Return the metadata with what starVLA's clients look up."""
        keys = {'available_unnorm_keys': [self._seat.metadata['embodiment']]}
        return {'action_chunk_size': self._seat.execute, **keys, **self._seat.metadata}

    def _answer_with(self, request: Any, session: 'Session', total_s: float | None) -> bytes:
        if not isinstance(request, dict):
            raise ProtocolError('a request is a mapping of keys')
        kind = request.get('type', 'infer')
        if kind == 'ping':
            return self._envelope(request, 'ping', {})
        if kind == 'reset':
            session.reset()
            return self._envelope(request, 'reset', {})
        if kind not in ('infer', 'predict_action'):
            raise ProtocolError(f'a request of unknown type {kind!r}')
        payload = request.get('payload', request)
        examples = payload.get('examples', [payload]) if isinstance(payload, dict) else None
        if not isinstance(examples, list) or not examples:
            raise ProtocolError('examples: a list of samples is wanted')
        answers = session.answer(examples)
        return self._envelope(request, 'inference_result', {'data': _batch(answers)})

    @staticmethod
    def _envelope(request: dict[Any, Any], kind: str, fields: dict[str, Any]) -> bytes:
        number = request.get('request_id', 'default')
        head = {'status': 'ok', 'ok': True, 'type': kind, 'request_id': number}
        return pack_openpi({**head, **fields})

    def _refusal(self, request: Any, words: str) -> bytes | str:
        number = request.get('request_id', 'default') if isinstance(request, dict) else 'default'
        head = {'status': 'error', 'ok': False, 'type': 'inference_result'}
        if not isinstance(number, (str, int)):
            number = 'default'
        return pack_openpi({**head, 'request_id': number, 'error': {'message': words}})


def _batch(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return arrays stacked, and sentences as outputs and output."""
    data: dict[str, Any] = {}
    for key, first in answers[0].items():
        values = [answer[key] for answer in answers]
        if isinstance(first, str):
            data['outputs'], data['output'] = values, first
        else:
            data[key] = np.stack(values)
    return data
