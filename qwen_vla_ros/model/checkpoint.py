"""
A checkpoint is a folder that says everything a robot needs.

config.json        the model (model/config.py)
model.safetensors  weights, above a size in shards with an index (weights.py); the dtype on disk
                   is the checkpoint's own
tokenizer files    as transformers writes them
statistics.json    q01/q99 by name, per embodiment and layout; absent until there is data: then
                   from_pretrained() reads the weights, and no robot moves
embodiments/*.yaml the contracts as trained, one a robot
training.json      command, seed, duration, machine, measured figures; "text" where the model
                   learnt to answer (ask.py); "statistics_sha256" of each table of statistics.json,
                   as the data sets and caches of qwen-vla convert name theirs
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qwen_vla_ros.compatibility.training import describe_training
from qwen_vla_ros.data.statistics import fingerprint
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.model.adapters import load_adapters
from qwen_vla_ros.model.config import QwenVLAConfig
from qwen_vla_ros.model.hub import find_checkpoint
from qwen_vla_ros.model.int8 import quantise as quantise_layers
from qwen_vla_ros.model.placement import build_empty, choose_device, choose_dtype, settle
from qwen_vla_ros.model.processor import Processor
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.weights import (
    SHARD_BYTES,
    CheckpointError,
    StoredWeights,
    load_weights,
    own_tensors,
    save_weights,
)
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.transforms import (
    CountFromState,
    NormaliseActions,
    NormaliseState,
    PadActions,
    Pipeline,
    Quantiles,
    ResizeImages,
    Tokenise,
    WritePrompt,
    WriteState,
)

FINGERPRINTS = 'statistics_sha256'  # the key of training.json


@dataclass(frozen=True)
class TrainedRobot:
    """A robot, the layout it was trained in, and the statistics of its data; None: not yet."""

    embodiment: Embodiment
    layout: str
    statistics: Mapping[str, Quantiles] | None = None


@dataclass(frozen=True)
class LoadedRobot:
    """What stands around the model for one robot."""

    pipeline: Pipeline
    metadata: dict[str, Any]


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What load_checkpoint returns: one model, and every robot that it was trained for."""

    model: QwenVLA
    robots: dict[str, LoadedRobot]

    def robot(self, name: str | None = None) -> LoadedRobot:
        """Return a robot by the name of its contract; without a name the only one."""
        if len(self.robots) == 1 and name is None:
            return next(iter(self.robots.values()))
        if name in self.robots:
            return self.robots[name]
        told = f'robot {name!r} is none of them' if name else 'name one of them'
        raise CheckpointError(f'the checkpoint drives {", ".join(self.robots)}; {told}')


def build_pipeline(
    config: QwenVLAConfig,
    processor: Processor,
    embodiment: Embodiment,
    layout: str,
    statistics: Mapping[str, Quantiles],
    horizon: int | None = None,
) -> Pipeline:
    """
    Return the sandwich for one robot; statistics holds 'actions' and 'state', or 'relative' too.

    processor is of the robot's own views: see for_views(); of none: no image is asked for.
    horizon: rows of a chunk where it is not the contract's (training on whole trajectories).
    """
    decoder, inputs = config.decoder, processor.config.inputs
    names, rows = embodiment.action_names(layout), horizon or embodiment.horizon
    steps: list[Any] = [
        ResizeImages(inputs.image_sizes, inputs.history_size, inputs.history_view),
        WritePrompt(lambda instruction: embodiment.prompt(instruction, rows, layout)),
    ]
    relative = decoder.joint_actions == 'relative'
    if relative:
        steps.append(CountFromState.of(names, embodiment.state_names))
    if decoder.state_input == 'continuous':
        steps.append(NormaliseState(statistics['state'], decoder.state_dim))
    if decoder.state_input == 'text':
        steps.append(WriteState(statistics['state']))
    steps += [
        NormaliseActions(statistics['relative' if relative else 'actions'], not relative),
        PadActions(rows, len(names), rows, decoder.action_dim),
        Tokenise(processor),
    ]
    return Pipeline(steps)


