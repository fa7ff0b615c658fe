"""
The loop of every supervised stage.

Draw n of the mixture and its noise come from (seed, n) alone, and a step takes the next `batch`
draws. So a run that was killed goes on as if it had not been, on any number of processes, and as
many processes as divide the batch give the same curve as one, to rounding.
"""

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from qwen_vla_ros.data.loader import Loader
from qwen_vla_ros.data.mixture import Mixture
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.adapters import PARTS, save_adapters
from qwen_vla_ros.model.adapters import fingerprint as checkpoint_fingerprint
from qwen_vla_ros.model.checkpoint import save_checkpoint
from qwen_vla_ros.model.placement import DTYPES, build_empty, settle
from qwen_vla_ros.model.weights import fill, own_tensors
from qwen_vla_ros.train import films, held_out
from qwen_vla_ros.train.interruption import noted_signals
from qwen_vla_ros.train.losses import Losses
from qwen_vla_ros.train.mixed_batch import collate_mixed, draw_each
from qwen_vla_ros.train.pointing import pointing_part
from qwen_vla_ros.train.ranks import Ranks, own_rows, shard, whole
from qwen_vla_ros.train.recipe import Recipe
from qwen_vla_ros.train.robots import Encoder, acts, driven
from qwen_vla_ros.train.run_state import (
    adam_tensors,
    last_state,
    load_state,
    read_facts,
    save_state,
    set_adam_step,
)
from qwen_vla_ros.train.sources import DataSet, fingerprint, weighed
from qwen_vla_ros.train.start import Start
from qwen_vla_ros.train.supervised import machine
from qwen_vla_ros.train.watch import Tally, Watch, git_state, memory_gb, peak_tflops

BETAS = (0.9, 0.95)
NOISE, SENTENCES = 1, 2  # told apart from the mixture's own draws of the same seed
LOSSES = ('action', 'text', 'pointing')


@dataclass(frozen=True)
class Taken:
    """One encoded sample: its draw, and what it teaches; None: nothing of that kind."""

    draw: int
    sample: Sample
    acting: Mapping[str, Any] | None
    answering: Mapping[str, Any] | None
    sentence: int = 0  # of the draw's picture

    @property
    def form(self) -> tuple[int, ...]:
        """Return what samples of one pass should have in common, so that little is padding."""
        rows = 0 if self.acting is None else len(self.acting['actions'])
        return rows, len(self.sample.images)


@dataclass(frozen=True)
class Every:
    """How many steps apart things happen, and at the last one; look 0: never."""

    save: int = 200
    look: int = 500
    tell: int = 10


ALONE, USUAL = Ranks(), Every()


