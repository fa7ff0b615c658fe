"""
Camera images -> what the vision tower takes: transformers' image processor against ours.

Three 640x480 images to the published backbone's patches at 224 and at 256 pixels; the worse ratio
counts. The baseline is the class that transformers picks without torchvision (PIL), told to resize
to as many pixels (it keeps the sides' ratio). One thread on both sides. Outputs are compared
first, in grey levels, on those very images brought to the baseline's own size: the two resize
filters differ, the patches' order and scale may not.
"""

import time
from typing import Any

import cv2
import numpy as np
import torch
from transformers import Qwen2VLImageProcessorPil

from benchmarks import Result, main
from qwen_vla_ros.patches import patchify, resize

ROUNDS, SIZES, PATCH, MERGE = 30, (224, 256), 16, 2
MEAN_LIMIT, MOST_LIMIT = 1.0, 12.0  # grey levels


def pictures() -> list[np.ndarray]:
    """Return three images with gradients, edges and grain."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += rng.integers(-4, 5, image.shape, np.int16)
        found.append(np.clip(image, 0, 255).astype(np.uint8))
    return found


def theirs(processor: Any, images: list[np.ndarray]) -> dict[str, Any]:
    """Return transformers' patches."""
    return processor(images=images, return_tensors='pt')


def ours(images: list[np.ndarray], height: int, width: int) -> torch.Tensor:
    """Return our patches as a tensor."""
    return torch.from_numpy(patchify([resize(i, height, width) for i in images], PATCH, MERGE))


def compare(processor: Any, images: list[np.ndarray]) -> tuple[float, float]:
    """Return mean and largest difference in grey levels."""
    found = theirs(processor, images)
    _, rows, columns = found['image_grid_thw'][0].tolist()
    wanted = found['pixel_values'].view(-1, 3, 2, PATCH**2)
    assert torch.equal(wanted[:, :, 0], wanted[:, :, 1])
    levels = (wanted[:, :, 0].flatten(1) + 1) * 127.5
    difference = (levels - ours(images, rows * PATCH, columns * PATCH)).abs()
    return float(difference.mean()), float(difference.max())


def run() -> Result:
    """Compare, then measure both sides in turns."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images, results, notes, equal = pictures(), [], [], True
    for side in SIZES:
        processor = Qwen2VLImageProcessorPil(
            patch_size=PATCH,
            merge_size=MERGE,
            temporal_patch_size=2,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            min_pixels=side * side,
            max_pixels=side * side,
        )
        mean, most = compare(processor, images)
        equal &= mean < MEAN_LIMIT and most < MOST_LIMIT
        least = [float('inf')] * 2
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            theirs(processor, images)
            middle = time.perf_counter()
            ours(images, side, side)
            least[0] = min(least[0], middle - begin)
            least[1] = min(least[1], time.perf_counter() - middle)
        results.append(least)
        notes.append(
            f'{side} px: {least[0] * 1e3:.1f} / {least[1] * 1e3:.2f} ms, {mean:.2f} grey levels '
            f'apart (at most {most:.1f})'
        )
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    worst = min(results, key=lambda pair: pair[0] / pair[1])
    return Result('preprocess', *worst, 8.0, 's/3 images', '; '.join(notes), equal=equal)


if __name__ == '__main__':
    main(run)
