"""
Camera images -> the vision tower's patches: one resize and one strided copy an image.

Pixels stay uint8: scaling to [-1, 1] and doubling in time happen in the model, on its own device
and folded into its first layer. No torch here.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from qwen_vla_ros.errors import QwenVlaError

# Averaging may leave a side a tenth too small: spreading it again costs less than skipped pixels.
LEAST_REST = 0.9


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Return an image uint8 [h, w, 3] at another size, without aliasing and fast.

    Whole factors by area averaging; otherwise first by a whole factor of both sides, then linearly
    by the rest. A rest of two or more on either side (odd camera sizes) goes linearly to a whole
    multiple of what is wanted, then by area. Area averaging by a broken factor costs eight times
    as much. QwenVlaError for anything else than such an image.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise QwenVlaError(
            f'image: expected uint8 [h, w, 3], got {image.dtype} {list(image.shape)}'
        )
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    if rows % height == 0 and columns % width == 0:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    factor = max(1, int(min(rows / height, columns / width) / LEAST_REST))
    while rows % factor or columns % factor:
        factor -= 1
    if factor > 1:
        rows, columns = rows // factor, columns // factor
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    multiple = int(max(rows / height, columns / width) / 2) + 1
    wide = (width * multiple, height * multiple)
    image = cv2.resize(image, wide, interpolation=cv2.INTER_LINEAR)
    if multiple > 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image


def patchify(images: Sequence[np.ndarray], patch: int, merge: int) -> np.ndarray:
    """
    Return uint8 [patches of all images, 3 * patch * patch] of uint8 [h, w, 3] images.

    Patches come in the order in which the vision tower merges them (merge x merge blocks); a patch
    holds its red, then its green, then its blue square.
    """
    counts = [image.shape[0] * image.shape[1] // patch**2 for image in images]
    found = np.empty((sum(counts), 3 * patch * patch), np.uint8)
    start = 0
    for image, count in zip(images, counts, strict=True):
        rows, columns = image.shape[0] // (patch * merge), image.shape[1] // (patch * merge)
        blocks = image.reshape(rows, merge, patch, columns, merge, patch, 3)
        place = found[start : start + count].reshape(rows, columns, merge, merge, 3, patch, patch)
        np.copyto(place, blocks.transpose(0, 3, 1, 4, 6, 2, 5))
        start += count
    return found
