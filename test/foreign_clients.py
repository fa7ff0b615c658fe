"""
Clients of other projects, as bytes: written from their formats, not with this package's packers.

openpi, starVLA: WebSocket and MessagePack with arrays as mappings of bytes keys. GR00T: ZeroMQ and
MessagePack with arrays as .npy bytes.
"""

import io
import struct
from contextlib import ExitStack

import msgpack
import numpy as np
import zmq
from websockets.sync.client import connect

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.types import ActionChunk


class Scripted:
    """A policy whose row i is i + 1 in every channel; it keeps what it saw."""

    def __init__(self, names=('a', 'b'), views=('ego',), state=('x', 'y'), horizon=4, **facts):
        self.metadata = {
            'checkpoint': 'scripted',
            'embodiment': 'widowx',
            'layout': 'abs_joint',
            'action_names': list(names),
            'action_units': ['rad'] * len(names),
            'state_names': list(state),
            'views': list(views),
            'rate_hz': 5.0,
            'horizon': horizon,
            **facts,
        }
        self.seen, self.resets, self.opened = [], 0, []

    def open(self, robot=''):
        facts = {key: value for key, value in self.metadata.items() if key not in OWN}
        names = self.metadata
        other = Scripted(
            names['action_names'], names['views'], names['state_names'], names['horizon'], **facts
        )
        self.opened.append(other)
        return other

    def infer(self, observation, prefix=None):
        self.seen.append(observation)
        if observation.instruction == 'refuse':
            raise QwenVlaError('this instruction is refused')
        if observation.instruction == 'defect':
            raise ZeroDivisionError('a defect')
        rows = np.arange(1, self.metadata['horizon'] + 1, dtype=np.float32)
        if observation.instruction == 'nan':
            rows[1] = np.nan
        names = tuple(self.metadata['action_names'])
        actions = np.repeat(rows[:, None], len(names), axis=1)
        return ActionChunk(actions, names, observation.stamp_ns, 0.2)

    def reset(self):
        self.resets += 1


OWN = {'action_names', 'views', 'state_names', 'horizon'}


def openpi_bytes(value):
    def array(a):
        return {
            b'__ndarray__': True,
            b'data': a.tobytes(),
            b'dtype': a.dtype.str,
            b'shape': a.shape,
        }

    return msgpack.packb(value, default=array)


def openpi_value(data):
    def array(m):
        if b'__ndarray__' in m:
            return np.ndarray(m[b'shape'], np.dtype(m[b'dtype']), m[b'data'])
        return m

    return msgpack.unpackb(data, object_hook=array)


class WebsocketClient:
    """What openpi's and starVLA's clients do: greeting, then request and answer in turn."""

    def __init__(self, address, key=None):
        headers = {'Authorization': f'Api-Key {key}'} if key else None
        self._leave = ExitStack()
        self.connection = self._leave.enter_context(
            connect(
                address, compression=None, max_size=None, proxy=None, additional_headers=headers
            )
        )
        self.metadata = openpi_value(self.connection.recv(timeout=5))

    def ask(self, request):
        self.connection.send(request if isinstance(request, bytes) else openpi_bytes(request))
        answer = self.connection.recv(timeout=5)
        return answer if isinstance(answer, str) else openpi_value(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._leave.close()


def gr00t_bytes(value):
    def array(a):
        file = io.BytesIO()
        np.save(file, a, allow_pickle=False)
        return {'__ndarray_class__': True, 'as_npy': file.getvalue()}

    return msgpack.packb(value, default=array)


def gr00t_value(data):
    def array(m):
        return np.load(io.BytesIO(m['as_npy'])) if '__ndarray_class__' in m else m

    return msgpack.unpackb(data, object_hook=array)


class ZmqClient:
    """What GR00T's client does: REQ, one endpoint a message."""

    def __init__(self, address):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 5000)
        self.socket.connect(address)

    def ask(self, endpoint, data=None, **fields):
        request = {'endpoint': endpoint, **fields}
        if data is not None:
            request['data'] = data
        return self.raw(gr00t_bytes(request))

    def raw(self, data):
        self.socket.send(data)
        return gr00t_value(self.socket.recv())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.destroy()


def npy(descr, shape, data):
    """Return a .npy file that says what it likes."""
    header = repr({'descr': descr, 'fortran_order': False, 'shape': shape}).encode() + b'\n'
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + data


def picture(height=6, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
