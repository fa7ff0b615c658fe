"""
The first part of T2A: the draft of a readout learns from words, told points and values, and state.

It is a few layers, so it sees every sentence of the families many times in the minutes in which
the whole decoder sees each once. The VLM is frozen: its states of a prompt are computed once.

Shapes: N sentences, B of a step, P points, V values, S state channels, H horizon, K channels.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qwen_vla_ros.model.checkpoint import TrainedRobot
from qwen_vla_ros.model.readout import words_of
from qwen_vla_ros.train.bundle.shards import ShardEpisodes
from qwen_vla_ros.train.losses import draft_losses
from qwen_vla_ros.train.pointing import TOLD_ERROR, TOLD_RATE, VALUE_ERROR
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.train.start import Start
from qwen_vla_ros.transforms import CountFromState

AT_ONCE, HELD_OUT = 128, 20  # prompts; the last 20th of each set's sentences
BATCH, RATE, WARM_UP, LAST_RATE = 512, 1.5e-3, 100, 0.02


@dataclass
class Sentences:
    """Normalised arrays of one robot's set; prompt is a row of the words."""

    prompt: Tensor
    frame: Tensor
    points: Tensor
    values: Tensor
    state: Tensor
    actions: Tensor
    weight: float

    def batch(self, rows: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return prompt, points, values, state, actions [B, H, K] and mask of some sentences."""
        actions = torch.zeros(len(rows), *size)
        mask = torch.zeros(len(rows), *size, dtype=torch.bool)
        own = self.actions[rows].float()
        actions[:, : own.shape[1], : own.shape[2]] = own
        mask[:, : own.shape[1], : own.shape[2]] = True
        return (
            *(x[rows] for x in (self.prompt, self.points, self.values, self.state)),
            actions,
            mask,
        )


def fit_draft(
    begun: Start,
    sets: Mapping[str, ShardEpisodes],
    shares: Mapping[str, float],
    steps: int,
    out: Path,
    seed: int = 0,
) -> float:
    """
    Train the draft in place, write out/log.jsonl, and return the seconds that it took.

    shares: set -> how often it is drawn
    """
    started = time.monotonic()
    readout, size = begun.model.decoder.readout, begun.model.decoder.readout.rows
    encoder = Encoder(begun.model.config, begun.tokenizer, begun.robots, images=False)
    prompts: dict[str, int] = {}
    parts = [sentences_of(encoder, part, prompts, shares[name]) for name, part in sets.items()]
    words = read_words(begun, list(prompts))
    weights = torch.tensor([part.weight for part in parts])
    optimiser = torch.optim.AdamW(readout.draft.parameters(), RATE, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    with (out / 'log.jsonl').open('w') as log, tqdm(total=steps, desc='draft', unit='step') as bar:
        for step in range(steps):
            now = cosine(step, steps, WARM_UP)
            for group in optimiser.param_groups:
                group['lr'] = RATE * now
            counts = torch.bincount(
                torch.multinomial(weights, BATCH, True, generator=generator), minlength=len(parts)
            ).tolist()
            drawn = [
                part.batch(_drawn(part, count, generator), size)
                for part, count in zip(parts, counts, strict=True)
                if count
            ]
            prompt, points, values, state, actions, mask = map(torch.cat, zip(*drawn, strict=True))
            told = _strayed(points, values, generator)
            with torch.autocast('cpu', torch.bfloat16):
                draft = readout.draft_from(*told, state, words[prompt])
            loss = draft_losses(draft, actions, mask).mean()
            optimiser.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(readout.draft.parameters(), 1.0)
            optimiser.step()
            bar.update()
            entry = {
                'step': step + 1,
                'draft': loss.item(),
                'gradient_norm': float(norm),
                'rate': now,
            }
            if (step + 1) % 500 == 0 or step + 1 == steps:
                held = [_held_out(begun, part, words, size) for part in parts]
                named = zip(sets, held, strict=True)
                entry['held_out'] = {name: {'error_share': value} for name, value in named}
            log.write(json.dumps(entry) + '\n')
            bar.set_postfix(draft=f'{entry["draft"]:.4f}')
    return time.monotonic() - started


def sentences_of(
    encoder: Encoder, part: ShardEpisodes, prompts: dict[str, int], weight: float
) -> Sentences:
    """Return a set's arrays as the pipeline would make them of every sample."""
    first, data = part.sample(0, 0), part.arrays
    robot: TrainedRobot = encoder.robot(first)
    frame = data['frame']
    state = data['state'][frame] if 'state' in data else np.zeros((len(frame), 0), np.float32)
    step = CountFromState.of(first.action_names, first.state_names)
    actions = data['actions'].astype(np.float32).copy()
    for action, column in step.columns:
        actions[..., action] -= state[:, None, column]
    actions = robot.statistics['relative'].normalise(actions, clip=False)
    width = encoder.config.decoder.state_dim
    if state.shape[1]:
        state = robot.statistics['state'].normalise(state, clip=False)
    rows = actions.shape[1]
    index = [
        prompts.setdefault(robot.embodiment.prompt(words, rows, robot.layout), len(prompts))
        for words in data['instruction'].tolist()
    ]
    return Sentences(
        torch.tensor(index),
        torch.from_numpy(frame),
        torch.from_numpy(data['points'].astype(np.float32)),
        torch.from_numpy(data['values'].astype(np.float32)),
        torch.from_numpy(np.pad(state, ((0, 0), (0, width - state.shape[1]))).astype(np.float32)),
        torch.from_numpy(actions).half(),
        weight,
    )


@torch.no_grad()
def read_words(begun: Start, prompts: Sequence[str]) -> Tensor:
    """Return words_of() each prompt, [N, 2C], as the encoder writes it without pictures."""
    model, found = begun.model, []
    tokenizer = begun.tokenizer
    for begin in tqdm(range(0, len(prompts), AT_ONCE), desc='words', unit='batch'):
        some = prompts[begin : begin + AT_ONCE]
        samples = []
        for text in some:
            ids = np.asarray(tokenizer(text, add_special_tokens=False)['input_ids'], np.int64)
            samples.append({'input_ids': ids, 'mm_token_type_ids': np.zeros_like(ids)})
        batch = model.collate(samples)
        states = model.encode(batch).chunk(2, -1)[0]
        found.append(words_of(states, batch['text_end']))
    return torch.cat(found).detach()


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
    return moved.masked_fill(lost[..., None], torch.nan), values


@torch.no_grad()
def _held_out(begun: Start, part: Sentences, words: Tensor, size: tuple[int, int]) -> float:
    """Return the mean absolute error of the held-out sentences, of the normalised range."""
    rows = torch.arange(_trained(part), len(part.prompt))
    prompt, points, values, state, actions, mask = part.batch(rows, size)
    draft = begun.model.decoder.readout.draft_from(points, values, state, words[prompt])
    return round(float((draft - actions).abs()[mask].mean()), 5)


def cosine(step: int, steps: int, warm_up: int) -> float:
    """Return the factor of a rate: linear warm-up, then a cosine to LAST_RATE."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2
