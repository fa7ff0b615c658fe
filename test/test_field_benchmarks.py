"""Each benchmark's client, in its own keys, gets actions in its own units."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml
from foreign_clients import WebsocketClient, ZmqClient, picture

from qwen_vla_ros.cli import main
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import PolicyMismatch
from qwen_vla_ros.protocols import field_benchmarks
from qwen_vla_ros.protocols.field_benchmarks import (
    FieldBenchmark,
    StillPolicy,
    known_benchmarks,
)
from qwen_vla_ros.protocols.serving import foreign_server, told_keys
from qwen_vla_ros.types import ActionChunk

POSE = ('x', 'y', 'z', 'roll', 'pitch', 'yaw')


class Given:
    """A policy for a benchmark that returns the rows it is given."""

    def __init__(self, benchmark, views, rows):
        self.metadata = {**benchmark.describe(views), 'checkpoint': 'given'}
        self.rows, self.seen = np.asarray(rows, np.float32), []

    def infer(self, observation, prefix=None):
        self.seen.append(observation)
        names = tuple(self.metadata['action_names'])
        return ActionChunk(self.rows, names, observation.stamp_ns, 0.1)

    def reset(self):
        pass


def served(name, protocol, rows, views=('ego',)):
    benchmark = FieldBenchmark.load(name)
    policy = Given(benchmark, views, rows)
    return policy, foreign_server(benchmark.seat(policy, protocol), '127.0.0.1', 0)


# Two rows of displacement from where the tip was (m, rad) and the gripper in m.
DELTAS = [[0.01, 0, 0, 0, 0, 0.1, 0.04], [0.03, 0, -0.1, 0, 0, 0.3, 0.0]]


def libero_openpi():
    """As Physical-Intelligence/openpi examples/libero/main.py builds it."""
    return {
        'observation/image': picture(seed=1),
        'observation/wrist_image': picture(seed=2),
        'observation/state': np.arange(8, dtype=np.float64),
        'prompt': 'put the bowl on the plate',
    }


def test_libero_s_openpi_client_gets_steps_of_its_controller():
    policy, server = served('libero', 'openpi', DELTAS, ('ego', 'cam_right_wrist'))
    with server, WebsocketClient(server.address) as client:
        assert client.metadata['benchmark'] == 'libero'
        actions = client.ask(libero_openpi())['actions']
    # 1 is 0.05 m or 0.5 rad; -0.1 m in one step is more than the controller takes; -1 opens
    wanted = [[0.2, 0, 0, 0, 0, 0.2, -1], [0.4, 0, -1, 0, 0, 0.4, 1]]
    np.testing.assert_allclose(actions, wanted, atol=1e-6)
    seen = policy.seen[0]
    np.testing.assert_array_equal(seen.images['cam_right_wrist'], picture(seed=2))
    assert (seen.state_names[3], seen.state[7]) == ('axis_angle_x', 7)


def test_libero_s_starvla_client_gets_an_open_gripper_as_one():
    policy, server = served('libero', 'starvla', DELTAS, ('ego', 'cam_right_wrist'))
    example = {'image': [picture(seed=1), picture(seed=2)], 'lang': 'put it away'}
    with server, WebsocketClient(server.address) as client:
        assert client.metadata['action_chunk_size'] == 5
        answer = client.ask(
            {'examples': [example], 'unnorm_key': None, 'do_sample': False, 'use_ddim': True}
        )
    np.testing.assert_allclose(answer['data']['actions'][0, :, 6], [1.0, 0.0])
    np.testing.assert_array_equal(policy.seen[0].images['ego'], picture(seed=1))


def test_libero_s_gr00t_client_gets_one_key_a_channel():
    _, server = served('libero', 'gr00t', DELTAS, ('ego', 'cam_right_wrist'))
    observation = {
        'video.image': picture()[None, None],
        'video.wrist_image': picture()[None, None],
        **{f'state.{k}': np.zeros((1, 1, 1), np.float32) for k in POSE},
        'state.gripper': np.zeros((1, 1, 2), np.float32),
        'annotation.human.action.task_description': ['put it away'],
    }
    with server, ZmqClient(server.address) as client:
        actions, _ = client.ask('get_action', {'observation': observation, 'options': None})
    assert set(actions) == {f'action.{k}' for k in (*POSE, 'gripper')}
    np.testing.assert_allclose(actions['action.yaw'][0, :, 0], [0.2, 0.4], atol=1e-6)


def test_simpler_s_client_gets_angles_in_its_own_units():
    _, server = served('simpler_widowx', 'starvla', [[*row[:6], 0.026] for row in DELTAS])
    example = {'image': [picture(224, 224)], 'lang': 'put the spoon on the towel'}
    with server, WebsocketClient(server.address) as client:
        answer = client.ask({'examples': [example], 'unnorm_key': 'oxe_bridge'})
    wanted = [[0.01, 0, 0, 0, 0, 0.1, 0.5], [0.02, 0, -0.1, 0, 0, 0.2, 0.5]]
    np.testing.assert_allclose(answer['data']['actions'][0], wanted, atol=1e-6)


def robocasa(count):
    """As gymnasium's vector environment of robocasa-gr1-tabletop-tasks sends it."""
    sizes = {'left_arm': 7, 'right_arm': 7, 'left_hand': 6, 'right_hand': 6, 'waist': 3}
    return {
        'video.ego_view_bg_crop_pad_res256_freq20': np.stack([picture()[None]] * count),
        **{f'state.{k}': np.zeros((count, 1, n), np.float32) for k, n in sizes.items()},
        'annotation.human.coarse_action': ['put the can into the drawer'] * count,
    }


