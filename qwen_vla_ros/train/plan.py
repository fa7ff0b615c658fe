"""
`qwen-vla plan`: what the stages cost on so many GPUs, counted where it can be counted.

Arithmetic is counted by PyTorch's operation counter on the training pass itself, forward and
backward, of the full-size model on the meta device. Memory follows model/memory.py: trained in
float32 with a bfloat16 copy to compute with, every state spread over the GPUs (FSDP), activations
recomputed block by block where the recipe does. Hours follow from the GPU's dense bfloat16 peak
and an assumed share of it (--mfu). The paper tells neither batch nor steps (but 2,000 of T2A), so
those are the recipes'; data are its hours, times rows or frames a second, times assumed bytes.
"""

import argparse
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import QwenVLAConfig, preset
from qwen_vla_ros.model.flow import FlowDraw
from qwen_vla_ros.model.memory import RESERVE, B, Load, Sizes
from qwen_vla_ros.model.placement import build_empty
from qwen_vla_ros.train.losses import Losses
from qwen_vla_ros.train.recipe import RECIPES, STAGES, Recipe
from qwen_vla_ros.train.start import recompute_blocks
from qwen_vla_ros.train.watch import PEAKS

MEMORY = {'H200': 141e9, 'H100': 80e9, 'A100': 80e9, 'L40S': 48e9, '4090': 24e9, 'L4': 24e9}
TRAJECTORY = 350  # rows: 14,000 h / 7.2 M trajectories at 50 Hz (paper, section 3.2.3)
STATE_BYTES = 16  # a trained weight: itself, gradient and Adam's two moments, float32
ROLLOUTS = 8192  # chunks an iteration of RL (paper 4.2: 128 worlds, 8 x 128 steps, chunks of 16)


@dataclass(frozen=True)
class Volume:
    """A part of the data: the paper's hours, what a second has of it, and bytes of each."""

    name: str
    hours: float
    a_second: float
    of_each: float
    note: str

    @property
    def bytes(self) -> float:
        """Return bytes in all."""
        return self.hours * 3600 * self.a_second * self.of_each


# Bytes of a frame: H.264 at 224 px as this repository's films come out; rates are typical ones.
FRAME = 4000.0
VOLUMES = (
    Volume('public robots', 10_000, 3 * 15, FRAME, '3 views at 15 Hz'),
    Volume('in-house robots', 1_000, 3 * 30, FRAME, '3 views at 30 Hz'),
    Volume('text-action', 14_000, 50, 4 * 21, 'joints, velocities, tip, float32, no pictures'),
)


