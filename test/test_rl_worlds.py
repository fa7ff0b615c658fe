"""Worlds of reinforcement learning: tasks, mixtures, where they run, which episodes count."""

import dataclasses
import os
import signal
import sys

import gymnasium
import numpy as np
import pytest
import torch

from qwen_vla_ros.cli import main
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import TrainedRobot, load_checkpoint, save_checkpoint
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.initialise import fit_robots, with_vocabulary
from qwen_vla_ros.model.processor import train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.tasks.environment import TasksEnv
from qwen_vla_ros.train.rl_actors import Worlds, open_worlds
from qwen_vla_ros.train.rl_loop import RLRun
from qwen_vla_ros.train.rl_policy import Actor
from qwen_vla_ros.train.rl_recipe import RLRecipe
from qwen_vla_ros.train.rl_worlds import LEAST, ChunkEnv, Hall, Order, TurnEnv, order_worlds
from qwen_vla_ros.train.rollout import Noise, Straying, Tale
from qwen_vla_ros.transforms import Quantiles

MIXED = RLRecipe(('tasks', 'turn'), ('pick', 'push'), 1, worlds=3, decisions=2, rows=2)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def actor():
    """Return a policy of two robots that knows nothing: it moves at random."""
    robots = []
    for name, low, high in (
        ('widowx', arm.LOWER, arm.UPPER),
        ('mobile_base', -np.ones(3), np.ones(3)),
    ):
        contract = Embodiment.load(name)
        width = len(contract.state_names)
        statistics = {
            'actions': Quantiles(contract.action_names(), low, high),
            'state': Quantiles(contract.state_names, -np.ones(width), np.ones(width)),
        }
        robots.append(TrainedRobot(contract, contract.default_layout, statistics))
    config = fit_robots(preset('tiny'), robots)
    texts = [robot.embodiment.prompt('push the red block') for robot in robots]
    tokenizer = train_tokenizer(texts, 320, config.inputs.views)
    backbone = with_vocabulary(config.backbone, tokenizer, len(tokenizer))
    torch.manual_seed(0)
    return Actor(QwenVLA(dataclasses.replace(config, backbone=backbone)), tokenizer, robots)


def build(out, recipe=MIXED, actors='local'):
    policy, orders, kept = actor(), recipe.orders(), None
    worlds = open_worlds(orders, policy.sizes({order.robot for order in orders}), actors)
    if recipe.keep:
        orders = recipe.kept_orders()
        kept = open_worlds(orders, policy.sizes({order.robot for order in orders}), actors)
    return RLRun(recipe, policy, worlds, out, kept)


def same(one, other):
    """Return whether two rollouts are equal to the bit."""
    pairs = zip(one.samples, other.samples, strict=True)
    return (
        one.outcomes == other.outcomes
        and len(one.actions) == len(other.actions)
        and all(map(np.array_equal, one.actions, other.actions))
        and all(
            mine['instruction'] == theirs['instruction']
            and np.array_equal(mine['pixel_values'], theirs['pixel_values'])
            and np.array_equal(mine['state'], theirs['state'])
            for mine, theirs in pairs
        )
        and torch.equal(one.advantage, other.advantage)
    )


def test_a_base_turns_as_it_is_told():
    env = TurnEnv()
    env.reset(seed=3)
    rows = np.zeros((8, 3))
    rows[:, 2] = 2 * LEAST if env.left else -2 * LEAST
    assert env.step(rows)[1:3] == (1.0, True)
    assert env.step(-rows)[1] == 0.0


def test_a_chunk_runs_its_rows_after_the_first_within_the_limits():
    class Line(gymnasium.Env):
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        rows, looks = (), 0

        def advance(self, row):
            self.rows += (float(row[0]),)
            return len(self.rows) == 3, False

        def facts(self):
            return {'success': True}

        def _observe(self):
            self.looks += 1

    line = Line()
    env = ChunkEnv(line, 16, 2)
    chunk = np.arange(16, dtype=np.float32)[:, None] * 0.8
    env.step(chunk)
    assert line.rows == (pytest.approx(0.8), 1.0) and line.looks == 1
    assert env.step(chunk)[2]
    assert len(line.rows) == 3


@pytest.mark.parametrize('kind', ['pick', 'push'])
def test_the_teachers_rows_in_chunks_are_rewarded_at_the_end_and_only_there(kind):
    env = ChunkEnv(TasksEnv(images=False, kind=kind), 16, 8)
    env.reset(seed=3_000_001)
    world, rewards, over = env.unwrapped, [], False
    rows = iter(world.expert())
    last = world.world.positions()
    while not over:
        chunk = [last]
        for _ in range(8):
            row = next(rows, None)
            last = last if row is None else row.joints
            chunk.append(last)
        seen, reward, over, cut, facts = env.step(np.array(chunk))
        rewards.append(reward)
        assert not cut and not facts['chunk_refused']
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0] and facts['success']
    assert seen['instruction'] == world.instruction


