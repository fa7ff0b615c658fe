"""The vision tower and M-RoPE on the host: equal to transformers' own, for mixed image sizes."""

import numpy as np
import pytest
import torch
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.positions import mrope_positions
from qwen_vla_ros.model.vision import look, plan_images

GRIDS = ((1, 4, 6), (1, 2, 4), (1, 4, 6))


@pytest.fixture(scope='module')
def backbone():
    torch.manual_seed(0)
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(**preset('tiny').backbone)).eval()


def pixels(grids) -> torch.Tensor:
    count = sum(rows * columns for _, rows, columns in grids)
    return torch.randint(0, 256, (count, 3 * 64), dtype=torch.uint8)


def seen(backbone, patches: torch.Tensor, grids) -> torch.Tensor:
    tower = backbone.model.visual
    return look(tower, patches, plan_images(tower, grids))


def doubled(patches: torch.Tensor) -> torch.Tensor:
    """Return what transformers' image processor makes of the same pixels."""
    frame = (patches.float() / 127.5 - 1).view(len(patches), 3, 1, 64)
    return frame.expand(-1, -1, 2, -1).reshape(len(patches), -1)


@pytest.mark.parametrize('grids', [GRIDS, GRIDS[:1], (GRIDS[0],) * 2])
@torch.no_grad()
def test_visual_tokens_equal_transformers(backbone, grids):
    patches = pixels(grids)
    theirs = backbone.model.visual(doubled(patches), grid_thw=torch.tensor(grids)).pooler_output
    torch.testing.assert_close(seen(backbone, patches, grids), theirs, atol=1e-5, rtol=0)


def test_gradients_reach_the_whole_tower(backbone):
    seen(backbone, pixels(GRIDS), GRIDS).square().mean().backward()
    for name, parameter in backbone.model.visual.named_parameters():
        assert parameter.grad is not None, name
    backbone.zero_grad()


def test_activation_checkpointing_changes_no_gradient(backbone):
    patches, found = pixels(GRIDS), []
    for enable in (False, True):
        if enable:
            backbone.activation_checkpointing_enable()
        backbone.train()
        seen(backbone, patches, GRIDS).square().mean().backward()
        found.append([p.grad.clone() for p in backbone.model.visual.parameters()])
        backbone.zero_grad()
    backbone.activation_checkpointing_disable()
    backbone.eval()
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-5)


def tokens(*parts: int) -> np.ndarray:
    """Return the image mask of alternating text and image lengths."""
    kinds = [index % 2 == 1 for index in range(len(parts))]
    return np.repeat(kinds, parts)


@pytest.mark.parametrize('parts', [(3, 6, 2, 2, 1, 6, 4), (1, 6, 1, 2, 1, 6, 0)])
def test_positions_equal_transformers(backbone, parts):
    mask = tokens(*parts)
    ids = torch.ones(1, len(mask), dtype=torch.long)
    kind = torch.from_numpy(mask.astype(np.int64))[None]
    theirs, _ = backbone.model.get_rope_index(ids, kind, image_grid_thw=torch.tensor(GRIDS))
    np.testing.assert_array_equal(mrope_positions(mask, GRIDS, 2), theirs[:, 0].numpy())


def test_positions_refuse_tokens_that_no_image_fills():
    with pytest.raises(ValueError, match='5 image tokens for 2 x 3'):
        mrope_positions(tokens(1, 5, 1), GRIDS[:1], 2)
