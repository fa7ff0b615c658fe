"""
Patches -> visual tokens: Qwen3.5's vision tower with its own weights, without host syncs.

transformers' forward reads the image sizes back from the device in every block, which forbids
CUDA graphs and costs time anywhere. Here all that depends on the sizes alone is computed once on
the host (ImagePlan) and images of one size attend in one batched call. Pixels arrive as uint8; a
still image is one frame doubled in time, so the two temporal slices of the patch kernel are added.

Shapes: P patches of all images, V visual tokens (P / merge^2), W tower width, C backbone width,
E head size.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5VisionModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

Grids = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class ImagePlan:
    """
    What the sizes of a batch of images decide.

    order, back    [P] gather patches so that images of one size stand together, and back; None
                   when they already do
    groups         (images, patches an image) of each size, in that order
    taps, weights  [P, 4] of the learned position table's bilinear resampling
    place          [P, 2] row and column of each patch
    """

    order: Tensor | None
    back: Tensor | None
    groups: tuple[tuple[int, int], ...]
    taps: Tensor
    weights: Tensor
    place: Tensor


def plan_images(tower: Qwen3_5VisionModel, grids: Grids) -> ImagePlan:
    """Return the plan of images with (1, rows, columns) patches each."""
    device = tower.pos_embed.weight.device
    return _plan(grids, tower.num_grid_per_side, tower.spatial_merge_size, device)


@lru_cache(maxsize=64)
def _plan(grids: Grids, side: int, merge: int, device: torch.device) -> ImagePlan:
    grid = torch.tensor(grids)
    taps, weights = get_vision_interpolation_indices_and_weights(
        grid, side, 'bilinear', align_corners=True, spatial_merge_size=merge
    )
    place = get_vision_position_ids(grid, merge)
    counts = [frames * rows * columns for frames, rows, columns in grids]
    sizes = list(dict.fromkeys(counts))
    groups = tuple((counts.count(size), size) for size in sizes)
    starts = [sum(counts[:index]) for index in range(len(counts))]
    order = torch.cat(
        [
            torch.arange(starts[index], starts[index] + size)
            for size in sizes
            for index, count in enumerate(counts)
            if count == size
        ]
    )
    if torch.equal(order, torch.arange(len(order))):
        return ImagePlan(None, None, groups, taps.to(device), weights.to(device), place.to(device))
    return ImagePlan(
        order.to(device),
        torch.argsort(order).to(device),
        groups,
        taps[order].to(device),
        weights[order].to(device),
        place[order].to(device),
    )


def look(tower: Qwen3_5VisionModel, pixels: Tensor, plan: ImagePlan) -> Tensor:
    """
    Return the visual tokens [V, C] of images, in their order.

    pixels uint8 [P, 3 * patch * patch], patches in the tower's merge order. Equal to transformers'
    forward on ((pixels / 127.5) - 1) doubled in time.
    """
    if plan.order is not None:
        pixels = pixels[plan.order]
    x_PW = _embed(tower, pixels)
    x_PW = x_PW + (tower.pos_embed(plan.taps) * plan.weights[..., None]).sum(1).to(x_PW.dtype)
    table = tower.rotary_pos_emb(x_PW, plan.place)
    for block in tower.blocks:
        if block.training and block.gradient_checkpointing:
            x_PW = checkpoint(_block, block, x_PW, table, plan.groups, use_reentrant=False)
        else:
            x_PW = _block(block, x_PW, table, plan.groups)
    if plan.back is not None:
        x_PW = x_PW[plan.back]
    return tower.merger(x_PW)


def _embed(tower: Qwen3_5VisionModel, pixels: Tensor) -> Tensor:
    """Return [P, W]; the grey level 127.5 is zero, and p - 127.5 is exact in bfloat16 too."""
    projection = tower.patch_embed.proj
    weight = projection.weight.sum(2).flatten(1) / 127.5
    return functional.linear(pixels.to(weight.dtype) - 127.5, weight, projection.bias)


def _block(
    block: torch.nn.Module,
    x_PW: Tensor,
    table: tuple[Tensor, Tensor],
    groups: tuple[tuple[int, int], ...],
) -> Tensor:
    x_PW = x_PW + _attend(block.attn, block.norm1(x_PW), table, groups)
    return x_PW + block.mlp(block.norm2(x_PW))


def _attend(
    attention: torch.nn.Module,
    x_PW: Tensor,
    table: tuple[Tensor, Tensor],
    groups: tuple[tuple[int, int], ...],
) -> Tensor:
    """Attend within each image; images of one size in one call."""
    patches, heads = len(x_PW), attention.num_heads
    q, k, v = attention.qkv(x_PW).view(patches, 3, heads, -1).unbind(1)
    cos, sin = (part[:, None].to(torch.float32) for part in table)
    q, k = (_rotate(part, cos, sin) for part in (q, k))
    results, start = [], 0
    for images, length in groups:
        rows = slice(start, start + images * length)
        parts = (p[rows].view(images, length, heads, -1).transpose(1, 2) for p in (q, k, v))
        found = functional.scaled_dot_product_attention(*parts)
        results.append(found.transpose(1, 2).reshape(images * length, -1))
        start += images * length
    return attention.proj(torch.cat(results) if len(results) > 1 else results[0])


def _rotate(x_PNE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn all channels of each head, in float32 as transformers does."""
    wide = x_PNE.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x_PNE.dtype)
