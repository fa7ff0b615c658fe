"""
Reinforcement learning: act in many worlds, then improve on what was met (PPO, paper 4.2).

Published: gamma 0.99, lambda 0.95, clipping at 0.2, 4 epochs, rates 5e-6 (policy) and 1e-4
(value), sparse success, 128 worlds x 8 x 128 steps = 8,192 chunks an iteration. Open: iterations,
minibatch, the noise level (FlowConfig.noise_level), gradient clipping; ours are RLinf's, which the
paper credits. An iteration's rollout and minibatches come from (seed, iteration) alone, so a run
that was killed goes on as if it had not been.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import (
    TrainedRobot,
    build_pipeline,
    for_views,
    from_pretrained,
    load_tokenizer,
    read_robots,
    save_checkpoint,
)
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.hub import find_checkpoint
from qwen_vla_ros.model.initialise import fit_robots, with_vocabulary
from qwen_vla_ros.model.processor import Processor, train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.train.ppo import ActorCritic, Clips, losses, rows_of
from qwen_vla_ros.train.ranks import Ranks
from qwen_vla_ros.train.rl_worlds import SENTENCES, SIZE, WORLDS, TurnEnv, make_worlds
from qwen_vla_ros.train.rollout import Rollout, roll_out
from qwen_vla_ros.train.run_state import (
    adam_tensors,
    last_state,
    load_state,
    read_facts,
    save_state,
    set_adam_step,
)
from qwen_vla_ros.train.supervised import machine
from qwen_vla_ros.train.watch import Watch, git_state
from qwen_vla_ros.transforms import Pipeline, Quantiles

PUBLISHED = Clips()
# Of minibatches and of the demo's teacher; told apart from other draws of the same seed.
ORDER, TEACHER = 4, 5
IMITATE = 80  # steps of the demo before it acts


@dataclass(frozen=True)
class RLRecipe:
    """
    Everything that decides the weights.

    worlds, decisions  acting at a time, and chunks of each in an iteration
    minibatch          decisions a step of the optimiser
    enough_kl          an iteration's further epochs are left out above this
    collapse           the run ends when the mean success of the last five iterations falls below
                       this share of the best such mean
    """

    world: str
    iterations: int = 200
    worlds: int = 128
    decisions: int = 64
    epochs: int = 4
    minibatch: int = 256
    rate: float = 5e-6
    value_rate: float = 1e-4
    clip: float = 1.0
    enough_kl: float = 0.1
    collapse: float = 0.5
    clips: Clips = PUBLISHED
    seed: int = 0


def rl_demo() -> RLRecipe:
    """Return a run of a minute: a base learns to turn as it is told."""
    return RLRecipe(
        world='turn',
        iterations=8,
        worlds=64,
        decisions=2,
        minibatch=64,
        rate=3e-4,
        value_rate=3e-3,
        enough_kl=1.0,
    )


@dataclass
class Actor:
    """The policy in training, its tokenizer, its checkpoint's robots, and the one that acts."""

    model: QwenVLA
    tokenizer: Any
    robots: list[TrainedRobot]
    robot: TrainedRobot
    facts: dict[str, Any]


def load_actor(world: str, source: str, device: str) -> Actor:
    """Return a checkpoint's policy for the robot of a world; float32, for it is trained."""
    folder, name = find_checkpoint(source), WORLDS[world][0]
    robots = read_robots(folder)
    own = [robot for robot in robots if robot.embodiment.name == name]
    if not own:
        raise QwenVlaError(f'{folder}: it does not drive {name}, the robot of the world {world}')
    model = from_pretrained(folder, device, 'float32')
    facts = json.loads((folder / 'training.json').read_text())
    return Actor(model, load_tokenizer(folder), robots, own[0], {'text': facts.get('text')})


def fresh_actor(recipe: RLRecipe) -> Actor:
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
    torch.manual_seed(recipe.seed)
    actor = Actor(QwenVLA(replace(config, backbone=backbone)), tokenizer, [robot], robot, {})
    _imitate(actor, recipe.seed)
    return actor