def rate(recipe: Recipe, step: int) -> float:
    """Return the factor of the learning rates: linear warm-up, then a cosine to last_rate."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    low = recipe.last_rate
    return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2


class StageRun:
    """The state of a run, and its steps."""

    def __init__(
        self,
        recipe: Recipe,
        sets: Sequence[DataSet],
        begun: Start,
        out: Path,
        ranks: Ranks = ALONE,
        every: Every = USUAL,
        loader: Loader | None = None,
        repeated: bool = False,
    ) -> None:
        """
        Spread the model over the processes and take up the state that lies in `out`.

        repeated: every process holds the whole model, which suits small ones
        loader makes the samples ahead, from the mixture of the very sets (training_mixture)
        """
        if recipe.batch % (ranks.world * recipe.passes * recipe.sentences):
            raise QwenVlaError(
                f'train {recipe.stage}: a batch of {recipe.batch} does not divide into '
                f'{ranks.world} processes of {recipe.passes} passes'
                + f' with {recipe.sentences} sentences a picture'
                * (recipe.sentences > 1)
            )
        self.recipe, self.sets, self.out, self.ranks = recipe, sets, out, ranks
        self.every, self.begun = every, begun
        self.model = begun.model
        self.device = self.model.device
        self.encoder = Encoder(self.model.config, begun.tokenizer, begun.robots, recipe.images)
        self.losses = Losses(self.model, recipe.trains_backbone, recipe.pointing_weight > 0)
        self.losses.train()
        if self.losses.pointing is not None:
            self.losses.pointing.to(self.device)
        self.sharded = ranks.world > 1 and not (recipe.adapters or repeated)
        if self.sharded:
            layers = list(self.model.backbone.model.language_model.layers)
            shard(self.losses, layers, ranks, DTYPES[recipe.dtype])
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if self.losses.pointing is not None:
            self.trained |= {
                f'pointing.{n}': p for n, p in self.losses.pointing.named_parameters()
            }
        self.optimiser = torch.optim.AdamW(self._groups(), lr=0.0, betas=BETAS)
        self.average = (
            {n: p.detach().clone() for n, p in self.trained.items()} if recipe.ema else {}
        )
        self._episodes = {data.episodes.source: data.episodes for data in sets}
        sources, families, self.shares = weighed(sets, recipe)
        self.mixture = loader or Mixture(
            sources, recipe.seed, families, rank=ranks.rank, world=ranks.world
        )
        self.step, self.seconds, self.tflop = 0, 0.0, 0.0
        self.tally, self.figures, self.stopping = Tally(), {}, 0
        self.identity = {
            'recipe': asdict(recipe),
            'data': {data.episodes.source: fingerprint(data.episodes) for data in sets},
            'init': checkpoint_fingerprint(begun.before) if begun.before else '',
        }
        state = last_state(out / 'state')
        if state is not None:
            self._resume(state)

    def _groups(self) -> list[dict[str, Any]]:
        """Return parameter groups: VLM and decoder at their rates, decay for matrices only."""
        groups = []
        for prefix, peak in (
            ('backbone.', self.recipe.backbone_rate),
            ('decoder.', self.recipe.decoder_rate),
            ('pointing.', self.recipe.backbone_rate),
        ):
            own = [p for name, p in self.trained.items() if name.startswith(prefix)]
            for decay, chosen in (
                (self.recipe.weight_decay, [p for p in own if p.ndim > 1]),
                (0.0, [p for p in own if p.ndim <= 1]),
            ):
                if chosen:
                    groups.append({'params': chosen, 'weight_decay': decay, 'peak': peak})
        return groups

    # State -------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        """Return what a state holds: weights, averages and Adam's moments, by name."""
        found = adam_tensors(self.trained, self.optimiser)
        return found | {f'average.{name}': value for name, value in self.average.items()}

    def save(self) -> None:
        """Write the state; the last good one stays until this one is whole."""
        self.tally.merge(self.ranks.gathered(self.tally.held))
        if not self.ranks.first:
            self.tally = Tally()
        facts = {
            **self.identity,
            'seconds': self.seconds,
            'tally': self.tally.held,
            'figures': self.figures,
        }
        save_state(self.out / 'state', self.step, self._tensors(), facts, self.ranks)

    def _resume(self, state: Path) -> None:
        facts = read_facts(state)
        for key in self.identity:
            # JSON has no tuples, and neither has what was written.
            if facts[key] != json.loads(json.dumps(self.identity[key])):
                raise QwenVlaError(
                    f'{state}: belongs to a run with other settings ({key}); choose another --out'
                )
        load_state(state, self._tensors(), self.ranks)
        self.step, self.seconds, self.figures = facts['step'], facts['seconds'], facts['figures']
        set_adam_step(self.trained, self.optimiser, self.step)
        if self.ranks.first:
            self.tally = Tally(facts['tally'])
        place = self.step * self._drawn
        self.mixture.resume(
            {'seed': self.recipe.seed, 'world': self.ranks.world, 'position': place}
        )

    # A step ------------------------------------------------------------------------------------

    @property
    def _drawn(self) -> int:
        """Return how many draws a process takes for a step."""
        return self.recipe.batch // (self.ranks.world * self.recipe.sentences)

    def _take(self, stream: Iterator[Sample]) -> list[Taken]:
        """Return this process's samples of the next step, encoded."""
        found = []
        for _ in range(self._drawn):
            draw = self.mixture.position * self.ranks.world + self.ranks.rank
            told = self._with_further_sentences(next(stream), draw)
            found += [self._encoded(draw, sample, number) for number, sample in enumerate(told)]
        return found

    def _encoded(self, draw: int, sample: Sample, sentence: int) -> Taken:
        acting = self.encoder.acting(sample) if acts(sample) else None
        asked = sample.text and self.recipe.text_weight and self.recipe.trains_backbone
        answering = self.encoder.answering(sample) if asked else None
        if acting is None and answering is None:
            raise sample.place.refuse(
                'sample', f'neither actions nor words to learn at {self.recipe.stage}'
            )
        return Taken(draw, sample, acting, answering, sentence)

    def _with_further_sentences(self, sample: Sample, draw: int) -> list[Sample]:
        """Return a sample and others of the same picture, where its set tells any."""
        episodes = self._episodes[sample.place.source]
        if self.recipe.sentences == 1 or not hasattr(episodes, 'same_picture'):
            return [sample]
        place = sample.place
        others = episodes.same_picture(place.episode, place.frame)
        others = np.random.default_rng((self.recipe.seed, SENTENCES, draw)).permutation(others)
        chosen = others[: self.recipe.sentences - 1].tolist()
        further = (episodes.sample(place.episode, number) for number in chosen)
        return [sample, *(replace(one, images=sample.images) for one in further)]

    def train_step(self, taken: Sequence[Taken]) -> dict[str, float]:
        """Take one optimiser step; QwenVlaError when loss or gradient are not finite."""
        recipe, ranks = self.recipe, self.ranks
        counts = ranks.sums(
            [
                float(sum(t.acting is not None for t in taken)),
                float(sum(t.answering is not None for t in taken)),
                float(sum(t.sample.point is not None for t in taken)) if self._points else 0.0,
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
        return self.losses.pointing is not None

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
        if self._points:
            points = [t.sample.point for t in acting]
            merge = self.model.backbone.model.visual.spatial_merge_size
            found = pointing_part(points, [t.acting for t in acting], merge)
            batch |= {key: value.to(self.device) for key, value in found.items()}
        drawn = None
        if acting:
            seeds = [(recipe.seed, NOISE, t.draw, t.sentence) for t in acting]
            drawn = draw_each(self.model, [t.acting for t in acting], recipe.draws, seeds)
        narrow = recipe.dtype != 'float32'
        with torch.autocast(self.device.type, DTYPES[recipe.dtype], enabled=narrow):
            action, channel, text, pointed = self.losses(batch, drawn)
        text = text[len(acting) :]
        # FSDP takes the mean over processes; ours is the mean over all samples of the step.
        weights = (recipe.action_weight, recipe.text_weight, recipe.pointing_weight)
        parts = [
            (weight * loss.sum() * self.ranks.world / max(1.0, count))
            for weight, loss, count in zip(weights, (action, text, pointed), counts, strict=True)
        ]
        sum(parts).backward()
        self._tally(acting, action, channel, answering, text)
        return tuple(float(loss.detach().sum()) for loss in (action, text, pointed))

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

    # The run -----------------------------------------------------------------------------------

    def fit(self, wandb: str | None = None) -> bool:
        """Run to the end, or until a signal; return whether the end was reached."""
        watch = None
        if self.ranks.first:
            self.out.mkdir(parents=True, exist_ok=True)
            watch = Watch(self.out, self.step, wandb, self.identity)
            self._describe()
        bar = tqdm(
            total=self.recipe.steps,
            initial=self.step,
            desc=self.recipe.stage,
            unit='step',
            disable=not self.ranks.first,
        )
        with contextlib.closing(bar), ThreadPoolExecutor(1) as ahead, noted_signals(self._stop):
            stream = iter(self.mixture)
            coming = ahead.submit(self._take, stream)
            while self.step < self.recipe.steps and not self.stopping:
                coming = self._one(ahead, coming, stream, bar, watch)
            if self.step < self.recipe.steps:
                self.save()
        if watch is not None:
            watch.close()
        return self.step >= self.recipe.steps

    def _one(
        self,
        ahead: ThreadPoolExecutor,
        coming: Future,
        stream: Iterator[Sample],
        bar: tqdm,
        watch: Watch | None,
    ) -> Future:
        """Take a step and do what is due after it; return the samples of the next."""
        begun = time.monotonic()
        taken = coming.result()
        waited = time.monotonic() - begun
        coming = ahead.submit(self._take, stream)
        if not self.tflop:
            self.tflop = self._count_tflop(taken)
        entry = self.train_step(taken)
        self.step += 1
        took = time.monotonic() - begun
        self.seconds += took
        bar.update()
        bar.set_postfix({key: f'{value:.3g}' for key, value in entry.items()})
        report: dict[str, Any] = dict(entry)
        if self.step % self.every.tell == 0 or self.step == self.recipe.steps:
            self.tally.merge(self.ranks.gathered(self.tally.held))
            report |= {'means': self.tally.means(), 'speed': self._speed(took, waited)}
            self.tally = Tally()
        last = self.step == self.recipe.steps
        if self.every.look and (last or self.step % self.every.look == 0):
            report['held_out'] = self._look(watch)
        if self.every.look and last:
            self._film(watch)
        if watch is not None:
            watch.tell(self.step, report)
        if self.step % self.every.save == 0 or self.step == self.recipe.steps:
            self.save()
        return coming

    def _count_tflop(self, taken: Sequence[Taken]) -> float:
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

    def _speed(self, took: float, waited: float) -> dict[str, float]:
        """Return figures of this process's last step."""
        found = {
            'seconds': took,
            'waited_for_data': waited,
            'samples_per_second': self.recipe.batch / took,
            'tflops': self.tflop / took,
            'memory_gb': memory_gb(self.device),
            'skipped_samples': float(sum(self.mixture.skipped.values())),
        }
        peak = peak_tflops(self.device)
        if peak:
            found['mfu'] = self.tflop / took / peak
        return found

    def _look(self, watch: Watch | None) -> dict[str, dict[str, float]]:
        """Return the held-out figures of every source, and draw what was predicted."""
        found = {}
        for data in self.sets:
            samples = held_out.chosen(data)
            if not samples:
                continue
            predictions = held_out.predict(self.losses, self.encoder, samples)
            name = data.episodes.source
            found[name] = held_out.figures(self.encoder, predictions)
            if watch is not None:
                file = f'step-{self.step:08d}-{name.replace("/", "_")}.png'
                path = self.out / 'pictures' / file
                path.parent.mkdir(exist_ok=True)
                held_out.draw_predictions(predictions, f'{name}, step {self.step}', str(path))
                watch.picture(self.step, f'held_out/{name}', path)
        self.figures = found
        return found

    def _film(self, watch: Watch | None) -> None:
        """Film what is predicted along one held-out episode of every source."""
        for data in self.sets:
            samples = held_out.episode(data)
            if not samples:
                continue
            # Every process takes part: weights may be spread over all.
            predictions = held_out.predict(self.losses, self.encoder, samples)
            if watch is None:
                continue
            name, frames = data.episodes.source, films.film_frames(predictions)
            file = f'step-{self.step:08d}-{name.replace("/", "_")}.mp4'
            films.write_film(frames, self.out / 'films' / file)
            watch.film(self.step, f'held_out_film/{name}', frames, films.RATE_HZ)

    def _stop(self, number: int) -> None:
        """End the run after the present step."""
        self.stopping = number

    def _describe(self) -> None:
        """Write run.json: everything that this run is."""
        told = {
            **self.identity,
            'command': ' '.join(sys.argv),
            'git': git_state(),
            'machine': machine(self.device),
            'processes': self.ranks.world,
            'sharded': self.sharded,
            'init_folder': str(self.begun.before or ''),
            'shares': self.shares,
            'held_out_episodes': {d.episodes.source: len(d.held_out) for d in self.sets},
            'parameters': {
                'trained': sum(p.numel() for p in self.trained.values()),
                'all': sum(p.numel() for p in self.model.parameters()),
            },
        }
        beside = self.out / f'.run.json.{os.getpid()}'
        beside.write_text(json.dumps(told, indent=2) + '\n')
        beside.rename(self.out / 'run.json')

    def finish(self, command: str) -> Path:
        """Write the checkpoint, or the adapters, and return the folder."""
        folder = self.out / ('adapters' if self.recipe.adapters else 'checkpoint')
        if self.recipe.adapters:
            self._take_average()
            if self.ranks.first:
                save_adapters(self.model, folder, self.begun.before)
            return folder
        values = {
            name: whole(self.average.get(name, value))
            for name, value in own_tensors(self.model).items()
        }
        if self.ranks.first:
            model = build_empty(self.model.config)
            fill(model, values, (torch.device('cpu'), torch.float32))
            settle(model, torch.device('cpu'))
            dtype = torch.float32 if self.recipe.dtype == 'float32' else torch.bfloat16
            robots = driven(self.begun.robots)
            save_checkpoint(
                folder, model, self.begun.tokenizer, robots, self._facts(command), dtype
            )
        return folder

    def _take_average(self) -> None:
        with torch.no_grad():
            for name, value in self.average.items():
                self.trained[name].copy_(value)

    def _facts(self, command: str) -> dict[str, Any]:
        """Return training.json."""
        recipe = self.recipe
        found: dict[str, Any] = {
            'command': command,
            'stage': recipe.stage,
            'run': self.identity['recipe'],
            'data': self.identity['data'],
            'optimisation_seconds': round(self.seconds),
            'held_out': self.figures,
            'machine': machine(self.device),
        }
        learnt = recipe.text_weight and recipe.trains_backbone
        if learnt or self.begun.answers:
            found['text'] = {'weight': recipe.text_weight, 'stage': recipe.stage}
        return found
