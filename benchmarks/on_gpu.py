"""
The model at full size on a GPU: latency of each path against its floor, memory, training step.

    python -m benchmarks.on_gpu --out DIR    # 4b on the first GPU; leaves table.md, table.json
    python -m benchmarks.on_gpu --model tiny --device cpu --out DIR    # shows the script itself

Random weights (the time does not depend on them), bfloat16 on a GPU, a new frame for every camera
in every call, so nothing is reused but the compiled code. The baseline `transformers` is its own
forward pass with its image input, then the plain Euler loop. Outputs of every path are compared
with the eager engine before anything is timed.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from benchmarks.roofline import DEVICES, Device, stages, training_tflop
from qwen_vla_ros.model.config import QwenVLAConfig, preset
from qwen_vla_ros.model.engine import Engine, EngineOptions, kernel_paths
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.sampling import solve

WORDS, VIEWS = 100, 3


def build(name: str, attention: str, device: torch.device) -> QwenVLA:
    """Return a model with random weights, made where it runs."""
    plain = preset(name)
    decoder = dataclasses.replace(plain.decoder, attention=attention)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device.type == 'cuda' else torch.float32)
    try:
        with device:
            model = QwenVLA(dataclasses.replace(plain, decoder=decoder))
    finally:
        torch.set_default_dtype(before)
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def sample(model: QwenVLA, side: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return one observation as tokens and patches: new pixels, the same sentence."""
    config = model.backbone.config
    patch, merge = config.vision_config.patch_size, config.vision_config.spatial_merge_size
    patches = (side // patch) ** 2
    image = [config.image_token_id] * (patches // merge**2)
    ids = []
    for _ in range(VIEWS):
        ids += [config.vision_start_token_id, *image, config.vision_end_token_id]
    text = np.random.default_rng(0).integers(10, 400, WORDS - 2 * VIEWS)
    ids = np.array([*ids, *text])
    decoder = model.config.decoder
    return {
        'input_ids': ids,
        'mm_token_type_ids': (ids == config.image_token_id).astype(np.int64),
        'pixel_values': rng.integers(0, 256, (VIEWS * patches, 3 * patch * patch), np.uint8),
        'image_grid_thw': np.array([[1, side // patch, side // patch]] * VIEWS),
        'state': rng.normal(size=decoder.state_dim).astype(np.float32),
        'action_mask': np.ones((decoder.horizon, decoder.action_dim), bool),
        'actions': rng.normal(size=(decoder.horizon, decoder.action_dim)).astype(np.float32),
    }


def transformers_path(model: QwenVLA, steps: int) -> Callable[..., torch.Tensor]:
    """Return the baseline: transformers' forward, then the plain loop over the plain decoder."""
    vision = model.backbone.config.vision_config

    @torch.no_grad()
    def infer(samples: list[dict[str, Any]], noise: torch.Tensor) -> torch.Tensor:
        batch = model.collate(samples)
        frame = (batch['pixel_values'].float() / 127.5 - 1).view(-1, 3, 1, vision.patch_size**2)
        pixels = frame.expand(-1, -1, vision.temporal_patch_size, -1).flatten(1)
        hidden = model.backbone.model(
            input_ids=batch['input_ids'],
            attention_mask=torch.ones_like(batch['input_ids']),
            mm_token_type_ids=batch['mm_token_type_ids'],
            pixel_values=pixels,
            image_grid_thw=batch['image_grid_thw'].to(model.device),
            use_cache=False,
        ).last_hidden_state
        context = model.decoder.context(hidden, batch['position_ids'], None, batch.get('state'))
        mask = batch['action_mask'].to(noise.dtype)
        return solve(model.velocity(context), noise.to(model.device), steps, mask)

    return infer


def timed_ms(call: Callable[[], Any], device: torch.device, rounds: int) -> np.ndarray:
    """Return the time of each call in ms, waiting for the device."""
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        found.append((time.perf_counter() - begin) * 1e3)
    return np.array(found)


def peak_gb(device: torch.device) -> float | None:
    """Return the most memory held since the last call, in GB; None on a CPU."""
    if device.type != 'cuda':
        return None
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return round(peak, 2)


def inference_rows(
    name: str, attention: str, side: int, steps: int, device: torch.device, rounds: int
) -> list[dict[str, Any]]:
    """Return a row a path: compared first, then timed in turns."""
    model = build(name, attention, device)
    rng = np.random.default_rng(0)
    noise = torch.randn(model.noise_shape(1), generator=torch.Generator().manual_seed(0))
    paths = ['eager', *(('graph', 'compile') if device.type == 'cuda' else ())]
    engines = {
        path: Engine(model, steps, EngineOptions(path=path, frames=0)).sample_actions
        for path in paths
    }
    engines = {'transformers': transformers_path(model, steps), **engines}
    first = sample(model, side, rng)
    wanted = engines['eager']([first], noise)
    rows = []
    for path, infer in engines.items():
        difference = float((infer([first], noise) - wanted).abs().max())
        for _ in range(3):
            infer([sample(model, side, rng)], noise)
        peak_gb(device)
        fresh = iter([[sample(model, side, rng)] for _ in range(rounds)])
        times = timed_ms(lambda run=infer, items=fresh: run(next(items), noise), device, rounds)
        p50, p95 = np.percentile(times, (50, 95))
        row = {'attention': attention, 'side_px': side, 'steps': steps, 'path': path}
        row |= {'p50_ms': round(float(p50), 2), 'p95_ms': round(float(p95), 2)}
        rows.append(row | {'difference': difference, 'memory_gb': peak_gb(device)})
    return rows


def training_row(name: str, side: int, device: torch.device, batch: int) -> dict[str, Any]:
    """Return samples a second of forward, backward and one AdamW step, everything trained."""
    model = build(name, 'joint', device).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-5, fused=device.type == 'cuda')
    rng = np.random.default_rng(0)
    samples = [sample(model, side, rng) for _ in range(batch)]
    model.backbone.activation_checkpointing_enable()

    def step() -> None:
        model.loss(model.collate(samples), torch.Generator().manual_seed(0)).mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    timed_ms(step, device, 2)
    peak_gb(device)
    ms = float(np.median(timed_ms(step, device, 5)))
    rate = batch / ms * 1e3
    return {
        'side_px': side,
        'batch': batch,
        'samples_per_s': round(rate, 3),
        'memory_gb': peak_gb(device),
    }


def with_floor(row: dict[str, Any], config: QwenVLAConfig, peak: Device | None) -> dict[str, Any]:
    """Add the floor and the ratio to it."""
    if peak is None:
        return row
    decoder = dataclasses.replace(config.decoder, attention=row['attention'])
    config = dataclasses.replace(config, decoder=decoder)
    found = stages(config, VIEWS, row['side_px'], WORDS, row['steps'])
    floor = sum(stage.floor_ms(peak) for stage in found)
    return row | {'floor_ms': round(floor, 2), 'times_floor': round(row['p50_ms'] / floor, 2)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ['| ' + ' | '.join(keys) + ' |', '|' + '---|' * len(keys)]
    for row in rows:
        lines.append('| ' + ' | '.join(str(row.get(key, '')) for key in keys) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--model', default='4b', help='preset (default: 4b)')
    parser.add_argument('--device', default='cuda', help='cuda or cpu (default: cuda)')
    parser.add_argument('--rounds', type=int, default=30, help='calls a path (default: 30)')
    parser.add_argument('--batch', type=int, default=8, help='of the training step (default: 8)')
    parser.add_argument('--sides', default='512,256', help='image sizes (default: 512,256)')
    parser.add_argument('--steps', default='4,10', help='denoising steps (default: 4,10)')
    parser.add_argument('--out', type=Path, required=True, help='folder of table.md, table.json')
    args = parser.parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('no CUDA GPU here; --device cpu --model tiny shows the script itself')
    device = torch.device(args.device)
    card = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    peak = next((found for name, found in DEVICES.items() if name in card), None)
    config, sides = preset(args.model), [int(side) for side in args.sides.split(',')]
    rows = [
        with_floor(row, config, peak)
        for side in sides
        for attention in ('prefix', 'joint')
        for steps in map(int, args.steps.split(','))
        for row in inference_rows(args.model, attention, side, steps, device, args.rounds)
    ]
    training = []
    for side in sides:
        row = training_row(args.model, side, device, args.batch)
        tflop = training_tflop(config, VIEWS, side, WORDS)
        row['tflop_per_sample'] = round(tflop, 4)
        if peak is not None:
            row['mfu'] = round(row['samples_per_s'] * tflop / peak.tflops, 3)
        training.append(row)
    facts = {**machine(), 'gpu': card, 'torch': torch.__version__, **kernel_paths()}
    args.out.mkdir(parents=True, exist_ok=True)
    found = {'machine': facts, 'model': args.model, 'inference': rows, 'training': training}
    (args.out / 'table.json').write_text(json.dumps(found, indent=2) + '\n')
    text = f'{facts}\n\n{table(rows)}\n\n{table(training)}\n'
    (args.out / 'table.md').write_text(text)
    print(text)


if __name__ == '__main__':
    main()