def test_worlds_and_kinds_take_turns():
    found = order_worlds(('tasks', 'tabletop'), ('pick', 'push'), 0, 7)
    assert [order.label for order in found[:4]] == [
        'tasks pick', 'tasks push', 'tabletop', 'tasks pick'
    ]  # fmt: skip
    assert [order.rows for order in found[:3]] == [8, 8, 2]
    assert [order.longest for order in found[:3]] == [15, 15, 30]
    assert {order.rows for order in order_worlds(('tasks', 'rooms'), (), 5, 2)} == {5, 0}


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['--world', 'moon'], "world 'moon' is unknown"),
        (['--world', 'tasks', '--kinds', 'juggle'], 'tasks has pick, place, push, stack'),
        (['--world', 'tabletop', '--kinds', 'pick'], 'tabletop has none'),
        (['--world', 'tasks', '--kinds', 'pick,push', '--worlds', '1'], 'at least 2'),
        (['--world', 'tasks'], 'give --init'),
        (['--demo', '--actors', 'cloud'], 'choose local, processes[:N], ray or ray://ADDRESS'),
        (['--demo', '--actors', 'processes:0'], 'at least one process'),
        (['--demo', '--minutes', '0'], 'give more than 0'),
        (['--demo', '--rows', '-1'], 'give more than 0'),
        (
            ['--init', 'here', '--keep-weight', '0.1'],
            'train rl --keep-weight: of what --keep names',
        ),
        (
            ['--init', 'here', '--keep', 'turn', '--keep-weight', '0'],
            'train rl --keep-weight 0.0: give',
        ),
        (['--demo', '--keep', 'turn'], 'train rl --demo: it keeps nothing'),
        (['--init', 'here', '--keep', 'moon'], "world 'moon' is unknown"),
        (['--demo', '--lasting', '1'], 'give 0 or more, and less than 1'),
        (['--world', 'rooms', '--zero-errors', 'waist=0.1'], 'rooms takes none'),
        (['--world', 'tasks', '--zero-errors', 'knee=0.1'], "no joint 'knee'"),
    ],
)
def test_what_cannot_be_acted_in_is_refused(arguments, told, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('qwen_vla_ros.train.rl_policy.IMITATE', 0)
    assert main(['train', 'rl', *arguments, '--out', str(tmp_path / 'run')]) == 2
    assert told in capsys.readouterr().err


def test_errors_of_zeros_are_those_of_the_arms_in_tasks():
    off = (('shoulder', 0.05),)
    found = order_worlds(('tasks', 'rooms'), (), 0, 2, off)
    assert [order.zero_errors for order in found] == [off, ()]
    halls = [Hall({0: order}, {'widowx': {}}) for order in (found[0], Order('tasks', '', 8))]
    states = [hall.reset({0: 5})[0]['state'] for hall in halls]
    np.testing.assert_allclose(states[0] - states[1], [0, 0.05, 0, 0, 0, 0, 0], atol=1e-6)
    for hall in halls:
        hall.close()


def test_noise_that_lasts_goes_on_within_an_episode_alone():
    straying = Straying(Noise(smooth=0.5, lasting=0.9), torch.Generator().manual_seed(0))
    first = straying.next((4000, 6, 2))
    straying.end(torch.arange(4000) < 2000)
    second = straying.next((4000, 6, 2))
    assert abs(second.var().item() - 1) < 0.05
    for part, expected in ((slice(2000), 0.0), (slice(2000, None), 0.9)):
        assert abs((first[part] * second[part]).mean().item() - expected) < 0.05
    assert abs((second[:, 1:] * second[:, :-1]).mean().item() - 0.5) < 0.05


@pytest.mark.parametrize('freeze_vlm', [True, False])
def test_what_is_to_be_kept_stays(freeze_vlm, tmp_path, monkeypatch):
    monkeypatch.setattr('qwen_vla_ros.train.rl_keep.DECISIONS', 4)
    one = RLRecipe(('tasks',), ('pick',), 1, worlds=2, decisions=3, rows=2, rate=1e-3)
    recipe = dataclasses.replace(one, keep=('turn',), freeze_vlm=freeze_vlm, enough_kl=1e9)
    far = {}
    for weight in (0.0, 0.3):
        run = build(tmp_path, dataclasses.replace(recipe, keep_weight=weight))
        assert run.kept.drift(np.random.default_rng(0)).item() < 1e-6
        met = run.act()
        random = torch.randn(len(met.advantage), generator=torch.Generator().manual_seed(0))
        told = run.improve(dataclasses.replace(met, advantage=random))
        with torch.no_grad():
            far[weight] = run.kept.drift(np.random.default_rng(0)).item()
        assert told['kept_kl'] > 0 and len(run.kept) == 16
        run.worlds.close()
    assert far[0.3] < far[0.0] / 2


def test_two_arms_run_the_rows_of_a_chunk():
    views = ('ego', 'cam_left_wrist', 'cam_right_wrist')
    sizes = {'aloha': dict.fromkeys(views, (32, 32))}
    hall = Hall({0: Order('handover', '', 25)}, sizes)
    seen = hall.reset({0: 7})[0]
    still = np.tile(seen['state'], (50, 1))
    met = hall.step({0: still})[0]
    assert set(seen['images']) == set(views)
    assert (met.reward, met.ended, met.cut, met.refused) == (0.0, False, False, False)
    np.testing.assert_allclose(met.observation['state'], seen['state'], atol=0.02)
    hall.close()


def test_more_rows_than_a_chunk_has_are_refused():
    with pytest.raises(QwenVlaError, match='--rows 16: choose 1 to 15'):
        ChunkEnv(TasksEnv(images=False), 16, 16)


def test_robots_act_together_each_in_its_own_layout(tmp_path):
    run = build(tmp_path)
    rollout = run.act()
    assert [chunk.shape for chunk in rollout.actions[:3]] == [(16, 7), (16, 7), (8, 3)]
    assert set(rollout.outcomes) == {'tasks pick', 'tasks push', 'turn'}
    assert rollout.outcomes['tasks pick'] == [False]  # not done when the rollout ends
    assert len(rollout.outcomes['turn']) == 2
    told = run.improve(rollout)
    assert np.isfinite(list(told.values())).all()
    run.worlds.close()


def test_episodes_that_count_are_the_first_and_those_with_time_to_fail():
    orders = (Order('tasks', 'pick', 60), Order('tasks', 'push', 60))
    tale = Tale(Worlds(orders, [], ''), 4)
    tale.end(0, 1, True)  # the first
    tale.end(0, 2, True)  # had decisions 2 and 3
    tale.end(0, 3, True)  # had decision 3 alone: only a success could have ended
    assert tale.close() == {'tasks pick': [True, True], 'tasks push': [False]}


@pytest.mark.slow
@pytest.mark.parametrize('actors', ['processes:2', 'ray://local'])
def test_worlds_elsewhere_give_the_same_rollout(actors, tmp_path):
    if actors.startswith('ray'):
        pytest.importorskip('ray', reason='ray is not installed (extra ray)')
    one = build(tmp_path / 'one')
    other = build(tmp_path / 'other', actors=actors)
    try:
        first = one.act()
        assert first.samples and same(first, other.act())
        one.iteration = other.iteration = 1
        second = one.act()
        assert same(second, other.act()) and not same(first, second)
    finally:
        one.worlds.close()
        other.worlds.close()


def test_worlds_that_die_are_told_and_the_run_can_go_on(tmp_path):
    orders = order_worlds(('turn',), (), 0, 3)
    worlds = open_worlds(orders, {'mobile_base': {'ego': (32, 32)}}, 'processes:2')
    try:
        assert set(worlds.reset({0: 1, 1: 2, 2: 3})) == {0, 1, 2}
        for process in worlds._hosts[1]._pool._processes.values():
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(
            QwenVlaError, match=r'--actors processes:2: worlds 1 are lost .*goes on'
        ):
            worlds.step({number: np.zeros((8, 3)) for number in range(3)})
    finally:
        worlds.close()


def test_an_error_of_a_world_elsewhere_is_told_as_it_is():
    worlds = open_worlds([Order('tabletop', '', 99)], {'widowx': {}}, 'processes:1')
    try:
        with pytest.raises(QwenVlaError, match='^--rows 99: choose 1 to 15$'):
            worlds.reset({0: 1})
    finally:
        worlds.close()


def test_without_ray_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(QwenVlaError, match=r"pip install 'qwen_vla_ros\[ray\]'"):
        open_worlds([Order('turn')], {'mobile_base': {}}, 'ray')


def test_a_checkpoint_learns_tasks_and_keeps_its_other_robots(tmp_path, capsys):
    policy = actor()
    folder = tmp_path / 'sft'
    save_checkpoint(folder, policy.model, policy.tokenizer, policy.robots, {'stage': 'sft'})
    where = ['--init', str(folder), '--out', str(tmp_path / 'rl'), '--threads', '1']
    told = ['--worlds', '2', '--decisions', '1', '--iterations', '1', '--minutes', '5']
    tasks = ['--world', 'tasks', '--kinds', 'pick,push', '--rows', '1', '--freeze-vlm']
    assert main(['train', 'rl', *tasks, *where, *told]) == 0
    said = capsys.readouterr().out
    assert 'success by iteration: 0.00' in said
    assert '1 iterations; an iteration of 2 chunks takes' in said
    assert set(load_checkpoint(tmp_path / 'rl' / 'checkpoint', 'cpu').robots) == {
        'widowx', 'mobile_base'
    }  # fmt: skip
    assert main(['train', 'rl', *tasks, '--rate', '1', *where, *told]) == 2
    assert 'other settings (rate 1.0, was 5e-06)' in capsys.readouterr().err
