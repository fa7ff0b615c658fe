"""
The loop of the parts that come before the stages: each trains a few layers on much data.

OUT/log.jsonl   a line a step: the loss by name, the gradient's norm, now and then held-out figures
OUT/state       the last state; a killed part goes on from it to the same losses

What a step draws comes from (seed, step) alone.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, cpu, nn
from tqdm import tqdm

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.interruption import noted_signals
from qwen_vla_ros.train.ranks import Ranks
from qwen_vla_ros.train.run_state import (
    adam_tensors,
    last_state,
    load_state,
    read_facts,
    save_state,
    set_adam_step,
)

# bfloat16 where this CPU multiplies in it; on others it takes three times as long as float32.
FAST = 'bfloat16' if cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported() else 'float32'
LAST_RATE = 0.02  # of the peak
BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class Part:
    """
    What a part trains, and how.

    groups: (weights, peak rate); losses: a step's losses by name, the first of which counts with
    weight 1 and the others as told in weights; held_out: figures by set, every `look` steps
    """

    name: str
    groups: Sequence[tuple[Sequence[nn.Parameter], float]]
    losses: Callable[[int], Mapping[str, Tensor]]
    held_out: Callable[[], Mapping[str, Mapping[str, float]]]
    warm_up: int
    look: int
    weights: Mapping[str, float]


def fit(part: Part, steps: int, out: Path, save: int = 500) -> float | None:
    """
    Train in place, write OUT, and return the seconds of its steps; None when a signal stopped it.

    QwenVlaError for a loss that is not finite, a full disk, or a state of another part.
    """
    run = _Run(part, steps, out)
    stopping: list[int] = []
    bar = tqdm(total=steps, initial=run.step, desc=part.name, unit='step')
    with noted_signals(stopping.append), bar, (out / 'log.jsonl').open('a') as log:
        while run.step < steps:
            entry = run.take()
            log.write(json.dumps(entry) + '\n')
            log.flush()
            bar.set_postfix(
                {n: f'{entry[n]:.4f}' for n in part.weights if n in entry}, refresh=False
            )
            bar.update()
            if stopping or run.step % save == 0:
                run.save()
            if stopping:
                return None
    return run.seconds


class _Run:
    """Weights, optimiser and the number of steps taken."""

    def __init__(self, part: Part, steps: int, out: Path) -> None:
        """Take up the state that lies in `out`, and cut the log back to it."""
        self.part, self.steps, self.out = part, steps, out
        groups = [{'params': list(own), 'peak': peak} for own, peak in part.groups]
        self.optimiser = torch.optim.AdamW(groups, betas=BETAS)
        self.own = [weight for own, _ in part.groups for weight in own]
        self.named = {f'{index}': weight for index, weight in enumerate(self.own)}
        self.step, self.seconds = 0, 0.0
        out.mkdir(parents=True, exist_ok=True)
        if (state := last_state(out / 'state')) is not None:
            facts = read_facts(state)
            if (facts.get('part'), facts.get('steps')) != (part.name, steps):
                told = f'{facts.get("part")} of {facts.get("steps")} steps'
                raise QwenVlaError(f'{state}: belongs to {told}; choose another --out')
            load_state(state, adam_tensors(self.named, self.optimiser), Ranks())
            self.step, self.seconds = facts['step'], facts['seconds']
            set_adam_step(self.named, self.optimiser, self.step)
        log = out / 'log.jsonl'
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        beside = log.with_suffix('.beside')
        beside.write_text(''.join(lines[: self.step]))
        beside.rename(log)

    def take(self) -> dict[str, Any]:
        """Take a step and return what is told of it."""
        part, started = self.part, time.monotonic()
        now = cosine(self.step, self.steps, part.warm_up)
        for group in self.optimiser.param_groups:
            group['lr'] = group['peak'] * now
        losses = part.losses(self.step)
        self.optimiser.zero_grad()
        sum(part.weights[name] * loss for name, loss in losses.items()).backward()
        norm = float(nn.utils.clip_grad_norm_(self.own, 1.0))
        if not math.isfinite(norm):
            raise QwenVlaError(
                f'{part.name}: step {self.step + 1}: the gradient is not finite; '
                f'{self.out / "state"} has the last good weights'
            )
        self.optimiser.step()
        self.step += 1
        self.seconds += time.monotonic() - started
        entry: dict[str, Any] = {'step': self.step}
        entry |= {name: float(loss.detach()) for name, loss in losses.items()}
        entry |= {'gradient_norm': norm, 'rate': now}
        if self.step % part.look == 0 or self.step == self.steps:
            entry['held_out'] = part.held_out()
        return entry

    def save(self) -> None:
        """Write the state; the one before stays until this one is whole."""
        facts = {'part': self.part.name, 'steps': self.steps, 'seconds': self.seconds}
        save_state(
            self.out / 'state',
            self.step,
            adam_tensors(self.named, self.optimiser),
            facts,
            Ranks(),
        )


def fast() -> torch.autocast:
    """Return the context in which a CPU computes fastest."""
    return torch.autocast('cpu', torch.bfloat16, enabled=FAST == 'bfloat16')


def cosine(step: int, steps: int, warm_up: int) -> float:
    """Return the factor of a rate: linear warm-up, then a cosine to LAST_RATE."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2
