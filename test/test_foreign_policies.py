"""Other projects' servers in our seat: their formats, their failures, our units."""

import numpy as np
import pytest
from foreign_clients import picture
from foreign_servers import WebsocketDouble, ZmqDouble

from qwen_vla_ros.cli import main
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import PolicyMismatch, refuse_mismatch
from qwen_vla_ros.protocols.clients import policy_at
from qwen_vla_ros.protocols.conversions import ActionPart
from qwen_vla_ros.remote import PolicyUnavailable
from qwen_vla_ros.types import Observation
from qwen_vla_ros.wire import ProtocolError

WIDOWX = Embodiment.load('widowx')
ROWS = np.arange(16 * 7, dtype=np.float32).reshape(16, 7) / 100


def observation(robot=WIDOWX, size=(6, 8)):
    return Observation(
        images={c.view: picture(*size, seed=i) for i, c in enumerate(robot.cameras)},
        state=np.arange(len(robot.state_names), dtype=np.float32),
        state_names=robot.state_names,
        instruction='touch the red block',
        stamp_ns=7,
        embodiment=robot.name,
    )


def openpi(answer=None, **how):
    given = answer or (lambda request: {'actions': ROWS, 'server_timing': {'infer_ms': 20.0}})
    return WebsocketDouble(given, **how)


def test_an_openpi_server_is_a_policy():
    with openpi() as server:
        policy = policy_at(f'openpi://127.0.0.1:{server.port}', WIDOWX)
        refuse_mismatch(policy.metadata, WIDOWX, 'abs_joint')
        chunk = policy.infer(observation())
        policy.reset()
        policy.close()
    np.testing.assert_array_equal(chunk.actions, ROWS)
    assert (chunk.names, chunk.start_ns, chunk.step_s) == (WIDOWX.action_names(), 7, 0.2)
    assert (policy.inference_s, policy.connections) == (0.02, 1)
    (seen,) = server.seen
    np.testing.assert_array_equal(seen['observation/images/cam_right_wrist'], picture(seed=1))
    assert seen['observation/state'].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert seen['prompt'] == 'touch the red block'


def test_a_starvla_server_is_a_policy():
    def answer(request):
        return {'status': 'ok', 'ok': True, 'data': {'actions': ROWS[None]}}

    with WebsocketDouble(answer) as server:
        policy = policy_at(f'starvla://127.0.0.1:{server.port}?image=4x5', WIDOWX)
        np.testing.assert_array_equal(policy.infer(observation()).actions, ROWS)
        policy.close()
    (example,) = server.seen[0]['examples']
    assert [image.shape for image in example['image']] == [(4, 5, 3), (4, 5, 3)]
    assert example['lang'] == 'touch the red block'


def gr00t(request):
    if request['endpoint'] == 'ping':
        return {'status': 'ok'}
    if request['endpoint'] == 'reset':
        return {}
    return [{'action.action': ROWS[None]}, {}]


def test_a_gr00t_server_is_a_policy():
    with ZmqDouble(gr00t) as server:
        policy = policy_at(f'gr00t://127.0.0.1:{server.port}', WIDOWX, token='secret')
        policy.reset()
        np.testing.assert_array_equal(policy.infer(observation()).actions, ROWS)
        policy.close()
    assert [request['endpoint'] for request in server.seen] == ['ping', 'reset', 'get_action']
    assert all(request['api_token'] == 'secret' for request in server.seen)
    sent = server.seen[-1]['data']['observation']
    assert sent['video.ego'].shape == (1, 1, 6, 8, 3) and sent['state.state'].shape == (1, 1, 7)
    assert sent['annotation.human.task_description'] == ['touch the red block']


