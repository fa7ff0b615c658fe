"""
What a policy met while it acted in many worlds at a time.

A rollout is decided by the weights and by (seed, number): every episode's scene, every noise. So
the same weights give the same rollout again, decision by decision, wherever the worlds run.

Shapes: T decisions in a row, N worlds, T * N decisions in all, ordered by t, then by world.
"""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwen_vla_ros.model.sampling import NoisyStep, row_noise
from qwen_vla_ros.train.ppo import ActorCritic, Clips, advantages, join_steps
from qwen_vla_ros.train.rl_actors import Worlds
from qwen_vla_ros.train.rl_worlds import FIRST_SEED, Met
from qwen_vla_ros.transforms import Pipeline

SCENE, NOISE = 2, 3  # told apart from other draws of the same seed


@dataclass(frozen=True)
class Noise:
    """
    Of the random step: its level (None: the model's), and how it goes on.

    smooth: correlation from row to row; lasting: from a decision of an episode to the next. What
    lasts can be told by an episode's end, where many small strays cancel each other (colored
    noise, Hollenstein et al., AAAI 2024). Each decision's own density is the same.
    """

    level: float | None = None
    smooth: float = 0.0
    lasting: float = 0.0


AS_TRAINED = Noise()


class Straying:
    """The noise of the random steps of N worlds, decision by decision."""

    def __init__(self, noise: Noise, generator: torch.Generator) -> None:
        """Begin before the first decision."""
        self.noise, self._generator = noise, generator
        self._last: Tensor | None = None

    def next(self, shape: Sequence[int]) -> Tensor:
        """Return [N, H, K] for the next decision of each world."""
        fresh = row_noise(shape, self.noise.smooth, self._generator)
        if self._last is not None and self.noise.lasting:
            kept = self.noise.lasting
            fresh = torch.where(
                self._begins[:, None, None],
                fresh,
                kept * self._last + math.sqrt(1 - kept**2) * fresh,
            )
        self._last = fresh
        return fresh

    def end(self, ended_N: Tensor) -> None:
        """Forget what strayed where an episode ended."""
        self._begins = ended_N


@dataclass(frozen=True)
class Rollout:
    """
    Decisions of N worlds.

    samples   [T * N] inputs of the model; step: their random denoising steps; log_prob, value,
              advantage float32 [T * N]; actions [T * N] chunks float32 [H, A] in SI units
    hidden    [T * N] states of the VLM [tokens, C], where they were to be kept
    outcomes  label of a world -> successes of its episodes, see Tale
    refused   chunks that a world refused; seconds: spent in the worlds
    """

    samples: list[dict[str, Any]]
    step: NoisyStep
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    actions: list[np.ndarray]
    hidden: list[Tensor]
    outcomes: Mapping[str, list[bool]]
    refused: int
    seconds: float

    @property
    def finished(self) -> list[bool]:
        """Return the successes of all episodes that count."""
        return [success for found in self.outcomes.values() for success in found]


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


class Tale:
    """
    Which episodes of a rollout count, and how they ended.

    Those that began so early that their time runs out within the rollout, and the first of each
    world: not done at the end is a failure. Others would count only when they are quick, and
    those are the successes.
    """

    def __init__(self, worlds: Worlds, decisions: int) -> None:
        """Begin all worlds' first episodes."""
        self._orders, self._decisions = worlds.orders, decisions
        self._begun = [0] * len(worlds)
        self.outcomes: dict[str, list[bool]] = defaultdict(list)

    def end(self, world: int, decision: int, success: bool) -> None:
        """Note that an episode ended with a decision."""
        begun, order = self._begun[world], self._orders[world]
        if not begun or begun + order.longest <= self._decisions:
            self.outcomes[order.label].append(success)
        self._begun[world] = decision + 1

    def close(self) -> dict[str, list[bool]]:
        """Return what counts."""
        for order, begun in zip(self._orders, self._begun, strict=True):
            if not begun:
                self.outcomes[order.label].append(False)
        return dict(self.outcomes)


