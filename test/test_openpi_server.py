"""openpi's and starVLA's clients talk to our policy; what is wrong is told in words."""

import urllib.request

import msgpack
import numpy as np
import pytest
import websockets
from foreign_clients import Scripted, WebsocketClient, openpi_bytes, picture

from qwen_vla_ros.policy import PolicyMismatch
from qwen_vla_ros.protocols.layout import generic_layout
from qwen_vla_ros.protocols.seat import Seat
from qwen_vla_ros.protocols.websocket_server import OpenpiServer, StarvlaServer


def served(policy=None, kind=OpenpiServer, token=None, execute=2):
    policy = policy or Scripted()
    protocol = 'openpi' if kind is OpenpiServer else 'starvla'
    layout = generic_layout(protocol, policy.metadata)
    return kind(Seat(policy, layout, execute), port=0, token=token)


def request(prompt='touch it', **changes):
    fields = {
        'observation/images/ego': picture(),
        'observation/state': np.array([0.5, -1.0]),
        'prompt': prompt,
    }
    return {**fields, **changes}


def test_a_client_is_greeted_and_answered():
    policy = Scripted()
    with served(policy) as server, WebsocketClient(server.address) as client:
        assert client.metadata['action_names'] == ['a', 'b']
        answer = client.ask(request())
        np.testing.assert_array_equal(answer['actions'], [[1, 1], [2, 2], [3, 3], [4, 4]])
        assert answer['actions'].dtype == np.float32
        assert set(answer['server_timing']) == {'infer_ms'}
        assert client.ask(request())['server_timing']['prev_total_ms'] > 0
    seen = policy.opened[-1].seen
    np.testing.assert_array_equal(seen[0].images['ego'], picture())
    assert (seen[0].state.tolist(), seen[0].instruction) == ([0.5, -1.0], 'touch it')
    assert [s.stamp_ns for s in seen] == [0, 400_000_000]  # two steps of 0.2 s later


def test_another_sentence_begins_a_new_episode():
    policy = Scripted()
    with served(policy) as server, WebsocketClient(server.address) as client:
        for words in ('touch it', 'touch it', 'lift it'):
            client.ask(request(words))
    assert [s.stamp_ns for s in policy.opened[-1].seen] == [0, 400_000_000, 0]
    assert policy.opened[-1].resets == 2


def test_every_connection_has_a_memory_of_its_own():
    policy = Scripted()
    with served(policy) as server:
        for _ in range(2):
            with WebsocketClient(server.address) as client:
                client.ask(request())
    assert [len(p.seen) for p in policy.opened] == [0, 1, 1]


def test_pictures_with_the_channels_first_are_turned():
    policy = Scripted()
    with served(policy) as server, WebsocketClient(server.address) as client:
        client.ask(request(**{'observation/images/ego': picture().transpose(2, 0, 1)}))
    np.testing.assert_array_equal(policy.opened[-1].seen[0].images['ego'], picture())


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'prompt': 'refuse'}, 'this instruction is refused'),
        ({'prompt': 'defect'}, 'ZeroDivisionError: a defect'),
        ({'prompt': 'nan'}, 'not finite'),
        ({'prompt': 7}, 'prompt: the instruction is text'),
        ({'observation/state': np.zeros(3)}, r'observation/state: 3 values; 2 are wanted \(x, y'),
        ({'observation/state': 'x'}, 'observation/state: numbers'),
        ({'observation/state': np.array([np.nan, 0])}, 'x: nan is not a finite number'),
        ({'observation/images/ego': picture().astype(np.float32)}, 'is no picture'),
        ({'observation/images/ego': picture()[..., :1]}, 'is no picture'),
        ({'observation/images/ego': b'jpeg'}, 'a picture is an array'),
    ],
)
def test_what_is_refused_is_told_and_the_connection_stays(changes, words):
    import re

    with served() as server, WebsocketClient(server.address) as client:
        answer = client.ask(request(**changes))
        assert isinstance(answer, str) and re.search(words, answer)
        assert client.ask(request())['actions'].shape == (4, 2)


def test_a_missing_key_is_named_with_those_that_came():
    with served() as server, WebsocketClient(server.address) as client:
        answer = client.ask({'image': picture(), 'prompt': 'go'})
        assert answer == ('observation/images/ego is not in the request, which has: image, prompt')
        assert client.ask([1, 2]) == 'a request is a mapping of keys'


def test_garbage_is_told_and_ends_the_connection():
    with served() as server, WebsocketClient(server.address) as client:
        assert 'not MessagePack' in client.ask(b'\xc1')
        with pytest.raises(websockets.ConnectionClosed):
            client.ask(request())
        with WebsocketClient(server.address) as other:
            assert 'actions' in other.ask(request())