@dataclass(frozen=True)
class StageCost:
    """One stage: samples seen, TFLOP and bytes of activations of a sample."""

    recipe: Recipe
    tflop: float
    activations: float
    trained: int
    parameters: int
    gathered: float

    @property
    def exaflop(self) -> float:
        """Return the arithmetic of the whole stage."""
        return self.recipe.steps * self.recipe.batch * self.tflop / 1e6

    def hours(self, gpus: int, peak: float, mfu: float) -> float:
        """Return hours of the clock; peak in TFLOP/s."""
        return self.exaflop * 1e6 / (peak * mfu * gpus) / 3600

    def fixed_bytes(self, gpus: int) -> float:
        """Return what each GPU holds before the first sample."""
        frozen = B * (self.parameters - self.trained)
        spread = (STATE_BYTES * self.trained + frozen) / gpus
        return spread + (self.gathered if gpus > 1 else B * self.trained) + RESERVE

    def at_once(self, gpus: int, memory: float) -> int:
        """Return how many samples a GPU takes in one pass; 0: it does not fit."""
        return max(0, int((memory - self.fixed_bytes(gpus)) // self.activations))


def cost(config: QwenVLAConfig, recipe: Recipe, load: Load) -> StageCost:
    """Return what a stage costs a sample; at T2A without pictures on whole trajectories."""
    if recipe.whole:
        config = replace(config, decoder=replace(config.decoder, horizon=TRAJECTORY))
    sizes = Sizes(config, load)
    images = load.views if recipe.images else 0
    tflop = training_tflop(config, recipe, replace(load, batch=1), images)
    model = sizes.model
    trained = sizes.parameters(model if recipe.trains_backbone else model.decoder)
    whole = sizes.parameters(model)
    layers = sum(sizes.parameters(layer) for layer in model.backbone.model.language_model.layers)
    one = layers / len(model.backbone.model.language_model.layers)
    gathered = B * (whole - layers + 2 * one)
    kept = activations(sizes, recipe, images)
    return StageCost(recipe, tflop, kept, trained, whole, gathered)


def activations(sizes: Sizes, recipe: Recipe, images: int) -> float:
    """Return bytes of a sample that wait for the backward pass; recomputed: a block at a time."""
    text, decoder = sizes.model.backbone.config.text_config, sizes.decoder
    tokens = sizes.tokens if images else sizes.load.text
    rows = (tokens if decoder.attention == 'joint' else 0) + decoder.horizon
    # Sizes counts the context with its pictures; each noise draw has a stream of its own.
    context = recipe.draws * (tokens + decoder.horizon) / (sizes.tokens + decoder.horizon)
    kept = [context * size for size in sizes.action()]
    inputs = B * decoder.width * rows * decoder.blocks * recipe.draws
    if recipe.trains_backbone:
        vision = sizes.model.backbone.config.vision_config
        kept += sizes.language() + (sizes.vision() if images else [])
        inputs += B * text.hidden_size * tokens * text.num_hidden_layers
        inputs += B * vision.hidden_size * sizes.patches * vision.depth if images else 0
    return inputs + max(kept) if recipe.recompute else sum(kept)


def training_tflop(config: QwenVLAConfig, recipe: Recipe, load: Load, images: int) -> float:
    """Return the TFLOP of one sample, forward and backward, with what is recomputed."""
    with torch.device('meta'):
        losses = Losses(build_empty(config), recipe.trains_backbone).to('meta').train()
    if recipe.recompute:
        recompute_blocks(losses.model)
    batch, drawn = _meta_batch(losses, config, recipe, load, images)
    with FlopCounterMode(display=False) as counter:
        action, *_ = losses(batch, drawn)
        action.sum().backward()
    return counter.get_total_flops() / 1e12


def _meta_batch(
    losses: Losses, config: QwenVLAConfig, recipe: Recipe, load: Load, images: int
) -> tuple[dict[str, torch.Tensor], FlowDraw]:
    """Return a sample of the right sizes without memory."""
    vision = config.backbone['vision_config']
    patch, merge = vision.get('patch_size', 16), vision.get('spatial_merge_size', 2)
    side = load.image // patch
    visual = images * side * side // merge**2
    tokens, decoder = load.text + visual, config.decoder
    shape = (1, decoder.horizon, decoder.action_dim)
    with torch.device('meta'):
        batch = {
            'input_ids': torch.zeros(1, tokens, dtype=torch.long),
            'position_ids': torch.zeros(3, 1, tokens, dtype=torch.long),
            'actions': torch.zeros(shape),
            'action_mask': torch.ones(shape, dtype=torch.bool),
        }
        if decoder.state_input == 'continuous':
            batch['state'] = torch.zeros(1, decoder.state_dim)
        if images:
            pixels = (images * side * side, 3 * patch * patch)
            batch['pixel_values'] = torch.zeros(pixels, dtype=torch.uint8)
            batch['image_index'] = torch.zeros(visual, dtype=torch.long)
        noise = torch.zeros(recipe.draws, *shape[1:])
        drawn = FlowDraw(noise, torch.zeros(recipe.draws, 1))
    if images:
        batch['image_grid_thw'] = torch.tensor([[1, side, side]] * images)
    return batch, drawn


def describe(name: str, gpu: str, counts: list[int], mfu: float, load: Load) -> str:
    """Return the plan of all stages as text."""
    config, peak, memory = preset(name), PEAKS[gpu], MEMORY[gpu]
    lines = [
        f'{name}, {load.views} views of {load.image} px, {load.text} words of prompt; {gpu}: '
        f'{peak:g} TFLOP/s, {memory / 1e9:g} GB, {mfu:.0%} of the peak assumed',
        '',
        f'{"stage":6}{"steps":>9}{"batch":>7}{"TFLOP/sample":>14}{"EFLOP":>10}{"GPUs":>6}'
        f'{"GB fixed":>10}{"GB/sample":>11}{"at once":>9}{"GPU hours":>11}{"days":>9}',
    ]
    for stage in STAGES:
        recipe = RECIPES[stage](name)
        found = cost(config, recipe, load)
        for gpus in counts:
            hours = found.hours(gpus, peak, mfu)
            fitting = found.at_once(gpus, memory)
            lines.append(
                f'{stage:6}{recipe.steps:9}{recipe.batch:7}{found.tflop:14.2f}'
                f'{found.exaflop:10.1f}{gpus:6}{found.fixed_bytes(gpus) / 1e9:10.1f}'
                f'{found.activations / 1e9:11.2f}{fitting or "-":>9}'
                f'{hours * gpus:11.0f}{hours / 24:9.2f}'
            )
    lines += ['', 'at once: samples in one pass; -: does not fit. Data (hours of the paper):']
    lines += [
        f'  {volume.name:16}{volume.hours:9.0f} h{volume.bytes / 1e12:9.2f} TB  {volume.note}'
        for volume in VOLUMES
    ]
    lines.append(f'RL: {ROLLOUTS} chunks an iteration; the number of iterations is not published.')
    return '\n'.join(lines)


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla plan`."""
    parser.add_argument('--preset', default='4b', help='(default: 4b)')
    parser.add_argument('--gpu', default='H200', choices=sorted(PEAKS), help='(default: H200)')
    parser.add_argument(
        '--gpus', type=int, nargs='+', default=[1, 8, 256], help='how many (default: 1 8 256)'
    )
    parser.add_argument(
        '--mfu', type=float, default=0.35, help='assumed share of the peak (default: 0.35)'
    )
    parser.add_argument('--views', type=int, default=3, help='pictures a sample (default: 3)')
    parser.add_argument('--image', type=int, default=224, help='pixels an edge (default: 224)')


def run_from_arguments(args: argparse.Namespace) -> int:
    """Print the plan."""
    if not 0 < args.mfu <= 1 or min(args.gpus) < 1:
        raise QwenVlaError('plan: --mfu lies between 0 and 1, --gpus are at least 1')
    load = Load(views=args.views, image=args.image)
    print(describe(args.preset, args.gpu, args.gpus, args.mfu, load))
    return 0
