"""
Policies of other projects in our seat: openpi, starVLA and GR00T servers, worn like a local one.

Their servers do not say what their channels mean: the robot's contract and the keys do, so both
must be those of the checkpoint that they serve. Rows that are not finite, too few or of another
width are refused. A chunk starts at the observation, without a prefix.
"""

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import websockets

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.patches import resize
from qwen_vla_ros.policy import PolicyMismatch, describe_policy
from qwen_vla_ros.protocols.addresses import ServerAddress, read_address, read_keys
from qwen_vla_ros.protocols.layout import OWN, WireLayout
from qwen_vla_ros.protocols.messages import (
    pack_gr00t,
    pack_openpi,
    unpack_gr00t,
    unpack_openpi,
)
from qwen_vla_ros.remote import PolicyUnavailable, RemotePolicy
from qwen_vla_ros.types import ActionChunk, Observation
from qwen_vla_ros.wire import MAX_BYTES, ProtocolError

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from qwen_vla_ros.embodiment import Embodiment

LEROBOT = (
    'LeRobot policy servers (async_inference) send Python pickles both ways: whoever answers at '
    'the port can run code on this machine (CVE-2026-25874), so they are not spoken to; serve the '
    'checkpoint by openpi, starVLA or GR00T, or load it here'
)


def policy_at(
    address: str,
    embodiment: 'Embodiment',
    layout: str | None = None,
    token: str | None = None,
    timeout_s: float = 10.0,
    connect_timeout_s: float = 5.0,
) -> 'ForeignPolicy | RemotePolicy':
    """
    Return the policy that answers at an address, ours (ws://, host:port) or another project's.

    PolicyUnavailable when nobody answers; QwenVlaError for an address or keys that are wrong.
    """
    scheme = address.partition('://')[0] if '://' in address else 'ws'
    if scheme in ('ws', 'wss'):
        return RemotePolicy(address, timeout_s, token, connect_timeout_s, robot=embodiment.name)
    if scheme in ('lerobot', 'grpc'):
        raise QwenVlaError(f'{address}: {LEROBOT}')
    place = read_address(address)
    kind = {'openpi': OpenpiPolicy, 'starvla': StarvlaPolicy, 'gr00t': Gr00tPolicy}[place.protocol]
    keys = read_keys(place, embodiment, layout)
    return kind(place, keys, embodiment, layout, token, timeout_s, connect_timeout_s)


