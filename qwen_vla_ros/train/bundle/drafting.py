"""
The first part of T2A: the draft of a readout learns from words, points and values, and state.

It is a few layers, so it sees every sentence of the families many times in the minutes in which
the whole decoder sees each once. The VLM is frozen: what it makes of a prompt is computed once,
and so is what it finds in every picture. Half of the sentences are told of the true places, some
way off, the others of what was found: a draft that only knew the truth would take a mistaken
finding for a sign (that a turn is told means that a cube lies).

Shapes: N sentences, B of a step, P points, V values, S state channels, H horizon, K channels.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qwen_vla_ros.model.readout import DRAFTING
from qwen_vla_ros.model.scene import Scene
from qwen_vla_ros.train.bundle.fitting import Part, fast, fit
from qwen_vla_ros.train.bundle.frames import VALUES
from qwen_vla_ros.train.bundle.sentences import Sentences, read_words, sentences_of
from qwen_vla_ros.train.bundle.shards import ShardEpisodes
from qwen_vla_ros.train.bundle.sight import Sight
from qwen_vla_ros.train.losses import draft_losses
from qwen_vla_ros.train.mixed_batch import generator_of
from qwen_vla_ros.train.pointing import TOLD_ERROR, TOLD_RATE, VALUE_ERROR, value_losses
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.train.start import Start

HELD_OUT = 20  # the last 20th of each set's sentences
FOUND = 0.5  # share of sentences that are told of what was found
# What a base that stops too early loses is the goal, one that stops too late a moment: it is to be
# sure, and says STOP where 1 / (1 + REST_WEIGHT) of what looks alike is rest.
REST_WEIGHT, RESTING = 0.2, 'mobile_base'
TURN = tuple(VALUES.index(f'target_{name}4') for name in ('cos', 'sin'))
TURN_ERROR, NO_TURN = 0.4, 0.2  # what is told of it strays, and how often it is not told
AT_ONCE = 384  # sentences whose pictures are looked at
BATCH, RATE, WARM_UP, LOOK, SEED = 512, 1.5e-3, 100, 500, 0


def fit_draft(
    begun: Start,
    sets: Mapping[str, ShardEpisodes],
    shares: Mapping[str, float],
    steps: int,
    out: Path,
    share: float = 1.0,
) -> float | None:
    """
    Train the draft in place, as fit() tells.

    shares: set -> how often it is drawn; share: of the usual rates
    """
    readout, size = begun.model.decoder.readout, begun.model.decoder.readout.rows
    encoder = Encoder(begun.model.config, begun.tokenizer, begun.robots, images=False)
    prompts: dict[str, int] = {}
    parts = [sentences_of(encoder, part, prompts, shares[name]) for name, part in sets.items()]
    words = read_words(begun, list(prompts))
    scenes = _found_scenes(begun, sets)
    weights = torch.tensor([part.weight for part in parts])
    weighed = [counting(part) for part in sets.values()]

    def losses(step: int) -> dict[str, Tensor]:
        generator = generator_of((SEED, step))
        rows = torch.multinomial(weights, BATCH, True, generator=generator)
        counts = torch.bincount(rows, minlength=len(parts)).tolist()
        drawn, found, counted = [], [], []
        for part, scene, own, count in zip(parts, scenes, weighed, counts, strict=True):
            chosen = _drawn(part, count, generator)
            counted.append(own[chosen])
            drawn.append(part.batch(chosen, size))
            found.append([x[chosen].float() for x in scene.tensors()])
        prompt, points, values, state, actions, mask = map(torch.cat, zip(*drawn, strict=True))
        given = Scene(*map(torch.cat, zip(*found, strict=True)))
        told = Scene.told(*_strayed(points, values, generator))
        scene = _either(torch.rand(BATCH, generator=generator) < FOUND, given, told)
        with fast():
            draft = readout.draft_from(scene, state, words[prompt])
        reach = value_losses(*readout.reached(state, words[prompt]), values[:, readout.hands])
        error = draft_losses(draft, actions, mask) * torch.cat(counted)
        return {'draft': error.mean(), 'reach': reach.mean()}

    def held_out() -> dict[str, dict[str, float]]:
        pairs = zip(parts, scenes, strict=True)
        errors = (_held_out(begun, part, scene, words, size) for part, scene in pairs)
        return dict(zip(sets, errors, strict=True))

    own = readout.weights_of(DRAFTING)
    counts = {'draft': 1.0, 'reach': 0.1}
    part = Part('draft', ((own, share * RATE),), losses, held_out, WARM_UP, LOOK, counts)
    return fit(part, steps, out)


def counting(part: ShardEpisodes) -> Tensor:
    """Return how much each sentence counts [N]."""
    resting = ~part.arrays['actions'].any((1, 2)) & (part.embodiment.name == RESTING)
    return torch.from_numpy(np.where(resting, REST_WEIGHT, 1.0).astype(np.float32))


def _drawn(part: Sentences, count: int, generator: torch.Generator) -> Tensor:
    """Return rows of what is trained on; the last ones are held out."""
    return torch.randint(_trained(part), (count,), generator=generator)


def _trained(part: Sentences) -> int:
    return len(part.prompt) - len(part.prompt) // HELD_OUT


def _strayed(points: Tensor, values: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points and values some way off, as train/pointing.py tells them."""
    moved = points + TOLD_ERROR * torch.randn(points.shape, generator=generator)
    lost = torch.rand(points.shape[:2], generator=generator) > TOLD_RATE
    blur = VALUE_ERROR * torch.rand((len(values), 1), generator=generator)
    values = values + blur * torch.randn(values.shape, generator=generator)
    turn = values[:, TURN]
    turn = turn + TURN_ERROR * torch.rand((len(turn), 1), generator=generator) * torch.randn(
        turn.shape, generator=generator
    )
    silent = torch.rand((len(turn), 1), generator=generator) < NO_TURN
    values[:, TURN] = turn.masked_fill(silent, torch.nan)
    return moved.masked_fill(lost[..., None], torch.nan), values