def pipeline_of(actor: Actor) -> Pipeline:
    """Return what stands around the policy for the robot that acts."""
    config = for_views(actor.model.config, actor.robot.embodiment)
    return build_pipeline(
        config,
        Processor(actor.tokenizer, config),
        actor.robot.embodiment,
        actor.robot.layout,
        actor.robot.statistics,
    )


def _imitate(actor: Actor, seed: int) -> None:
    """Fit a policy to a teacher who turns the wrong way one time in four."""
    rng, world, pipeline = np.random.default_rng((seed, TEACHER)), TurnEnv(), pipeline_of(actor)
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


class RLRun:
    """The state of a run, and its iterations."""

    def __init__(self, recipe: RLRecipe, actor: Actor, worlds: VectorEnv, out: Path) -> None:
        """Build around the policy, and take up the state that lies in `out`."""
        self.recipe, self.actor, self.worlds, self.out = recipe, actor, worlds, out
        self.policy = ActorCritic(actor.model).to(actor.model.device)
        self.pipeline = pipeline_of(actor)
        self.weights = dict(self.policy.named_parameters())
        heads = [p for name, p in self.weights.items() if name.startswith('value.')]
        others = [p for name, p in self.weights.items() if not name.startswith('value.')]
        self.optimiser = torch.optim.AdamW(
            [
                {'params': others, 'lr': recipe.rate},
                {'params': heads, 'lr': recipe.value_rate},
            ],
            betas=(0.9, 0.95),
            weight_decay=0.01,
        )
        self.iteration, self.steps, self.successes = 0, 0, []
        state = last_state(out / 'state')
        if state is not None:
            self._resume(state)

    # State -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state; the last good one stays until this one is whole."""
        facts = {
            'recipe': asdict(self.recipe),
            'steps': self.steps,
            'successes': self.successes,
        }
        tensors = adam_tensors(self.weights, self.optimiser)
        save_state(self.out / 'state', self.iteration, tensors, facts, Ranks())

    def _resume(self, state: Path) -> None:
        facts = read_facts(state)
        if facts['recipe'] != asdict(self.recipe):
            raise QwenVlaError(
                f'{state}: belongs to a run with other settings; choose another --out'
            )
        load_state(state, adam_tensors(self.weights, self.optimiser), Ranks())
        self.iteration, self.steps = facts['step'], facts['steps']
        self.successes = facts['successes']
        set_adam_step(self.weights, self.optimiser, self.steps)

    # An iteration ------------------------------------------------------------------------------

    def act(self) -> Rollout:
        """Return the rollout of the present iteration."""
        recipe = self.recipe
        place = (recipe.seed, self.iteration)
        return roll_out(
            self.policy, self.pipeline, self.worlds, recipe.decisions, place, recipe.clips
        )

    def improve(self, rollout: Rollout) -> dict[str, float]:
        """Take the epochs of an iteration; return means of what they are watched by."""
        recipe, count = self.recipe, len(rollout.samples)
        rng = np.random.default_rng((recipe.seed, ORDER, self.iteration))
        told: list[dict[str, float]] = []
        for _ in range(recipe.epochs):
            order = rng.permutation(count)
            for begin in range(0, count, recipe.minibatch):
                told.append(self._step(rollout, order[begin : begin + recipe.minibatch]))
            last = told[-max(1, -(-count // recipe.minibatch)) :]
            if np.mean([entry['kl'] for entry in last]) > recipe.enough_kl:
                break
        means = {key: float(np.mean([entry[key] for entry in told])) for key in told[0]}
        return {**means, 'steps': float(len(told))}

    def _step(self, rollout: Rollout, chosen: np.ndarray) -> dict[str, float]:
        """Take one step of the optimiser on some decisions."""
        recipe, index = self.recipe, torch.from_numpy(chosen)
        batch = self.actor.model.collate([rollout.samples[i] for i in chosen])
        step = rows_of(rollout.step, index)
        new, value = self.policy(batch, step)
        place = new.device
        policy, worth, told = losses(
            new,
            rollout.log_prob[index].to(place),
            rollout.advantage[index].to(place),
            value,
            rollout.value[index].to(place),
            recipe.clips,
        )
        self.optimiser.zero_grad(set_to_none=True)
        (policy + recipe.clips.value_weight * worth).backward()
        for weight in self.weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), recipe.clip)
        entry = {
            'policy': policy.item(),
            'value': worth.item(),
            'gradient_norm': norm.item(),
        }
        if not np.isfinite(sum(entry.values())):
            raise QwenVlaError(
                f'{self.out}: iteration {self.iteration + 1}: loss or gradient is not finite; '
                f'nothing was changed by it. The last good state: {last_state(self.out / "state")}'
            )
        self.optimiser.step()
        self.steps += 1
        return {**entry, **told}

    def collapsed(self) -> bool:
        """Return whether success fell far below what it was."""
        if len(self.successes) < 10:
            return False
        means = np.convolve(self.successes, np.ones(5) / 5, 'valid')
        return bool(means[-1] < self.recipe.collapse * means.max())

    def fit(self, save_every: int = 5) -> None:
        """Run to the end, or to a collapse, which is an error: the state before it is told."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._describe()
        watch = Watch(self.out, self.iteration, None, {})
        bar = tqdm(total=self.recipe.iterations, initial=self.iteration, desc='rl')
        while self.iteration < self.recipe.iterations:
            rollout = self.act()
            # What was reached goes with the weights that reached it: those before the step.
            success = float(np.mean(rollout.finished)) if rollout.finished else None
            entry: dict[str, Any] = self.improve(rollout)
            self.iteration += 1
            entry |= {
                'episodes': len(rollout.finished),
                'refused': rollout.refused,
                'advantage': float(rollout.advantage.mean()),
                'explained': _explained(rollout),
            }
            if success is not None:
                self.successes.append(success)
                entry['success'] = success
            watch.tell(self.iteration, entry)
            bar.update()
            bar.set_postfix(success=success, kl=round(entry['kl'], 4))
            if self.collapsed():
                raise QwenVlaError(
                    f'{self.out}: success fell to {self.successes[-1]:.2f} in iteration '
                    f'{self.iteration}; the state before: {last_state(self.out / "state")}. Lower '
                    'the rate, or the noise level (flow.noise_level)'
                )
            if self.iteration % save_every == 0 or self.iteration == self.recipe.iterations:
                self.save()
        bar.close()
        watch.close()

    def _describe(self) -> None:
        told = {
            'recipe': asdict(self.recipe),
            'command': ' '.join(sys.argv),
            'git': git_state(),
            'machine': machine(self.actor.model.device),
        }
        beside = self.out / f'.run.json.{os.getpid()}'
        beside.write_text(json.dumps(told, indent=2) + '\n')
        beside.rename(self.out / 'run.json')

    def finish(self, command: str) -> Path:
        """Write the checkpoint, with every robot that it had, and return the folder."""
        folder = self.out / 'checkpoint'
        facts: Mapping[str, Any] = {
            'command': command,
            'stage': 'rl',
            'run': asdict(self.recipe),
            'success': self.successes,
            'machine': machine(self.actor.model.device),
            **{key: value for key, value in self.actor.facts.items() if value},
        }
        save_checkpoint(folder, self.actor.model, self.actor.tokenizer, self.actor.robots, facts)
        return folder


def _explained(rollout: Rollout) -> float:
    """Return the share of the returns' variance that the values explain."""
    returns = rollout.value + rollout.advantage
    variance = float(returns.var(correction=0))
    return 1 - float(rollout.advantage.var(correction=0)) / variance if variance else 0.0


def run_rl(recipe: RLRecipe, init: str | None, out: Path, device: str, processes: bool) -> RLRun:
    """Train to the end, or go on where a run stopped; return the run."""
    if init is None and recipe.world != 'turn':
        raise QwenVlaError(
            f'train rl --world {recipe.world}: give --init, a fine-tuned checkpoint'
        )
    actor = load_actor(recipe.world, init, device) if init else fresh_actor(recipe)
    worlds = make_worlds(recipe.world, recipe.worlds, processes)
    try:
        run = RLRun(recipe, actor, worlds, out)
        run.fit()
    finally:
        worlds.close()
    return run