def for_views(config: QwenVLAConfig, embodiment: Embodiment) -> QwenVLAConfig:
    """Return the configuration with those views alone that a robot has, in the model's order."""
    inputs = config.inputs
    views = {camera.view for camera in embodiment.cameras}
    if absent := sorted(views - set(inputs.image_sizes)):
        raise CheckpointError(
            f'{embodiment.name}: the model has no size for view {", ".join(absent)}; it has '
            f'{", ".join(inputs.image_sizes)} (inputs.image_sizes)'
        )
    sizes = {view: size for view, size in inputs.image_sizes.items() if view in views}
    return replace(config, inputs=replace(inputs, image_sizes=sizes))


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
    robots: Sequence[TrainedRobot],
    training: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """
    Write beside the target, then rename: a kill leaves the old folder or the new one.

    A robot without statistics: none are known yet; such a folder can be trained and runs none.
    """
    _refuse_changed_layers(model)
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    attention = {'attention': model.config.decoder.attention}
    save_weights(own_tensors(model), beside, dtype, shard_bytes, attention)
    tokenizer.save_pretrained(beside)
    (beside / 'embodiments').mkdir()
    for robot in robots:
        (beside / 'embodiments' / f'{robot.embodiment.name}.yaml').write_text(
            robot.embodiment.text
        )
    files: dict[str, Any] = {'config.json': model.config.to_dict(), 'training.json': training}
    if all(robot.statistics is not None for robot in robots):
        files['training.json'] = {**training, FINGERPRINTS: _fingerprints(robots)}
        files['statistics.json'] = {
            robot.embodiment.name: {robot.layout: statistics_to_json(robot.statistics)}
            for robot in robots
        }
    for name, data in files.items():
        (beside / name).write_text(json.dumps(dict(data), indent=2) + '\n')
    beside.chmod(0o755)
    _replace(folder, beside)


def _fingerprints(robots: Sequence[TrainedRobot]) -> dict[str, dict[str, str]]:
    """Return robot -> 'actions' and 'state' -> the hash of their quantiles."""
    return {
        robot.embodiment.name: {
            key: fingerprint(robot.embodiment.name, q.names, q.q01.tolist(), q.q99.tolist())
            for key, q in (robot.statistics or {}).items()
        }
        for robot in robots
    }


def _refuse_other_statistics(folder: Path, robots: Sequence[TrainedRobot]) -> None:
    """Raise CheckpointError unless statistics.json is what the weights were trained with."""
    path = folder / 'training.json'
    told = _read_json(path) if path.is_file() else {}
    wanted = told.get(FINGERPRINTS) if isinstance(told, dict) else None
    if wanted is None:  # written before checkpoints said it
        return
    found = _fingerprints(robots)
    for name, hashes in found.items():
        if wanted.get(name) != hashes:
            raise CheckpointError(
                f'{folder}/statistics.json: {name}: not the statistics that it was trained with '
                f'({FINGERPRINTS} in training.json); put the file of the training back'
            )


def _refuse_changed_layers(model: QwenVLA) -> None:
    """Raise CheckpointError unless the model's tensors are those that its configuration builds."""
    wanted = set(own_tensors(build_empty(model.config)))
    if changed := sorted(set(own_tensors(model)) - wanted):
        raise CheckpointError(
            f'{changed[0]}: not a tensor of this configuration; merge_adapters() before saving, '
            'save_adapters() for the adapters alone, and quantise when loading, not before saving'
        )


def _replace(folder: Path, beside: Path) -> None:
    """Let the folder beside take the folder's name."""
    if not folder.exists():
        beside.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.old.', dir=folder.parent))
    folder.rename(old / folder.name)
    beside.rename(folder)
    shutil.rmtree(old)


def _read_json(path: Path, remedy: str = '') -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        told = remedy or (
            'a checkpoint is a folder with config.json, model.safetensors, statistics.json and '
            'embodiments/'
        )
        raise CheckpointError(f'{path}: the file is missing; {told}') from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f'{path}: not readable as JSON ({error})') from error


def read_config(folder: Path, attention: str | None = None) -> QwenVLAConfig:
    """
    Return a checkpoint's model configuration.

    attention: run in this mode, whichever it was trained in. None: as config.json says, which is
    refused where the weights say that they were trained in the other.
    """
    config = _stored_config(folder)
    mode, trained = attention or config.decoder.attention, trained_attention(folder)
    if attention is None and mode != trained:
        raise CheckpointError(
            f'{folder}: the weights were trained with {trained!r} attention, config.json asks for '
            f'{mode!r}; set it back, or pass attention={mode!r} (--attention {mode}) to run them '
            'all the same'
        )
    return replace(config, decoder=replace(config.decoder, attention=mode))


