"""The policy across a socket: equal answers, errors in words, a dead server known at once."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from echo_policy import Echo, observation

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy_server import PolicyServer
from qwen_vla_ros.remote import PolicyUnavailable, RemotePolicy
from qwen_vla_ros.wire import pack

SERVER = """
import sys
sys.path.insert(0, {folder!r})
from echo_policy import Echo
from qwen_vla_ros.remote import PolicyServer
server = PolicyServer(Echo(), port={port}).start()
print(server.address, flush=True)
sys.stdin.read()
"""


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


def test_nobody_there_is_said_with_the_remedy():
    with pytest.raises(PolicyUnavailable, match=r'127.0.0.1:9 .*start it with: qwen-vla serve'):
        RemotePolicy('127.0.0.1:9', connect_timeout_s=0.3)


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
    wait_for(lambda: client._waiting)
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
    assert client.connections == 2
    assert client.infer(observation()).horizon == 4
    client.close()
    again.kill()
    again.wait()


@pytest.mark.parametrize(
    ('greeting', 'words'),
    [
        ({'type': 'metadata', 'protocol': 0}, 'speaks protocol 0, this program 1'),
        ({'type': 'metadata', 'protocol': 1}, 'does not say what policy it serves'),
        ({'type': 'hello'}, 'speaks protocol None'),
    ],
)
def test_a_server_of_another_kind_is_told(greeting, words):
    from websockets.sync.server import serve

    with serve(lambda connection: connection.send(pack(greeting)), '127.0.0.1', 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        with pytest.raises(PolicyUnavailable, match=words):
            RemotePolicy(f'127.0.0.1:{port}', connect_timeout_s=0.5)
        server.shutdown()
        thread.join()
