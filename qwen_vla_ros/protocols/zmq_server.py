"""
A policy for the clients of GR00T (N1.5, N1.6) and of what speaks like them: ZeroMQ, REQ to us.

request  {endpoint, data, api_token}: ping | get_action | reset | get_modality_config | kill
         get_action: data is {observation, options} (N1.6) or the observation itself (N1.5)
         observation: flat {'video.x', 'state.x', 'annotation...'} as in the simulators, or nested
         {video: {x}, state: {x}, language: {...}} as on robots; video uint8 [B, T, h, w, 3],
         state float32 [B, T, n], language one sentence each; N1.5 leaves B out
answer   [actions, info] (N1.6) or actions (N1.5): float32 [B, H, n] under 'action.x' where the
         request was flat, under 'x' where it was nested; a refusal is {error: words}

Each client has its own memory. `kill` is refused: who started the server ends it. Formats: Isaac-
GR00T, gr00t/policy/server_client.py and gr00t/eval/service.py.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy_server import same_token
from qwen_vla_ros.protocols.messages import pack_gr00t, unpack_gr00t
from qwen_vla_ros.wire import MAX_BYTES, ProtocolError

try:
    import zmq
except ModuleNotFoundError as error:
    raise QwenVlaError(f'GR00T server: {error}; pip install pyzmq msgpack') from error

if TYPE_CHECKING:
    from qwen_vla_ros.protocols.layout import WireLayout
    from qwen_vla_ros.protocols.seat import Seat, Session

GR00T_PORT = 5555
MAX_CLIENTS = 64
_logger = logging.getLogger(__name__)


class Gr00tServer:
    """Serve a seat to unmodified GR00T clients at `address`; use it as a context manager."""

    def __init__(
        self,
        seat: 'Seat',
        host: str = '127.0.0.1',
        port: int = GR00T_PORT,
        token: str | None = None,
    ) -> None:
        """Listen on host and port (0: any free one); QwenVlaError when the port is taken."""
        if not 0 <= port <= 65535:
            raise QwenVlaError(f'GR00T server: port {port}: choose one from 0 (any) to 65535')
        self._seat, self._token = seat, token
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(f'tcp://{host}:{port or "*"}')
        except zmq.ZMQError as error:
            self._context.destroy()
            raise QwenVlaError(
                f'GR00T server: cannot listen on {host}:{port} ({error.strerror}); choose '
                'another port or stop the process that has it'
            ) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> 'Gr00tServer':
        """Answer in a thread."""
        self._thread = threading.Thread(target=self._run, name='GR00T server', daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop when the running inference is done."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._context.destroy()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(100):
                client, *frames = self._socket.recv_multipart()
                answer = self._reply(client, frames[-1] if frames else b'')
                self._socket.send_multipart([client, b'', answer])

    def _reply(self, client: bytes, data: bytes) -> bytes:
        """Return the bytes that answer a request; what is refused is told in words."""
        try:
            return pack_gr00t(self._answer(client, unpack_gr00t(data)))
        except QwenVlaError as error:
            return pack_gr00t({'error': str(error)})
        except Exception as error:  # the server must outlive a defect of a policy
            _logger.exception('the policy failed')
            words = f'the policy failed with {type(error).__name__}: {error}'
            return pack_gr00t({'error': words})

    def _answer(self, client: bytes, request: Any) -> Any:
        if not isinstance(request, dict):
            raise ProtocolError('a request is a mapping with an endpoint')
        given = request.get('api_token') or ''
        if self._token is not None and not (
            isinstance(given, str) and same_token(given, self._token)
        ):
            raise ProtocolError('wrong or missing api_token')
        endpoint = request.get('endpoint', 'get_action')
        if endpoint == 'ping':
            return {'status': 'ok', 'message': 'Server is running'}
        if endpoint == 'get_modality_config':
            return modality_config(self._seat.layout, self._seat.metadata['horizon'])
        if endpoint == 'kill':
            raise ProtocolError('kill is not served; end the server where it was started')
        session = self._session(client)
        if endpoint == 'reset':
            session.reset()
            return {}
        if endpoint != 'get_action':
            raise ProtocolError(f'unknown endpoint {endpoint!r}')
        return act(session, request.get('data'))

    def _session(self, client: bytes) -> 'Session':
        """Return a client's session; of very many clients the longest silent is forgotten."""
        session = self._sessions.pop(client, None) or self._seat.open()
        self._sessions[client] = session
        if len(self._sessions) > MAX_CLIENTS:
            self._sessions.popitem(last=False)
        return session


def act(session: 'Session', data: Any) -> Any:
    """Return the answer to get_action's data, in the form of the client that sent it."""
    if not isinstance(data, dict):
        raise ProtocolError('get_action: data with an observation is wanted')
    wrapped = 'observation' in data
    observation = data['observation'] if wrapped else data
    if not isinstance(observation, dict):
        raise ProtocolError('get_action: the observation is a mapping of keys')
    nested = 'video' in observation
    samples, batched = _samples(_flat(observation) if nested else observation)
    answers = session.answer(samples)
    prefix = '' if nested else 'action.'
    actions = {
        f'{prefix}{key}': np.stack([answer[key] for answer in answers]) for key in answers[0]
    }
    if not batched:
        actions = {key: value[0] for key, value in actions.items()}
    return [actions, {}] if wrapped else actions


def modality_config(layout: 'WireLayout', horizon: int) -> dict[str, Any]:
    """Return what GR00T's clients turn into their ModalityConfig objects."""
    keys = {
        'video': [key.removeprefix('video.') for (key, *_) in layout.views.values()],
        'state': [key.removeprefix('state.') for key in layout.state],
        'action': list(dict.fromkeys(key for part in layout.actions for key in part.keys)),
        'language': [layout.instruction[0]],
    }
    steps = {'action': list(range(horizon))}
    return {
        kind: {
            '__ModalityConfig_class__': True,
            'as_json': {'delta_indices': steps.get(kind, [0]), 'modality_keys': names},
        }
        for kind, names in keys.items()
    }


def _flat(observation: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested observation with the keys of a flat one."""
    flat: dict[str, Any] = {}
    for kind, prefix in (('video', 'video.'), ('state', 'state.'), ('language', '')):
        values = observation.get(kind, {})
        if not isinstance(values, dict):
            raise ProtocolError(f'{kind}: a mapping of names is wanted')
        flat.update({f'{prefix}{key}': value for key, value in values.items()})
    return flat


def _samples(observation: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Return one observation for each environment, and whether there was an axis for them."""
    videos = {
        key: value
        for key, value in observation.items()
        if isinstance(key, str) and key.startswith('video.') and isinstance(value, np.ndarray)
    }
    if not videos or not all(value.ndim == 5 for value in videos.values()):
        return [dict(observation)], False
    sizes = {len(value) for value in videos.values()}
    if len(sizes) > 1:
        raise ProtocolError(f'video: batches of {sorted(sizes)} environments in one request')
    count = sizes.pop()
    for key, value in observation.items():
        if _has_axis(value) and len(value) != count:
            raise ProtocolError(f'{key}: {len(value)} entries for {count} environments')
    return [
        {key: _entry(value, index) for key, value in observation.items()} for index in range(count)
    ], True


def _entry(value: Any, index: int) -> Any:
    return value[index] if _has_axis(value) else value


def _has_axis(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 0)