def test_keys_of_a_file_are_used_and_its_units_undone(tmp_path):
    keys = tmp_path / 'keys.yaml'
    keys.write_text(
        'source: a lab\n'
        'views: {ego: video > front}\n'
        'state: {state > arm: [waist, shoulder]}\n'
        'instruction: language > task\n'
        'actions:\n'
        '- {keys: [move], names: [dx, dy, dz, droll, dpitch, dyaw], way: step,\n'
        '   full_scale: [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]}\n'
        '- {keys: [grip], names: [left_finger], way: opening, closed: 0.015, open: 0.037,\n'
        '   send: [1.0, -1.0]}\n'
    )
    move = np.zeros((1, 16, 6), np.float32)
    move[0, :, 0], move[0, :, 5] = 0.2, 0.1

    def answer(request):
        plain = {'ping': {}, 'reset': {}}
        grip = np.zeros((1, 16, 1), np.float32)
        return plain.get(request['endpoint'], [{'move': move, 'grip': grip}, {}])

    with ZmqDouble(answer) as server:
        address = f'gr00t://127.0.0.1:{server.port}?keys={keys}'
        policy = policy_at(address, WIDOWX, 'delta_eef')
        chunk = policy.infer(observation())
        policy.close()
    np.testing.assert_allclose(chunk.actions[:, 0], np.arange(1, 17) * 0.01, rtol=1e-5)
    np.testing.assert_allclose(chunk.actions[:, 5], np.arange(1, 17) * 0.05, rtol=1e-5)
    np.testing.assert_allclose(chunk.actions[:, 6], 0.026, rtol=1e-5)
    assert chunk.frame == 'base_link'
    sent = server.seen[-1]['data']['observation']
    assert sent['video']['front'].shape == (1, 1, 6, 8, 3)
    assert sent['state']['arm'].tolist() == [[[0.0, 1.0]]]
    assert sent['language']['task'] == [['touch the red block']]


@pytest.mark.parametrize('given', ['euler', 'axis_angle'])
@pytest.mark.parametrize('sent', ['euler', 'axis_angle'])
def test_steps_and_displacements_undo_each_other(given, sent):
    rng = np.random.default_rng(4)
    rows = np.cumsum(rng.uniform(-0.1, 0.1, (8, 6)), axis=0)
    names = ('dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw')
    part = ActionPart(('a',), names, 'step', sent)
    back = part.restore(part.convert(rows, given), given)
    np.testing.assert_allclose(back, rows, atol=1e-5)


def test_a_step_turns_about_the_frame_s_fixed_axes():
    quarter = np.pi / 2
    rows = [[0, 0, 0, 0, 0, quarter / 2], [0, 0, 0, quarter / 2, 0, quarter / 2]]
    step = ActionPart(('a',), tuple('abcdef'), 'step').convert(np.array(rows))[1, 3:]
    # Rz(45) Rx(45) after Rz(45) is a turn of 45 degrees about Rz(45) x
    np.testing.assert_allclose(step, quarter / 2 * np.array([0.5**0.5, 0.5**0.5, 0]), atol=1e-6)


@pytest.mark.parametrize(
    ('answer', 'words'),
    [
        ('Traceback\n  ...\nKeyError: state', 'KeyError: state'),
        ({'action': ROWS}, 'actions is not in the answer, which has: action'),
        ({'actions': ROWS[:, :6]}, 'too few channels'),
        ({'actions': np.zeros((16, 32), np.float32)}, '32 channels; the keys know 7'),
        ({'actions': ROWS[:8]}, 'answers with 8 rows, the contract wants 16'),
        ({'actions': np.full((16, 7), np.nan)}, 'not finite'),
        ({'actions': ROWS.astype('U4')}, 'dtype'),
        ([1], 'answered with list'),
        (b'\xc1', 'not MessagePack'),
    ],
)
def test_an_answer_that_is_no_chunk_of_this_robot_is_refused(answer, words):
    with openpi(lambda request: answer) as server:
        policy = policy_at(f'openpi://127.0.0.1:{server.port}', WIDOWX)
        with pytest.raises(QwenVlaError, match=words):
            policy.infer(observation())
        policy.close()


def test_what_starvla_and_gr00t_refuse_is_told():
    refusal = {'status': 'error', 'ok': False, 'error': {'message': 'no unnorm_key'}}
    with WebsocketDouble(lambda request: refusal) as server:
        policy = policy_at(f'starvla://127.0.0.1:{server.port}', WIDOWX)
        with pytest.raises(QwenVlaError, match='no unnorm_key'):
            policy.infer(observation())
        policy.close()

    def answer(request):
        return {} if request['endpoint'] == 'ping' else {'error': 'no such video key'}

    with ZmqDouble(answer) as server:
        policy = policy_at(f'gr00t://127.0.0.1:{server.port}', WIDOWX)
        with pytest.raises(QwenVlaError, match='no such video key'):
            policy.infer(observation())
        policy.close()


def test_a_server_that_went_away_is_connected_again():
    calls = []

    def answer(request):
        calls.append(request)
        return None if len(calls) == 1 else {'actions': ROWS}

    with openpi(answer) as server:
        policy = policy_at(f'openpi://127.0.0.1:{server.port}', WIDOWX)
        with pytest.raises(PolicyUnavailable, match='lost openpi://'):
            policy.infer(observation())
        assert policy.infer(observation()).horizon == 16
        assert policy.connections == server.connections == 2
        policy.close()