class ForeignPolicy:
    """What the three have in common: one request at a time, a connection that is made anew."""

    def __init__(
        self,
        place: ServerAddress,
        keys: WireLayout,
        embodiment: 'Embodiment',
        layout: str | None = None,
        token: str | None = None,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 5.0,
    ) -> None:
        """Connect; PolicyMismatch when keys and contract do not fit."""
        groups = embodiment.action_groups(layout)
        self.metadata: Mapping[str, Any] = {
            **describe_policy(embodiment, layout),
            'checkpoint': f'{place.protocol}://{place.host}:{place.port}',
        }
        self._rotations = {name: group.rotation for group in groups for name in group.names}
        self._frame = next((group.frame for group in groups if group.frame), '')
        self._place, self._keys, self._token = place, keys, token
        self._timeout_s, self._connect_timeout_s = timeout_s, connect_timeout_s
        self._lock = threading.Lock()
        self.connections, self.transport = 0, f'{place.protocol} socket'
        self.inference_s: float | None = None
        missing = sorted(set(self.metadata['action_names']) - set(keys.action_names))
        if missing:
            raise PolicyMismatch(
                f'{self._told}: the keys of {keys.source} command no {", ".join(missing)}'
            )
        with self._lock:
            self._connect()

    @property
    def _told(self) -> str:
        return str(self.metadata['checkpoint'])

    def infer(
        self,
        observation: Observation,
        prefix: np.ndarray | None = None,
        timeout_s: float | None = None,
    ) -> ActionChunk:
        """
        Infer over there.

        PolicyUnavailable when the server is gone or slow, QwenVlaError with its words when it
        refuses, ProtocolError when its answer is no chunk of this robot.
        """
        if prefix is not None:
            raise QwenVlaError(f"{self._told}: it takes no prefix; choose splice 'blend'")
        sample = self._keys.request(self._resized(observation))
        begin = time.perf_counter()
        with self._lock:
            answer = self._ask(sample, timeout_s or self._timeout_s)
        self.inference_s = self._inference_s(answer) or time.perf_counter() - begin
        names = tuple(self.metadata['action_names'])
        rows = self._keys.restore(answer, names, self._rotations)
        horizon = self.metadata['horizon']
        if len(rows) < horizon:
            raise ProtocolError(
                f'{self._told} answers with {len(rows)} rows, the contract wants {horizon}: set '
                'its horizon'
            )
        if not np.isfinite(rows).all():
            raise ProtocolError(f'{self._told} answered with a number that is not finite')
        step_s = 1.0 / self.metadata['rate_hz']
        return ActionChunk(rows[:horizon], names, observation.stamp_ns, step_s, self._frame)

    def reset(self) -> None:
        """Nothing to say: these servers' policies have no memory, their messages no word."""

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            self._drop()

    def _resized(self, observation: Observation) -> Observation:
        if self._place.image is None:
            return observation
        from dataclasses import replace

        images = {view: resize(i, *self._place.image) for view, i in observation.images.items()}
        return replace(observation, images=images)

    def _inference_s(self, answer: Mapping[str, Any]) -> float | None:
        return None

    def _connect(self) -> None:
        raise NotImplementedError

    def _ask(self, sample: dict[str, Any], timeout_s: float) -> Mapping[str, Any]:
        raise NotImplementedError

    def _drop(self) -> None:
        raise NotImplementedError


class OpenpiPolicy(ForeignPolicy):
    """A policy served by openpi."""

    _connection: 'ClientConnection | None' = None

    def _connect(self) -> None:
        from websockets.sync.client import connect

        place = self._place
        headers = {'Authorization': f'Api-Key {self._token}'} if self._token else None
        self._leave = ExitStack()
        try:
            self._connection = self._leave.enter_context(
                connect(
                    f'ws://{place.host}:{place.port}',
                    additional_headers=headers,
                    compression=None,
                    proxy=None,
                    open_timeout=self._connect_timeout_s,
                    close_timeout=0.5,
                    max_size=MAX_BYTES,
                )
            )
            greeting = unpack_openpi(
                _bytes(self._connection.recv(timeout=self._connect_timeout_s))
            )
        except websockets.InvalidStatus as error:
            status = error.response.status_code
            what = 'wants another key' if status == 401 else f'is no server (HTTP {status})'
            raise PolicyUnavailable(f'{self._told} {what}') from error
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            self._drop()
            raise PolicyUnavailable(f'nobody answers at {self._told} ({error})') from error
        except ProtocolError as error:
            self._drop()
            raise ProtocolError(f'{self._told} is no such server: {error}') from error
        self.connections += 1
        self._compare(greeting)

    def _compare(self, greeting: Any) -> None:
        """Refuse a server that says of itself that its channels are others."""
        told = greeting.get('action_names') if isinstance(greeting, dict) else None
        own = list(self.metadata['action_names'])
        if self._keys.source == OWN and told not in (None, own):
            self._drop()
            raise PolicyMismatch(f'{self._told} commands {told}, the robot takes {own}')

    def _ask(self, sample: dict[str, Any], timeout_s: float) -> Mapping[str, Any]:
        return self._answer(self._exchange(pack_openpi(sample), timeout_s))

    def _exchange(self, data: bytes, timeout_s: float) -> str | bytes:
        if self._connection is None:
            self._connect()
        connection = self._connection
        assert connection is not None
        try:
            connection.send(data)
            return connection.recv(timeout=timeout_s)
        except TimeoutError as error:
            self._drop()  # its answer would be taken for that of the next request
            raise PolicyUnavailable(f'no answer from {self._told} in {timeout_s:g} s') from error
        except (OSError, websockets.WebSocketException) as error:
            self._drop()
            raise PolicyUnavailable(f'lost {self._told} ({error})') from error

    def _answer(self, data: str | bytes) -> Mapping[str, Any]:
        if isinstance(data, str):
            raise QwenVlaError(f'{self._told}: {data.strip().splitlines()[-1]}')
        return _mapping(unpack_openpi(data), self._told)

    def _inference_s(self, answer: Mapping[str, Any]) -> float | None:
        timing = answer.get('server_timing')
        value = timing.get('infer_ms') if isinstance(timing, dict) else None
        return float(value) / 1e3 if isinstance(value, (int, float)) else None

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection = None
            self._leave.close()


