"""
`qwen-vla data batch`: one training batch of data sets, without a model: arrays and their shapes.

  images.<view>  uint8 [B, h, w, 3] RGB      views that every sample has
  actions        float32 [B, H, A]           padded to the largest H and A of the batch
  mask           bool [B, H, A]              False where there is no such row or channel
  state          float32 [B, S]              where every sample has one, padded to the largest S
  instructions, embodiments                  lists of B texts
  texts          B answers                   where any sample has one
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen_vla_ros.data.convert_command import source_arguments, source_options
from qwen_vla_ros.data.left_out import bags_left_out, frames_left_out
from qwen_vla_ros.data.mixture import Mixture, Source
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.packed_writer import parse_sizes
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.patches import resize

FAMILY = 'data'


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla data`."""
    parser.add_argument('what', choices=('batch',), help='batch: draw one and tell its shapes')
    source_arguments(parser)
    parser.add_argument('--count', type=int, default=8, help='samples of a batch (default: 8)')
    parser.add_argument('--seed', type=int, default=0, help='of the draw (default: 0)')
    parser.add_argument(
        '--size',
        help='of pictures, as in `qwen-vla convert` (default: as they are, 224 where they differ)',
    )


def run_from_arguments(args: argparse.Namespace) -> int:
    """Draw a batch and print it."""
    if args.count < 1:
        raise QwenVlaError(f'--count {args.count}: at least 1')
    began = time.monotonic()
    options = source_options(args)
    sources = [Source(open_dataset(source, **options), FAMILY) for source in args.sources]
    mixture = Mixture(sources, args.seed, {FAMILY: 1.0})
    drawn = iter(mixture)
    batch = stack([next(drawn) for _ in range(args.count)], args.size)
    for key, value in batch.items():
        told = f'{value.dtype} {list(value.shape)}' if hasattr(value, 'shape') else value[0]
        print(f'{key:24} {told}')
    for line in bags_left_out(source.episodes for source in sources):
        print(line)
    for line in frames_left_out(mixture.skipped):
        print(line)
    print(f'{args.count} samples in {time.monotonic() - began:.2f} s, opening included')
    return 0


def stack(samples: Sequence[Sample], size: str | None = None) -> dict[str, Any]:
    """
    Return a batch; the module draws it.

    size  as parse_sizes() reads it; None: pictures of one size stay as they are
    """
    found: dict[str, Any] = {}
    shared = set.intersection(*(set(sample.images) for sample in samples))
    for view in sorted(shared):
        images = [sample.images[view] for sample in samples]
        if size is not None or len({image.shape for image in images}) > 1:
            every, own = parse_sizes(size or '224')
            images = [resize(image, *own.get(view, every)) for image in images]
        found[f'images.{view}'] = np.stack(images)
    found['actions'] = _padded([sample.actions for sample in samples])
    found['mask'] = _padded([sample.mask for sample in samples])
    found['actions'][~found['mask']] = 0.0  # masked: their numbers mean nothing
    states = [sample.state for sample in samples if sample.state is not None]
    if len(states) == len(samples):
        found['state'] = _padded(states)
    found['instructions'] = [sample.instruction for sample in samples]
    if any(sample.text for sample in samples):
        found['texts'] = [sample.text for sample in samples]
    found['embodiments'] = [sample.embodiment for sample in samples]
    return found


def _padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays of one dtype side by side, in the leading block of the largest shape."""
    shape = np.max([array.shape for array in arrays], axis=0)
    found = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for row, array in zip(found, arrays, strict=True):
        row[tuple(slice(edge) for edge in array.shape)] = array
    return found
