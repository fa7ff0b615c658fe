"""
What a policy met while it acted in many worlds at a time.

A rollout is decided by the weights and by (seed, number): every episode's scene, every noise. So
the same weights give the same rollout again, decision by decision.

Shapes: T decisions in a row, N worlds, T * N decisions in all, ordered by t, then by world.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from qwen_vla_ros.model.sampling import NoisyStep
from qwen_vla_ros.train.ppo import ActorCritic, Clips, advantages, join_steps
from qwen_vla_ros.train.rl_worlds import FIRST_SEED
from qwen_vla_ros.transforms import Pipeline

SCENE, NOISE = 2, 3  # told apart from other draws of the same seed


@dataclass(frozen=True)
class Rollout:
    """
    Decisions of N worlds.

    samples   [T * N] inputs of the model; step: their random denoising steps; log_prob, value,
              advantage float32 [T * N]; actions float32 [T * N, H, A] in SI units
    finished  successes of the episodes that ended, in their order
    refused   chunks that a world refused
    """

    samples: list[dict[str, Any]]
    step: NoisyStep
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    actions: np.ndarray
    finished: tuple[bool, ...]
    refused: int


class Scenes:
    """The seed of each world's next episode, by (seed, number of the rollout)."""

    def __init__(self, seed: int, number: int, worlds: int) -> None:
        """Begin before the first episode."""
        self._draws = [
            np.random.default_rng((seed, SCENE, number, world)) for world in range(worlds)
        ]

    def next(self, world: int) -> int:
        """Return the seed of a world's next episode."""
        return FIRST_SEED + int(self._draws[world].integers(2**30))


def shown(observation: Mapping[str, Any], world: int) -> dict[str, Any]:
    """Return what one of the worlds shows."""
    return {
        'images': {view: image[world] for view, image in observation['images'].items()},
        'state': np.asarray(observation['state'][world], np.float32),
        'instruction': observation['instruction'][world],
    }


@torch.no_grad()
def roll_out(
    actor: ActorCritic,
    pipeline: Pipeline,
    worlds: VectorEnv,
    decisions: int,
    place: tuple[int, int],
    clips: Clips,
) -> Rollout:
    """Let the policy act `decisions` times in every world; place is (seed, number)."""
    actor.eval()
    count, (seed, number) = worlds.num_envs, place
    scenes = Scenes(seed, number, count)
    generator = torch.Generator().manual_seed(
        int(np.random.default_rng((seed, NOISE, number)).integers(2**62))
    )
    observation, _ = worlds.reset(seed=[scenes.next(world) for world in range(count)])
    samples, steps, kept, chunks, finished, refused = [], [], [], [], [], 0
    for _ in range(decisions):
        seen = [pipeline.forward(shown(observation, world)) for world in range(count)]
        actions, step, log_prob, value = _decide(actor, seen, generator)
        rows = np.stack(
            [
                pipeline.inverse({**sample, 'actions': chunk})['actions']
                for sample, chunk in zip(seen, actions, strict=True)
            ]
        ).astype(np.float32)
        observation, reward, ended, cut, facts = worlds.step(rows)
        reward = torch.as_tensor(reward, dtype=torch.float32)
        over = np.logical_or(ended, cut)
        if np.any(cut & ~ended):
            # Time ran out: what would have come counts as what the last picture is worth.
            ahead = _values(actor, pipeline, observation, count)
            reward = reward + clips.gamma * ahead * torch.from_numpy(cut & ~ended)
        finished += [bool(facts['success'][world]) for world in np.flatnonzero(over)]
        refused += int(np.sum(facts.get('chunk_refused', 0)))
        if over.any():
            seeds = [scenes.next(w) if over[w] else None for w in range(count)]
            observation, _ = worlds.reset(seed=seeds, options={'reset_mask': over})
        samples += seen
        steps.append(step)
        chunks.append(rows)
        kept.append((log_prob, value, reward, torch.from_numpy(over)))
    log_prob, value, reward, over = (torch.stack(part) for part in zip(*kept, strict=True))
    last = _values(actor, pipeline, observation, count)
    gained = advantages(reward, value, over, last, clips)
    return Rollout(
        samples,
        join_steps(steps),
        log_prob.flatten(),
        value.flatten(),
        gained.flatten(),
        np.concatenate(chunks),
        tuple(finished),
        refused,
    )


def _decide(
    actor: ActorCritic, seen: list[dict[str, Any]], generator: torch.Generator
) -> tuple[np.ndarray, NoisyStep, Tensor, Tensor]:
    """Return normalised actions [N, H, K], the random step, log-probabilities and values [N]."""
    model = actor.model
    batch = model.collate(seen)
    hidden = model.encode(batch)
    context = model.condition(hidden, batch)
    actions, step = model.explore(batch, generator=generator, context=context)
    log_prob = step.log_prob(model.velocity(context))
    value = actor.values(hidden, batch)
    return actions.float().cpu().numpy(), step, log_prob.cpu(), value.cpu()


def _values(
    actor: ActorCritic, pipeline: Pipeline, observation: Mapping[str, Any], count: int
) -> Tensor:
    seen = [pipeline.forward(shown(observation, world)) for world in range(count)]
    batch = actor.model.collate(seen)
    return actor.values(actor.model.encode(batch), batch).cpu()
