"""
The loop of every supervised stage.

Draw n of the mixture and its noise come from (seed, n) alone, and a step takes the next `batch`
draws. So a run that was killed goes on as if it had not been, on any number of processes, and as
many processes as divide the batch give the same curve as one, to rounding.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from qwen_vla_ros.data.loader import Loader
from qwen_vla_ros.data.mixture import Mixture
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.model.adapters import fingerprint as checkpoint_fingerprint
from qwen_vla_ros.model.adapters import save_adapters
from qwen_vla_ros.model.checkpoint import save_checkpoint
from qwen_vla_ros.model.placement import build_empty, settle
from qwen_vla_ros.model.weights import fill, own_tensors
from qwen_vla_ros.train import films, held_out
from qwen_vla_ros.train.interruption import noted_signals
from qwen_vla_ros.train.ranks import Ranks, whole
from qwen_vla_ros.train.recipe import Recipe
from qwen_vla_ros.train.robots import Encoder, driven
from qwen_vla_ros.train.run_state import (
    adam_tensors,
    facts_of_same,
    last_state,
    load_state,
    save_state,
    set_adam_step,
)
from qwen_vla_ros.train.sources import DataSet, fingerprint, weighed
from qwen_vla_ros.train.stage_step import ALONE, StageStep
from qwen_vla_ros.train.start import Start
from qwen_vla_ros.train.supervised import machine
from qwen_vla_ros.train.taken import Taker
from qwen_vla_ros.train.watch import Tally, Watch, git_state, memory_gb, peak_tflops


@dataclass(frozen=True)
class Every:
    """How many steps apart things happen, and at the last one; look 0: never."""

    save: int = 200
    look: int = 500
    tell: int = 10


USUAL = Every()


class StageRun(StageStep):
    """A run from its first step, or its last state, to its checkpoint."""

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

        repeated: see StageStep
        loader makes the samples ahead, from the mixture of the very sets (training_mixture)
        """
        super().__init__(recipe, begun.model, out, ranks, repeated)
        self.sets, self.every, self.begun = sets, every, begun
        self.encoder = Encoder(self.model.config, begun.tokenizer, begun.robots, recipe.images)
        sources, families, self.shares = weighed(sets, recipe)
        self.mixture = loader or Mixture(
            sources, recipe.seed, families, rank=ranks.rank, world=ranks.world
        )
        self.taker = Taker(recipe, ranks, self.encoder, self.mixture, sets)
        self.seconds, self.tflop, self.figures = 0.0, 0.0, {}
        self.identity = {
            'recipe': asdict(recipe),
            'data': {data.episodes.source: fingerprint(data.episodes) for data in sets},
            'init': checkpoint_fingerprint(begun.before) if begun.before else '',
        }
        state = last_state(out / 'state')
        if state is not None:
            self._resume(state)

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
        facts = facts_of_same(state, self.identity)
        load_state(state, self._tensors(), self.ranks)
        self.step, self.seconds, self.figures = facts['step'], facts['seconds'], facts['figures']
        set_adam_step(self.trained, self.optimiser, self.step)
        if self.ranks.first:
            self.tally = Tally(facts['tally'])
        place = self.step * self.taker.drawn
        self.mixture.resume(
            {'seed': self.recipe.seed, 'world': self.ranks.world, 'position': place}
        )

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
            coming = ahead.submit(self.taker.take, stream)
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
        coming = ahead.submit(self.taker.take, stream)
        if not self.tflop:
            self.tflop = self.count_tflop(taken)
        entry = self.train_step(taken)
        self.step += 1
        took = time.monotonic() - begun
        self.seconds += took
        bar.set_postfix({k: f'{value:.3g}' for k, value in entry.items()}, refresh=False)
        bar.update()
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
