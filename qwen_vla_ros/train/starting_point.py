"""--init, looked at before anything is made: where it is, whether it is whole, and its size."""

import json
from pathlib import Path
from typing import Any

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import load_tokenizer, read_config
from qwen_vla_ros.model.config import PRESETS, QwenVLAConfig, preset
from qwen_vla_ros.model.hub import find_checkpoint

USUAL = 'tiny'


def look_at(init: str) -> Path:
    """Return a checkpoint's folder; configuration, weights' headers and tokenizer are read."""
    folder = find_checkpoint(init)
    read_config(folder)
    load_tokenizer(folder)
    return folder


def training_facts(folder: Path) -> dict[str, Any]:
    """Return training.json of a checkpoint; empty where there is none."""
    try:
        return json.loads((folder / 'training.json').read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise QwenVlaError(f'{folder}/training.json: not readable as JSON ({error})') from error


def preset_for(told: str | None, folder: Path | None) -> str:
    """Return the preset that was told, or that of a checkpoint's sizes; both must be one."""
    if folder is None:
        return told or USUAL
    config = read_config(folder)
    own = _preset_of(config)
    if own is None and told is None:
        raise QwenVlaError(
            f'--init {folder}: {_words(config)}, which no preset has; give the --preset whose '
            'recipe is to be taken'
        )
    if own is not None and told not in (None, own):
        raise QwenVlaError(
            f'--preset {told}: --init {folder} has the sizes of {own} ({_words(config)}); give '
            'that, or leave --preset out'
        )
    return told or own or USUAL


def _preset_of(config: QwenVLAConfig) -> str | None:
    """Return the preset of these sizes; None where none has them."""
    return next((name for name in PRESETS if _sizes(preset(name)) == _sizes(config)), None)


def _sizes(config: QwenVLAConfig) -> tuple[int, int, int]:
    text = config.backbone['text_config']
    return text['hidden_size'], text['num_hidden_layers'], config.decoder.width


def _words(config: QwenVLAConfig) -> str:
    width, layers, decoder = _sizes(config)
    return f'{layers} layers of width {width}, decoder {decoder}'
