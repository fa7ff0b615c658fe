"""
The vision-language head that the policy keeps: questions about images, and the loss that keeps it.

The user's turn holds the images, then the words; the assistant's turn holds the answer up to
<|im_end|>, by the tokenizer's own chat template. text_loss is L_vl of the paper (2.5): next-token
cross-entropy over the answer alone, weighed 0.1 beside 1.0 for the actions at SFT.

A text batch is QwenVLA.collate's (right padding) with answer_ids int64 [N], the answer tokens of
all samples; answer_index int64 [N], where in the flattened [B * T] stands the hidden state that
predicts each; answer_row int64 [N], the sample of each.

Shapes: B batch, T tokens, N answer tokens of the batch, C backbone width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.processor import Processor, chat_turn, refuse_marks
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.patches import patchify

STOP = ('<|im_end|>', '<|endoftext|>')
# Rows of logits held at once: 1024 x 248320 in float32 is one gigabyte.
LOGIT_ROWS = 1024


def pose(
    processor: Processor,
    images: Sequence[np.ndarray],
    question: str,
    answer: str | None = None,
    earlier: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """
    Return a sample: ids and images as Processor makes them, and answer_mask bool [T].

    earlier: questions and answers that went before, oldest first; the images stand before them.

    images: uint8 [h, w, 3] RGB, sides multiples of patch x merge, of any number and sizes. The
    assistant's turn is opened; with an answer it also holds that and <|im_end|>, both marked in
    answer_mask. QwenVlaError for what cannot be posed.
    """
    before, after = _turn(processor.tokenizer)
    grids = [_grid(processor, number, image) for number, image in enumerate(images)]
    shown = ''.join(map(processor.image_text, grids))
    parts = [before, shown]
    for asked, said in earlier:
        spoken = _plain(processor, 'earlier answer', said)
        parts += [_plain(processor, 'earlier question', asked), after, spoken + STOP[0]]
        parts.append('\n' + before)
    parts += [_plain(processor, 'question', question), after]
    given = len(parts)
    if answer is not None:
        parts.append(_plain(processor, 'answer', answer) + STOP[0])
    pieces = [processor.ids(part) for part in parts]
    ids = np.concatenate(pieces)
    prompt = sum(map(len, pieces[:given]))
    return {
        'input_ids': ids,
        'mm_token_type_ids': (ids == processor.image_id).astype(np.int64),
        'pixel_values': patchify(images, processor.patch, processor.merge),
        'image_grid_thw': np.asarray(grids, np.int64).reshape(-1, 3),
        'answer_mask': np.arange(len(ids)) >= prompt,
    }


def _turn(tokenizer: Any) -> tuple[str, str]:
    """Return chat_turn(); a tokenizer that cannot hold a conversation is refused."""
    vocabulary = tokenizer.get_vocab()
    if absent := [token for token in ('<|im_start|>', *STOP) if token not in vocabulary]:
        raise QwenVlaError(
            f'tokenizer: the special tokens {absent} are missing, without which no question can '
            'be posed; use the tokenizer of a released Qwen3.5'
        )
    if not tokenizer.chat_template:
        raise QwenVlaError(
            'tokenizer: it has no chat template, without which no question can be posed; use the '
            'tokenizer of a released Qwen3.5, or set tokenizer.chat_template'
        )
    return chat_turn(tokenizer)


def _plain(processor: Processor, what: str, text: str) -> str:
    """Return the words without space around them; empty ones and our own marks are refused."""
    text = text.strip()
    if not text:
        raise QwenVlaError(f'{what}: it is empty; write some words')
    refuse_marks(what, text, processor.marks)
    return text


def _grid(processor: Processor, number: int, image: np.ndarray) -> tuple[int, int, int]:
    """Return the patches of an image that has the right form."""
    unit = processor.patch * processor.merge
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise QwenVlaError(
            f'image {number}: {image.dtype} {list(image.shape)}; give uint8 [height, width, 3]'
        )
    height, width = image.shape[:2]
    if not height or not width or height % unit or width % unit:
        raise QwenVlaError(f'image {number}: {height}x{width} is not a multiple of {unit}')
    return processor.grid((height, width))


def collate_text(model: QwenVLA, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the text batch of posed samples; QwenVlaError when one has no answer."""
    batch = model.collate(samples)
    return batch | answer_places(samples, batch['input_ids'])


