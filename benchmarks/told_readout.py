"""
What a checkpoint with a readout would reach if it saw everything: points and values are told.

  python -m benchmarks.told_readout --checkpoint runs/bundled/draft/checkpoint --draft

The WidowX' tasks and ALOHA's handover without pictures (as at T2A): the simulator tells where
things are. Beside `qwen-vla eval skills` with pictures it says what finding costs, and what acting
does. --draft runs the readout's draft alone, without the flow.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import machine
from qwen_vla_ros.data.sample import Place, Sample
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.statistics import wilson_interval
from qwen_vla_ros.model.checkpoint import from_pretrained, load_tokenizer, read_robots
from qwen_vla_ros.sim.aloha import environment as aloha
from qwen_vla_ros.sim.tasks import environment as tasks
from qwen_vla_ros.sim.tasks.reactive import Task, things_of
from qwen_vla_ros.train.bundle.aloha import cube_points, cube_values
from qwen_vla_ros.train.bundle.frames import Points, values_of
from qwen_vla_ros.train.bundle.tabletop import points_of, turn_of
from qwen_vla_ros.train.mixed_batch import collate_mixed
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.types import ActionChunk, Observation

TRANSFER = 'transfer'
Told = tuple[Points, Mapping[str, float]]


class ToldPolicy:
    """A checkpoint's decoder as a policy of an environment that tells it where things are."""

    def __init__(self, folder: Path, env: Any, draft: bool) -> None:
        """Load it; env is a TasksEnv or an AlohaEnv."""
        self._model = from_pretrained(folder, 'cpu', 'float32').eval()
        robots = {
            (robot.embodiment.name, robot.embodiment.action_names(robot.layout)): robot
            for robot in read_robots(folder)
        }
        self._encoder = Encoder(self._model.config, load_tokenizer(folder), robots, images=False)
        arm = isinstance(env, tasks.TasksEnv)
        self._env, self._draft = env, draft
        self._told = told_of_task if arm else told_of_handover
        self._robot = Embodiment.load('widowx' if arm else 'aloha')

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return who this is."""
        return {'checkpoint': 'told'}

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return a chunk from the observed joints and what the environment tells."""
        sample = self._sample(observation)
        inputs = self._encoder.acting(sample)
        batch = collate_mixed(self._model, [inputs], [])
        with torch.no_grad():
            if self._draft:
                rows = self._model.context(batch).drafted(len(sample.actions))
            else:
                generator = torch.Generator().manual_seed(observation.stamp_ns % 2**31)
                noise = torch.randn(batch['actions'].shape, generator=generator)
                rows = self._model.sample_actions(batch, noise=noise)
        given = {**inputs, 'actions': rows[0].numpy()}
        actions = self._encoder.pipeline(sample).inverse(given)['actions'].astype(np.float32)
        names = self._robot.action_names()
        return ActionChunk(actions, names, observation.stamp_ns, self._robot.step_s)

    def _sample(self, observation: Observation) -> Sample:
        names = self._robot.action_names()
        shape = (self._robot.horizon, len(names))
        points, values = self._told(self._env)
        return Sample(
            Place('told', 0, 0),
            {},
            observation.instruction,
            self._robot.name,
            np.zeros(shape, np.float32),
            np.ones(shape, bool),
            names,
            observation.stamp_ns,
            np.asarray(observation.state, np.float32),
            self._robot.state_names,
            points=points,
            values=values,
        )

    def reset(self) -> None:
        """Nothing to forget."""


def told_of_task(env: tasks.TasksEnv) -> Told:
    """Return points and values of the WidowX' present task."""
    things, task = things_of(env.world), Task.of(env.goal, env.first)
    target = things[task.target]
    reference = things[task.reference][:3] if task.reference else None
    hands = {'right': env.world.tip_position()}
    values = values_of(target[:3], turn_of(target), reference, hands)
    return points_of(env.world, target[:3], reference), values


def told_of_handover(env: aloha.AlohaEnv) -> Told:
    """Return points and values of ALOHA's present cube."""
    return cube_points(env.world, env.world.target), cube_values(env.world, env.world.target)


def main() -> None:
    """Run and print a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--checkpoint', type=Path, required=True)
    parser.add_argument('--draft', action='store_true')
    parser.add_argument('--kinds', default='pick,push,place,stack,transfer')
    parser.add_argument('--episodes', type=int, default=30)
    parser.add_argument('--rows', type=int, default=8, help='of a WidowX chunk that run (8)')
    args = parser.parse_args()
    print(machine())
    torch.set_num_threads(1)
    for kind in args.kinds.split(','):
        handover = kind == TRANSFER
        env = aloha.AlohaEnv(images=False) if handover else tasks.TasksEnv(images=False)
        policy = ToldPolicy(args.checkpoint, env, args.draft)
        done = 0
        for seed in tqdm(range(args.episodes), desc=kind, leave=False):
            given = (policy, seed, env) if handover else (policy, seed, kind, env, args.rows)
            done += bool((aloha if handover else tasks).run_episode(*given)['success'])
        low, high = wilson_interval(done, args.episodes)
        print(f'{kind}: {done} of {args.episodes} [{100 * low:.0f}, {100 * high:.0f}] %')


if __name__ == '__main__':
    main()
