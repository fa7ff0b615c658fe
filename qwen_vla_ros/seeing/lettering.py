"""Words in pictures: DejaVu Sans, which comes with matplotlib, through Pillow."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError


@lru_cache(maxsize=16)
def font(size: int, bold: bool = False) -> Any:
    """Return the font of a size in pixels; QwenVlaError without Pillow or matplotlib."""
    try:
        import matplotlib
        from PIL import ImageFont
    except ImportError as error:
        raise QwenVlaError(
            f'words in pictures need Pillow and matplotlib ({error}); pip install '
            '"qwen_vla_ros[sim]", or apt install python3-pil python3-matplotlib'
        ) from error
    name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
    folder = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
    return ImageFont.truetype(str(folder / name), size)


@lru_cache(maxsize=128)
def lettered(text: str, size: int, bold: bool = False) -> np.ndarray:
    """Return how much ink a text leaves on each pixel, float32 [h, w], 0 to 1."""
    from PIL import Image, ImageDraw

    letters = font(size, bold)
    left, _, right, _ = letters.getbbox(text)
    ascent, descent = letters.getmetrics()
    image = Image.new('L', (max(1, int(right - left) + 2), ascent + descent))
    ImageDraw.Draw(image).text((1 - left, 0), text, 255, letters)
    return np.asarray(image, np.float32) / 255.0


def write(
    image: np.ndarray,
    at: tuple[int, int],
    text: str,
    colour: tuple[float, ...],
    size: int,
    bold: bool = False,
) -> int:
    """Write a text into uint8 [h, w, 3] with its upper left corner at (x, y); return its width."""
    ink = lettered(text, size, bold)
    x, y = at
    top, left = max(0, -y), max(0, -x)
    part = ink[top : max(top, image.shape[0] - y), left : max(left, image.shape[1] - x)]
    if part.size:
        y, x = max(y, 0), max(x, 0)
        ground = image[y : y + part.shape[0], x : x + part.shape[1]]
        mixed = ground + part[..., None] * (np.array(colour[:3], np.float32) - ground)
        ground[:] = np.rint(mixed).astype(np.uint8)
    return ink.shape[1]


def folded(text: str, size: int, width: int, lines: int, bold: bool = False) -> list[str]:
    """Return a text in at most so many lines of a width in pixels; … where words are left out."""
    found: list[str] = ['']
    for word in text.split():
        longer = f'{found[-1]} {word}'.strip()
        if found[-1] and font(size, bold).getlength(longer) > width:
            if len(found) == lines:
                found[-1] += ' …'
                break
            found.append(word)
        else:
            found[-1] = longer
    return found
