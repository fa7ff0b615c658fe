"""
Denoising: the published joint attention against the cached context, at the published width.

868 context tokens (three views of 256 tokens, 100 words), 16 rows, 10 Euler steps, float32, one
chunk. Two of the sixteen blocks run, with the same weights on both sides, and the times are scaled
to sixteen: joint 16/2 times its loop; prefix 15/2 times the context's pass through two full blocks
(the last block only leaves keys and values) plus 16/2 times its loop. The cached loop is first
compared with its own uncached evaluation. The least of several rounds counts, on both sides:
whatever else runs on the machine only adds.
"""

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import Result, main
from qwen_vla_ros.model.action_decoder import ActionDecoder, Context
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.denoise import DenoisingLoop
from qwen_vla_ros.model.sampling import solve

BLOCKS, TOKENS, STEPS, ROUNDS = 2, 868, 10, 4


def build(attention: str, blocks: int) -> ActionDecoder:
    """Return a decoder of the published width whose weights do not depend on the mode."""
    torch.manual_seed(0)
    config = dataclasses.replace(preset('4b').decoder, blocks=blocks, attention=attention)
    decoder = ActionDecoder(config, 2560)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return decoder.eval()


def walk(decoder: ActionDecoder, context: Context, noise: Tensor) -> Tensor:
    """Return the plain loop's actions."""
    mask = torch.ones_like(noise)
    return solve(lambda x, tau: decoder(x, tau, context), noise, STEPS, mask)


def seconds(call: Callable[[], object]) -> float:
    """Return the time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@torch.inference_mode()
def run() -> Result:
    """Compare, then measure both sides in turns."""
    joint, prefix, one_more = build('joint', BLOCKS), build('prefix', BLOCKS), build('prefix', 3)
    hidden = torch.randn(1, TOKENS, 2560, generator=torch.Generator().manual_seed(1))
    position = torch.arange(TOKENS).expand(3, 1, -1)
    noise = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(2))
    plain, cached = joint.context(hidden, position), prefix.context(hidden, position)
    cached = prefix.prefill(cached)
    loop, mask = DenoisingLoop(prefix, STEPS), torch.ones_like(noise)
    uncached = walk(prefix, prefix.context(hidden, position), noise)
    difference = float((loop(cached, noise, mask) - uncached).abs().max())
    parts = {
        'joint': lambda: walk(joint, plain, noise),
        'context': lambda: one_more.prefill(plain),
        'rows': lambda: loop(cached, noise, mask),
    }
    least = dict.fromkeys(parts, float('inf'))
    for _ in range(ROUNDS):
        for name, call in parts.items():
            least[name] = min(least[name], seconds(call))
    joint_s = 16 / BLOCKS * least['joint']
    prefix_s = 15 / 2 * least['context'] + 16 / BLOCKS * least['rows']
    return Result(
        'denoise_prefix',
        joint_s,
        prefix_s,
        6.0,
        's/chunk',
        f'16 blocks of width 1536 (scaled from {BLOCKS}), {TOKENS} context tokens, {STEPS} steps, '
        f'{torch.get_num_threads()} threads; cached against uncached: {difference:.1e}',
        equal=difference < 1e-5,
    )


if __name__ == '__main__':
    main(run)
