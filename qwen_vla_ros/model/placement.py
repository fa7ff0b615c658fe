"""
Where a model's numbers live: device, dtype, and a model built without memory for its weights.

A checkpoint's dtype on disk is its own; the dtype here is what the model computes in. Rotary
frequencies and other tables that are no weights stay float32 in every dtype.
"""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import QwenVLAConfig
from qwen_vla_ros.model.qwen_vla import QwenVLA

DTYPES = {
    'float32': torch.float32,
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
}


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device; 'auto' is CUDA when there is one."""
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise QwenVlaError(f'device {str(device)!r} cannot be used here: {error}') from error


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype; 'auto' is bfloat16 on CUDA and float32 on a CPU."""
    if dtype == 'auto':
        return torch.bfloat16 if device.type == 'cuda' else torch.float32
    found = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        raise QwenVlaError(f'dtype {dtype!r} is unknown; choose auto, {", ".join(DTYPES)}')
    return found


class _EmptyOnMeta(TorchFunctionMode):
    """Memory that nobody has written yet is not taken; what is computed stays real."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Send torch.empty to the meta device."""
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def build_empty(config: QwenVLAConfig) -> QwenVLA:
    """
    Return the model without memory for its weights; load_weights(place=...) fills them.

    Tables that the constructor computes (rotary frequencies) are real, as in a normal build.
    """
    with _EmptyOnMeta():
        return QwenVLA(config)


def cast_weights(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Put the weights that have memory onto the device in the dtype; tables keep theirs."""
    for parameter in module.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.to(device, dtype)


def settle(module: nn.Module, device: torch.device) -> None:
    """Move the tables to the device; a weight that was never loaded is a defect of ours."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    if empty := [name for name, value in tensors if value.is_meta]:
        raise RuntimeError(f'{len(empty)} tensors were never loaded, first {empty[0]}')
    module.to(device)
