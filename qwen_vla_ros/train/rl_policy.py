"""
The policy that reinforcement learning starts from: a checkpoint's, or the demo's own.

A checkpoint's robots all stay in the one that is left; those act that the worlds have.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.adapters import fingerprint
from qwen_vla_ros.model.checkpoint import (
    TrainedRobot,
    build_pipeline,
    for_views,
    from_pretrained,
    load_tokenizer,
    read_robots,
)
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.hub import find_checkpoint
from qwen_vla_ros.model.initialise import fit_robots, with_vocabulary
from qwen_vla_ros.model.processor import Processor, train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.train.rl_worlds import SENTENCES, SIZE, Order, Sizes, TurnEnv
from qwen_vla_ros.train.starting_point import training_facts
from qwen_vla_ros.transforms import OneWay, Pipeline, Quantiles

TEACHER = 5  # told apart from other draws of the same seed
IMITATE = 160  # steps of the demo before it acts


@dataclass(frozen=True)
class PadRows(OneWay):
    """A robot's chunks in a batch with longer ones: rows without any valid entry at the end."""

    rows: int

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Lengthen 'action_mask'."""
        mask = sample['action_mask']
        beyond = self.rows - len(mask)
        return {**sample, 'action_mask': np.pad(mask, ((0, beyond), (0, 0)))}


@dataclass
class Actor:
    """The policy in training, its tokenizer, all robots of its checkpoint, and its fingerprint."""

    model: QwenVLA
    tokenizer: Any
    robots: list[TrainedRobot]
    facts: dict[str, Any] = field(default_factory=dict)
    origin: str = ''

    def robot(self, name: str) -> TrainedRobot:
        """Return the robot of a contract's name."""
        return next(robot for robot in self.robots if robot.embodiment.name == name)

    def pipelines(self, names: Iterable[str]) -> dict[str, Pipeline]:
        """Return what stands around the policy for robots that act in one batch."""
        found = {name: self.pipeline(name) for name in names}
        rows = max(self.robot(name).embodiment.horizon for name in found)
        return {name: Pipeline((*p.steps, PadRows(rows))) for name, p in found.items()}

    def pipelines_of(self, orders: Sequence[Order]) -> list[Pipeline]:
        """Return what stands around the policy in each of some worlds."""
        found = self.pipelines({order.robot for order in orders})
        return [found[order.robot] for order in orders]

    def pipeline(self, name: str) -> Pipeline:
        """Return what stands around the policy for a robot."""
        robot = self.robot(name)
        config = for_views(self.model.config, robot.embodiment)
        processor = Processor(self.tokenizer, config)
        return build_pipeline(config, processor, robot.embodiment, robot.layout, robot.statistics)

    def sizes(self, names: Iterable[str]) -> Sizes:
        """Return the sizes of the pictures that it takes of some robots."""
        config = self.model.config
        return {
            name: for_views(config, self.robot(name).embodiment).inputs.image_sizes
            for name in names
        }


def load_actor(names: Iterable[str], source: str, device: str) -> Actor:
    """Return a checkpoint's policy, which must drive the robots; float32, for it is trained."""
    folder = find_checkpoint(source)
    robots = read_robots(folder)
    driven = {robot.embodiment.name for robot in robots}
    if absent := sorted(set(names) - driven):
        raise QwenVlaError(
            f'{folder}: it does not drive {absent[0]}, the robot of a world; it drives '
            + ', '.join(sorted(driven))
        )
    model = from_pretrained(folder, device, 'float32')
    kept = {'text': training_facts(folder).get('text')}
    return Actor(model, load_tokenizer(folder), robots, kept, fingerprint(folder))


def fresh_actor(seed: int) -> Actor:
    """
    Return a tiny policy for the demo, fine-tuned on a teacher that errs.

    It turns as it is told about three times in four: what reinforcement learning starts from.
    """
    embodiment = Embodiment.load('mobile_base')
    names = embodiment.action_names()
    statistics = {
        'actions': Quantiles(names, -np.ones(len(names)), np.ones(len(names))),
        'state': Quantiles(embodiment.state_names, -np.ones(5), np.ones(5)),
    }
    robot = TrainedRobot(embodiment, embodiment.default_layout, statistics)
    config = fit_robots(preset('tiny'), [robot])
    config = replace(config, inputs=replace(config.inputs, image_sizes={'ego': SIZE}))
    texts = [embodiment.prompt(sentence) for sentence in SENTENCES]
    tokenizer = train_tokenizer(texts, 320, config.inputs.views)
    backbone = with_vocabulary(config.backbone, tokenizer, len(tokenizer))
    torch.manual_seed(seed)
    actor = Actor(QwenVLA(replace(config, backbone=backbone)), tokenizer, [robot])
    _imitate(actor, seed)
    return actor


def _imitate(actor: Actor, seed: int) -> None:
    """Fit a policy to a teacher who turns the wrong way one time in four."""
    rng, world = np.random.default_rng((seed, TEACHER)), TurnEnv()
    pipeline = actor.pipeline('mobile_base')
    optimiser = torch.optim.AdamW(actor.model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(IMITATE), desc='imitate', unit='step'):
        samples = []
        for _ in range(16):
            seen, _ = world.reset(seed=int(rng.integers(2**31)))
            right_way = world.left if rng.random() < 0.75 else not world.left
            rows = np.zeros((8, 3), np.float32)
            rows[:, 2] = np.linspace(0.1, 0.4, 8) * (1 if right_way else -1)
            samples.append(pipeline.forward({**seen, 'actions': rows}))
        loss = actor.model.loss(actor.model.collate(samples), generator, 4).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(actor.model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
