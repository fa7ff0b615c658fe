"""Demonstrations as batches of model inputs, through the very pipeline that runs on the robot."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.sim.scene import TEMPLATES


class Batches:
    """Demonstrations as batches of model inputs, addressed by (phase, step)."""

    def __init__(self, data: Mapping[str, np.ndarray], pipeline: Any, model: QwenVLA) -> None:
        """Share the arrays, the robot's own pipeline and the model's collate."""
        self.data, self.pipeline, self.model = data, pipeline, model
        self.views = tuple(model.config.inputs.image_sizes)
        height, width = model.config.inputs.image_sizes['ego']
        cell = pipeline.steps[-1].processor.patch * pipeline.steps[-1].processor.merge
        self.rows, self.columns = height // cell, width // cell

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        """Return `count` random pictures, each with a sentence for each of its objects."""
        frames = rng.choice(len(self.data['state']), count, replace=False)
        return self.pick(np.repeat(frames, 3), np.tile(np.arange(3), count), rng)

    def pick(
        self, frames: np.ndarray, objects: np.ndarray, rng: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """Return the batch of given frames and target objects; rng augments the pictures."""
        samples, images = [], {}
        distinct, picture = np.unique(frames, return_inverse=True)
        for frame in distinct:
            plain = {view: self.data[view][frame] for view in self.views}
            images[frame] = plain if rng is None else augmented(plain, rng)
        for frame, item in zip(frames, objects, strict=True):
            template = TEMPLATES[0] if rng is None else TEMPLATES[rng.integers(len(TEMPLATES))]
            samples.append(
                self.pipeline.forward(
                    {
                        'images': images[frame],
                        'state': self.data['state'][frame],
                        'instruction': template.format(name=self.data['names'][frame, item]),
                        'actions': self.data['actions'][frame, item],
                    }
                )
            )
        batch = self.model.collate(samples)
        first = [int(np.argmax(picture == index)) for index in range(len(distinct))]
        pixels = np.concatenate([samples[index]['pixel_values'] for index in first])
        batch['pixel_values'] = torch.from_numpy(pixels).to(self.model.device)
        batch['picture'] = torch.from_numpy(picture)
        pixel = np.clip(self.data['pixel'][frames, objects], 0, 0.9999)
        token = (pixel[:, 1] * self.rows).astype(int) * self.columns
        token += (pixel[:, 0] * self.columns).astype(int)
        batch['token'] = torch.from_numpy(token).to(self.model.device)
        place = self.data['xyz'][frames, objects, :2]
        batch['place'] = torch.from_numpy(place).to(self.model.device)
        return batch

    def ego_states(self, hidden_BTC: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the states of the ego image's tokens, [B, P, C]; ego is the first view."""
        picture = batch['mm_token_type_ids'].bool()
        first = picture & (picture.cumsum(1) <= self.rows * self.columns)
        return hidden_BTC[first].view(len(hidden_BTC), self.rows * self.columns, -1)


def augmented(images: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Vary gain, tint and offset a little: another renderer or camera shades differently."""
    gain = rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, 3)
    offset = rng.uniform(-8, 8)
    return {
        view: np.clip(image * gain + offset, 0, 255).astype(np.uint8)
        for view, image in images.items()
    }
