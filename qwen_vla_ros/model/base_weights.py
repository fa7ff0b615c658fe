"""
Released Qwen3.5 weights in and out, unchanged.

Names in a released folder, and here (below `backbone.`):

  model.language_model.*, model.visual.*       the same
  model.layers.*, .embed_tokens.*, .norm.*     model.language_model.*: the text-only form, as
                                               transformers' Qwen3_5ForCausalLM saves it
  lm_head.weight                               the same; absent where it is the embedding
  mtp.*, model.mtp.*                           left out: multi-token prediction has no use here

The vocabulary may have grown by our view tokens. Released embeddings have more rows than their
tokenizer has words (248,320 for 248,077): new words take those spare rows first, then the table
grows. Every new row starts as the mean of the rows in use.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.weights import CheckpointError, LoadReport, StoredWeights, load_weights

EMBEDDING = 'model.language_model.embed_tokens.weight'
_TEXT_ONLY = re.compile(r'^model\.(?=(layers|embed_tokens|norm)\.)')
_LEFT_OUT = re.compile(r'(model\.)?mtp\.')
# What decides the computation; the rest of a configuration is bookkeeping.
_TEXT_KEYS = (
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'layer_types',
    'num_attention_heads',
    'num_key_value_heads',
    'head_dim',
    'hidden_act',
    'rms_norm_eps',
    'attention_bias',
    'linear_conv_kernel_dim',
    'linear_num_key_heads',
    'linear_num_value_heads',
    'linear_key_head_dim',
    'linear_value_head_dim',
    'rope_parameters',
    'tie_word_embeddings',
)
_VISION_KEYS = (
    'depth',
    'hidden_size',
    'hidden_act',
    'intermediate_size',
    'num_heads',
    'in_channels',
    'patch_size',
    'temporal_patch_size',
    'spatial_merge_size',
    'out_hidden_size',
    'num_position_embeddings',
)


def backbone_name(released: str) -> str | None:
    """Return the name below `backbone.` of a released tensor; None: of no use here."""
    if _LEFT_OUT.match(released):
        return None
    return _TEXT_ONLY.sub('model.language_model.', released, count=1)


def vocabulary_rows(folder: Path) -> int:
    """Return how many rows the embedding of released weights has."""
    for name, shape in StoredWeights(folder).shapes.items():
        if backbone_name(name) == EMBEDDING:
            return shape[0]
    raise CheckpointError(f'{folder}: no embedding ({EMBEDDING}); is this a Qwen3.5 release?')


def refuse_other_architecture(backbone: Mapping[str, Any], folder: Path) -> None:
    """Raise CheckpointError that names every fact in which a release and a preset differ."""
    from transformers import AutoConfig, Qwen3_5Config

    try:
        theirs = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f'{folder}/config.json: not a Qwen3.5 release ({error})') from error
    ours = Qwen3_5Config(**backbone)
    pairs = [(ours.text_config, getattr(theirs, 'text_config', theirs), 'text', _TEXT_KEYS)]
    if hasattr(theirs, 'vision_config'):
        pairs.append((ours.vision_config, theirs.vision_config, 'vision', _VISION_KEYS))
    differences = []
    for own, other, part, keys in pairs:
        for key in keys:
            a, b = _plain(getattr(own, key, None)), _plain(getattr(other, key, None))
            if a != b:
                differences.append(f'{part}.{key}: the preset has {a}, the release {b}')
    if differences:
        raise CheckpointError(
            f'{folder}: not the backbone of this preset; choose the other. '
            + '; '.join(differences)
        )


def _plain(value: Any) -> Any:
    """Return lists for tuples, so that JSON's and Python's forms compare."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def grow_rows(old: Tensor, rows: int, fresh: Sequence[int], known: int) -> Tensor:
    """
    Return an embedding [rows, C] with old [V, C] at its start.

    fresh: ids of new words, which become the mean of the first `known` rows, as every row beyond
    the old table does.
    """
    mean = old[:known].float().mean(0).to(old.dtype)
    grown = old.new_empty(rows, old.shape[1])
    grown[: len(old)] = old
    grown[len(old) :] = mean
    grown[list(fresh)] = mean
    return grown


def load_base(
    model: QwenVLA,
    folder: Path,
    fresh: Sequence[int] = (),
    known: int | None = None,
    place: tuple[torch.device, torch.dtype] | None = None,
    allow_partial: bool = False,
) -> LoadReport:
    """
    Load released weights into a model's backbone; the decoder is not touched.

    fresh: ids of the words that our tokenizer added; known: how many words the release's own has.
    allow_partial: take a text-only release, the vision tower keeps its initialisation.
    """
    config = model.backbone.config
    rows, had = config.text_config.vocab_size, vocabulary_rows(folder)
    fit = {}
    if fresh or rows != had:
        if rows < had:
            raise CheckpointError(
                f'{folder}: its embedding has {had} rows, the model {rows}: it only grows'
            )
        tables = (EMBEDDING,) if config.tie_word_embeddings else (EMBEDDING, 'lm_head.weight')
        count = had if known is None else known
        fit = {name: lambda old: grow_rows(old, rows, fresh, count) for name in tables}
    report = load_weights(model.backbone, folder, backbone_name, fit, place, allow_partial)
    if fresh:
        spare = sum(index < had for index in fresh)
        report.resized[EMBEDDING] = (
            f'{had} -> {rows} rows; {len(fresh)} new words, {spare} in spare rows, '
            'start as the mean of the rows in use'
        )
    return report


def export_backbone(model: QwenVLA, folder: Path, tokenizer: Any = None) -> None:
    """Write the backbone alone as a release: transformers' from_pretrained reads it."""
    model.backbone.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
