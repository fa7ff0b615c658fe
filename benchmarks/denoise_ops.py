"""
Operators a chunk: the decoder in a plain diffusers loop against our denoising loop.

Same weights, 16 blocks, 10 Euler steps, cached context. Both sides are counted where PyTorch
dispatches them (views included), so the figure is exact, does not depend on the machine, and
stands for the launches that an uncompiled GPU loop pays. LeRobot's pi0 cannot be installed beside
transformers 5, so the baseline is diffusers' FlowMatchEulerDiscreteScheduler around the plain
forward pass. A narrow decoder is counted: the number does not depend on the width.
"""

import dataclasses
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import Result, main
from qwen_vla_ros.model.action_decoder import ActionDecoder
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.denoise import DenoisingLoop
from qwen_vla_ros.model.sampling import scheduler_solve

STEPS, TOKENS = 10, 32


class CountOperators(TorchDispatchMode):
    """Count every aten operator."""

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count and go on."""
        self.total += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def run() -> Result:
    """Count both sides over the same chunk and compare their outputs."""
    torch.manual_seed(0)
    published = preset('4b').decoder
    config = dataclasses.replace(published, width=64 * 2, heads=2, ffn=256, attention='prefix')
    decoder = ActionDecoder(config, 64).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    hidden, position = torch.randn(1, TOKENS, 64), torch.arange(TOKENS).expand(3, 1, -1)
    context = decoder.prefill(decoder.context(hidden, position))
    noise = torch.randn(1, config.horizon, config.action_dim)
    mask, loop = torch.ones_like(noise), DenoisingLoop(decoder, STEPS)
    with CountOperators() as plain:
        wanted = scheduler_solve(lambda x, tau: decoder(x, tau, context), noise, STEPS, mask)
    with CountOperators() as ours:
        found = loop(context, noise, mask)
    difference = float((found - wanted).abs().max())
    return Result(
        'denoise_ops',
        plain.total,
        ours.total,
        2.0,
        'ops/chunk',
        f'{config.blocks} blocks, {STEPS} steps, cached context; outputs differ by '
        f'{difference:.1e}; baseline: diffusers scheduler loop',
        equal=difference < 1e-5,
    )


if __name__ == '__main__':
    main(run)
