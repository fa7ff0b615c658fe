"""
Reinforcement learning: act in many worlds, then improve on what was met (PPO, paper 4.2).

Published: gamma 0.99, lambda 0.95, clipping at 0.2, 4 epochs, rates 5e-6 (policy) and 1e-4
(value), sparse success, 128 worlds x 8 x 128 steps = 8,192 chunks an iteration. Open: iterations,
minibatch, the noise level (FlowConfig.noise_level), gradient clipping; ours are RLinf's, which the
paper credits. An iteration's rollout and minibatches come from (seed, iteration) alone, so a run
that was killed goes on as if it had not been.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import save_checkpoint
from qwen_vla_ros.train.interruption import noted_signals
from qwen_vla_ros.train.ppo import ActorCritic, losses, rows_of
from qwen_vla_ros.train.ranks import Ranks
from qwen_vla_ros.train.rl_actors import LOCAL, Worlds, check_actors, open_worlds
from qwen_vla_ros.train.rl_keep import Kept
from qwen_vla_ros.train.rl_policy import Actor, fresh_actor, load_actor
from qwen_vla_ros.train.rl_recipe import Limits, RLRecipe
from qwen_vla_ros.train.rollout import Noise, Rollout, roll_out
from qwen_vla_ros.train.run_state import (
    adam_tensors,
    facts_of_same,
    last_state,
    load_state,
    save_state,
    set_adam_step,
)
from qwen_vla_ros.train.supervised import machine
from qwen_vla_ros.train.watch import Watch, git_state

ORDER = 4  # of minibatches; told apart from other draws of the same seed
RECENT = 5  # iterations whose mean success is looked at
SURE = 3.0  # standard errors by which a collapse is more than chance
UNLIMITED = Limits()


class RLRun:
    """The state of a run, and its iterations."""

    def __init__(
        self,
        recipe: RLRecipe,
        actor: Actor,
        worlds: Worlds,
        out: Path,
        kept_worlds: Worlds | None = None,
    ) -> None:
        """
        Build around the policy, and take up the state that lies in `out`.

        kept_worlds: in which the policy is to stay what it is
        """
        self.recipe, self.actor, self.worlds, self.out = recipe, actor, worlds, out
        actor.model.backbone.requires_grad_(not recipe.freeze_vlm)
        if actor.model.config.decoder.readout_points:
            actor.model.decoder.readout.hold()
        self.policy = ActorCritic(actor.model).to(actor.model.device)
        self.pipelines = actor.pipelines_of(worlds.orders)
        self.kept: Kept | None = None
        if kept_worlds is not None:
            around = actor.pipelines_of(kept_worlds.orders)
            self.kept = Kept(self.policy, around, kept_worlds, recipe.seed, recipe.freeze_vlm)
        self.weights = {n: p for n, p in self.policy.named_parameters() if p.requires_grad}
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
        self.seconds: list[dict[str, float]] = []  # of the iterations of this process
        self.stopping = 0
        self.identity = identity_of(recipe, actor.origin)
        state = last_state(out / 'state')
        if state is not None:
            self._resume(state)

    # State -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state; the last good one stays until this one is whole."""
        facts = {**self.identity, 'steps': self.steps, 'successes': self.successes}
        tensors = adam_tensors(self.weights, self.optimiser)
        save_state(self.out / 'state', self.iteration, tensors, facts, Ranks())

    def _resume(self, state: Path) -> None:
        facts = facts_of_same(state, self.identity)
        load_state(state, adam_tensors(self.weights, self.optimiser), Ranks())
        self.iteration, self.steps = facts['step'], facts['steps']
        self.successes = facts['successes']
        set_adam_step(self.weights, self.optimiser, self.steps)

    # An iteration ------------------------------------------------------------------------------

    def act(self) -> Rollout:
        """Return the rollout of the present iteration."""
        recipe = self.recipe
        return roll_out(
            self.policy,
            self.pipelines,
            self.worlds,
            recipe.decisions,
            (recipe.seed, self.iteration),
            recipe.clips,
            recipe.freeze_vlm,
            Noise(recipe.noise, recipe.smooth, recipe.lasting),
        )

    def improve(self, rollout: Rollout) -> dict[str, float]:
        """Take the epochs of an iteration; return means of what they are watched by."""
        recipe, count = self.recipe, len(rollout.samples)
        rng = np.random.default_rng((recipe.seed, ORDER, self.iteration))
        told: list[dict[str, float]] = []
        for _ in range(recipe.epochs):
            order = rng.permutation(count)
            for begin in range(0, count, recipe.minibatch):
                told.append(self._step(rollout, order[begin : begin + recipe.minibatch], rng))
            last = told[-max(1, -(-count // recipe.minibatch)) :]
            if np.mean([entry['kl'] for entry in last]) > recipe.enough_kl:
                break
        means = {key: float(np.mean([entry[key] for entry in told])) for key in told[0]}
        return {**means, 'steps': float(len(told))}

    def look_again(self, rollout: Rollout, chosen: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Return log-probabilities and values [B] of some decisions under the present weights."""
        seen, frozen = [rollout.samples[i] for i in chosen], self.recipe.freeze_vlm
        batch = self.actor.model.collate(seen, pixels=not frozen)
        hidden = None
        if frozen:
            hidden = pad_sequence([rollout.hidden[i] for i in chosen], batch_first=True)
        return self.policy(batch, rows_of(rollout.step, torch.from_numpy(chosen)), hidden)

    def _step(
        self, rollout: Rollout, chosen: np.ndarray, rng: np.random.Generator
    ) -> dict[str, float]:
        """Take one step of the optimiser on some decisions; rng draws of those to be kept."""
        recipe, index = self.recipe, torch.from_numpy(chosen)
        new, value = self.look_again(rollout, chosen)
        place = new.device
        policy, worth, told = losses(
            new,
            rollout.log_prob[index].to(place),
            rollout.advantage[index].to(place),
            value,
            rollout.value[index].to(place),
            recipe.clips,
        )
        loss = policy + recipe.clips.value_weight * worth
        if self.kept is not None:
            drift = self.kept.drift(rng)
            loss, told = loss + recipe.keep_weight * drift, {**told, 'kept_kl': drift.item()}
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
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
        """Return whether success fell far below what it was, by more than chance."""
        if len(self.successes) < 2 * RECENT:
            return False
        means = np.convolve(self.successes, np.ones(RECENT) / RECENT, 'valid')
        best, last = float(means.max()), float(means[-1])
        episodes = RECENT * self.recipe.worlds  # at least so many stand behind a mean
        error = math.sqrt((best * (1 - best) + last * (1 - last)) / episodes)
        return last < self.recipe.collapse * best and best - last > SURE * error

    # The run -----------------------------------------------------------------------------------

    def fit(
        self,
        limits: Limits = UNLIMITED,
        begun: float | None = None,
        wandb: str | None = None,
    ) -> bool:
        """
        Run to the end, or as long as another iteration fits; return False after a signal.

        begun: time.monotonic() from which the minutes count; wandb: a project of Weights & Biases.
        The state is saved at the end. A collapse is an error: the state before it is told.
        """
        begun = time.monotonic() if begun is None else begun
        self.out.mkdir(parents=True, exist_ok=True)
        self._describe()
        watch, saved = Watch(self.out, self.iteration, wandb, self.identity), self.iteration
        bar = tqdm(total=self.recipe.iterations, initial=self.iteration, desc='rl')
        with noted_signals(self._stop):
            while self.iteration < self.recipe.iterations and not self.stopping:
                recent = self.seconds[-3:]  # the first also starts the processes
                longest = max((sum(told.values()) for told in recent), default=0.0)
                if time.monotonic() - begun + longest > 60 * limits.minutes:
                    break
                entry = self._iterate()
                watch.tell(self.iteration, entry)
                told = {key: round(entry[key], 4) for key in ('success', 'kl') if key in entry}
                told['seconds'] = round(sum(self.seconds[-1].values()), 1)
                bar.set_postfix(told, refresh=False)
                bar.update()
                if self.iteration % limits.save_every == 0:
                    self.save()
                    saved = self.iteration
        if self.iteration > saved:
            self.save()
        bar.close()
        watch.close()
        return not self.stopping

    def _iterate(self) -> dict[str, Any]:
        """Act and improve once; return what is told of it."""
        begun = time.monotonic()
        rollout = self.act()
        acted = time.monotonic()
        entry: dict[str, Any] = self.improve(rollout)
        self.iteration += 1
        self.seconds.append(
            {
                'worlds': rollout.seconds,
                'deciding': acted - begun - rollout.seconds,
                'learning': time.monotonic() - acted,
            }
        )
        entry |= {
            'episodes': len(rollout.finished),
            'refused': rollout.refused,
            'advantage': float(rollout.advantage.mean()),
            'explained': _explained(rollout),
            'seconds': self.seconds[-1],
        }
        if rollout.finished:
            # What was reached goes with the weights that reached it: those before the step.
            entry['success'] = float(np.mean(rollout.finished))
            self.successes.append(entry['success'])
            entry['success_of'] = {k: float(np.mean(v)) for k, v in rollout.outcomes.items()}
        if self.collapsed():
            raise QwenVlaError(
                f'{self.out}: success fell to {self.successes[-1]:.2f} in iteration '
                f'{self.iteration}; the state before: {last_state(self.out / "state")}. Lower '
                'the rate, or the noise (--noise)'
            )
        return entry

    def _stop(self, number: int) -> None:
        """End the run after the present iteration."""
        self.stopping = number

    def cost(self) -> str:
        """Return what an iteration of this process costs, in words."""
        if not self.seconds:
            return 'no iteration was made'
        parts = {key: np.median([told[key] for told in self.seconds]) for key in self.seconds[0]}
        total = np.median([sum(told.values()) for told in self.seconds])
        shares = ', '.join(f'{key} {value:.2f}' for key, value in parts.items())
        chunks = self.recipe.worlds * self.recipe.decisions
        return f'an iteration of {chunks} chunks takes {total:.2f} s ({shares})'

    def _describe(self) -> None:
        told = {
            'recipe': asdict(self.recipe),
            'worlds': Counter(order.label for order in self.worlds.orders),
            'actors': self.worlds.where,
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
            'iterations': self.iteration,
            'success': self.successes,
            'machine': machine(self.actor.model.device),
            **{key: value for key, value in self.actor.facts.items() if value},
        }
        save_checkpoint(folder, self.actor.model, self.actor.tokenizer, self.actor.robots, facts)
        return folder


def identity_of(recipe: RLRecipe, origin: str) -> dict[str, Any]:
    """
    Return what tells a run from others; origin: the fingerprint of --init, '' without.

    How far a run goes decides nothing before its end: it may be led on.
    """
    settings = {key: value for key, value in asdict(recipe).items() if key != 'iterations'}
    return {'recipe': settings, 'init': origin}


def _explained(rollout: Rollout) -> float:
    """Return the share of the returns' variance that the values explain."""
    returns = rollout.value + rollout.advantage
    variance = float(returns.var(correction=0))
    return 1 - float(rollout.advantage.var(correction=0)) / variance if variance else 0.0


def start_rl(
    recipe: RLRecipe, init: str | None, out: Path, device: str = 'auto', actors: str = LOCAL
) -> RLRun:
    """Return a run that is ready to go, or to go on; close its worlds at the end."""
    check_actors(actors)
    orders = recipe.orders()
    if init is None and recipe.world != ('turn',):
        raise QwenVlaError(
            f'train rl --world {",".join(recipe.world)}: give --init, a fine-tuned checkpoint'
        )
    kept = recipe.kept_orders() if recipe.keep else []
    robots = sorted({order.robot for order in (*orders, *kept)})
    actor = load_actor(robots, init, device) if init else fresh_actor(recipe.seed)
    with contextlib.ExitStack() as opened:
        kept_worlds = open_worlds(kept, actor.sizes(robots), actors) if kept else None
        if kept_worlds is not None:
            opened.callback(kept_worlds.close)
        worlds = open_worlds(orders, actor.sizes(robots), actors)
        try:
            return RLRun(recipe, actor, worlds, out, kept_worlds)
        except BaseException:
            worlds.close()
            raise
