"""Reinforcement learning: exact advantages and clipping, replay by seed, resume, collapse."""

import dataclasses
import json
import os
import signal
import time

import numpy as np
import pytest
import torch

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import load_checkpoint
from qwen_vla_ros.train import rl_policy
from qwen_vla_ros.train.ppo import Clips, advantages, losses
from qwen_vla_ros.train.rl_actors import open_worlds
from qwen_vla_ros.train.rl_loop import RLRun
from qwen_vla_ros.train.rl_policy import fresh_actor, load_actor
from qwen_vla_ros.train.rl_recipe import Limits, rl_demo
from qwen_vla_ros.train.rollout import _that_ran
from qwen_vla_ros.train.run_state import last_state

OFTEN = Limits(save_every=1)

RECIPE = dataclasses.replace(rl_demo(), iterations=2, worlds=3, decisions=2, minibatch=4, epochs=2)


@pytest.fixture(scope='module', autouse=True)
def small():
    """Do not wait for the demo's imitation where nothing depends on it."""
    torch.set_num_threads(1)
    before, rl_policy.IMITATE = rl_policy.IMITATE, 2
    yield
    rl_policy.IMITATE = before


def build(out, recipe=RECIPE):
    actor = fresh_actor(recipe.seed)
    worlds = open_worlds(recipe.orders(), actor.sizes(['mobile_base']))
    return RLRun(recipe, actor, worlds, out)


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


def test_noise_and_its_smoothness_are_those_of_the_recipe(tmp_path):
    recipe = dataclasses.replace(RECIPE, noise=0.1, smooth=0.9)
    found, plain = (
        build(tmp_path / name, one).act() for name, one in (('a', recipe), ('b', RECIPE))
    )
    assert (found.step.noise_level, found.step.smooth) == (0.1, 0.9)
    assert (plain.step.noise_level, plain.step.smooth) == (0.5, 0.0)
    roughness = [
        (one.step.after - one.step.before)[:, :8, :3].diff(dim=1).std() for one in (found, plain)
    ]
    assert roughness[0] < 0.6 * roughness[1]


def test_only_the_rows_that_ran_count(tmp_path):
    step = build(tmp_path).act().step
    mask = torch.ones_like(step.mask)
    ran = _that_ran(dataclasses.replace(step, mask=mask), torch.tensor([0, 2] * (len(mask) // 2)))
    assert ran.mask[0].all() and ran.mask[1, :, 0].tolist() == [0, 1, 1, *[0] * 5]


def test_figures_go_to_weights_and_biases_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    assert build(tmp_path, dataclasses.replace(RECIPE, iterations=1)).fit(OFTEN, wandb='lab')
    (told,) = (tmp_path / 'wandb').glob('offline-run-*/*.wandb')
    assert b'clip_fraction' in told.read_bytes()


def test_a_run_that_stopped_goes_on_to_the_same_bits_and_leaves_a_checkpoint(tmp_path):
    whole = build(tmp_path / 'whole')
    assert whole.fit(OFTEN)
    half = build(tmp_path / 'half', dataclasses.replace(RECIPE, iterations=1))
    half.fit(OFTEN)
    resumed = build(tmp_path / 'half')
    assert resumed.iteration == 1
    resumed.fit(OFTEN)
    for name, weight in whole.weights.items():
        torch.testing.assert_close(resumed.weights[name], weight, atol=0, rtol=0)
    assert resumed.successes == whole.successes
    log = [json.loads(line) for line in (tmp_path / 'half' / 'log.jsonl').read_text().splitlines()]
    assert [line['step'] for line in log] == [1, 2]
    assert {'kl', 'clip_fraction', 'explained', 'success', 'policy', 'value'} <= set(log[0])
    folder = resumed.finish('qwen-vla train rl')
    assert set(load_checkpoint(folder, 'cpu').robots) == {'mobile_base'}
    assert load_actor(['mobile_base'], str(folder), 'cpu').origin != ''
    with pytest.raises(QwenVlaError, match='does not drive widowx'):
        load_actor(['widowx'], str(folder), 'cpu')


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
    run.successes = [0.3] * 5 + [0.1] * 5  # of fifteen episodes each: chance
    assert not run.collapsed()


def test_a_run_ends_where_no_further_iteration_fits_and_keeps_what_it_reached(tmp_path):
    run = build(tmp_path)
    assert run.fit(Limits(minutes=60), time.monotonic() - 60 * 60 + 1e-6) is True
    assert run.iteration == 0 and last_state(tmp_path / 'state') is None
    assert run.cost() == 'no iteration was made'
    run.recipe = dataclasses.replace(RECIPE, iterations=1)
    assert run.fit()
    run.recipe = RECIPE
    run.seconds.append({**run.seconds[-1], 'worlds': 70.0})
    assert run.fit(Limits(minutes=1)) is True
    assert run.iteration == 1 and last_state(tmp_path / 'state').name == 'step-00000001'
    assert 'an iteration of 6 chunks takes' in run.cost()


def test_a_signal_ends_a_run_after_its_iteration_with_the_state_saved(tmp_path):
    run = build(tmp_path)
    run.act = lambda act=run.act: (os.kill(os.getpid(), signal.SIGTERM), act())[1]
    assert not run.fit()
    assert build(tmp_path).iteration == 1


def test_a_frozen_vlm_is_looked_at_once_and_stays_as_it_is(tmp_path):
    run = build(tmp_path / 'frozen', dataclasses.replace(RECIPE, freeze_vlm=True))
    rollout, chosen = run.act(), np.array([4, 0, 3])
    for found, kept in zip(
        run.look_again(rollout, chosen), (rollout.log_prob, rollout.value), strict=True
    ):
        torch.testing.assert_close(found, kept[chosen], atol=2e-3, rtol=1e-4)
    before = {name: value.clone() for name, value in run.actor.model.state_dict().items()}
    run.improve(rollout)
    after = run.actor.model.state_dict()
    changed = {name.split('.')[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {'decoder'}
    assert build(tmp_path / 'whole').act().hidden == []


@pytest.mark.slow
def test_the_demo_learns_to_turn(tmp_path):
    rl_policy.IMITATE = 160
    recipe = dataclasses.replace(rl_demo(), iterations=5)
    run = build(tmp_path, recipe)
    run.fit()
    assert run.successes[0] < 0.8
    assert run.successes[-1] > 0.85
