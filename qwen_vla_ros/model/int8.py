"""
Weights in 8 bits: the linear layers of backbone and decoder, one scale an output channel.

It halves what bfloat16 weights take (a quarter of float32); the layer computes in the dtype of
its input. Gradients flow through to the input, so adapters can be trained on top; the layer itself
cannot. Needs no other library.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.qwen_vla import QwenVLA


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 [out, in] and float32 [out, 1] whose product is the weight, to 1/254 a row."""
    full = weight.to(torch.float32, copy=True)
    scale = full.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return full.div_(scale).round_().to(torch.int8), scale


class _Product(torch.autograd.Function):
    """x @ weight.T that keeps 8 bits for the backward pass, not the restored weight."""

    @staticmethod
    def forward(context: Any, x: Tensor, stored: Tensor, scale: Tensor) -> Tensor:
        """Return [..., out] of x [..., in]."""
        context.save_for_backward(stored, scale)
        return functional.linear(x, _restore(stored, scale, x.dtype))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        stored, scale = context.saved_tensors
        return gradient @ _restore(stored, scale, gradient.dtype), None, None


def _restore(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return stored.to(dtype).mul_(scale)  # in place: no float32 copy of a large weight


class Int8Linear(nn.Linear):
    """A linear layer whose weight is 8 bits; `weight` restores it in the layer's dtype."""

    def __init__(self, layer: nn.Linear) -> None:
        """Take a layer's numbers over."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype = layer.weight.dtype
        stored, scale = quantise_rows(layer.weight.detach())
        self.register_buffer('stored', stored)
        self.register_buffer('scale', scale)
        self.bias = None
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """Return the restored weight [out, in]; a copy: changing it changes nothing."""
        return _restore(self.stored, self.scale, self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] of x [..., in]."""
        if torch.is_grad_enabled() and x.requires_grad:
            product = _Product.apply(x, self.stored, self.scale)
        else:
            product = functional.linear(x, _restore(self.stored, self.scale, x.dtype))
        return product if self.bias is None else product + self.bias


def quantise(model: QwenVLA, kind: str = 'int8') -> list[str]:
    """
    Replace the linear layers of backbone and decoder in place; return their names.

    The embedding (and a head that is tied to it), convolutions and norms stay as they are.
    """
    if kind != 'int8':
        raise QwenVlaError(f'quantise {kind!r} is unknown; choose int8')
    names = linear_layers(model)
    for name in names:
        path, _, leaf = name.rpartition('.')
        owner = model.get_submodule(path)
        setattr(owner, leaf, Int8Linear(getattr(owner, leaf)))
    return names


def is_quantised(model: nn.Module) -> bool:
    """Return whether a layer of the model has 8-bit weights."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def linear_layers(model: QwenVLA) -> list[str]:
    """Return the names of all linear layers but the language model's head."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != 'backbone.lm_head'
    ]
