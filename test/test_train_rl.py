"""Reinforcement learning: exact advantages and clipping, replay by seed, resume, collapse."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import load_checkpoint
from qwen_vla_ros.train import rl_loop
from qwen_vla_ros.train.ppo import Clips, advantages, losses
from qwen_vla_ros.train.rl_loop import RLRun, fresh_actor, load_actor, rl_demo
from qwen_vla_ros.train.rl_worlds import LEAST, ChunkEnv, TurnEnv, make_worlds
from qwen_vla_ros.train.run_state import last_state

RECIPE = dataclasses.replace(rl_demo(), iterations=2, worlds=3, decisions=2, minibatch=4, epochs=2)


@pytest.fixture(scope='module', autouse=True)
def small():
    """Do not wait for the demo's imitation where nothing depends on it."""
    torch.set_num_threads(1)
    before, rl_loop.IMITATE = rl_loop.IMITATE, 2
    yield
    rl_loop.IMITATE = before


def build(out, recipe=RECIPE):
    return RLRun(recipe, fresh_actor(recipe), make_worlds('turn', recipe.worlds, False), out)


def test_advantages_are_the_discounted_sums_of_surprises_and_stop_at_an_episodes_end():
    clips = Clips(gamma=0.5, lam=0.5)
    reward = torch.tensor([[0.0], [1.0], [0.0]])
    value = torch.tensor([[0.2], [0.4], [0.6]])
    ended = torch.tensor([[False], [True], [False]])
    found = advantages(reward, value, ended, torch.tensor([0.8]), clips)
    last = 0.5 * 0.8 - 0.6
    middle = 1.0 - 0.4
    first = (0.5 * 0.4 - 0.2) + 0.25 * middle
    torch.testing.assert_close(found, torch.tensor([[first], [middle], [last]]))


def test_ratios_and_values_beyond_the_clip_have_no_gradient():
    old = torch.zeros(4)
    new = torch.tensor([0.5, -0.5, 0.05, 0.5], requires_grad=True)
    value = torch.tensor([0.9, 0.0, 0.0, 0.0], requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    policy, worth, told = losses(new, old, advantage, value, torch.zeros(4), Clips())
    (policy + worth).backward()
    assert new.grad[0] == 0  # better, and already much more likely
    assert (new.grad[1:] != 0).all()
    assert value.grad[0] == 0  # towards 1, and already further than a step may go
    assert told['clip_fraction'] == 0.75
    ratio = new.detach().exp()
    assert told['kl'] == pytest.approx(float((ratio - 1 - new.detach()).mean()))
    held = ratio.clamp(0.8, 1.2)
    assert policy.item() == pytest.approx(
        -float(torch.minimum(ratio * advantage, held * advantage).mean()), rel=1e-4
    )


def test_a_rollout_is_replayed_by_its_seed_and_its_log_probabilities_come_again(tmp_path):
    run = build(tmp_path)
    one, again = run.act(), run.act()
    np.testing.assert_array_equal(one.actions, again.actions)
    torch.testing.assert_close(one.advantage, again.advantage, atol=0, rtol=0)
    run.iteration = 1
    assert not np.array_equal(run.act().actions, one.actions)
    # The first step after a rollout sees the policy that acted: every ratio is one.
    batch = run.actor.model.collate(one.samples)
    new, value = run.policy(batch, one.step)
    torch.testing.assert_close(new, one.log_prob, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(value, one.value)


@pytest.mark.slow
def test_worlds_in_processes_give_the_same_rollout(tmp_path):
    recipe = dataclasses.replace(RECIPE, worlds=1)
    one = build(tmp_path / 'one', recipe)
    worlds = make_worlds('turn', 1, True)
    try:
        other = RLRun(recipe, fresh_actor(recipe), worlds, tmp_path / 'other')
        np.testing.assert_array_equal(one.act().actions, other.act().actions)
    finally:
        worlds.close()


def test_a_run_that_stopped_goes_on_to_the_same_bits_and_leaves_a_checkpoint(tmp_path):
    whole = build(tmp_path / 'whole')
    whole.fit(save_every=1)
    half = build(tmp_path / 'half')
    half.recipe = dataclasses.replace(RECIPE, iterations=1)
    half.fit(save_every=1)
    state = last_state(tmp_path / 'half' / 'state') / 'state.json'
    facts = json.loads(state.read_text())
    state.write_text(json.dumps({**facts, 'recipe': dataclasses.asdict(RECIPE)}))
    resumed = build(tmp_path / 'half')
    assert resumed.iteration == 1
    resumed.fit(save_every=1)
    for name, weight in whole.weights.items():
        torch.testing.assert_close(resumed.weights[name], weight, atol=0, rtol=0)
    assert resumed.successes == whole.successes
    log = [json.loads(line) for line in (tmp_path / 'half' / 'log.jsonl').read_text().splitlines()]
    assert [line['step'] for line in log] == [1, 2]
    assert {'kl', 'clip_fraction', 'explained', 'success', 'policy', 'value'} <= set(log[0])
    folder = resumed.finish('qwen-vla train rl')
    assert set(load_checkpoint(folder, 'cpu').robots) == {'mobile_base'}
    assert load_actor('turn', str(folder), 'cpu').robot.embodiment.name == 'mobile_base'
    with pytest.raises(QwenVlaError, match='does not drive widowx'):
        load_actor('tabletop', str(folder), 'cpu')


def test_the_value_head_sends_no_gradient_into_the_model(tmp_path):
    run = build(tmp_path)
    rollout = run.act()
    batch = run.actor.model.collate(rollout.samples)
    _, value = run.policy(batch, rollout.step)
    value.sum().backward()
    assert run.policy.value.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in run.actor.model.parameters())


def test_a_collapse_stops_the_run(tmp_path):
    run = build(tmp_path)
    run.successes = [0.8] * 9
    assert not run.collapsed()
    run.successes += [0.1] * 5
    assert run.collapsed()
    run.successes = [0.0] * 20
    assert not run.collapsed()


def test_a_base_turns_as_it_is_told():
    env = TurnEnv()
    env.reset(seed=3)
    rows = np.zeros((8, 3))
    rows[:, 2] = 2 * LEAST if env.left else -2 * LEAST
    assert env.step(rows)[1:3] == (1.0, True)
    assert env.step(-rows)[1] == 0.0


def test_a_chunk_runs_its_rows_after_the_first_within_the_limits():
    import gymnasium

    class Line(gymnasium.Env):
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        rows = ()

        def step(self, row):
            self.rows += (float(row[0]),)
            return row, 0.0, len(self.rows) == 3, False, {}

    line = Line()
    env = ChunkEnv(line, 16, 2)
    chunk = np.arange(16, dtype=np.float32)[:, None] * 0.8
    env.step(chunk)
    assert line.rows == (pytest.approx(0.8), 1.0)
    assert env.step(chunk)[2]
    assert len(line.rows) == 3


@pytest.mark.slow
def test_the_demo_learns_to_turn(tmp_path):
    rl_loop.IMITATE = 80
    recipe = dataclasses.replace(rl_demo(), iterations=5)
    run = build(tmp_path, recipe)
    run.fit()
    assert run.successes[0] < 0.8
    assert run.successes[-1] > 0.85