class StarvlaPolicy(OpenpiPolicy):
    """A policy served by starVLA."""

    def _ask(self, sample: dict[str, Any], timeout_s: float) -> Mapping[str, Any]:
        request = {'examples': [sample], 'do_sample': False}
        return self._answer(self._exchange(pack_openpi(request), timeout_s))

    def _answer(self, data: str | bytes) -> Mapping[str, Any]:
        answer = super()._answer(data)
        if answer.get('ok') is False or answer.get('status') == 'error':
            error = answer.get('error')
            words = error.get('message') if isinstance(error, dict) else error
            raise QwenVlaError(f'{self._told}: {words}')
        return _mapping(answer.get('data'), self._told)


class Gr00tPolicy(ForeignPolicy):
    """A policy served by GR00T (N1.6): flat keys in, batches of one."""

    _socket: Any = None
    _context: Any = None

    def _connect(self) -> None:
        try:
            import zmq
        except ModuleNotFoundError as error:
            raise QwenVlaError(f'GR00T policy: {error}; pip install pyzmq') from error
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        for option, value in ((zmq.LINGER, 0), (zmq.MAXMSGSIZE, MAX_BYTES)):
            self._socket.setsockopt(option, value)
        self._socket.connect(f'tcp://{self._place.host}:{self._place.port}')
        self._call('ping', None, self._connect_timeout_s)
        self.connections += 1

    def _call(self, endpoint: str, data: Any, timeout_s: float) -> Any:
        request = {'endpoint': endpoint}
        request |= {} if data is None else {'data': data}
        request |= {'api_token': self._token} if self._token else {}
        self._socket.send(pack_gr00t(request))
        if not self._socket.poll(round(timeout_s * 1000)):
            self._drop()  # a REQ socket that waits can ask nothing else
            raise PolicyUnavailable(f'no answer from {self._told} in {timeout_s:g} s')
        answer = unpack_gr00t(self._socket.recv())
        if isinstance(answer, dict) and 'error' in answer:
            raise QwenVlaError(f'{self._told}: {answer["error"]}')
        return answer

    def _ask(self, sample: dict[str, Any], timeout_s: float) -> Mapping[str, Any]:
        if self._socket is None:
            self._connect()
        observation = {key: _batched(value) for key, value in sample.items()}
        data = {'observation': observation, 'options': None}
        answer = self._call('get_action', data, timeout_s)
        actions = answer[0] if isinstance(answer, list) and answer else answer
        found = _mapping(actions, self._told)
        return {str(key).removeprefix('action.'): value for key, value in found.items()}

    def reset(self) -> None:
        """Tell the server that an episode begins."""
        with self._lock:
            if self._socket is None:
                self._connect()
            self._call('reset', {'options': None}, self._timeout_s)

    def _drop(self) -> None:
        context, self._context, self._socket = self._context, None, None
        if context is not None:
            context.destroy()


def _batched(value: Any) -> Any:
    """Return a value with GR00T's axes, a batch of one and one instant; nested as on robots."""
    if isinstance(value, dict):
        return {key: [[v]] if isinstance(v, str) else _batched(v) for key, v in value.items()}
    return value[None, None] if isinstance(value, np.ndarray) else [value]


def _bytes(data: str | bytes) -> bytes:
    if isinstance(data, str):
        raise ProtocolError(f'a frame of text where the greeting is due: {data[:100]}')
    return data


def _mapping(value: Any, told: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f'{told} answered with {type(value).__name__}, not with actions')
    return value