def _either(first: Tensor, one: Scene, other: Scene) -> Scene:
    """Return one scene where first [B] is true, else the other."""
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    return Scene(*(torch.where(first.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))


@torch.no_grad()
def _found_scenes(begun: Start, sets: Mapping[str, ShardEpisodes]) -> list[Scene]:
    """Return what is found for every sentence of every set, in half the bytes."""
    sight, scenes = Sight(begun, sets), []
    for name in sets:
        rows = np.arange(len(sight.sentences[name].frame))
        parts = np.array_split(rows, -(-len(rows) // AT_ONCE))
        found = [
            [x.half() for x in Scene.found(sight.run(name, some).found).tensors()]
            for some in tqdm(parts, desc=f'{name}: found', unit='batch')
        ]
        scenes.append(Scene(*map(torch.cat, zip(*found, strict=True))))
    return scenes


@torch.no_grad()
def _held_out(
    begun: Start, part: Sentences, scene: Scene, words: Tensor, size: tuple[int, int]
) -> dict[str, float]:
    """
    Return held-out sentences' mean error, of the normalised range, and that of the hands.

    error_told: of what is true; error_found: of what was found
    """
    rows = torch.arange(_trained(part), len(part.prompt))
    prompt, points, values, state, actions, mask = part.batch(rows, size)
    readout, told = begun.model.decoder.readout, {}
    found = Scene(*(x[rows].float() for x in scene.tensors()))
    for name, one in (('told', Scene.told(points, values)), ('found', found)):
        draft = readout.draft_from(one, state, words[prompt])
        told[f'error_{name}'] = round(float((draft - actions).abs()[mask].mean()), 5)
    away = (readout.reached(state, words[prompt])[0] - values[:, readout.hands]).abs()
    if (there := away.isfinite()).any():
        told['error_hands'] = round(float(away[there].median()), 5)
    return told
