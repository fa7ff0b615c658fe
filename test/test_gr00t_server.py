"""GR00T's clients, of robots and of simulators, talk to our policy over ZeroMQ."""

import msgpack
import numpy as np
import pytest
from foreign_clients import Scripted, ZmqClient, gr00t_bytes, npy, picture

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.protocols.conversions import ActionPart
from qwen_vla_ros.protocols.layout import GR00T_SENTENCES, WireLayout
from qwen_vla_ros.protocols.seat import Seat
from qwen_vla_ros.protocols.zmq_server import Gr00tServer

LAYOUT = WireLayout(
    'gr00t',
    'a test',
    {'ego': ('video.ego_view',)},
    GR00T_SENTENCES,
    (ActionPart(('left_arm',), ('a', 'b')), ActionPart(('waist', 'neck'), ('c', 'd'))),
    {'state.left_arm': ('x', 'y')},
)


def policy():
    return Scripted(names=('a', 'b', 'c', 'd'))


def served(given=None, token=None):
    return Gr00tServer(Seat(given or policy(), LAYOUT, execute=4), port=0, token=token)


def flat(count=2, words=('pick it', 'pick it')):
    return {
        'video.ego_view': np.stack([picture(seed=b)[None] for b in range(count)]),
        'state.left_arm': np.arange(2 * count, dtype=np.float32).reshape(count, 1, 2),
        'annotation.human.coarse_action': list(words[:count]),
    }


def test_a_simulator_s_flat_batch_is_answered():
    given = policy()
    with served(given) as server, ZmqClient(server.address) as client:
        assert client.ask('ping') == {'status': 'ok', 'message': 'Server is running'}
        actions, info = client.ask('get_action', {'observation': flat(), 'options': None})
        assert info == {}
        assert {k: v.shape for k, v in actions.items()} == {
            'action.left_arm': (2, 4, 2),
            'action.waist': (2, 4, 1),
            'action.neck': (2, 4, 1),
        }
        assert client.ask('reset', {'options': None}) == {}
    first, second = given.opened[1:]
    np.testing.assert_array_equal(second.seen[0].images['ego'], picture(seed=1))
    assert (first.seen[0].state.tolist(), second.seen[0].state.tolist()) == ([0, 1], [2, 3])
    assert first.resets == 2


def test_a_robot_s_nested_observation_is_answered():
    nested = {
        'video': {'ego_view': np.stack([picture(seed=0), picture(seed=1)])[None]},
        'state': {'left_arm': np.array([[[0.0, 1.0], [2.0, 3.0]]], np.float32)},
        'language': {'annotation.human.task_description': [['pick it']]},
    }
    given = policy()
    with served(given) as server, ZmqClient(server.address) as client:
        actions, _ = client.ask('get_action', {'observation': nested})
    assert actions['left_arm'].shape == (1, 4, 2)
    seen = given.opened[-1].seen[0]
    np.testing.assert_array_equal(seen.images['ego'], picture(seed=1))  # the newest frame
    assert (seen.state.tolist(), seen.instruction) == ([2.0, 3.0], 'pick it')


def test_the_older_form_without_a_batch_is_answered():
    observation = {
        'video.ego_view': picture()[None],
        'state.left_arm': np.zeros((1, 2), np.float32),
        'annotation.human.action.task_description': ['pick it'],
    }
    with served() as server, ZmqClient(server.address) as client:
        answer = client.ask('get_action', observation)
    assert answer['action.left_arm'].shape == (4, 2)


def test_the_modalities_are_told():
    with served() as server, ZmqClient(server.address) as client:
        found = client.ask('get_modality_config')
    told = {kind: entry['as_json']['modality_keys'] for kind, entry in found.items()}
    assert told == {
        'video': ['ego_view'],
        'state': ['left_arm'],
        'action': ['left_arm', 'waist', 'neck'],
        'language': ['annotation.human.task_description'],
    }
    assert found['action']['as_json']['delta_indices'] == [0, 1, 2, 3]
    assert all(entry['__ModalityConfig_class__'] for entry in found.values())


@pytest.mark.parametrize(
    ('endpoint', 'data', 'words'),
    [
        ('fly', {}, "unknown endpoint 'fly'"),
        ('kill', None, 'kill is not served'),
        ('get_action', 3, 'data with an observation'),
        ('get_action', {'observation': [1]}, 'a mapping of keys'),
        ('get_action', {'observation': {'video': 3}}, 'video: a mapping'),
        ('get_action', {'observation': {**flat(), 'state.left_arm': np.zeros(3)}}, '3 entries'),
        ('get_action', {'observation': flat(1, ('refuse',))}, 'this instruction is refused'),
        ('get_action', {'observation': flat(1, ('defect',))}, 'ZeroDivisionError: a defect'),
        ('get_action', {'observation': {}}, 'video.ego_view is not in the request'),
    ],
)
def test_what_is_refused_is_told_and_the_server_stays(endpoint, data, words):
    with served() as server, ZmqClient(server.address) as client:
        assert words in client.ask(endpoint, data)['error']
        assert client.ask('ping')['status'] == 'ok'


def test_damaged_requests_never_end_the_server():
    rng = np.random.default_rng(5)
    whole = gr00t_bytes({'endpoint': 'get_action', 'data': {'observation': flat(1)}})
    pickled = {'__ndarray_class__': True, 'as_npy': npy('|O', (1,), b'\x80\x04K\x01.')}
    with served() as server, ZmqClient(server.address) as client:
        assert 'dtype' in client.raw(msgpack.packb({'data': pickled}))['error']
        for _ in range(100):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
            client.raw(bytes(data))
        assert client.ask('ping')['status'] == 'ok'


def test_the_token_is_asked_for():
    with served(token='secret') as server, ZmqClient(server.address) as client:
        assert client.ask('ping', api_token='secret')['status'] == 'ok'
        for given in ('other', 7, None):
            assert 'api_token' in client.ask('ping', api_token=given)['error']


def test_a_taken_port_is_told():
    with served() as server:
        port = int(server.address.rpartition(':')[2])
        with pytest.raises(QwenVlaError, match='cannot listen on 127.0.0.1'):
            Gr00tServer(Seat(policy(), LAYOUT), port=port)
