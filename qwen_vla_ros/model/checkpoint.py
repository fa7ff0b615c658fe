"""
A checkpoint is a folder that says everything a robot needs.

config.json        the model (model/config.py)
model.safetensors  weights; the dtype on disk is the checkpoint's own
tokenizer files    as transformers writes them
statistics.json    q01/q99 by name, per embodiment and layout, with the data's hash
embodiments/*.yaml the contracts as trained
training.json      command, seed, duration, machine, measured figures
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import QwenVLAConfig
from qwen_vla_ros.model.processor import Processor
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.transforms import (
    NormaliseActions,
    NormaliseState,
    PadActions,
    Pipeline,
    Quantiles,
    ResizeImages,
    Tokenise,
    WritePrompt,
)


class CheckpointError(QwenVlaError):
    """A checkpoint folder cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What load_checkpoint returns."""

    model: QwenVLA
    pipeline: Pipeline
    metadata: dict[str, Any]
    denoising_steps: int


def build_pipeline(
    config: QwenVLAConfig,
    processor: Processor,
    embodiment: Embodiment,
    layout: str,
    statistics: Mapping[str, Quantiles],
) -> Pipeline:
    """Return the sandwich for one robot; statistics holds 'actions' and 'state'."""
    decoder = config.decoder
    names = embodiment.action_names(layout)
    steps: list[Any] = [
        ResizeImages(config.inputs.image_sizes),
        WritePrompt(lambda instruction: embodiment.prompt(instruction, layout=layout)),
    ]
    if decoder.state_input == 'continuous':
        steps.append(NormaliseState(statistics['state'], decoder.state_dim))
    steps += [
        NormaliseActions(statistics['actions']),
        PadActions(embodiment.horizon, len(names), decoder.horizon, decoder.action_dim),
        Tokenise(processor),
    ]
    return Pipeline(steps)


def statistics_to_json(statistics: Mapping[str, Quantiles]) -> dict[str, Any]:
    """Return {'actions': {name: [q01, q99]}, 'state': ...}."""
    return {
        key: {
            name: [float(low), float(high)]
            for name, low, high in zip(q.names, q.q01, q.q99, strict=True)
        }
        for key, q in statistics.items()
    }


def statistics_from_json(data: Mapping[str, Any], place: str) -> dict[str, Quantiles]:
    """Read statistics_to_json()'s form."""
    try:
        return {
            key: Quantiles(
                tuple(table),
                np.array([pair[0] for pair in table.values()], np.float64),
                np.array([pair[1] for pair in table.values()], np.float64),
            )
            for key, table in data.items()
        }
    except (TypeError, IndexError, AttributeError, ValueError) as error:
        raise CheckpointError(f'{place}: not a table of name: [q01, q99] ({error})') from error


def save_checkpoint(
    folder: str | Path,
    model: QwenVLA,
    tokenizer: Any,
    embodiment: Embodiment,
    layout: str,
    statistics: Mapping[str, Quantiles],
    training: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write beside the target, then rename: a kill leaves the old folder or the new one."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    weights = {
        name: value.detach().to(dtype).contiguous()
        for name, value in model.state_dict().items()
        if name != 'backbone.lm_head.weight'  # tied to the embedding
    }
    save_file(weights, beside / 'model.safetensors', {'format': 'pt'})
    tokenizer.save_pretrained(beside)
    (beside / 'embodiments').mkdir()
    (beside / 'embodiments' / f'{embodiment.name}.yaml').write_text(embodiment.text)
    statistics_json = {embodiment.name: {layout: statistics_to_json(statistics)}}
    for name, data in (
        ('config.json', model.config.to_dict()),
        ('statistics.json', statistics_json),
        ('training.json', dict(training)),
    ):
        (beside / name).write_text(json.dumps(data, indent=2) + '\n')
    (beside / 'model.safetensors').chmod(0o644)
    beside.chmod(0o755)
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.old.', dir=folder.parent))
        folder.rename(old / folder.name)
        beside.rename(folder)
        shutil.rmtree(old)
    else:
        beside.rename(folder)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f'{path}: the file is missing; a checkpoint is a folder with config.json, '
            'model.safetensors, statistics.json and embodiments/'
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f'{path}: not readable as JSON ({error})') from error


def load_weights(model: QwenVLA, path: Path) -> None:
    """Load a safetensors file into a model; missing or foreign tensors are refused by name."""
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f'{path}: the file is missing') from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f'{path}: truncated or not a safetensors file ({error}); copy it anew'
        ) from error
    own = model.state_dict()
    absent = [n for n in own if n not in weights and n != 'backbone.lm_head.weight']
    foreign = [n for n in weights if n not in own]
    wrong = [n for n in weights if n in own and weights[n].shape != own[n].shape]
    for words, names in (('missing', absent), ('unknown', foreign), ('of another size', wrong)):
        if names:
            raise CheckpointError(f'{path}: {len(names)} tensors {words}, first {names[0]!r}')
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f'{path}: tensor {name!r} holds numbers that are not finite')
    model.load_state_dict(weights, strict=False)
    model.backbone.tie_weights()


def choose_device(device: str) -> torch.device:
    """Return the device; 'auto' is CUDA when there is one."""
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise QwenVlaError(f'device {device!r} cannot be used here: {error}') from error


def load_checkpoint(folder: str | Path, device: str = 'auto') -> LoadedCheckpoint:
    """Read a checkpoint folder into a model ready to infer."""
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f'{folder}: no such folder; give the folder of a checkpoint')
    config = QwenVLAConfig.from_dict(_read_json(folder / 'config.json'), f'{folder}/config.json')
    statistics = _read_json(folder / 'statistics.json')
    contracts = sorted((folder / 'embodiments').glob('*.yaml'))
    if len(contracts) != 1:
        raise CheckpointError(
            f'{folder}/embodiments: one contract expected, {len(contracts)} found'
        )
    embodiment = Embodiment.load(contracts[0])
    try:
        ((layout, table),) = statistics[embodiment.name].items()
    except (KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f'{folder}/statistics.json: no single layout for {embodiment.name}'
        ) from error
    place = f'{folder}/statistics.json: {embodiment.name}.{layout}'
    quantiles = statistics_from_json(table, place)
    if quantiles['actions'].names != embodiment.action_names(layout):
        raise CheckpointError(
            f'{place}.actions: names {quantiles["actions"].names} differ from the contract '
            f'{embodiment.action_names(layout)}'
        )
    model = QwenVLA(config)
    load_weights(model, folder / 'model.safetensors')
    model.to(choose_device(device)).eval()
    processor = Processor(AutoTokenizer.from_pretrained(folder), config)
    metadata = {
        **describe_policy(embodiment, layout),
        'checkpoint': folder.name,
        'attention': config.decoder.attention,
    }
    pipeline = build_pipeline(config, processor, embodiment, layout, quantiles)
    return LoadedCheckpoint(model, pipeline, metadata, config.flow.denoising_steps)
