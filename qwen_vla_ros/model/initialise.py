"""
A model from its parts: released backbone, decoder fresh or from elsewhere, our tokens added.

`qwen-vla init` writes the result as a checkpoint folder that can be trained. It has no statistics,
since there is no data yet; until it was trained no robot runs it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.action_decoder import ActionDecoder
from qwen_vla_ros.model.base_weights import (
    load_base,
    refuse_other_architecture,
    vocabulary_rows,
)
from qwen_vla_ros.model.checkpoint import (
    TrainedRobot,
    load_tokenizer,
    save_checkpoint,
    trained_attention,
)
from qwen_vla_ros.model.config import QwenVLAConfig, preset
from qwen_vla_ros.model.hub import find_checkpoint
from qwen_vla_ros.model.placement import (
    build_empty,
    cast_weights,
    choose_device,
    choose_dtype,
    settle,
)
from qwen_vla_ros.model.processor import view_tokens
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.weights import (
    CheckpointError,
    LoadReport,
    StoredWeights,
    load_weights,
    own_tensors,
)

_TOKEN_KEYS = {
    'image_token_id': '<|image_pad|>',
    'video_token_id': '<|video_pad|>',
    'vision_start_token_id': '<|vision_start|>',
    'vision_end_token_id': '<|vision_end|>',
}


@dataclass(frozen=True)
class Initialised:
    """A model, its tokenizer with the view tokens, and what came from where."""

    model: QwenVLA
    tokenizer: Any
    report: LoadReport


def initialise(
    config: str | QwenVLAConfig,
    base: str | Path,
    device: str | torch.device = 'auto',
    dtype: str | torch.dtype = 'auto',
    seed: int = 0,
    allow_partial: bool = False,
) -> Initialised:
    """
    Return a model with the weights of a Qwen3.5 release and a fresh decoder.

    config: a preset's name or a configuration, whose backbone must be the release's (differences
    are refused by name). base: its folder, or `Qwen/Qwen3.5-4B[@revision]` of the hub. The
    tokenizer is the release's with one pair of tokens a view. allow_partial: as load_base().
    """
    config = preset(config) if isinstance(config, str) else config
    folder = find_checkpoint(base)
    refuse_other_architecture(config.backbone, folder)
    tokenizer = load_tokenizer(folder)
    known = _highest(tokenizer) + 1
    wanted = view_tokens(config.inputs.views)
    added = [token for token in wanted if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(added, special_tokens=True)
    rows = max(vocabulary_rows(folder), _highest(tokenizer) + 1)
    config = replace(config, backbone=with_vocabulary(config.backbone, tokenizer, rows))
    model = build_empty(config)
    torch.manual_seed(seed)
    width = model.backbone.config.text_config.hidden_size
    target = choose_device(device)
    place = (target, choose_dtype(dtype, target))
    model.decoder = ActionDecoder(config.decoder, width)
    if allow_partial:
        model.backbone = QwenVLA(config).backbone
    cast_weights(model, *place)
    fresh = [tokenizer.get_vocab()[token] for token in added]
    report = load_base(model, folder, fresh, known, place, allow_partial)
    settle(model, target)
    return Initialised(model.eval(), tokenizer, report)


def _highest(tokenizer: Any) -> int:
    return max(tokenizer.get_vocab().values())


def with_vocabulary(backbone: dict[str, Any], tokenizer: Any, rows: int) -> dict[str, Any]:
    """Return the backbone's configuration with the tokenizer's ids and number of rows."""
    vocabulary = tokenizer.get_vocab()
    if absent := [token for token in _TOKEN_KEYS.values() if token not in vocabulary]:
        raise QwenVlaError(f'tokenizer: the special tokens {absent} are missing')
    ids = {key: vocabulary[token] for key, token in _TOKEN_KEYS.items()}
    return {**backbone, **ids, 'text_config': {**backbone['text_config'], 'vocab_size': rows}}


def save_decoder(model: QwenVLA, path: Path) -> None:
    """Write the action decoder alone, with its attention mode in the header."""
    tensors = {
        f'decoder.{name}': value.detach().cpu().contiguous()
        for name, value in own_tensors(model.decoder).items()
    }
    save_file(tensors, path, {'format': 'pt', 'attention': model.config.decoder.attention})


def load_decoder(
    model: QwenVLA,
    source: str | Path,
    attention: str | None = None,
    allow_partial: bool = False,
) -> LoadReport:
    """
    Load the decoder of a checkpoint (folder, hub name) or of a save_decoder() file.

    A decoder trained in the other attention mode is refused unless attention names the model's.
    Partial loads are refused unless allowed; the report names what came and what did not.
    """
    path = Path(source) if Path(source).is_file() else find_checkpoint(source)
    mode = model.config.decoder.attention
    if path.is_file():
        trained = StoredWeights(path).metadata().get('attention', mode)
    else:
        trained = trained_attention(path)
    if mode not in (trained, attention):
        raise CheckpointError(
            f'{source}: this decoder was trained with {trained!r} attention, the model runs '
            f'{mode!r}; build the model with {trained!r}, or pass attention={mode!r} to use it '
            'all the same'
        )
    return load_weights(model.decoder, path, _decoder_name, allow_partial=allow_partial)


def _decoder_name(stored: str) -> str | None:
    return None if stored.startswith('backbone.') else stored.removeprefix('decoder.')


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla init`."""
    parser.add_argument('--preset', required=True, help='4b, 2b, 0.8b, small or tiny')
    parser.add_argument(
        '--base', required=True, help='Qwen3.5 release: folder, or e.g. Qwen/Qwen3.5-4B'
    )
    parser.add_argument(
        '--robot',
        action='append',
        help='robot contract, name or YAML file; give it again for more robots (default: widowx)',
    )
    parser.add_argument('--layout', help="of the actions (default: the contract's)")
    parser.add_argument('--out', type=Path, required=True, help='folder of the checkpoint')
    parser.add_argument(
        '--decoder', help='take the action decoder of this checkpoint (default: fresh)'
    )
    parser.add_argument(
        '--attention', choices=('joint', 'prefix'), help="of the decoder (default: the preset's)"
    )
    parser.add_argument('--seed', type=int, default=0, help='of the fresh decoder (default: 0)')
    parser.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16'),
        default='bfloat16',
        help='on disk (default: bfloat16)',
    )