def test_robocasa_s_client_gets_parts_of_the_body():
    rows = np.tile(np.arange(29), (16, 1))
    policy, server = served('robocasa_gr1', 'gr00t', rows)
    with server, ZmqClient(server.address) as client:
        actions, _ = client.ask('get_action', {'observation': robocasa(1)})
    assert {k: (v.shape, v[0, 0, 0]) for k, v in actions.items()} == {
        'action.left_arm': ((1, 16, 7), 0),
        'action.right_arm': ((1, 16, 7), 7),
        'action.left_hand': ((1, 16, 6), 14),
        'action.right_hand': ((1, 16, 6), 20),
        'action.waist': ((1, 16, 3), 26),
    }
    assert len(policy.seen[0].state) == 29


def test_robotwin_s_clients_get_grippers_as_shares_in_their_order():
    joints = np.arange(14, dtype=np.float32)
    joints[[6, 13]] = 0.088, 0.022  # left open, right a quarter open
    views = ('ego', 'cam_left_wrist', 'cam_right_wrist')
    _, server = served('robotwin_hard', 'starvla', joints[None], views)
    example = {'image': [picture(seed=k) for k in range(3)], 'lang': 'hand it over'}
    with server, WebsocketClient(server.address) as client:
        row = client.ask({'examples': [example]})['data']['actions'][0, 0]
    np.testing.assert_allclose(row, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 1, 0.25])

    policy, server = served('domino', 'openpi', joints[None], views)
    request = {
        'images': {
            name: picture(seed=k).transpose(2, 0, 1)
            for k, name in enumerate(('cam_high', 'cam_left_wrist', 'cam_right_wrist'))
        },
        'state': np.zeros(14),
        'prompt': 'catch it',
    }
    with server, WebsocketClient(server.address) as client:
        row = client.ask(request)['actions'][0]
    np.testing.assert_allclose(row, [0, 1, 2, 3, 4, 5, 1, 7, 8, 9, 10, 11, 12, 0.25])
    np.testing.assert_array_equal(policy.seen[0].images['cam_left_wrist'], picture(seed=1))


