"""Small runs of the training stages: made data, a tiny model, one thread."""

import dataclasses

import numpy as np
import torch

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.train.demo_data import ArrayEpisodes
from qwen_vla_ros.train.recipe import RECIPES
from qwen_vla_ros.train.sources import BALANCED, DataSet
from qwen_vla_ros.train.stage_loop import Every, StageRun
from qwen_vla_ros.train.start import start

SIZES = {'ego': (96, 128), 'cam_right_wrist': (48, 64)}

OFTEN = Every(2, 0, 2)


def episodes(name, robot, views, horizon, text='', count=4, frames=3):
    """Return random samples of a robot; two calls give the same."""
    contract = Embodiment.load(robot)
    rng = np.random.default_rng(len(name))
    total = count * frames
    width = len(contract.action_names())
    arrays = {
        'episode': np.repeat(np.arange(count), frames),
        'instruction': np.array([f'do {name} number {i}' for i in range(total)]),
        'text': np.array([text] * total),
        'actions': rng.uniform(-1, 1, (total, max(horizon), width)).astype(np.float32),
        'rows': np.resize(horizon, total),
        'state': rng.uniform(-1, 1, (total, len(contract.state_names))).astype(np.float32),
    }
    for view in views:
        arrays[f'view.{view}'] = rng.integers(0, 256, (total, *SIZES[view], 3), np.uint8)
    return ArrayEpisodes(name, contract, arrays)


def sets(stage):
    """Return an arm that also speaks, and a base; at T2A two sets of the arm."""
    if stage == 't2a':
        words = episodes('words', 'widowx', (), (20, 24, 31))
        real = episodes('table', 'widowx', SIZES, (16,), 'It is here.')
        return [DataSet.of('synthetic', words), DataSet.of('real', real)]
    arm = episodes('table', 'widowx', SIZES, (16,), 'It is here.')
    base = episodes('rooms', 'mobile_base', ('ego',), (8,))
    families = ('robot manipulation', 'navigation') if stage == 'cpt' else (BALANCED, BALANCED)
    return [DataSet.of(*pair) for pair in zip(families, (arm, base), strict=True)]


def recipe(stage='cpt', **changed):
    """Return a recipe of six steps."""
    plain = dataclasses.replace(RECIPES[stage]('tiny'), steps=6, batch=4, warm_up=2, draws=2)
    return dataclasses.replace(plain, **changed)


def run(out, told=None, init=None, every=OFTEN, **more):
    """Return a run that is ready to go, or to go on."""
    torch.set_num_threads(1)
    told = told or recipe()
    data = sets(told.stage)
    return StageRun(told, data, start(told, data, init, 'cpu'), out, every=every, **more)


def weights(one):
    """Return copies of all weights."""
    return {name: value.clone() for name, value in one.model.state_dict().items()}