def fit_robots(config: QwenVLAConfig, robots: Sequence[TrainedRobot]) -> QwenVLAConfig:
    """
    Return the configuration with the views of all robots and a horizon for the longest chunk.

    No weight depends on the horizon. More action channels than the decoder has are refused.
    """
    sizes, decoder = config.inputs.image_sizes, config.decoder
    usual = next(iter(sizes.values()))
    views, horizon = {}, decoder.horizon
    for robot in robots:
        channels = len(robot.embodiment.action_names(robot.layout))
        if channels > decoder.action_dim:
            raise QwenVlaError(
                f'robot {robot.embodiment.name}: actions {channels}, but the decoder has room for '
                f'{decoder.action_dim}; choose another preset or layout'
            )
        horizon = max(horizon, robot.embodiment.horizon)
        for camera in robot.embodiment.cameras:
            views[camera.view] = sizes.get(camera.view, usual)
    inputs = replace(config.inputs, image_sizes=views or sizes)
    decoder = replace(decoder, horizon=horizon)
    return replace(config, inputs=inputs, decoder=decoder)


def run_from_arguments(args: argparse.Namespace) -> int:
    """Write a checkpoint folder without statistics, and tell what came from where."""
    contracts = [Embodiment.load(name) for name in args.robot or ['widowx']]
    if args.layout and len(contracts) > 1:
        raise QwenVlaError('--layout is of one robot; several take their default layouts')
    robots = [TrainedRobot(c, args.layout or c.default_layout) for c in contracts]
    config = fit_robots(preset(args.preset), robots)
    if args.attention:
        config = replace(config, decoder=replace(config.decoder, attention=args.attention))
    made = initialise(config, args.base, 'cpu', args.dtype, args.seed)
    print(made.report.table())
    if args.decoder:
        print(load_decoder(made.model, args.decoder, args.attention).table())
    facts = {
        'command': f'qwen-vla init --preset {args.preset} --base {args.base}',
        'decoder': args.decoder or f'fresh, seed {args.seed}',
        'text': {'released': args.base},  # the backbone's own: it still answers (ask.py)
    }
    dtype = choose_dtype(args.dtype, torch.device('cpu'))
    save_checkpoint(args.out, made.model, made.tokenizer, robots, facts, dtype)
    print(f'{args.out}: to be trained; without statistics no robot runs it')
    return 0