def answer_places(samples: Sequence[Mapping[str, Any]], ids_BT: Tensor) -> dict[str, Tensor]:
    """
    Return answer_ids, answer_index and answer_row of posed samples, the last rows of ids [B, T].

    QwenVlaError when one of the samples has no answer.
    """
    rows, length = ids_BT.shape
    first = rows - len(samples)
    mask = np.stack(
        [np.pad(s['answer_mask'], (0, length - len(s['answer_mask']))) for s in samples]
    )
    if not mask.any(1).all():
        raise QwenVlaError(
            f'text batch: sample {int(mask.any(1).argmin())} has no answer; pose it with one'
        )
    place = torch.from_numpy(np.flatnonzero(mask) + first * length).to(ids_BT.device)
    return {
        'answer_ids': ids_BT.flatten()[place],
        'answer_index': place - 1,
        'answer_row': place // length,
    }


def text_loss(model: QwenVLA, batch: Mapping[str, Tensor]) -> Tensor:
    """Return [B], L_vl of each sample: the mean over its answer tokens (paper 2.5)."""
    return answer_losses(model, model.encode(batch), batch)


def answer_losses(model: QwenVLA, hidden_BTC: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return text_loss() of hidden states that are already there; 0 for rows without answer."""
    width = model.backbone.config.text_config.hidden_size  # a readout's states are wider
    hidden_NC = hidden_BTC[..., :width].flatten(0, 1)[batch['answer_index']]
    losses_N = _cross_entropy(model.backbone.lm_head, hidden_NC, batch['answer_ids'])
    sums = losses_N.new_zeros(len(hidden_BTC)).index_add(0, batch['answer_row'], losses_N)
    counts = torch.zeros_like(sums).index_add(0, batch['answer_row'], torch.ones_like(losses_N))
    return sums / counts.clamp(min=1)


def _cross_entropy(head: nn.Module, hidden_NC: Tensor, ids_N: Tensor) -> Tensor:
    """Return [N]; the logits of many rows are made part by part, and again going back."""
    if len(ids_N) <= LOGIT_ROWS:
        return _token_losses(head, hidden_NC, ids_N)
    parts = zip(hidden_NC.split(LOGIT_ROWS), ids_N.split(LOGIT_ROWS), strict=True)
    return torch.cat(
        [checkpoint(_token_losses, head, *part, use_reentrant=False) for part in parts]
    )


def _token_losses(head: nn.Module, hidden_NC: Tensor, ids_N: Tensor) -> Tensor:
    return functional.cross_entropy(head(hidden_NC).float(), ids_N, reduction='none')


def answer(
    model: QwenVLA,
    processor: Processor,
    images: Sequence[np.ndarray],
    question: str,
    max_tokens: int = 64,
) -> str:
    """Return the most likely answer, token by token; images as in pose()."""
    return answer_all(model, processor, [(images, question)], max_tokens)[0]


def answer_all(
    model: QwenVLA,
    processor: Processor,
    asked: Sequence[tuple[Sequence[np.ndarray], str]],
    max_tokens: int = 64,
) -> list[str]:
    """Return the answers to (images, question) pairs, each as if it were asked alone."""
    samples = [pose(processor, images, question) for images, question in asked]
    tokenizer = processor.tokenizer
    stop = [tokenizer.get_vocab()[token] for token in STOP]
    rows = generate(model, samples, max_tokens, stop)
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in rows.tolist()]


@torch.no_grad()
def generate(
    model: QwenVLA, samples: Sequence[Mapping[str, Any]], max_tokens: int, stop: Sequence[int]
) -> Tensor:
    """
    Return greedy int64 [B, at most max_tokens]; what comes after a stop token is the last of stop.

    transformers' generate, given embeddings and positions: each new token stands one past the
    last one of its prompt on all three axes, and nothing of the run stays in the model.
    """
    if max_tokens < 1:
        raise QwenVlaError(f'max_tokens {max_tokens}: at least 1')
    settings = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=list(stop),
        pad_token_id=stop[-1],
    )
    with _evaluating(model):
        prompt = _left_padded(model, samples)
        return model.backbone.generate(**prompt, generation_config=settings)


def _left_padded(model: QwenVLA, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return inputs_embeds [B, T, C], position_ids [3, B, T], attention_mask [B, T]."""
    batch = model.collate(samples)
    features = model.see(batch) if 'pixel_values' in batch else None
    embedded, position = model.embed(batch, features), batch['position_ids']
    real = batch.get('attention_mask')
    if real is None:
        real = torch.ones_like(batch['input_ids'])
    length = real.shape[1]
    place = torch.arange(length, device=real.device)[None] - length + real.sum(1, keepdim=True)
    place = place % length
    return {
        'inputs_embeds': embedded.take_along_dim(place[..., None], 1),
        'position_ids': position.take_along_dim(place[None], 2),
        'attention_mask': real.take_along_dim(place, 1),
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Hold every module in evaluation: gradient checkpointing would forget the cache."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
