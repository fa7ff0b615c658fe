"""
Images and prompt -> token ids, patches and grids, as Qwen3.5 wants them (no torchvision).

Each view's image stands between its boundary tokens (paper 3.2.1):
<|ego_start|><|vision_start|><|image_pad|>...<|vision_end|><|ego_end|>. Pixels stay uint8 in
patches; the model scales them to [-1, 1] on its own device (vision.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import Qwen3_5Tokenizer

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import QwenVLAConfig
from qwen_vla_ros.patches import patchify

SPECIAL_TOKENS = (
    '<|image_pad|>',
    '<|video_pad|>',
    '<|vision_start|>',
    '<|vision_end|>',
    '<|endoftext|>',
    '<|im_start|>',
    '<|im_end|>',
)
# One turn each, without system text or thinking; released tokenizers bring their own template.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
REMEMBERED = 4096


def view_tokens(views: Iterable[str]) -> list[str]:
    """Return the boundary tokens of views, in order."""
    return [f'<|{view}_{side}|>' for view in views for side in ('start', 'end')]


def train_tokenizer(
    texts: Sequence[str], vocabulary: int, views: Iterable[str]
) -> Qwen3_5Tokenizer:
    """Train a byte-level BPE with Qwen3.5's own pre-tokeniser on our own text."""
    special = [*SPECIAL_TOKENS, *view_tokens(views)]
    tokenizer = Qwen3_5Tokenizer().train_new_from_iterator(
        texts, vocabulary, new_special_tokens=special, show_progress=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def chat_turn(tokenizer: Any) -> tuple[str, str]:
    """
    Return what stands before and after the user's words, by the tokenizer's own chat template.

    The assistant's turn is opened behind them, without thinking. QwenVlaError when the tokenizer
    has no template.
    """
    if not tokenizer.chat_template:
        raise QwenVlaError(
            "tokenizer: it has no chat template; set inputs.template: 'plain', or use the "
            'tokenizer of a released Qwen3.5'
        )
    place = '\N{OBJECT REPLACEMENT CHARACTER}'
    text = tokenizer.apply_chat_template(
        [{'role': 'user', 'content': place}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    before, found, after = text.partition(place)
    if not found:
        raise QwenVlaError("tokenizer: its chat template leaves the user's words out")
    return before, after


def refuse_marks(what: str, text: str, marks: Iterable[str]) -> None:
    """Raise QwenVlaError when words hold one of our marks, or what no tokenizer can read."""
    if found := [mark for mark in marks if mark in text]:
        raise QwenVlaError(f'{what}: it holds the special token {found[0]}; leave that out')
    if not text.isascii() and any('\ud800' <= letter <= '\udfff' for letter in text):
        raise QwenVlaError(f'{what}: {text!r} is not text; it holds half a character')


class Processor:
    """Tokenise prompts and images for one model configuration."""

    def __init__(self, tokenizer: Any, config: QwenVLAConfig) -> None:
        """Check that the tokenizer knows what the model needs."""
        self.tokenizer, self.config = tokenizer, config
        vision = config.backbone['vision_config']
        self.patch = vision.get('patch_size', 16)
        self.merge = vision.get('spatial_merge_size', 2)
        inputs = config.inputs
        needed = [*SPECIAL_TOKENS[:4], *view_tokens(inputs.views)]
        if inputs.template == 'chat':
            needed += ['<|im_start|>', '<|im_end|>']
        self.marks = tuple(dict.fromkeys([*SPECIAL_TOKENS, *needed]))
        vocabulary = tokenizer.get_vocab()
        if absent := [token for token in needed if token not in vocabulary]:
            raise QwenVlaError(f'tokenizer: the special tokens {absent} are missing')
        self.image_id = vocabulary['<|image_pad|>']
        self.turn = chat_turn(tokenizer) if inputs.template == 'chat' else ('', '')
        self._ids: dict[str, np.ndarray] = {}
        sizes = {f'image_sizes.{view}': size for view, size in inputs.image_sizes.items()}
        if inputs.history_frames:
            sizes['history_size'] = inputs.history_size
        for key, (height, width) in sizes.items():
            unit = self.patch * self.merge
            if min(height, width) < unit or height % unit or width % unit:
                raise QwenVlaError(
                    f'model config: inputs.{key}: {height}x{width} is not a multiple of {unit}'
                )

    def grid(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (1, rows, columns) patches of an image of (height, width) pixels."""
        return 1, size[0] // self.patch, size[1] // self.patch

    def image_text(self, grid: tuple[int, int, int]) -> str:
        """Return the placeholder of one image: one token for merge x merge patches."""
        count = grid[1] * grid[2] // self.merge**2
        return f'<|vision_start|>{"<|image_pad|>" * count}<|vision_end|>'

    def views_text(self, past: int = 0) -> str:
        """Return the placeholders of all views, `past` frames of history before them."""
        inputs = self.config.inputs
        shown = {view: [self.grid(size)] for view, size in inputs.image_sizes.items()}
        if past:
            shown = {'history': [self.grid(inputs.history_size)] * past, **shown}
        return ''.join(
            f'<|{view}_start|>{"".join(map(self.image_text, grids))}<|{view}_end|>'
            for view, grids in shown.items()
        )

    def stream(self, prompt: str, past: int = 0, state: str = '') -> tuple[list[str], int]:
        """
        Return the token stream in pieces, and how many leading ones stay with the sentence.

        The pieces are tokenised one by one, so that no merge crosses their borders. None stays
        when the images come first.
        """
        before, after = self.turn
        if self.config.inputs.order == 'images_first':
            return [before, self.views_text(past), prompt, state, after], 0
        return [before, prompt, state, self.views_text(past), after], 2

    def ids(self, text: str) -> np.ndarray:
        """Return int64 [T]; recent pieces are remembered, for a robot repeats itself."""
        ids = self._ids.get(text)
        if ids is None:
            if len(self._ids) > REMEMBERED:
                self._ids.clear()
            found = self.tokenizer(text, add_special_tokens=False)['input_ids'] if text else []
            ids = self._ids[text] = np.asarray(found, np.int64)
        return ids

    def __call__(
        self,
        images: Mapping[str, np.ndarray],
        prompt: str,
        history: Sequence[np.ndarray] = (),
        state: str = '',
    ) -> dict[str, Any]:
        """
        Return input_ids, mm_token_type_ids int64 [T], pixel_values, image_grid_thw, and more.

        images are already of the configured sizes; the configured order of views decides. history:
        past frames, oldest first, of the configured size. state: text behind the prompt.
        image_views: the view of each image, 'history' of past frames.
        stable_tokens: leading ids that stay the same as long as the sentence does; never all.
        QwenVlaError for absent views, other sizes, and special tokens in a sentence.
        """
        inputs = self.config.inputs
        if absent := [view for view in inputs.image_sizes if view not in images]:
            raise QwenVlaError(f'observation.images: the views {absent} are missing')
        past = list(history)[-inputs.history_frames :] if inputs.history_frames else []
        shown = [*past, *(images[view] for view in inputs.image_sizes)]
        places = ['history'] * len(past) + [f'images.{view}' for view in inputs.image_sizes]
        sizes = [inputs.history_size] * len(past) + list(inputs.image_sizes.values())
        for place, image, size in zip(places, shown, sizes, strict=True):
            if image.shape != (*size, 3) or image.dtype != np.uint8:
                raise QwenVlaError(
                    f'observation.{place}: expected uint8 {[*size, 3]}, '
                    f'got {image.dtype} {list(image.shape)}'
                )
        refuse_marks('prompt', prompt, self.marks)
        pieces, stable = self.stream(prompt, len(past), state)
        parts = [self.ids(piece) for piece in pieces]
        ids = np.concatenate(parts)
        return {
            'input_ids': ids,
            'mm_token_type_ids': (ids == self.image_id).astype(np.int64),
            'pixel_values': patchify(shown, self.patch, self.merge),
            'image_grid_thw': np.asarray([*map(self.grid, sizes)], np.int64).reshape(-1, 3),
            'image_views': ('history',) * len(past) + tuple(inputs.image_sizes),
            'stable_tokens': min(sum(map(len, parts[:stable])), max(len(ids) - 1, 0)),
        }
