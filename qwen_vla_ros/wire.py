"""
The messages between PolicyServer and RemotePolicy: MessagePack in WebSocket frames.

server -> client  metadata {protocol, metadata, shares}; then for every request, by its id:
                  chunk {chunk, inference_s} | done {} | error {message}
client -> server  infer {observation, prefix} | reset {} | share {name, size}

After a share the pictures of an observation may lie in shared memory (shared_pictures.py): its
field `shared` then has view -> {offset, shape} in the place of `images`.

An array travels as its dtype (from a short list), shape and bytes, so nothing that arrives can run
code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.shared_pictures import SharedView, SharingRefused
from qwen_vla_ros.types import ActionChunk, Observation

try:
    import msgpack
except ModuleNotFoundError as error:
    raise QwenVlaError(f'remote policy: {error}; pip install websockets msgpack') from error

PROTOCOL = 1
DEFAULT_PORT = 8766
MAX_BYTES = 64 * 2**20
DTYPES = ('uint8', 'int32', 'int64', 'float16', 'float32', 'float64', 'bool')


class ProtocolError(QwenVlaError):
    """Bytes that are no message of this protocol."""


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
        'data': np.ascontiguousarray(value).reshape(-1).view(np.uint8).data,
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


def observation_fields(observation: Observation) -> dict[str, Any]:
    """Return an observation as the fields of a request."""
    return {
        'images': dict(observation.images),
        'state': observation.state,
        'state_names': list(observation.state_names),
        'instruction': observation.instruction,
        'stamp_ns': observation.stamp_ns,
        'embodiment': observation.embodiment,
        'sources_ns': dict(observation.sources_ns),
    }


def read_observation(fields: Any, area: SharedView | None = None) -> Observation:
    """
    Return the observation of a request; ProtocolError when a field is absent or odd.

    Pictures in shared memory are copied: the client writes the next ones over them.
    """
    try:
        images, state = dict(fields['images']), fields['state']
        if fields.get('shared'):
            if area is None:
                raise ValueError('pictures in shared memory before a share')
            images.update(area.read(fields['shared']))
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
    except (KeyError, TypeError, ValueError, SharingRefused) as error:
        raise ProtocolError(f'no observation in the request ({error!r})') from error


def chunk_fields(chunk: ActionChunk) -> dict[str, Any]:
    """Return a chunk as the fields of an answer."""
    return {
        'actions': chunk.actions,
        'names': list(chunk.names),
        'start_ns': chunk.start_ns,
        'step_s': chunk.step_s,
        'frame': chunk.frame,
    }


def read_chunk(answer: Mapping[str, Any]) -> tuple[ActionChunk, float]:
    """Return chunk and inference time in s; ProtocolError when a field is absent or odd."""
    try:
        fields = answer['chunk']
        chunk = ActionChunk(
            actions=np.asarray(fields['actions'], np.float32),
            names=tuple(fields['names']),
            start_ns=int(fields['start_ns']),
            step_s=float(fields['step_s']),
            frame=str(fields['frame']),
        )
        return chunk, float(answer['inference_s'])
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f'no chunk in the answer ({error!r})') from error
