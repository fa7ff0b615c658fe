"""
What fits into a GPU: an estimate in bytes, counted on a model without memory.

Sizes come from the model that the configuration builds. Per parameter: bfloat16 weights 2 bytes,
8-bit weights 1 (and 4 a row); what is trained takes gradients 2 and optimiser 12 (float32 master
copy 4, Adam's two moments 8; ZeRO, arXiv 1910.02054, section 3.1), adapters 4 + 4 + 8 in float32.

Activations that wait for the backward pass, per token (b = 2 bytes, bfloat16). A linear layer
keeps what goes in and what comes out, b (in + out); the rest was measured by autograd's hooks for
saved tensors (test/test_memory.py holds the sum to 25 %):

  vision      1.2 b (in + out) of its linear layers
  language    b (in + out), 10 bytes a channel that an RMSNorm sees (it computes in float32), and
              80 bytes a value channel of a DeltaNet layer, tokens rounded up to chunks of 64
              (torch's own form; flash-linear-attention keeps less)
  decoder     b (in + out) of a block without its modulation, and b width 15; b width 30 for
              tokens with a timestep of their own: the actions', in `joint` mode the context's too

A frozen layer under an adapter keeps 4 in + b out: the adapter takes its input in float32. No
recomputation (gradient checkpointing) is counted. At inference 0.6 of the largest layer's share
is alive at a time (measured by torch's profiler, held to 25 % too). A reserve covers the CUDA
context and the libraries' workspaces.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.adapters import AdapterConfig, adapted_layers
from qwen_vla_ros.model.checkpoint import read_config
from qwen_vla_ros.model.config import QwenVLAConfig, preset
from qwen_vla_ros.model.int8 import linear_layers
from qwen_vla_ros.model.placement import build_empty

RESERVE = 0.75e9  # bytes; an assumption, not counted
B = 2  # bytes of a bfloat16
ADAPTERS = AdapterConfig(('language', 'decoder'), rank=16)
COLUMNS = ('weights', 'gradients', 'optimiser', 'activations', 'cache')


@dataclass(frozen=True)
class Load:
    """What one call carries: samples, images a sample, pixels an edge, words of the prompt."""

    batch: int = 1
    views: int = 3
    image: int = 224
    text: int = 100

    def __post_init__(self) -> None:
        """Refuse what is no load."""
        for name in ('batch', 'views', 'image', 'text'):
            if getattr(self, name) < 1:
                raise QwenVlaError(f'{name} {getattr(self, name)}: at least 1')


@dataclass(frozen=True)
class Need:
    """
    Bytes of one way to use the model.

    activations and cache grow with the batch; the others do not.
    """

    use: str
    weights: float
    gradients: float
    optimiser: float
    activations: float
    cache: float
    batch: int

    @property
    def total(self) -> float:
        """Return everything together, with the reserve."""
        return sum(getattr(self, column) for column in COLUMNS) + RESERVE

    def largest_batch(self, memory: float) -> int:
        """Return how many samples fit into so many bytes; 0: not one."""
        sample = (self.activations + self.cache) / self.batch
        return max(0, int((memory - (self.total - sample * self.batch)) // sample))


class Sizes:
    """A model's sizes under a load, in bytes; adapted: frozen, with adapters on its layers."""

    def __init__(self, config: QwenVLAConfig, load: Load, adapted: bool = False) -> None:
        """Count on a model without memory."""
        self.model, self.load = build_empty(config), load
        self.into = 4 if adapted else B  # an adapter keeps its input in its own float32
        vision = self.model.backbone.config.vision_config
        cell = vision.patch_size * vision.spatial_merge_size
        if load.image % cell:
            raise QwenVlaError(f'image {load.image}: not a multiple of {cell} pixels')
        self.patches = load.views * (load.image // vision.patch_size) ** 2
        self.image_tokens = self.patches // vision.spatial_merge_size**2
        self.tokens = self.image_tokens + load.text
        self.decoder = config.decoder

    def traffic(self, module: nn.Module, but: tuple[nn.Module, ...] = ()) -> int:
        """Return the bytes that go into and come out of a module's linear layers, per token."""
        layers = (m for m in module.modules() if isinstance(m, nn.Linear) and m not in but)
        return sum(self.into * layer.in_features + B * layer.out_features for layer in layers)

    def parameters(self, part: nn.Module) -> int:
        """Return how many, tied ones once."""
        return sum(parameter.numel() for parameter in part.parameters())

    def int8_bytes(self) -> int:
        """Return the weights' bytes with 8-bit linear layers."""
        layers = [self.model.get_submodule(name) for name in linear_layers(self.model)]
        eighth = sum(layer.weight.numel() for layer in layers)
        rows = sum(layer.out_features for layer in layers)
        return eighth + 4 * rows + B * (self.parameters(self.model) - eighth)

    def vision(self) -> list[float]:
        """Return what each block keeps of a sample."""
        tower = self.model.backbone.model.visual
        merger = 1.2 * self.traffic(tower.merger) * self.image_tokens
        return [1.2 * self.traffic(block) * self.patches for block in tower.blocks] + [merger]

    def language(self) -> list[float]:
        """Return what each layer keeps of a sample."""
        text = self.model.backbone.config.text_config
        chunked = -(-self.tokens // 64) * 64
        queries = (text.num_attention_heads + text.num_key_value_heads) * text.head_dim
        values = text.linear_num_value_heads * text.linear_value_head_dim
        kept = []
        for layer, kind in zip(
            self.model.backbone.model.language_model.layers, text.layer_types, strict=True
        ):
            full = kind == 'full_attention'
            normed = 2 * text.hidden_size + (queries if full else 0)
            plain = (self.traffic(layer) + 10 * normed) * self.tokens
            kept.append(plain + (0 if full else 80 * values * chunked))
        return kept

    def action(self) -> list[float]:
        """Return what each block of the decoder keeps of a sample."""
        width, horizon = self.decoder.width, self.decoder.horizon
        joint = self.decoder.attention == 'joint'
        blocks = self.model.decoder.blocks
        kept = []
        for block in blocks:
            linear = self.traffic(block, (block.modulation,))
            seen = linear
            if not joint and block is blocks[-1]:
                seen = self.traffic(block.qkv)  # nobody reads what would follow
            context = (seen + (30 if joint else 15) * B * width) * self.tokens
            kept.append(context + (linear + 30 * B * width) * horizon)
        return kept

    def cache(self) -> float:
        """Return the context's keys and values in the decoder, which `prefix` mode keeps."""
        if self.decoder.attention != 'prefix':
            return 0.0
        return 2.0 * B * self.decoder.blocks * self.decoder.width * self.tokens


def estimate(config: QwenVLAConfig, load: Load) -> list[Need]:
    """Return what each use of a model needs, from the smallest ambition to the largest."""
    sizes = Sizes(config, load)
    model, batch = sizes.model, load.batch
    vision, language, action = sizes.vision(), sizes.language(), sizes.action()
    alive = 0.6 * max(*vision, *language, *action)
    bf16, int8 = B * sizes.parameters(model), sizes.int8_bytes()
    decoder = sizes.parameters(model.decoder)
    adapted = [model.get_submodule(name) for name in adapted_layers(model, ADAPTERS)]
    adapters = ADAPTERS.rank * sum(layer.in_features + layer.out_features for layer in adapted)
    widened = Sizes(config, load, adapted=True)
    lora = sum(widened.language()) + sum(widened.action()) + max(vision)
    rank = f'rank {ADAPTERS.rank}'

    def need(
        use: str, weights: float, state: tuple[float, float], kept: float, cached: float = 0.0
    ) -> Need:
        return Need(use, weights, *state, kept * batch, cached * batch, batch)

    nothing, trained = (0.0, 0.0), (4.0 * adapters, 8.0 * adapters)
    return [
        need('inference, 8-bit weights', int8, nothing, alive, sizes.cache()),
        need('inference, bfloat16', bf16, nothing, alive, sizes.cache()),
        need(f'LoRA {rank} on 8-bit weights', int8 + 4 * adapters, trained, lora),
        need(f'LoRA {rank}', bf16 + 4 * adapters, trained, lora),
        need(
            'decoder alone, backbone frozen',
            bf16,
            (2.0 * decoder, 12.0 * decoder),
            sum(action) + max(*vision, *language),
        ),
        need(
            'everything',
            bf16,
            (float(bf16), 6.0 * bf16),
            sum(vision) + sum(language) + sum(action),
        ),
    ]


def gpu_memory(text: str | None) -> tuple[float, str]:
    """Return bytes and where the figure is from; text as '24GB' or '24GiB', None asks the GPU."""
    if text is None:
        if not torch.cuda.is_available():
            raise QwenVlaError('this machine has no GPU; name its memory, e.g. --gpu 24GB')
        properties = torch.cuda.get_device_properties(0)
        return float(properties.total_memory), str(properties.name)
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*(GB|GiB)?', text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise QwenVlaError(f'--gpu {text!r}: give its memory, e.g. 24GB')
    unit = 2**30 if (match[2] or '').lower() == 'gib' else 1e9
    return float(match[1]) * unit, 'as given'


def describe(name: str, memory: float, source: str, load: Load) -> str:
    """Return the table of a preset or checkpoint folder."""
    config = read_config(Path(name)) if Path(name).is_dir() else preset(name)
    sizes = Sizes(config, load)
    model = sizes.model
    parts = {
        'vision': model.backbone.model.visual,
        'language': model.backbone.model.language_model,
        'decoder': model.decoder,
    }
    lines = [
        f'{name}: {_count(sizes.parameters(model))} parameters ('
        + ', '.join(f'{part} {_count(sizes.parameters(m))}' for part, m in parts.items())
        + f'), {config.decoder.attention} attention',
        f'batch {load.batch}, {load.views} views of {load.image}x{load.image} = '
        f'{sizes.image_tokens} image tokens, {load.text} of text; '
        f'{memory / 1e9:.1f} GB of GPU memory ({source})',
        '',
        f'{"GB":32}' + ''.join(f'{c:>12}' for c in (*COLUMNS, 'total')) + '  fits  largest batch',
    ]
    for need in estimate(config, load):
        numbers = [*(getattr(need, column) for column in COLUMNS), need.total]
        most = need.largest_batch(memory)
        lines.append(
            f'{need.use:32}'
            + ''.join(f'{number / 1e9:12.2f}' for number in numbers)
            + f'  {"yes" if need.total <= memory else "no":4}{most or "-":>15}'
        )
    lines.append(
        f'\nAn estimate; total includes {RESERVE / 1e9:.2f} GB for the CUDA context. Activations '
        "without recomputation, DeltaNet in\ntorch's own form (flash-linear-attention needs "
        'less). model/memory.py has the formulas.'
    )
    return '\n'.join(lines)


def _count(parameters: int) -> str:
    return f'{parameters / 1e9:.2f} B' if parameters >= 1e8 else f'{parameters / 1e6:.1f} M'