def test_nobody_there_is_told():
    for scheme in ('openpi', 'starvla', 'gr00t'):
        with pytest.raises(PolicyUnavailable, match='nobody answers|no answer'):
            policy_at(f'{scheme}://127.0.0.1:1', WIDOWX, connect_timeout_s=0.2)


def test_a_slow_answer_is_not_taken_for_the_next():
    import time

    calls = []

    def answer(request):
        calls.append(request)
        if len(calls) == 1:
            time.sleep(0.3)
        return {'actions': ROWS * len(calls)}

    with openpi(answer) as server:
        policy = policy_at(f'openpi://127.0.0.1:{server.port}', WIDOWX)
        with pytest.raises(PolicyUnavailable, match='in 0.1 s'):
            policy.infer(observation(), timeout_s=0.1)
        np.testing.assert_array_equal(policy.infer(observation()).actions, ROWS * 2)
        policy.close()


def test_the_key_is_sent():
    with openpi(key='secret') as server:
        policy = policy_at(f'openpi://127.0.0.1:{server.port}', WIDOWX, token='secret')
        policy.close()
        with pytest.raises(PolicyUnavailable, match='wants another key'):
            policy_at(f'openpi://127.0.0.1:{server.port}', WIDOWX, token='other')


def test_a_server_that_says_it_commands_something_else_is_refused():
    with (
        openpi(greeting={'action_names': ['a']}) as server,
        pytest.raises(PolicyMismatch, match='commands'),
    ):
        policy_at(f'openpi://127.0.0.1:{server.port}', WIDOWX)


@pytest.mark.parametrize(
    ('address', 'words'),
    [
        ('lerobot://127.0.0.1:8080', 'pickles'),
        ('grpc://127.0.0.1:8080', 'pickles'),
        ('http://127.0.0.1', 'the scheme is none of'),
        ('openpi://', 'write openpi://host:port'),
        ('openpi://h:80000', 'Port out of range|port'),
        ('openpi://h?kyes=x', 'without kyes'),
        ('openpi://h?image=224', '224x224'),
        ('openpi://h?keys=nothing', 'known keys: domino'),
        ('gr00t://h?keys=domino', 'speaks gr00t'),
        ('openpi://h?keys=libero', 'command no'),
    ],
)
def test_an_address_that_cannot_be_is_told(address, words):
    with pytest.raises(QwenVlaError, match=words):
        policy_at(address, WIDOWX, connect_timeout_s=0.1)


def test_another_kind_of_server_is_told():
    def greet(connection):
        connection.send('{"hello": "json"}')

    from websockets.sync.server import serve

    with serve(greet, '127.0.0.1', 0) as server:
        import threading

        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        with pytest.raises(ProtocolError, match='is no such server: a frame of text'):
            policy_at(f'openpi://127.0.0.1:{port}', WIDOWX)
        server.shutdown()


def test_a_prefix_is_refused():
    with openpi() as server:
        policy = policy_at(f'openpi://127.0.0.1:{server.port}', WIDOWX)
        with pytest.raises(QwenVlaError, match='takes no prefix'):
            policy.infer(observation(), np.zeros((1, 7), np.float32))
        policy.close()


def test_words_are_no_policy():
    with pytest.raises(QwenVlaError, match='no waypoints'):
        ActionPart(('words',), ('dx',), 'words').restore(np.zeros((1, 1)))


def test_a_view_that_the_robot_has_not_is_named():
    base = Embodiment.load('mobile_base')
    with openpi() as server:
        policy = policy_at(f'openpi://127.0.0.1:{server.port}', WIDOWX)
        with pytest.raises(QwenVlaError, match='it wants cam_right_wrist, elbow'):
            policy.infer(observation(base))
        policy.close()


def test_the_command_line_takes_addresses(capsys):
    words = ['eval', 'sim', '--policy', 'lerobot://127.0.0.1:8080', '--seeds', '0:1']
    assert main(words) == 2
    assert 'pickles' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['serve', '--policy', 'nonsense'])


@pytest.mark.slow
def test_a_server_of_others_is_evaluated_as_a_model_is(tmp_path, capsys):
    pytest.importorskip('mujoco')
    stop = {'actions': np.zeros((8, 3), np.float32)}
    with openpi(lambda request: stop) as server:
        address = f'openpi://127.0.0.1:{server.port}'
        words = ['eval', 'sim', '--robot', 'mobile_base', '--policy', address, '--seeds', '0:1']
        assert main([*words, '--no-baselines', '--out', str(tmp_path)]) == 0
    assert 'SR 0/1' in capsys.readouterr().out
    assert server.seen[0]['observation/images/ego'].shape[2] == 3
    assert address in (tmp_path / 'summary.json').read_text()