def trained_attention(folder: Path) -> str:
    """Return the mode in the weights' header; weights without one: config.json's."""
    own = _stored_config(folder).decoder.attention
    return StoredWeights(folder).metadata().get('attention', own)


def _stored_config(folder: Path) -> QwenVLAConfig:
    path = folder / 'config.json'
    return QwenVLAConfig.from_dict(_read_json(path), str(path))


def from_pretrained(
    source: str | Path,
    device: str | torch.device = 'auto',
    dtype: str | torch.dtype = 'auto',
    attention: str | None = None,
    adapters: str | Path | None = None,
    quantise: str | None = None,
) -> QwenVLA:
    """
    Return the model of a checkpoint (a folder or `organisation/name[@revision]` of the hub).

    Read tensor by tensor straight onto the device in the dtype ('auto': bfloat16 on CUDA, float32
    on a CPU). attention: None keeps the mode in which it was trained; another one is used only
    because it is named here. adapters: a folder of LoRA adapters of this checkpoint, merged in.
    quantise: 'int8' puts the linear layers' weights into 8 bits.
    """
    folder = find_checkpoint(source)
    model = build_empty(read_config(folder, attention))
    target = choose_device(device)
    # 8 bits are made on the host: the device never holds the weights at full width.
    first = target if quantise is None else torch.device('cpu')
    load_weights(model, folder, place=(first, choose_dtype(dtype, target)))
    settle(model, first)
    if adapters is not None:
        load_adapters(model, adapters, folder)
    if quantise is not None:
        quantise_layers(model, quantise)
    return model.to(target).eval()


def load_checkpoint(
    source: str | Path,
    device: str | torch.device = 'auto',
    dtype: str | torch.dtype = 'auto',
    attention: str | None = None,
    adapters: str | Path | None = None,
    quantise: str | None = None,
) -> LoadedCheckpoint:
    """Read a checkpoint with everything a robot needs; arguments as from_pretrained's."""
    folder = find_checkpoint(source)
    trained = trained_attention(folder)
    contracts = read_robots(folder)
    model = from_pretrained(folder, device, dtype, attention, adapters, quantise)
    config, tokenizer = model.config, load_tokenizer(folder)
    facts = {
        'checkpoint': str(source) if folder != Path(source) else folder.name,
        'attention': config.decoder.attention,
    }
    if trained != config.decoder.attention:
        facts['trained_attention'] = trained
    for key, value in (('adapters', adapters), ('quantised', quantise)):
        if value is not None:
            facts[key] = str(value)
    robots = {}
    for robot in contracts:
        processor = Processor(tokenizer, for_views(config, robot.embodiment))
        robots[robot.embodiment.name] = LoadedRobot(
            build_pipeline(config, processor, robot.embodiment, robot.layout, robot.statistics),
            {
                **describe_policy(robot.embodiment, robot.layout),
                **facts,
                'trained': describe_training(
                    robot.embodiment, robot.layout, statistics_to_json(robot.statistics)
                ),
            },
        )
    return LoadedCheckpoint(model, robots)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a checkpoint or release; missing or broken files are named."""
    from transformers import AutoTokenizer

    if not (folder / 'tokenizer.json').is_file():
        raise CheckpointError(f'{folder}/tokenizer.json: the file is missing; copy it anew')
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises plain Exception for a broken file
        raise CheckpointError(f'{folder}/tokenizer.json: not a tokenizer ({error})') from error


def read_robots(folder: Path) -> list[TrainedRobot]:
    """Return the robots, layouts and statistics that a checkpoint was trained with."""
    statistics = _read_json(
        folder / 'statistics.json',
        'without the statistics of its training data a policy cannot turn numbers into motion: '
        'train it (qwen-vla train), or use from_pretrained() for the weights alone',
    )
    contracts = sorted((folder / 'embodiments').glob('*.yaml'))
    if not contracts:
        raise CheckpointError(f'{folder}/embodiments: no contract found (*.yaml)')
    robots = [_trained_robot(folder, Embodiment.load(path), statistics) for path in contracts]
    _refuse_other_statistics(folder, robots)
    return robots


def _trained_robot(folder: Path, embodiment: Embodiment, statistics: Any) -> TrainedRobot:
    try:
        ((layout, table),) = statistics[embodiment.name].items()
    except (KeyError, ValueError, TypeError, AttributeError) as error:
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
    return TrainedRobot(embodiment, layout, quantiles)