@pytest.mark.parametrize(
    ('name', 'rows', 'words'),
    [
        ('vlnce_r2r', [[0.3, 0.0, 0.0]], 'move forward 25 cm'),
        ('vlnce_r2r', [[0.05, 0, 0], [0.8, 0, 0]], 'move forward 75 cm'),
        ('vlnce_r2r', [[0.0, 0.0, 0.5]], 'turn left 30 degree'),
        ('vlnce_r2r', [[0.2, -0.2, 0.0]], 'turn right 45 degree'),
        ('vlnce_rxr', [[0.2, -0.2, 0.0]], 'turn right 60 degree'),
        ('vlnce_r2r', [[0.04, 0.0, 0.05]] * 8, 'stop'),
    ],
)
def test_vln_ce_s_client_gets_the_next_action_in_words(name, rows, words):
    policy, server = served(name, 'starvla', rows)
    frames = [picture(seed=k) for k in range(3)]
    with server, WebsocketClient(server.address) as client:
        answer = client.ask({'images': frames, 'instruction': 'leave the room'})['data']
    assert answer['output'] == f'The next action is {words}.'
    assert answer['outputs'] == [answer['output']]
    np.testing.assert_allclose(answer['actions'][0], np.float32(rows))
    np.testing.assert_array_equal(policy.seen[0].images['ego'], picture(seed=2))


def test_every_benchmark_is_whole():
    assert known_benchmarks() == [
        *('domino', 'libero', 'robocasa_gr1', 'robotwin_easy', 'robotwin_hard', 'simpler_ood'),
        *('simpler_widowx', 'vlnce_r2r', 'vlnce_rxr'),
    ]
    for name in known_benchmarks():
        benchmark = FieldBenchmark.load(name)
        ours = set(benchmark.embodiment.action_names(benchmark.layout))
        assert benchmark.name == name and 1 <= benchmark.execute <= benchmark.horizon
        for layout in benchmark.clients.values():
            assert set(layout.action_names) == ours
            assert '/' in layout.source
        assert benchmark.metrics


def test_the_prompt_is_the_paper_s():
    assert FieldBenchmark.load('libero').prompt('open the drawer') == (
        'The robot is Franka Panda with single arm. The control frequency is 20 Hz. Please '
        'predict the next 16 control actions to execute the following task: open the drawer.'
    )


def test_the_still_policy_moves_nothing():
    benchmark = FieldBenchmark.load('libero')
    policy = StillPolicy(benchmark, ('ego', 'cam_right_wrist'))
    server = foreign_server(benchmark.seat(policy, 'openpi'), '127.0.0.1', 0)
    with server, WebsocketClient(server.address) as client:
        actions = client.ask(libero_openpi())['actions']
    np.testing.assert_array_equal(actions, np.tile([0, 0, 0, 0, 0, 0, -1], (16, 1)))


def test_joints_that_a_client_does_not_measure_are_refused():
    benchmark = FieldBenchmark.load('robotwin_easy')
    views = ('ego', 'cam_left_wrist', 'cam_right_wrist')
    server = foreign_server(
        benchmark.seat(StillPolicy(benchmark, views), 'starvla'), '127.0.0.1', 0
    )
    with server, WebsocketClient(server.address) as client:
        answer = client.ask({'examples': [{'image': [picture()] * 3, 'lang': 'go'}]})
    assert 'the client does not measure left_joint1' in answer['error']['message']


def test_what_is_unknown_is_named():
    with pytest.raises(QwenVlaError, match="'liber': unknown; did you mean 'libero'"):
        FieldBenchmark.load('liber')
    with pytest.raises(QwenVlaError, match='no client of it speaks gr00t; known: starvla'):
        FieldBenchmark.load('domino').client('gr00t')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'exceute': 3}, "exceute: unknown key; did you mean 'execute'"),
        ({'clients': {'openpy': {}}}, "'openpy' is not one of openpi"),
        ({'clients': {'openpi': {'source': 'x'}}}, 'clients.openpi.views: the key is missing'),
    ],
)
def test_a_file_s_faults_are_named(tmp_path, monkeypatch, change, words):
    folder = tmp_path / 'benchmarks'
    folder.mkdir()
    data = yaml.safe_load(
        (field_benchmarks.config_folder() / 'benchmarks' / 'libero.yaml').read_text()
    )
    (folder / 'mine.yaml').write_text(yaml.safe_dump({**data, **change}))
    monkeypatch.setattr(field_benchmarks, 'config_folder', lambda: tmp_path)
    with pytest.raises(QwenVlaError, match=words):
        FieldBenchmark.load('mine')