@dataclass
class _Kept:
    """What the decisions of a rollout leave, in their order."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    steps: list[NoisyStep] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)


@torch.no_grad()
def roll_out(
    actor: ActorCritic,
    pipelines: Sequence[Pipeline],
    worlds: Worlds,
    decisions: int,
    place: tuple[int, int],
    clips: Clips,
    keep_hidden: bool = False,
    strays: Noise = AS_TRAINED,
) -> Rollout:
    """
    Let the policy act `decisions` times in every world.

    pipelines: of each world's robot; place: (seed, number); keep_hidden: keep the VLM's states;
    strays: the noise
    """
    actor.eval()
    count, (seed, number) = len(worlds), place
    scenes, tale, kept = Scenes(seed, number, count), Tale(worlds, decisions), _Kept()
    generator = _generator(seed, number)
    straying = Straying(strays, generator)
    rows = torch.tensor([order.rows for order in worlds.orders])
    begun = time.monotonic()
    shown = worlds.reset({world: scenes.next(world) for world in range(count)})
    spent, refused = time.monotonic() - begun, 0
    for decision in range(decisions):
        seen = [pipelines[world].forward(shown[world]) for world in range(count)]
        actions, step, log_prob, value, hidden = _decide(actor, seen, generator, straying, rows)
        chunks = dict(enumerate(map(_chunk, pipelines, seen, actions)))
        begun = time.monotonic()
        met = worlds.step(chunks)
        over = [world for world in range(count) if met[world].ended or met[world].cut]
        for world in over:
            tale.end(world, decision, met[world].success)
        again = worlds.reset({world: scenes.next(world) for world in over})
        spent += time.monotonic() - begun
        shown = {world: met[world].observation for world in range(count)}
        reward = _reward(actor, pipelines, met, clips)
        refused += sum(answer.refused for answer in met.values())
        kept.samples += seen
        kept.steps.append(step)
        kept.actions += chunks.values()
        kept.hidden += hidden if keep_hidden else ()
        ended = torch.tensor([world in again for world in range(count)])
        straying.end(ended)
        kept.rows.append((log_prob, value, reward, ended))
        shown |= again
    log_prob, value, reward, over = (torch.stack(part) for part in zip(*kept.rows, strict=True))
    last = _values(actor, [pipelines[world].forward(shown[world]) for world in range(count)])
    return Rollout(
        kept.samples,
        join_steps(kept.steps),
        log_prob.flatten(),
        value.flatten(),
        advantages(reward, value, over, last, clips).flatten(),
        kept.actions,
        kept.hidden,
        tale.close(),
        refused,
        spent,
    )


def _generator(seed: int, number: int) -> torch.Generator:
    """Return what a rollout's noise comes from."""
    noise = np.random.default_rng((seed, NOISE, number))
    return torch.Generator().manual_seed(int(noise.integers(2**62)))


def _chunk(pipeline: Pipeline, seen: dict[str, Any], actions: np.ndarray) -> np.ndarray:
    """Return a chunk float32 [H, A] in SI units."""
    return np.asarray(pipeline.inverse({**seen, 'actions': actions})['actions'], np.float32)


def _decide(
    actor: ActorCritic,
    seen: list[dict[str, Any]],
    generator: torch.Generator,
    straying: Straying,
    rows: Tensor,
) -> tuple[np.ndarray, NoisyStep, Tensor, Tensor, list[Tensor]]:
    """Return normalised actions [N, H, K], step, log-probabilities, values [N], VLM's states."""
    model = actor.model
    batch = model.collate(seen)
    hidden = model.encode(batch)
    context = model.condition(hidden, batch)
    actions, step = model.explore(
        batch,
        generator=generator,
        context=context,
        noise_level=straying.noise.level,
        smooth=straying.noise.smooth,
        strays_BHK=straying.next(batch['action_mask'].shape),
    )
    step = _that_ran(step, rows)
    log_prob = step.log_prob(model.velocity(context))
    value = actor.values(hidden, batch)
    states = [row[: len(s['input_ids'])].clone() for row, s in zip(hidden, seen, strict=True)]
    return actions.float().cpu().numpy(), step, log_prob.cpu(), value.cpu(), states


def _that_ran(step: NoisyStep, rows_N: Tensor) -> NoisyStep:
    """Return a step of which rows 1 .. rows count, those that a world runs; 0: all of them."""
    row = torch.arange(step.mask.shape[1])
    runs = (rows_N == 0)[:, None] | ((row >= 1) & (row <= rows_N[:, None]))
    return replace(step, mask=step.mask * runs[..., None].to(step.mask))


def _reward(
    actor: ActorCritic, pipelines: Sequence[Pipeline], met: Mapping[int, Met], clips: Clips
) -> Tensor:
    """Return [N]; where time ran out, what would have come is what the last picture is worth."""
    reward = torch.tensor([met[world].reward for world in range(len(met))])
    late = [world for world in range(len(met)) if met[world].cut and not met[world].ended]
    if late:
        seen = [pipelines[world].forward(met[world].observation) for world in late]
        reward[late] += clips.gamma * _values(actor, seen)
    return reward


def _values(actor: ActorCritic, seen: list[dict[str, Any]]) -> Tensor:
    """Return [N]: what the pictures are worth."""
    batch = actor.model.collate(seen)
    return actor.values(actor.model.encode(batch), batch).cpu()
