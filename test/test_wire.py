"""The messages: what crosses comes out equal, anything else is refused."""

import numpy as np
import pytest
from echo_policy import Echo, observation

from qwen_vla_ros.wire import (
    ProtocolError,
    chunk_fields,
    observation_fields,
    pack,
    read_chunk,
    read_observation,
    unpack,
)


def across(message):
    return unpack(pack({'type': 't', **message}))


def test_an_observation_comes_out_as_it_went_in():
    sent = observation()
    found = read_observation(across({'observation': observation_fields(sent)})['observation'])
    np.testing.assert_array_equal(found.images['ego'], sent.images['ego'])
    np.testing.assert_array_equal(found.state, sent.state)
    for name in ('state_names', 'instruction', 'stamp_ns', 'embodiment', 'sources_ns'):
        assert getattr(found, name) == getattr(sent, name)


def test_a_chunk_comes_out_as_it_went_in():
    sent = Echo().infer(observation())
    found, seconds = read_chunk(across({'chunk': chunk_fields(sent), 'inference_s': 0.25}))
    np.testing.assert_array_equal(found.actions, sent.actions)
    assert (found.names, found.start_ns) == (sent.names, sent.start_ns)
    assert (found.step_s, found.frame, seconds) == (0.2, 'base', 0.25)


@pytest.mark.parametrize(
    'answer',
    [{}, {'chunk': None}, {'chunk': {'actions': [[0.0]], 'names': ['waist']}}],
)
def test_an_answer_without_a_whole_chunk_is_refused(answer):
    with pytest.raises(ProtocolError, match='no chunk in the answer'):
        read_chunk(answer)


def test_what_is_neither_plain_nor_array_is_not_sent():
    for value in (object(), np.array([object()]), np.array(['words'])):
        with pytest.raises(TypeError, match='cannot send'):
            pack({'type': 't', 'value': value})


@pytest.mark.parametrize(
    ('array', 'words'),
    [
        ({'__array__': 'object', 'shape': [1], 'data': b'12345678'}, "dtype 'object'"),
        ({'__array__': 'float32', 'shape': [3], 'data': b'1234'}, 'with 4 bytes'),
        ({'__array__': 'float32', 'shape': [-1], 'data': b'1234'}, 'without shape'),
        ({'__array__': 'uint8', 'shape': [2**62, 4], 'data': b''}, 'with 0 bytes'),
    ],
)
def test_arrays_of_other_kinds_are_refused(array, words):
    with pytest.raises(ProtocolError, match=words):
        unpack(pack({'type': 'infer', 'value': array}))


def test_arrays_keep_dtype_shape_and_order():
    for dtype in ('uint8', 'int64', 'float32', 'float64', 'bool'):
        array = np.arange(12).reshape(3, 4).astype(dtype).T
        found = unpack(pack({'type': 't', 'a': array}))['a']
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
