"""The checkpoint in this repository: it fits the robot, hears the words, sees the picture."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
from qwen_vla_ros.evaluate.closed_loop import run_tasks
from qwen_vla_ros.evaluate.episodes import plan_tasks
from qwen_vla_ros.policy import LocalPolicy, load_policy
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.environment import TabletopEnv
from qwen_vla_ros.train.runs import small

FOLDER = bundled_checkpoint()
WIDOWX = Embodiment.load('widowx')


@pytest.fixture(scope='module')
def policy() -> LocalPolicy:
    return load_policy(FOLDER, WIDOWX, 'cpu')


@pytest.fixture(scope='module')
def env() -> TabletopEnv:
    made = TabletopEnv()
    yield made
    made.close()


def test_it_is_small_enough_and_says_how_it_was_made():
    files = [path for path in Path(FOLDER).rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    told = json.loads((FOLDER / 'training.json').read_text())
    assert told['command'].startswith('qwen-vla train small')
    assert told['run']['seed'] == small().seed
    assert told['optimisation_seconds'] > 0
    assert told['machine']['cores'] > 0
    assert [phase['name'] for phase in told['run']['phases']] == [p.name for p in small().phases]


def test_the_sentence_decides_where_the_chunk_ends(policy, env):
    right = 0
    for seed in (20, 21, 22):
        env.reset(seed=seed)
        places = env.world.object_positions()
        for name in places:
            policy.reset()
            chunk = policy.infer(replace(env.observation(), instruction=f'touch the {name}'))
            end = arm.forward(chunk.actions[-1].astype(np.float64))[0]
            nearest = min(places, key=lambda n: np.linalg.norm(places[n][:2] - end[:2]))
            right += nearest == name
    assert right >= 8, f'{right} of 9 sentences led to the named object'


def test_it_touches_the_named_object_in_scenes_it_has_not_seen(policy, env):
    episodes = list(run_tasks(policy, plan_tasks(range(30, 35), False, False), env=env))
    assert sum(episode.success for episode in episodes) >= 4, [e.first_touched for e in episodes]


def test_it_begins_its_chunk_with_the_prefix_that_it_was_trained_to_continue(policy, env):
    assert (policy.metadata['prefix'], policy.metadata['max_prefix']) == ('trained', 4)
    env.reset(seed=20)
    observation = replace(env.observation(), instruction='touch the red block')
    running = policy.infer(observation).actions
    for known in range(1, 5):
        rows = policy.infer(observation, running[:known]).actions
        np.testing.assert_allclose(rows[:known], running[:known], atol=1e-6)
        assert np.abs(rows[known] - rows[known - 1]).max() < 0.3  # rad in 0.2 s: no jump
