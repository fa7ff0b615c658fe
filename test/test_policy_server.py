"""The server: one request at a time, garbage and strangers turned away, health over HTTP."""

import threading
import urllib.request
from types import SimpleNamespace

import pytest
from echo_policy import Echo, observation
from websockets.sync.client import connect

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy_server import PolicyServer
from qwen_vla_ros.remote import PolicyUnavailable, RemotePolicy
from qwen_vla_ros.wire import pack, unpack


@pytest.fixture(scope='module')
def served():
    policy = Echo()
    with PolicyServer(policy, port=0) as server:
        yield SimpleNamespace(server=server, policy=policy)


@pytest.fixture
def remote(served):
    policy = RemotePolicy(served.server.address)
    yield policy
    policy.close()


def test_several_clients_are_served_one_at_a_time(served):
    clients = [RemotePolicy(served.server.address) for _ in range(3)]
    served.policy.most = 0
    threads = [threading.Thread(target=c.infer, args=(observation('slow'),)) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served.policy.most == 1
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ('garbage', 'words'),
    [
        (b'\xc1\xff', 'not a message'),
        ('words', 'not a message'),
        (pack({'type': 'exec', 'id': 1}), 'unknown type'),
        (pack({'type': 'infer', 'id': 1, 'observation': {'images': {}}}), 'no observation'),
        (pack({'type': 'infer', 'id': 1}), 'no observation'),
    ],
)
def test_a_client_that_sends_garbage_is_told_and_dropped(served, remote, garbage, words):
    with connect(served.server.address, compression=None, proxy=None) as raw:
        assert unpack(raw.recv())['type'] == 'metadata'
        raw.send(garbage)
        answer = unpack(raw.recv())
        assert answer['type'] == 'error'
        assert words in answer['message']
        with pytest.raises(Exception, match='1007'):
            raw.recv(timeout=2)
    assert remote.infer(observation()).horizon == 4


def test_health_is_answered_over_http(served):
    with urllib.request.urlopen(served.server.address.replace('ws', 'http') + '/health') as answer:
        assert answer.read() == b'ok\n'


def test_a_taken_port_is_one_clear_error(served):
    port = int(served.server.address.rpartition(':')[2])
    with pytest.raises(QwenVlaError, match=f'cannot listen on 127.0.0.1:{port}'):
        PolicyServer(Echo(), port=port).start()


def test_the_token_is_asked_for():
    with PolicyServer(Echo(), port=0, token='secret') as server:
        with pytest.raises(PolicyUnavailable, match='wants another token'):
            RemotePolicy(server.address, connect_timeout_s=0.5)
        client = RemotePolicy(server.address, token='secret')
        assert client.infer(observation()).horizon == 4
        client.close()


def test_a_port_that_cannot_be_is_refused():
    with pytest.raises(QwenVlaError, match='port 99999'):
        PolicyServer(Echo(), port=99999)
