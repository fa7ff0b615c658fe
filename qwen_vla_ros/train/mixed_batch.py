"""
Samples with actions and samples with answers in one batch, so that one VLM pass serves both.

A mixed batch is QwenVLA.collate's, rows with actions first (A of B), with actions float32
[A, H, K], action_mask bool [A, H, K], row_mask bool [A, H], state float32 [A, S] where the model
takes it, points and told float32 [A, P, 2], values and told_values [A, V] where it has a readout
(pointing.py, readout.py), and answer_ids, answer_index, answer_row of the rows with answers
(answer.py).

Shapes: A rows with actions, B all rows, H longest horizon of the batch, K action channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from qwen_vla_ros.model.answer import answer_places
from qwen_vla_ros.model.flow import FlowDraw, draw_flow
from qwen_vla_ros.model.qwen_vla import QwenVLA

READ = ('input_ids', 'mm_token_type_ids', 'pixel_values', 'image_grid_thw', 'image_views')
POINTING = ('points', 'values', 'told', 'told_values')
Encoded = Mapping[str, Any]


def collate_mixed(
    model: QwenVLA,
    acting: Sequence[Encoded],
    answering: Sequence[Encoded],
    pictures: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """
    Return the mixed batch of encoded samples on the model's device.

    pictures: a number for each sample, the same for those that show the same pictures, which are
    then seen once; all must have equally many.
    """
    everyone = (*acting, *answering)
    read = [{key: s[key] for key in READ if key in s} for s in everyone]
    batch = model.collate(read, pictures is None)
    if pictures is not None and len(everyone[0]['image_grid_thw']):
        batch |= _seen_once(model, everyone, pictures)
    if acting:
        horizon = max(len(sample['actions']) for sample in acting)
        host = {
            key: np.stack([_with_rows(sample[key], horizon) for sample in acting])
            for key in ('actions', 'action_mask')
        }
        host['row_mask'] = host['action_mask'].any(2)
        if model.config.decoder.state_input == 'continuous':
            host['state'] = np.stack([sample['state'] for sample in acting])
        for key in POINTING:
            if key in acting[0]:
                host[key] = np.stack([sample[key] for sample in acting])
        batch |= {key: torch.from_numpy(value).to(model.device) for key, value in host.items()}
    if answering:
        batch |= answer_places(answering, batch['input_ids'])
    return batch


def _seen_once(
    model: QwenVLA, samples: Sequence[Encoded], pictures: Sequence[int]
) -> dict[str, Tensor]:
    """Return pixel_values of distinct pictures, image_grid_thw of all, picture int64 [B]."""
    _, first, which = np.unique(pictures, return_index=True, return_inverse=True)
    pixels = np.concatenate([samples[index]['pixel_values'] for index in first])
    grids = np.concatenate([sample['image_grid_thw'] for sample in samples])
    return {
        'pixel_values': torch.from_numpy(pixels).to(model.device),
        'image_grid_thw': torch.from_numpy(grids),
        'picture': torch.from_numpy(which.reshape(-1)),
    }


def acting_part(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the decoder needs of the rows with actions."""
    keys = ('actions', 'action_mask', 'row_mask', 'state', *POINTING)
    part = {key: batch[key] for key in keys if key in batch}
    count = len(batch['actions'])
    part['position_ids'] = batch['position_ids'][:, :count]
    if 'attention_mask' in batch:
        part['attention_mask'] = batch['attention_mask'][:count]
    for key in ('token_view', 'token_place', 'text_end'):
        if key in batch:
            part[key] = batch[key][:count]
    return part


def draw_each(
    model: QwenVLA, acting: Sequence[Encoded], draws: int, seeds: Sequence[tuple[int, ...]]
) -> FlowDraw:
    """
    Return the noise of a batch, `draws` for each encoded sample by its own seed.

    So neither the number of processes nor the split into passes changes what a sample is given.
    """
    horizon = max(len(sample['actions']) for sample in acting)
    drawn = []
    for sample, seed in zip(acting, seeds, strict=True):
        shape = (draws, *sample['actions'].shape)
        flow = draw_flow(model.config.flow, shape, generator_of(seed))
        drawn.append(_longer(flow, horizon))
    return FlowDraw.join(drawn)


def generator_of(seed: tuple[int, ...]) -> torch.Generator:
    """Return a new generator of a seed of several numbers."""
    generator = torch.Generator()
    return generator.manual_seed(int(np.random.default_rng(seed).integers(2**62)))


def _longer(drawn: FlowDraw, horizon: int) -> FlowDraw:
    """Return a draw with further rows, which no mask will let pass."""
    more = horizon - drawn.noise.shape[1]
    given = None if drawn.given is None else pad(drawn.given, (0, more))
    return FlowDraw(pad(drawn.noise, (0, 0, 0, more)), drawn.tau, given)


def _with_rows(value: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(value, ((0, rows - len(value)), (0, 0)))
