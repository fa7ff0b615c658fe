"""
Images and prompt -> token ids, patches and grids, as Qwen3.5 wants them (no torchvision).

Each image stands between its view's boundary tokens (paper 3.2.1):
<|ego_start|><|vision_start|><|image_pad|>...<|vision_end|><|ego_end|>. Pixels stay uint8 in
patches; the model scales them to [-1, 1] on its own device (vision.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import Qwen3_5Tokenizer

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import QwenVLAConfig

SPECIAL_TOKENS = (
    '<|image_pad|>',
    '<|video_pad|>',
    '<|vision_start|>',
    '<|vision_end|>',
    '<|endoftext|>',
    '<|im_start|>',
    '<|im_end|>',
)


def view_tokens(views: Iterable[str]) -> list[str]:
    """Return the boundary tokens of views, in order."""
    return [f'<|{view}_{side}|>' for view in views for side in ('start', 'end')]


def train_tokenizer(
    texts: Sequence[str], vocabulary: int, views: Iterable[str]
) -> Qwen3_5Tokenizer:
    """Train a byte-level BPE with Qwen3.5's own pre-tokeniser on our own text."""
    special = [*SPECIAL_TOKENS, *view_tokens(views)]
    return Qwen3_5Tokenizer().train_new_from_iterator(
        texts, vocabulary, new_special_tokens=special, show_progress=False
    )


def patchify(image: np.ndarray, patch: int, merge: int) -> np.ndarray:
    """
    Return uint8 [patches, 3 * patch * patch] of a uint8 [h, w, 3] image.

    Patches come in the order in which the vision tower merges them (merge x merge blocks).
    """
    height, width, _ = image.shape
    rows, columns = height // patch, width // patch
    blocks = image.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3 * patch * patch)


class Processor:
    """Tokenise prompts and images for one model configuration."""

    def __init__(self, tokenizer: Any, config: QwenVLAConfig) -> None:
        """Check that the tokenizer knows what the model needs."""
        self.tokenizer, self.config = tokenizer, config
        vision = config.backbone['vision_config']
        self.patch = vision.get('patch_size', 16)
        self.merge = vision.get('spatial_merge_size', 2)
        needed = [*SPECIAL_TOKENS[:4], *view_tokens(config.inputs.image_sizes)]
        vocabulary = tokenizer.get_vocab()
        if absent := [token for token in needed if token not in vocabulary]:
            raise QwenVlaError(f'tokenizer: the special tokens {absent} are missing')
        self.image_id = vocabulary['<|image_pad|>']
        self._text_cache: dict[tuple, np.ndarray] = {}
        for view, (height, width) in config.inputs.image_sizes.items():
            if height % (self.patch * self.merge) or width % (self.patch * self.merge):
                raise QwenVlaError(
                    f'model config: inputs.image_sizes.{view}: {height}x{width} is not a '
                    f'multiple of {self.patch * self.merge}'
                )

    def text(self, prompt: str, image_tokens: Mapping[str, int]) -> str:
        """Return the token stream as text, in the configured order of images and prompt."""
        images = ''.join(
            f'<|{view}_start|><|vision_start|>{"<|image_pad|>" * count}'
            f'<|vision_end|><|{view}_end|>'
            for view, count in image_tokens.items()
        )
        first = self.config.inputs.order == 'images_first'
        return images + prompt if first else prompt + images

    def ids(self, prompt: str, image_tokens: Mapping[str, int]) -> np.ndarray:
        """Return int64 [T]; recent prompts are remembered, for a robot repeats itself."""
        key = (prompt, tuple(image_tokens.items()))
        if key not in self._text_cache:
            if len(self._text_cache) > 4096:
                self._text_cache.clear()
            ids = self.tokenizer(self.text(prompt, image_tokens), add_special_tokens=False)
            self._text_cache[key] = np.asarray(ids['input_ids'], np.int64)
        return self._text_cache[key]

    def __call__(self, images: Mapping[str, np.ndarray], prompt: str) -> dict[str, np.ndarray]:
        """
        Return input_ids, mm_token_type_ids int64 [T], pixel_values uint8 and image_grid_thw.

        images are already of the configured sizes; the configured order of views decides.
        """
        sizes = self.config.inputs.image_sizes
        if absent := [view for view in sizes if view not in images]:
            raise QwenVlaError(f'observation.images: the views {absent} are missing')
        grids = [(1, sizes[v][0] // self.patch, sizes[v][1] // self.patch) for v in sizes]
        counts = {
            view: grid[1] * grid[2] // self.merge**2
            for view, grid in zip(sizes, grids, strict=True)
        }
        ids = self.ids(prompt, counts)
        patches = [patchify(images[v], self.patch, self.merge) for v in sizes]
        return {
            'input_ids': ids,
            'mm_token_type_ids': (ids == self.image_id).astype(np.int64),
            'pixel_values': np.concatenate(patches),
            'image_grid_thw': np.asarray(grids, np.int64),
        }
