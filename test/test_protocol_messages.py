"""Other projects' messages: read as they write them, and nothing else gets through."""

import msgpack
import numpy as np
import pytest
from foreign_clients import gr00t_bytes, gr00t_value, npy, openpi_bytes, openpi_value

from qwen_vla_ros.protocols.messages import (
    pack_gr00t,
    pack_openpi,
    read_npy,
    unpack_gr00t,
    unpack_openpi,
)
from qwen_vla_ros.wire import ProtocolError

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    np.zeros((0, 3), np.uint8),
    np.array([True, False]),
    np.array(2.5),
    np.arange(3, dtype='>f8'),
]


@pytest.mark.parametrize('array', ARRAYS, ids=lambda a: f'{a.dtype.str}{a.shape}')
@pytest.mark.parametrize(
    ('theirs', 'ours'), [(openpi_bytes, unpack_openpi), (gr00t_bytes, unpack_gr00t)]
)
def test_their_arrays_are_read(theirs, ours, array):
    found = ours(theirs({'a': array}))['a']
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize('array', ARRAYS[:4], ids=lambda a: f'{a.dtype.str}{a.shape}')
@pytest.mark.parametrize(
    ('ours', 'theirs'), [(pack_openpi, openpi_value), (pack_gr00t, gr00t_value)]
)
def test_they_read_our_arrays(ours, theirs, array):
    found = theirs(ours({'a': array, 'n': 1, 'words': ['x', None]}))
    np.testing.assert_array_equal(found['a'], array)
    assert (found['n'], found['words']) == (1, ['x', None])


def test_numpy_numbers_cross():
    sent = {'x': np.float32(1.5), 'n': np.int64(-3)}
    found = unpack_openpi(pack_openpi(sent))
    assert (found['x'], found['x'].dtype, found['n']) == (1.5, np.float32, -3)
    assert unpack_gr00t(pack_gr00t(sent)) == {'x': 1.5, 'n': -3}


@pytest.mark.parametrize('pack', [pack_openpi, pack_gr00t])
def test_objects_are_not_sent(pack):
    for value in (object(), np.array([object()]), np.array(['words']), np.array([1j])):
        with pytest.raises(TypeError, match='cannot send'):
            pack({'value': value})


@pytest.mark.parametrize(
    ('array', 'words'),
    [
        ({b'dtype': '|O', b'shape': [1], b'data': b'12345678'}, r"dtype '\|O'"),
        ({b'dtype': '<f4,<f4', b'shape': [1], b'data': b'12345678'}, 'dtype'),
        ({b'dtype': ['<f4'], b'shape': [1], b'data': b'1234'}, 'dtype'),
        ({b'dtype': '<f4', b'shape': [3], b'data': b'1234'}, 'with 4 bytes'),
        ({b'dtype': '<f4', b'shape': [-1], b'data': b'1234'}, 'without a shape'),
        ({b'dtype': '<f4', b'shape': [True], b'data': b'1234'}, 'without a shape'),
        ({b'dtype': '|u1', b'shape': [2**62, 4], b'data': b''}, 'with 0 bytes'),
        ({b'dtype': '|u1', b'shape': [2**62, 0], b'data': b''}, 'with 0 bytes'),
        ({b'dtype': '|u1', b'shape': [1] * 40, b'data': b'1'}, 'at most 8 axes'),
        ({b'dtype': '|u1', b'shape': [1], b'data': 'x'}, 'bytes'),
        ({}, 'dtype None'),
    ],
)
def test_odd_arrays_are_refused(array, words):
    with pytest.raises(ProtocolError, match=words):
        unpack_openpi(msgpack.packb({'a': {b'__ndarray__': True, **array}}))


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({b'dtype': '|O', b'data': 1}, r"dtype '\|O'"),
        ({b'dtype': '<f4', b'data': [1]}, 'that is list'),
        ({b'dtype': '|u1', b'data': 700}, 'is no'),
    ],
)
def test_odd_numbers_are_refused(fields, words):
    with pytest.raises(ProtocolError, match=words):
        unpack_openpi(msgpack.packb({'a': {b'__npgeneric__': True, **fields}}))


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (npy('|O', (1,), b'12345678'), 'dtype'),
        (npy([('x', '<f4')], (1,), b'1234'), 'dtype'),
        (npy('<f4', (2**50,), b'1234'), 'with 4 bytes'),
        (npy('<f4', (-1,), b'1234'), r'\.npy|shape'),
        (npy('<f4', (1,), b'12345'), 'with 5 bytes'),
        (b'\x93NUMPY\x09\x00', r'\.npy'),
        (b'\x80\x04\x95pickle', r'\.npy'),
        (b'', r'\.npy'),
    ],
)
def test_odd_npy_bytes_are_refused(data, words):
    with pytest.raises(ProtocolError, match=words):
        read_npy(data)


@pytest.mark.parametrize('unpack', [unpack_openpi, unpack_gr00t])
def test_extensions_depth_and_garbage_are_refused(unpack):
    deep = []
    for _ in range(40):
        deep = [deep]
    for data in (msgpack.packb(msgpack.ExtType(5, b'x')), msgpack.packb(deep), b'', b'\xc1'):
        with pytest.raises(ProtocolError):
            unpack(data)
    bomb = b'\xdd\xff\xff\xff\xff'  # an array of 4 G entries in five bytes
    with pytest.raises(ProtocolError):
        unpack(bomb)


@pytest.mark.parametrize(
    ('pack', 'unpack'), [(openpi_bytes, unpack_openpi), (gr00t_bytes, unpack_gr00t)]
)
def test_damaged_bytes_give_a_value_or_one_kind_of_error(pack, unpack):
    rng = np.random.default_rng(7)
    whole = pack({'image': np.zeros((2, 3, 3), np.uint8), 'state': np.ones(4), 'prompt': 'go'})
    refused = 0
    for _ in range(1500):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(data), rng.integers(0, 6)):
            data[place] = rng.integers(256)
        try:
            unpack(bytes(data))
        except ProtocolError:
            refused += 1
    assert refused > 500
