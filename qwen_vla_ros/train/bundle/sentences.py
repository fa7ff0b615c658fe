"""
A family's sentences as arrays: what the parts before the stages draw from, thousands at a time.

Shapes: N sentences, B of a step, P points, V values, S state channels, H horizon, K channels, C
backbone width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qwen_vla_ros.model.checkpoint import TrainedRobot
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.readout import words_of
from qwen_vla_ros.train.bundle.frames import VALUES
from qwen_vla_ros.train.bundle.shards import ShardEpisodes
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.train.start import Start
from qwen_vla_ros.transforms import CountFromState

AT_ONCE = 128  # prompts


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
    named = [VALUES.index(name) for name in encoder.config.decoder.readout_values]
    width = encoder.config.decoder.state_dim
    if state.shape[1]:
        state = robot.statistics['state'].normalise(state, clip=False)
    said = {words: text for text, words in prompts_of(encoder, part).items()}
    index = [
        prompts.setdefault(said[words], len(prompts)) for words in data['instruction'].tolist()
    ]
    return Sentences(
        torch.tensor(index),
        torch.from_numpy(frame),
        torch.from_numpy(data['points'].astype(np.float32)),
        torch.from_numpy(data['values'][:, named].astype(np.float32)),
        torch.from_numpy(np.pad(state, ((0, 0), (0, width - state.shape[1]))).astype(np.float32)),
        torch.from_numpy(actions).half(),
        weight,
    )


def prompts_of(encoder: Encoder, part: ShardEpisodes) -> dict[str, str]:
    """Return the sentence of each prompt of a robot's set."""
    robot: TrainedRobot = encoder.robot(part.sample(0, 0))
    rows = part.arrays['actions'].shape[1]
    said = dict.fromkeys(part.arrays['instruction'].tolist())
    return {robot.embodiment.prompt(words, rows, robot.layout): words for words in said}


@torch.no_grad()
def read_words(begun: Start, prompts: Sequence[str]) -> Tensor:
    """Return words_of() each prompt, [N, 2C], as the encoder writes it without pictures."""
    samples = [prompt_sample(begun.tokenizer, text) for text in prompts]
    parts = tqdm(range(0, len(samples), AT_ONCE), desc='words', unit='batch')
    return torch.cat([read(begun.model, samples[at : at + AT_ONCE]) for at in parts])


def prompt_sample(tokenizer: Any, text: str) -> dict[str, np.ndarray]:
    """Return an encoded prompt without pictures."""
    ids = np.asarray(tokenizer(text, add_special_tokens=False)['input_ids'], np.int64)
    return {'input_ids': ids, 'mm_token_type_ids': np.zeros_like(ids)}


def read(model: QwenVLA, samples: Sequence[Mapping[str, np.ndarray]]) -> Tensor:
    """Return words_of() encoded prompts, [N, 2C]."""
    batch = model.collate(samples)
    return words_of(model.encode(batch).chunk(2, -1)[0], batch['text_end'])
