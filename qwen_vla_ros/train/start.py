"""
What a stage starts from: a checkpoint of the stage before, or for tiny and small from nothing.

A checkpoint is fitted to the robots of the new data: further views get their boundary tokens,
known robots keep their statistics. Those of T2A are of whole trajectories and measured anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.adapters import AdapterConfig, attach_adapters
from qwen_vla_ros.model.checkpoint import (
    TrainedRobot,
    from_pretrained,
    load_tokenizer,
    read_robots,
)
from qwen_vla_ros.model.config import QwenVLAConfig, preset
from qwen_vla_ros.model.hub import find_checkpoint
from qwen_vla_ros.model.initialise import fit_robots, with_vocabulary
from qwen_vla_ros.model.int8 import quantise
from qwen_vla_ros.model.placement import DTYPES, cast_weights, choose_device
from qwen_vla_ros.model.processor import train_tokenizer, view_tokens
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.train.recipe import FROM_SCRATCH, T2A, Recipe
from qwen_vla_ros.train.robots import Key, acts, driven, find_robots, spread
from qwen_vla_ros.train.sources import DataSet
from qwen_vla_ros.train.starting_point import training_facts

VOCABULARY = 512  # of a tokenizer trained on the data's own words
SENTENCES = 400  # samples a source whose words it learns


@dataclass
class Start:
    """A model ready to be trained, its tokenizer, the robots, and the checkpoint before."""

    model: QwenVLA
    tokenizer: Any
    robots: dict[Key, TrainedRobot]
    before: Path | None
    answers: bool  # whether the checkpoint before had learnt to answer


def start(recipe: Recipe, sets: Sequence[DataSet], init: str | None, device: str) -> Start:
    """Return where a stage starts; QwenVlaError when there is nothing to start from."""
    parts = [data.training for data in sets]
    fresh = init is None
    found = _from_scratch(recipe, parts) if fresh else _from_checkpoint(recipe, parts, init)
    model = found.model
    flow = replace(model.config.flow, distribution=recipe.distribution)
    model.config = replace(model.config, flow=flow)
    model.to(choose_device(device))
    if recipe.adapters:
        _adapt(recipe, found)
    if recipe.recompute:
        recompute_blocks(model)
    return found


def refuse_nothing_to_start_from(recipe: Recipe) -> None:
    """Raise QwenVlaError for a recipe that needs a checkpoint to start from."""
    if recipe.adapters:
        raise QwenVlaError('--lora: adapters need a checkpoint under them; give --init')
    preset(recipe.preset)  # an unknown one has no release either
    if recipe.preset not in FROM_SCRATCH:
        raise QwenVlaError(
            f'train {recipe.stage} --preset {recipe.preset}: give --init: a checkpoint of the '
            f'stage before, or what `qwen-vla init --preset {recipe.preset} --base '
            f'Qwen/Qwen3.5-{recipe.preset.upper()}` writes'
        )


def recompute_blocks(model: QwenVLA) -> None:
    """Keep only what goes into each block of a model in training; the rest is computed again."""
    backbone = model.backbone
    if hasattr(backbone, 'activation_checkpointing_enable'):  # since transformers 5.23
        backbone.activation_checkpointing_enable({'use_reentrant': False})
    else:
        backbone.gradient_checkpointing_enable({'use_reentrant': False})
    model.decoder.recompute = True


def _from_scratch(recipe: Recipe, parts: Sequence[Any]) -> Start:
    refuse_nothing_to_start_from(recipe)
    config = preset(recipe.preset)
    robots = find_robots(parts, (), config.decoder.joint_actions == 'relative')
    config = fit_robots(config, driven(robots))
    tokenizer = train_tokenizer(sentences(parts, robots), VOCABULARY, config.inputs.views)
    backbone = with_vocabulary(config.backbone, tokenizer, len(tokenizer))
    torch.manual_seed(recipe.seed)
    return Start(QwenVLA(replace(config, backbone=backbone)), tokenizer, robots, None, False)


def sentences(parts: Sequence[Any], robots: Mapping[Key, TrainedRobot]) -> list[str]:
    """Return words of the data: prompts as they will be written, and answers."""
    found: dict[str, None] = {}
    for part in parts:
        for sample in spread(part, SENTENCES):
            if acts(sample):
                robot = robots[sample.embodiment, sample.action_names]
                words = robot.embodiment.prompt(
                    sample.instruction, len(sample.actions), robot.layout
                )
                found[words] = None
            if sample.text:
                found[f'{sample.instruction} {sample.text}'] = None
    return list(found)


def _from_checkpoint(recipe: Recipe, parts: Sequence[Any], init: str) -> Start:
    folder = find_checkpoint(init)
    facts = training_facts(folder)
    known: list[TrainedRobot] = []
    if (folder / 'statistics.json').is_file() and facts.get('stage') != T2A:
        known = read_robots(folder)
    # Trained weights are float32, whatever is computed in; frozen ones are narrowed later.
    model = from_pretrained(folder, 'cpu', 'float32')
    robots = find_robots(parts, known, model.config.decoder.joint_actions == 'relative')
    tokenizer = load_tokenizer(folder)
    model.config = _with_views(
        model, tokenizer, fit_robots(model.config, driven(robots)), recipe.seed
    )
    return Start(model.train(), tokenizer, robots, folder, bool(facts.get('text')))


def _with_views(model: QwenVLA, tokenizer: Any, config: QwenVLAConfig, seed: int) -> QwenVLAConfig:
    """Give the tokenizer and the embedding the boundary tokens of views that are new."""
    known = tokenizer.get_vocab()
    added = [token for token in view_tokens(config.inputs.views) if token not in known]
    if not added:
        return config
    tokenizer.add_tokens(added, special_tokens=True)
    rows = max(
        max(tokenizer.get_vocab().values()) + 1, config.backbone['text_config']['vocab_size']
    )
    if rows > config.backbone['text_config']['vocab_size']:
        torch.manual_seed(seed)
        model.backbone.resize_token_embeddings(rows, mean_resizing=False)
    return replace(config, backbone=with_vocabulary(config.backbone, tokenizer, rows))


def _adapt(recipe: Recipe, found: Start) -> None:
    """Freeze the weights, narrow them, and put adapters on language and decoder."""
    model = found.model
    cast_weights(model, model.device, DTYPES[recipe.dtype])
    if recipe.quantise:
        quantise(model, recipe.quantise)
    torch.manual_seed(recipe.seed)  # every process draws the same adapters
    parts = ('language', 'decoder') if recipe.trains_backbone else ('decoder',)
    attach_adapters(model, AdapterConfig(parts, rank=recipe.adapters, alpha=2.0 * recipe.adapters))
