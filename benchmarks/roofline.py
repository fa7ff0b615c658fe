"""
What one chunk must cost at least: arithmetic and bytes of each stage, counted, not estimated.

The model is built at full size on the meta device and its own code runs under PyTorch's operation
counter, so the figures follow the code. The floor of a stage is the larger of arithmetic / peak
and weight bytes / bandwidth. `python -m benchmarks.roofline` prints the table (no GPU needed).
"""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qwen_vla_ros.model.config import QwenVLAConfig, preset
from qwen_vla_ros.model.denoise import DenoisingLoop
from qwen_vla_ros.model.qwen_vla import UNPADDED, QwenVLA
from qwen_vla_ros.model.vision import look, plan_images


@dataclass(frozen=True)
class Device:
    """Dense bfloat16 peak in TFLOP/s and memory bandwidth in GB/s, as users measure them."""

    tflops: float
    gigabytes: float


DEVICES = {'H200': Device(790.0, 4300.0), 'RTX 4090': Device(165.0, 1000.0)}


@dataclass(frozen=True)
class Stage:
    """Arithmetic in TFLOP and bytes of weights read in GB (2 bytes a weight)."""

    name: str
    tflop: float
    gigabytes: float

    def floor_ms(self, device: Device) -> float:
        """Return the least time in ms."""
        return max(self.tflop / device.tflops, self.gigabytes / device.gigabytes) * 1e3


def count_tflop(call: Callable[[], object]) -> float:
    """Return the TFLOP of matrix products, convolutions and attention in a call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops() / 1e12


def _gigabytes(*modules: nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) * 2 / 1e9


def stages(
    config: QwenVLAConfig, views: int, side: int, words: int, steps: int
) -> tuple[Stage, ...]:
    """
    Return the stages of one chunk: views square images of side pixels, words of prompt.

    The decoder's attention mode is the config's.
    """
    with torch.device('meta'):
        model = QwenVLA(config)
    tower, language = model.backbone.model.visual, model.backbone.model.language_model
    patch, merge = tower.patch_size, tower.spatial_merge_size
    grids = ((1, side // patch, side // patch),) * views
    patches = views * (side // patch) ** 2
    tokens = patches // merge**2 + words
    pixels = torch.empty(patches, 3 * patch * patch, dtype=torch.uint8, device='meta')
    hidden = torch.empty(1, tokens, language.config.hidden_size, device='meta')
    position = torch.zeros(3, 1, tokens, dtype=torch.long, device='meta')
    found = [
        Stage(
            'vision tower',
            count_tflop(lambda: look(tower, pixels, plan_images(tower, grids))),
            _gigabytes(tower),
        ),
        Stage(
            'language model',
            count_tflop(
                lambda: language(
                    inputs_embeds=hidden,
                    position_ids=position,
                    attention_mask=UNPADDED,
                    use_cache=False,
                )
            ),
            _gigabytes(*language.layers),
        ),
    ]
    decoder = model.decoder
    state = torch.empty(1, config.decoder.state_dim, device='meta')
    context = decoder.context(hidden, position, None, state)
    blocks = _gigabytes(*decoder.blocks)
    if config.decoder.attention == 'prefix':
        prefill = count_tflop(lambda: decoder.prefill(context))
        found.append(Stage('context', prefill, blocks))
        context = decoder.prefill(context)
    noise = torch.empty(1, config.decoder.horizon, config.decoder.action_dim, device='meta')
    loop = DenoisingLoop(decoder, steps)
    arithmetic = count_tflop(lambda: loop(context, noise, noise))
    # The modulations are computed once, so their weights (6 of 30 width^2) are not read again.
    found.append(Stage(f'{steps} denoising steps', arithmetic, steps * blocks * 24 / 30))
    return tuple(found)


def training_tflop(config: QwenVLAConfig, views: int, side: int, words: int) -> float:
    """Return the TFLOP of one training sample: three times its forward pass."""
    return 3 * sum(stage.tflop for stage in stages(config, views, side, words, steps=1))


def main() -> None:
    """Print every stage for the published sizes and both attention modes."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--model', default='4b', help='preset (default: 4b)')
    parser.add_argument('--steps', type=int, default=4, help='denoising steps (default: 4)')
    args = parser.parse_args()
    heads = ''.join(f'{name + " ms":>14}' for name in DEVICES)
    for views, side in ((3, 512), (3, 256)):
        for attention in ('joint', 'prefix'):
            plain = preset(args.model)
            decoder = dataclasses.replace(plain.decoder, attention=attention)
            config = dataclasses.replace(plain, decoder=decoder)
            print(f'\n{args.model}, {views} x {side} px, 100 words, {attention}')
            print(f'{"stage":22}{"TFLOP":>8}{"GB":>8}{heads}')
            found = stages(config, views, side, 100, args.steps)
            for stage in found:
                floors = ''.join(f'{stage.floor_ms(device):14.2f}' for device in DEVICES.values())
                print(f'{stage.name:22}{stage.tflop:8.3f}{stage.gigabytes:8.2f}{floors}')
            sums = [sum(s.floor_ms(device) for s in found) for device in DEVICES.values()]
            print(f'{"floor":38}' + ''.join(f'{ms:14.2f}' for ms in sums))


if __name__ == '__main__':
    main()