def test_damaged_requests_never_end_the_server():
    rng = np.random.default_rng(3)
    whole = openpi_bytes(request())
    with served() as server:
        for _ in range(40):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(256)
            with WebsocketClient(server.address) as client:
                client.ask(bytes(data))
        with WebsocketClient(server.address) as client:
            assert 'actions' in client.ask(request())


def test_the_key_is_asked_for():
    with served(token='secret') as server:
        with WebsocketClient(server.address, key='secret') as client:
            assert 'actions' in client.ask(request())
        with pytest.raises(websockets.InvalidStatus):
            WebsocketClient(server.address, key='other')


def test_the_health_check_answers():
    with served() as server:
        page = urllib.request.urlopen(server.address.replace('ws', 'http') + '/healthz').read()
    assert page == b'OK\n'


def test_a_policy_that_needs_another_view_is_refused():
    layout = generic_layout('openpi', Scripted().metadata)
    with pytest.raises(PolicyMismatch, match='looks at cam_right_wrist, which the client'):
        Seat(Scripted(views=('ego', 'cam_right_wrist')), layout)
    with pytest.raises(PolicyMismatch, match='the client wants b, which it does not command'):
        Seat(Scripted(names=('a',)), layout)
    with pytest.raises(PolicyMismatch, match='it needs the state z, the client sends x, y'):
        Seat(Scripted(state=('z',), state_input='text'), layout)


def example(words='touch it'):
    return {'image': [picture()], 'lang': words, 'state': np.zeros((1, 2), np.float32)}


def test_a_starvla_client_gets_a_batch():
    policy = Scripted()
    with served(policy, StarvlaServer) as server, WebsocketClient(server.address) as client:
        assert client.metadata['action_chunk_size'] == 2
        assert client.metadata['available_unnorm_keys'] == ['widowx']
        answer = client.ask({'examples': [example(), example('lift it')], 'do_sample': False})
        assert (answer['status'], answer['type']) == ('ok', 'inference_result')
        assert answer['data']['actions'].shape == (2, 4, 2)
        enveloped = {'type': 'infer', 'request_id': '7', 'payload': {'examples': [example()]}}
        assert client.ask(enveloped)['request_id'] == '7'
        assert client.ask({'type': 'ping'})['type'] == 'ping'
    assert [p.seen[0].instruction for p in policy.opened[1:]] == ['touch it', 'lift it']


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        ({'examples': [example('refuse')]}, 'this instruction is refused'),
        ({'examples': []}, 'a list of samples'),
        ({'examples': [{'lang': 'go'}]}, 'image > 0 is not in the request'),
        ({'type': 'init'}, "unknown type 'init'"),
        ({'payload': 3}, 'a list of samples'),
    ],
)
def test_starvla_is_told_what_is_refused(message, words):
    with served(kind=StarvlaServer) as server, WebsocketClient(server.address) as client:
        answer = client.ask(message)
        assert (answer['ok'], answer['status']) == (False, 'error')
        assert words in answer['error']['message']


def test_batches_of_a_policy_with_one_memory_are_refused():
    policy = Scripted()
    policy.open = None
    with served(policy, StarvlaServer) as server, WebsocketClient(server.address) as client:
        assert client.ask({'examples': [example()]})['ok']
        answer = client.ask({'examples': [example(), example()]})
        assert 'has one memory' in answer['error']['message']


def test_messages_are_bounded():
    with (
        served() as server,
        WebsocketClient(server.address) as client,
        pytest.raises(websockets.ConnectionClosed),
    ):
        client.ask(msgpack.packb({'x': bytes(65 * 2**20)}))


@pytest.mark.slow
def test_a_model_says_through_openpi_what_it_says_here():
    pytest.importorskip('torch')
    from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
    from qwen_vla_ros.policy import load_policies
    from qwen_vla_ros.types import Observation

    policies = load_policies(bundled_checkpoint(), 'cpu')
    own = policies.open('widowx')
    facts = own.metadata
    state = np.linspace(0.016, 0.03, len(facts['state_names'])).astype(np.float32)
    images = {view: picture(480, 640, seed=k) for k, view in enumerate(facts['views'])}
    names = tuple(facts['state_names'])
    here = own.infer(Observation(images, state, names, 'touch the red block', 0, 'widowx'))
    seat = Seat(policies, generic_layout('openpi', facts), 16, robot='widowx')
    fields = {f'observation/images/{view}': image for view, image in images.items()}
    with OpenpiServer(seat, port=0) as server, WebsocketClient(server.address) as client:
        request = {**fields, 'observation/state': state, 'prompt': 'touch the red block'}
        np.testing.assert_array_equal(client.ask(request)['actions'], here.actions)
