"""The policy across a socket: equal answers, errors in words, a dead server known at once."""

import subprocess
import sys
import threading
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from websockets.sync.client import connect

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.remote import (
    PolicyServer,
    PolicyUnavailable,
    ProtocolError,
    RemotePolicy,
    pack,
    unpack,
)
from qwen_vla_ros.types import ActionChunk, Observation

SERVER = """
import sys
sys.path.insert(0, {folder!r})
from test_remote import Echo
from qwen_vla_ros.remote import PolicyServer
server = PolicyServer(Echo(), port={port}).start()
print(server.address, flush=True)
sys.stdin.read()
"""


class Echo:
    """Return the state as every row; slow or refusing when the instruction says so."""

    def __init__(self, checkpoint='echo'):
        self.metadata = {'checkpoint': checkpoint, 'horizon': 4}
        self.resets, self.running, self.most = 0, 0, 0

    def infer(self, observation, prefix=None):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if observation.instruction == 'slow':
                time.sleep(0.5)
            if observation.instruction == 'refuse':
                raise QwenVlaError('this instruction is refused')
            if observation.instruction == 'defect':
                raise ZeroDivisionError('a defect')
            assert prefix is None or prefix.dtype == np.float32
            rows = np.tile(observation.state, (4, 1))
            return ActionChunk(rows, observation.state_names, observation.stamp_ns, 0.2, 'base')
        finally:
            self.running -= 1

    def reset(self):
        self.resets += 1


def observation(instruction='touch the red block'):
    rng = np.random.default_rng(0)
    return Observation(
        images={'ego': rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)},
        state=np.array([0.25, -1.5], np.float32),
        state_names=('waist', 'shoulder'),
        instruction=instruction,
        stamp_ns=1_700_000_000_123_456_789,
        embodiment='widowx',
        sources_ns={'ego': 1, 'state': 2},
    )


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


def wait_for(condition, timeout_s=3.0):
    begin = time.perf_counter()
    while not condition():
        assert time.perf_counter() - begin < timeout_s, 'did not happen'
        time.sleep(0.001)
    return time.perf_counter() - begin


def test_a_chunk_arrives_as_the_policy_made_it(remote):
    chunk = remote.infer(observation(), np.zeros((2, 2), np.float32))
    assert chunk.names == ('waist', 'shoulder')
    assert chunk.start_ns == 1_700_000_000_123_456_789
    assert (chunk.step_s, chunk.frame) == (0.2, 'base')
    np.testing.assert_array_equal(chunk.actions, np.tile(observation().state, (4, 1)))
    assert 0 <= remote.inference_s < 1


def test_metadata_and_reset_cross_the_socket(remote, served):
    before = served.policy.resets
    remote.reset()
    assert served.policy.resets == before + 1
    assert remote.metadata == served.policy.metadata
    assert remote.connected
    assert remote.problem == ''


def test_what_the_policy_refuses_is_said_in_its_words(remote):
    with pytest.raises(QwenVlaError, match='this instruction is refused'):
        remote.infer(observation('refuse'))
    with pytest.raises(QwenVlaError, match='ZeroDivisionError: a defect'):
        remote.infer(observation('defect'))
    assert remote.infer(observation()).horizon == 4


def test_a_slow_inference_times_out_and_its_late_answer_is_dropped(remote):
    with pytest.raises(PolicyUnavailable, match=r'no answer from ws://.* within 0.05 s'):
        remote.infer(observation('slow'), timeout_s=0.05)
    assert remote.infer(observation()).horizon == 4


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


def test_the_token_is_asked_for():
    with PolicyServer(Echo(), port=0, token='secret') as server:
        with pytest.raises(PolicyUnavailable, match='wants another token'):
            RemotePolicy(server.address, connect_timeout_s=0.5)
        client = RemotePolicy(server.address, token='secret')
        assert client.infer(observation()).horizon == 4
        client.close()


def test_health_is_answered_over_http(served):
    with urllib.request.urlopen(served.server.address.replace('ws', 'http') + '/health') as answer:
        assert answer.read() == b'ok\n'


def test_nobody_there_is_said_with_the_remedy():
    with pytest.raises(PolicyUnavailable, match=r'127.0.0.1:9 .*start it with: qwen-vla serve'):
        RemotePolicy('127.0.0.1:9', connect_timeout_s=0.3)


def test_a_taken_port_is_one_clear_error(served):
    port = int(served.server.address.rpartition(':')[2])
    with pytest.raises(QwenVlaError, match=f'cannot listen on 127.0.0.1:{port}'):
        PolicyServer(Echo(), port=port).start()


def test_an_address_may_be_short_or_wrong():
    with pytest.raises(QwenVlaError, match="'eight' in 'localhost:eight' is no port"):
        RemotePolicy('localhost:eight')
    with pytest.raises(QwenVlaError, match='is no address'):
        RemotePolicy('http://localhost')


def test_another_policy_behind_the_same_address_is_refused():
    server = PolicyServer(Echo(), port=0).start()
    port = int(server.address.rpartition(':')[2])
    client = RemotePolicy(server.address)
    server.stop()
    wait_for(lambda: not client.connected)
    with PolicyServer(Echo('other'), port=port):
        wait_for(lambda: 'another policy (checkpoint differ)' in client.problem)
        assert not client.connected
    client.close()


def start_server(port):
    from pathlib import Path

    code = SERVER.format(folder=str(Path(__file__).parent), port=port)
    return subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_server_is_known_at_once_and_found_again():
    server = start_server(0)
    client = RemotePolicy(server.stdout.readline().strip())
    failures = []

    def infer_slowly():
        try:
            client.infer(observation('slow'))
        except PolicyUnavailable as error:
            failures.append(error)

    thread = threading.Thread(target=infer_slowly)
    thread.start()
    time.sleep(0.1)
    server.kill()
    assert wait_for(lambda: not client.connected) < 0.1
    thread.join(timeout=0.5)
    assert len(failures) == 1
    with pytest.raises(PolicyUnavailable, match='qwen-vla serve'):
        client.infer(observation())
    port = int(client._address.rpartition(':')[2])
    server.wait()
    again = start_server(port)
    wait_for(lambda: client.connected, 8.0)
    assert client.infer(observation()).horizon == 4
    client.close()
    again.kill()
    again.wait()
