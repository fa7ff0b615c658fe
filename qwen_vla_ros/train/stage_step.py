"""
One optimiser step of a supervised stage: passes, losses, gradients, on one process or many.

Noise comes from (seed, draw) alone, so neither the number of processes nor the split into passes
changes a step, but for rounding.
"""

import contextlib
import math
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.adapters import PARTS
from qwen_vla_ros.model.placement import DTYPES
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.readout import LEARNT_APART
from qwen_vla_ros.train.losses import Losses
from qwen_vla_ros.train.mixed_batch import collate_mixed, draw_each, generator_of
from qwen_vla_ros.train.pointing import told_of
from qwen_vla_ros.train.ranks import Ranks, own_rows, shard
from qwen_vla_ros.train.recipe import Recipe
from qwen_vla_ros.train.run_state import last_state
from qwen_vla_ros.train.taken import Taken
from qwen_vla_ros.train.watch import Tally

BETAS = (0.9, 0.95)
NOISE = 1  # told apart from the mixture's own draws of the same seed
LOSSES = ('action', 'text', 'pointing', 'draft')
DRAFT_WEIGHT = 0.5  # of the loss
ALONE = Ranks()


def rate(recipe: Recipe, step: int) -> float:
    """Return the factor of the learning rates: linear warm-up, then a cosine to last_rate."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    low = recipe.last_rate
    return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2


class StageStep:
    """A model in training with its optimiser; step counts the steps taken."""

    def __init__(
        self,
        recipe: Recipe,
        model: QwenVLA,
        out: Path,
        ranks: Ranks = ALONE,
        repeated: bool = False,
    ) -> None:
        """
        Spread the model over the processes.

        repeated: every process holds the whole model, which suits small ones
        """
        if recipe.batch % (ranks.world * recipe.passes * recipe.sentences):
            raise QwenVlaError(
                f'train {recipe.stage}: a batch of {recipe.batch} does not divide into '
                f'{ranks.world} processes of {recipe.passes} passes'
                + f' with {recipe.sentences} sentences a picture'
                * (recipe.sentences > 1)
            )
        self.recipe, self.model, self.out, self.ranks = recipe, model, out, ranks
        self.device = self.model.device
        self.losses = Losses(self.model, recipe.trains_backbone)
        self.losses.train()
        self.sharded = ranks.world > 1 and not (recipe.adapters or repeated)
        if self.sharded:
            layers = list(self.model.backbone.model.language_model.layers)
            shard(self.losses, layers, ranks, DTYPES[recipe.dtype])
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(self._groups(), lr=0.0, betas=BETAS)
        self.average = (
            {n: p.detach().clone() for n, p in self.trained.items()} if recipe.ema else {}
        )
        self.step, self.stopping, self.tally = 0, 0, Tally()

    def _groups(self) -> list[dict[str, Any]]:
        """Return parameter groups: VLM and decoder at their rates, decay for matrices only."""
        groups = []
        recipe, readout = self.recipe, self.recipe.readout_share * self.recipe.decoder_rate
        parts = {
            'backbone.': recipe.backbone_rate,
            **{f'decoder.readout.{part}': readout for part in LEARNT_APART},
            'decoder.': recipe.decoder_rate,
        }
        left = dict(self.trained)
        for prefix, peak in parts.items():
            own = [left.pop(name) for name in list(left) if name.startswith(prefix)]
            for decay, chosen in (
                (self.recipe.weight_decay, [p for p in own if p.ndim > 1]),
                (0.0, [p for p in own if p.ndim <= 1]),
            ):
                if chosen:
                    groups.append({'params': chosen, 'weight_decay': decay, 'peak': peak})
        return groups

    def train_step(self, taken: Sequence[Taken]) -> dict[str, float]:
        """Take one optimiser step; QwenVlaError when loss or gradient are not finite."""
        recipe, ranks = self.recipe, self.ranks
        counts = ranks.sums(
            [
                float(sum(t.acting is not None for t in taken)),
                float(sum(t.answering is not None for t in taken)),
                float(sum(bool(t.sample.points) for t in taken)) if self._points else 0.0,
                float(sum(t.acting is not None for t in taken)) if self._drafts else 0.0,
            ],
            self.device,
        )
        factor = rate(recipe, self.step)
        for group in self.optimiser.param_groups:
            group['lr'] = group['peak'] * factor
        self.optimiser.zero_grad(set_to_none=True)
        local = [0.0] * len(LOSSES)
        for part in self._parts(taken):
            for index, value in enumerate(self._pass(part, counts)):
                local[index] += value
        squares = self._gradients()
        told = ranks.sums([*local, float(self.stopping)], self.device)
        if self.sharded:
            squares = ranks.sums(squares, self.device)
        self.stopping = int(told[-1] > 0) and (self.stopping or signal.SIGTERM)
        norm = math.sqrt(sum(squares))
        entry = {'gradient_norm': norm, 'rate': factor}
        for name, total, count in zip(LOSSES, told, counts, strict=False):
            if count:
                entry[name] = total / count
        if not math.isfinite(sum(entry.values())):
            raise QwenVlaError(
                f'{self.out}: step {self.step + 1}: loss or gradient is not finite '
                f'({", ".join(f"{k} {v:.4g}" for k, v in entry.items())}); nothing was changed '
                f'by it. The last good state: {last_state(self.out / "state")}'
            )
        if norm > recipe.clip:
            for parameter in self.trained.values():
                own_rows(parameter.grad).mul_(recipe.clip / norm)
        self.optimiser.step()
        with torch.no_grad():
            for name, value in self.average.items():
                own_rows(value).lerp_(own_rows(self.trained[name]), 1 - recipe.ema)
        for part_name, square in zip(PARTS, squares, strict=True):
            if ranks.first:
                self.tally.add(f'gradient/{part_name}', math.sqrt(square))
        return entry

    @property
    def _points(self) -> bool:
        return bool(self.model.config.decoder.readout_points) and self.recipe.images

    @property
    def _drafts(self) -> bool:
        return self.model.config.decoder.readout_draft

    def _parts(self, taken: Sequence[Taken]) -> list[Sequence[Taken]]:
        """
        Return the passes of a step, one after another on this process.

        FSDP gathers weights pass by pass, so there every process has as many as the others;
        otherwise a pass holds what is alike.
        """
        part = len(taken) // self.recipe.passes
        equal = [taken[begin : begin + part] for begin in range(0, len(taken), part)]
        if self.sharded:
            return equal
        forms = [sorted({one.form for one in some}) for some in equal]
        return [
            [one for one in some if one.form == form]
            for some, own in zip(equal, forms, strict=True)
            for form in own
        ]

    def _pass(self, taken: Sequence[Taken], counts: Sequence[float]) -> tuple[float, ...]:
        """Run samples forward and back; return the sums of the losses."""
        recipe = self.recipe
        acting = [t for t in taken if t.acting is not None]
        answering = [t for t in taken if t.answering is not None]
        shared = recipe.sentences > 1 and not self.sharded
        pictures = [t.draw for t in (*acting, *answering)] if shared else None
        batch = collate_mixed(
            self.model, [t.acting for t in acting], [t.answering for t in answering], pictures
        )
        drawn = None
        if acting:
            seeds = [(recipe.seed, NOISE, t.draw, t.sentence) for t in acting]
            drawn = draw_each(self.model, [t.acting for t in acting], recipe.draws, seeds)
            if 'points' in batch and recipe.told:
                batch |= self._told(batch, seeds)
        narrow = recipe.dtype != 'float32'
        on_cpu = narrow and self.device.type == 'cpu'
        # There flash attention takes twice as long back in bfloat16.
        plain = sdpa_kernel(SDPBackend.MATH) if on_cpu else contextlib.nullcontext()
        with plain, torch.autocast(self.device.type, DTYPES[recipe.dtype], enabled=narrow):
            action, channel, text, *others = self.losses(batch, drawn)
        text = text[len(acting) :]
        # FSDP takes the mean over processes; ours is the mean over all samples of the step.
        weights = (recipe.action_weight, recipe.text_weight, recipe.pointing_weight, DRAFT_WEIGHT)
        losses = (action, text, *others)
        parts = [
            (weight * loss.sum() * self.ranks.world / max(1.0, count))
            for weight, loss, count in zip(weights, losses, counts, strict=True)
        ]
        sum(parts).backward()
        self._tally(acting, action, channel, answering, text)
        return tuple(float(loss.detach().sum()) for loss in losses)

    def _told(
        self, batch: Mapping[str, Tensor], seeds: Sequence[tuple[int, ...]]
    ) -> dict[str, Tensor]:
        """Return what the samples are told of their points and values."""
        rows = zip(batch['points'].cpu(), batch['values'].cpu(), seeds, strict=True)
        told = [told_of(p, v, self.recipe.told, generator_of(seed)) for p, v, seed in rows]
        points, values = (torch.stack(part).to(self.device) for part in zip(*told, strict=True))
        return {'told': points, 'told_values': values}

    def _tally(
        self,
        acting: Sequence[Taken],
        action: Tensor,
        channel: Tensor,
        answering: Sequence[Taken],
        text: Tensor,
    ) -> None:
        """Add losses by source and by channel."""
        for taken, loss, row in zip(
            acting, action.detach().tolist(), channel.tolist(), strict=True
        ):
            sample = taken.sample
            self.tally.add(f'source/{sample.place.source}', loss)
            for name, value in zip(sample.action_names, row, strict=False):
                if value >= 0:
                    self.tally.add(f'channel/{sample.embodiment}/{name}', value)
        for taken, loss in zip(answering, text.detach().tolist(), strict=True):
            self.tally.add(f'text/{taken.sample.place.source}', loss)

    def _gradients(self) -> list[float]:
        """Return the squared gradient norm of each part; weights without gradient get zeros."""
        squares = dict.fromkeys(PARTS, 0.0)
        for name, parameter in self.trained.items():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradient = own_rows(parameter.grad)
            if self.ranks.world > 1 and not self.sharded:
                dist.all_reduce(gradient)
                gradient /= self.ranks.world
            part = next((p for p, prefix in PARTS.items() if name.startswith(prefix)), 'language')
            squares[part] += float(gradient.double().square().sum())
        return list(squares.values())

    def count_tflop(self, taken: Sequence[Taken]) -> float:
        """
        Return this process's arithmetic in a step, counted on a pass whose gradients are dropped.

        Counting takes operations apart and rounds otherwise, so it is never done in a real step.
        """
        held = {name: list(entry) for name, entry in self.tally.held.items()}
        with FlopCounterMode(display=False) as counter:
            for part in self._parts(taken):
                self._pass(part, [1.0] * len(LOSSES))
        self.optimiser.zero_grad(set_to_none=True)
        self.tally = Tally(held)
        return counter.get_total_flops() / 1e12
