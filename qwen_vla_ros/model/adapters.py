"""
LoRA adapters (peft): trained beside a checkpoint, saved alone, loaded merged or not.

A folder of adapters holds adapter_model.safetensors and adapter_config.json as peft writes them,
and base.json: which checkpoint they belong to, by a fingerprint of its configuration and weights.
On any other they are refused.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.hub import find_checkpoint
from qwen_vla_ros.model.int8 import is_quantised, linear_layers
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.weights import CheckpointError, LoadReport, StoredWeights, load_weights

PARTS = {
    'language': 'backbone.model.language_model.',
    'vision': 'backbone.model.visual.',
    'decoder': 'decoder.',
}
_WEIGHTS, _CONFIG, _BASE = 'adapter_model.safetensors', 'adapter_config.json', 'base.json'
_ADAPTER = 'default'


@dataclass(frozen=True)
class AdapterConfig:
    """
    Where adapters sit and how large they are.

    parts    any of 'language', 'vision', 'decoder'
    modules  of their linear layers those whose last name is one of these, e.g. 'q_proj'; () = all
    rank     inner width
    alpha    the adapter's product is scaled by alpha / rank
    """

    parts: tuple[str, ...] = ('language',)
    modules: tuple[str, ...] = ()
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0


def adapted_layers(model: QwenVLA, config: AdapterConfig) -> list[str]:
    """Return the names of the linear layers that get an adapter; none is an error."""
    if unknown := [part for part in config.parts if part not in PARTS]:
        raise QwenVlaError(f'adapters: part {unknown[0]!r} is unknown; choose {", ".join(PARTS)}')
    prefixes = tuple(PARTS[part] for part in config.parts)
    layers = [name for name in linear_layers(model) if name.startswith(prefixes)]
    last = {name.rpartition('.')[2] for name in layers}
    if absent := [name for name in config.modules if name not in last]:
        raise QwenVlaError(
            f'adapters: no linear layer {absent[0]!r} in {", ".join(config.parts)}; there are '
            f'{", ".join(sorted(last))}'
        )
    return [n for n in layers if not config.modules or n.rpartition('.')[2] in config.modules]


def attach_adapters(model: QwenVLA, config: AdapterConfig) -> list[str]:
    """
    Put fresh adapters into a model in place; return the adapted layers' names.

    Everything else is frozen; call requires_grad_() on what is to be trained whole. The adapters
    are float32 in every dtype and start as zero: outputs are unchanged.
    """
    from peft import LoraConfig

    layers = adapted_layers(model, config)
    _inject(
        model,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=layers,
        ),
    )
    return layers


def _inject(model: QwenVLA, config: Any) -> None:
    """Let peft put its layers in; two sets at a time are refused."""
    from peft import inject_adapter_in_model

    if _lora_layers(model):
        raise QwenVlaError('adapters: the model has some already; merge_adapters() first')
    inject_adapter_in_model(config, model, _ADAPTER)
    for name, parameter in model.named_parameters():
        if '.lora_' in name:
            parameter.data = parameter.data.float()


def _lora_layers(model: nn.Module) -> dict[str, Any]:
    """Return the adapted layers, none without peft."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, 'lora_A') and hasattr(module, 'base_layer')
    }


def save_adapters(model: QwenVLA, folder: str | Path, base: str | Path) -> None:
    """Write the adapters alone; base is the checkpoint under them, a folder or a hub's name."""
    layers = _lora_layers(model)
    if not layers:
        raise QwenVlaError('adapters: the model has none; attach_adapters() first')
    folder, base = Path(folder), find_checkpoint(base)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name.replace(f'.{_ADAPTER}.', '.'): value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if '.lora_' in name
    }
    save_file(tensors, folder / _WEIGHTS, {'format': 'pt'})
    model.peft_config[_ADAPTER].save_pretrained(folder)
    facts = {'checkpoint': base.name, 'fingerprint': fingerprint(base)}
    (folder / _BASE).write_text(json.dumps(facts, indent=2) + '\n')


def load_adapters(
    model: QwenVLA, folder: str | Path, base: str | Path, merge: bool = True
) -> LoadReport:
    """
    Put saved adapters onto the checkpoint in `base` that the model was loaded from.

    merge: add them to the weights, nothing is left to compute; else they stay apart and can be
    trained on. Both give the same outputs to rounding.
    """
    folder = Path(folder)
    _refuse_other_base(folder, find_checkpoint(base))
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as error:
        raise CheckpointError(f'{folder}: adapters need peft: pip install peft') from error
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = False
    _inject(model, config)
    report = load_weights(model, folder / _WEIGHTS, _with_adapter, allow_partial=True)
    report.missing = [name for name in report.missing if '.lora_' in name]
    report.refuse_partial()
    if merge:
        merge_adapters(model)
    return report


def _with_adapter(stored: str) -> str:
    """Return the model's name of a stored adapter tensor."""
    path, _, leaf = stored.rpartition('.')
    return f'{path}.{_ADAPTER}.{leaf}'


def merge_adapters(model: QwenVLA) -> None:
    """Add the adapters to the weights under them and take them out."""
    if is_quantised(model):
        raise QwenVlaError(
            'adapters: 8-bit weights cannot take them in; load the checkpoint unquantised, merge, '
            'then quantise'
        )
    for name, layer in _lora_layers(model).items():
        weight = layer.base_layer.weight
        delta = layer.get_delta_weight(_ADAPTER)
        weight.data = (weight.data.float() + delta.float()).to(weight.dtype)
        path, _, leaf = name.rpartition('.')
        setattr(model.get_submodule(path), leaf, layer.base_layer)
    if hasattr(model, 'peft_config'):
        del model.peft_config


def _refuse_other_base(folder: Path, base: Path) -> None:
    try:
        facts = json.loads((folder / _BASE).read_text())
        wanted = facts['fingerprint']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f'{folder / _BASE}: does not say which checkpoint these adapters belong to '
            f'({error!r}); give a folder that save_adapters() wrote'
        ) from error
    if wanted != fingerprint(base):
        raise CheckpointError(
            f'{folder}: these adapters were trained on another checkpoint than {base} '
            f'({facts.get("checkpoint", "?")}, fingerprint {wanted[:12]}); load that one'
        )


def fingerprint(folder: Path) -> str:
    """
    Return a hash of a checkpoint's configuration and weights.

    Of the weights: every file's header and the first 4 KiB of each tensor, which differ as soon as
    it was trained; so a fingerprint takes milliseconds and not the time to read 11 GB.
    """
    digest = hashlib.sha256((folder / 'config.json').read_bytes())
    for path in sorted(set(StoredWeights(folder).files.values())):
        with path.open('rb') as file:
            header = file.read(int.from_bytes(file.read(8), 'little'))
            digest.update(header)
            begin = 8 + len(header)
            for name, entry in sorted(json.loads(header).items()):
                if name != '__metadata__':
                    first, last = entry['data_offsets']
                    file.seek(begin + first)
                    digest.update(file.read(min(4096, last - first)))
    return digest.hexdigest()
