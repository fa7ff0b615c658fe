"""
MessagePack with numpy arrays as other projects write them, read without running anything.

openpi, starVLA  {b'__ndarray__': True, b'data': bytes, b'dtype': '<f4', b'shape': [2, 3]} and
                 {b'__npgeneric__': True, b'data': 1.5, b'dtype': '<f4'}
                 (openpi, packages/openpi-client/src/openpi_client/msgpack_numpy.py)
GR00T            {'__ndarray_class__': True, 'as_npy': the bytes of a .npy file}
                 (Isaac-GR00T, gr00t/policy/server_client.py, MsgSerializer)

Neither side's own reader limits what may come. Here a dtype is from a list, a shape agrees with
the number of bytes before anything is reserved, and a .npy header is read without numpy.load.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.wire import MAX_BYTES, ProtocolError

try:
    import msgpack
except ModuleNotFoundError as error:
    raise QwenVlaError(f'policy protocols: {error}; pip install websockets msgpack') from error

NAMES = (
    *('bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64'),
    *('float16', 'float32', 'float64'),
)
DTYPES = {np.dtype(name).newbyteorder(order).str for name in NAMES for order in '<>'}
MAX_DEPTH = 16
MAX_HEADER = 4096  # bytes of a .npy header


def pack_openpi(message: Any) -> bytes:
    """Return the bytes that openpi's and starVLA's clients and servers read."""
    return msgpack.packb(message, default=_openpi_array, use_bin_type=True)


def unpack_openpi(data: bytes) -> Any:
    """Return an openpi or starVLA message; ProtocolError says what is wrong with it."""
    return _unpack(data, _from_openpi)


def pack_gr00t(message: Any) -> bytes:
    """Return the bytes that GR00T's clients and servers read."""
    return msgpack.packb(message, default=_gr00t_array, use_bin_type=True)


def unpack_gr00t(data: bytes) -> Any:
    """Return a GR00T message; ProtocolError says what is wrong with it."""
    return _unpack(data, _from_gr00t)


def read_npy(data: bytes) -> np.ndarray:
    """Return the array of a .npy file's bytes (versions 1 and 2); ProtocolError if it is none."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = readers[version](file, max_header_size=MAX_HEADER)
    except Exception as error:  # the header is a literal of any kind
        raise ProtocolError(f'not the bytes of a .npy array ({error})') from error
    array = _array(dtype.str, list(shape[::-1] if fortran else shape), data[file.tell() :])
    return array.T if fortran else array


def _unpack(data: bytes, hook: Callable[[dict[Any, Any]], Any]) -> Any:
    """Return a message of plain values and arrays, not deeper than MAX_DEPTH."""
    if len(data) > MAX_BYTES:
        raise ProtocolError(f'{len(data)} bytes in one message; at most {MAX_BYTES}')
    try:
        message = msgpack.unpackb(data, object_hook=hook, ext_hook=_no_extension, raw=False)
    except ProtocolError:
        raise
    except Exception as error:  # msgpack raises a dozen kinds for malformed bytes
        raise ProtocolError(f'not MessagePack ({type(error).__name__}: {error})') from error
    _refuse_depth(message, MAX_DEPTH)
    return message


def _no_extension(code: int, data: bytes) -> Any:
    raise ProtocolError(f'a MessagePack extension of type {code}')


def _refuse_depth(value: Any, left: int) -> None:
    """Refuse containers in containers beyond what any client sends."""
    if left == 0:
        raise ProtocolError(f'values nested deeper than {MAX_DEPTH}')
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for inner in value:
        _refuse_depth(inner, left - 1)


def _array(dtype: Any, shape: Any, data: Any) -> np.ndarray:
    """Return a read-only array; ProtocolError unless dtype, shape and bytes agree."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ProtocolError(f'an array of dtype {dtype!r}; allowed are {", ".join(NAMES)}')
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or len(shape) > 8 or not isinstance(data, bytes):
        raise ProtocolError('an array without a shape (of at most 8 axes) or bytes')
    count = 1
    for size in shape:
        count *= size
    kind = np.dtype(dtype)
    if count * kind.itemsize != len(data) or max(shape, default=0) > MAX_BYTES:
        raise ProtocolError(f'an array {dtype} {shape} with {len(data)} bytes')
    return np.frombuffer(data, kind).reshape(shape)


def _from_openpi(value: dict[Any, Any]) -> Any:
    """Return a mapping, or the array or number that it stands for."""
    if b'__ndarray__' in value:
        return _array(value.get(b'dtype'), value.get(b'shape'), value.get(b'data'))
    if b'__npgeneric__' in value:
        return _number(value.get(b'dtype'), value.get(b'data'))
    return value


def _number(dtype: Any, value: Any) -> Any:
    """Return a numpy number."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ProtocolError(f'a number of dtype {dtype!r}; allowed are {", ".join(NAMES)}')
    if not isinstance(value, (bool, int, float)):
        raise ProtocolError(f'a number of dtype {dtype} that is {type(value).__name__}')
    try:
        return np.dtype(dtype).type(value)
    except (OverflowError, ValueError) as error:
        raise ProtocolError(f'{value!r} is no {dtype} ({error})') from error


def _from_gr00t(value: dict[Any, Any]) -> Any:
    """Return a mapping, or the array that it stands for; a ModalityConfig stays a mapping."""
    if '__ndarray_class__' in value:
        data = value.get('as_npy')
        if not isinstance(data, bytes):
            raise ProtocolError('an array without its .npy bytes')
        return read_npy(data)
    return value


def _sendable(value: Any) -> np.ndarray:
    """Return an array that may be sent; everything else is a defect of the caller."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.str in DTYPES:
        return np.asarray(value)
    raise TypeError(f'cannot send {type(value).__name__} {getattr(value, "dtype", "")}')


def _openpi_array(value: Any) -> Any:
    array = _sendable(value)
    if isinstance(value, np.generic):
        return {b'__npgeneric__': True, b'data': value.item(), b'dtype': array.dtype.str}
    return {
        b'__ndarray__': True,
        b'data': array.tobytes(),
        b'dtype': array.dtype.str,
        b'shape': array.shape,
    }


def _gr00t_array(value: Any) -> Any:
    array = _sendable(value)
    if isinstance(value, np.generic):
        return value.item()
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return {'__ndarray_class__': True, 'as_npy': file.getvalue()}