@pytest.mark.parametrize(
    ('facts', 'words'),
    [
        ({'rate_hz': 5.0}, 'its rate is 5 Hz, that of the data 20'),
        ({'horizon': 4}, 'it gives 4 rows, 5 are executed'),
        ({'action_units': ['m'] * 7}, 'droll is m, not rad'),
        ({'action_kinds': ['abs_joint'] * 7}, 'dx is abs_joint, not delta_eef'),
    ],
)
def test_a_policy_that_means_its_channels_otherwise_is_refused(facts, words):
    benchmark = FieldBenchmark.load('libero')
    policy = Given(benchmark, ('ego',), DELTAS)
    policy.metadata.update(facts)
    with pytest.raises(PolicyMismatch, match=words):
        benchmark.seat(policy, 'openpi')


def test_a_data_set_s_own_rate_fits_too():
    benchmark = FieldBenchmark.load('robotwin_easy')
    policy = Given(benchmark, ('ego',), np.zeros((16, 14)))
    policy.metadata['rate_hz'] = 50.0
    assert benchmark.seat(policy, 'starvla').metadata['rate_hz'] == 50.0


def test_of_a_model_for_several_robots_the_benchmark_s_is_taken():
    benchmark = FieldBenchmark.load('libero')

    class Several:
        metadata: ClassVar = {'robots': ['widowx', 'franka']}

        def open(self, robot=''):
            self.asked = robot
            return Given(benchmark, ('ego',), DELTAS)

    several = Several()
    benchmark.seat(several, 'openpi')
    assert several.asked == 'franka'
    benchmark.seat(several, 'openpi', 'my_franka')
    assert several.asked == 'my_franka'
    several.metadata = {'robots': ['libero_panda']}
    benchmark.seat(several, 'openpi')
    assert several.asked == ''


def test_the_keys_are_told():
    benchmark = FieldBenchmark.load('libero')
    lines = told_keys(benchmark.seat(StillPolicy(benchmark, ('ego',)), 'openpi'))
    assert lines[0].split() == ['ego', 'observation/image']
    assert lines[-1].split()[:2] == ['actions', 'actions']


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (('--benchmark', 'nothing', '--policy', 'constant'), 'unknown'),
        (('--benchmark', 'libero', '--policy', 'expert'), 'our own worlds only'),
        (('--benchmark', 'libero', '--protocol', 'qwen-vla'), "qwen-vla's own protocol"),
        (('--benchmark', 'domino', '--protocol', 'gr00t', '--policy', 'constant'), 'speaks gr00t'),
        (('--benchmark', 'libero', '--policy', 'constant', '--port', '70000'), 'port 70000'),
    ],
)
def test_serve_tells_what_cannot_be_in_one_line(words, told, capsys):
    assert main(['serve', *words]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count('\n') == 1


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (('--protocol', 'openpi', '--robot', 'widowx'), 'openpi clients on ws://127.0.0.1:'),
        (
            (
                '--benchmark',
                'robocasa_gr1',
            ),
            'gr00t clients on tcp://127.0.0.1:',
        ),
    ],
)
def test_serve_tells_keys_and_place_and_ends_without_an_error(words, told):
    command = [sys.executable, '-m', 'qwen_vla_ros.cli', 'serve', '--policy', 'constant']
    with subprocess.Popen(
        [*command, *words, '--port', '0'],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        lines = []
        while not lines or not lines[-1].startswith('serving'):
            lines.append(child.stdout.readline())
            assert lines[-1], child.stderr.read()
        assert told in lines[-1] and lines[0].startswith('ego ')
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        assert 'Traceback' not in child.stderr.read()
