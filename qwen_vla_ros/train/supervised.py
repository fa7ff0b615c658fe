"""
One supervised loop: phases of grounding and action learning over the same demonstrations.

Every step's data and noise come from (seed, phase, step) alone, so a run that was killed goes on
as if it had not been. Folder of a run: data/ (shards), state.pt (weights, optimiser, place),
log.jsonl, and at its end checkpoint/ with curves.png in it.
"""

import dataclasses
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import TrainedRobot, build_pipeline, save_checkpoint
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.initialise import with_vocabulary
from qwen_vla_ros.model.placement import choose_device
from qwen_vla_ros.model.processor import Processor, train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.sim.scene import COLOURS, SHAPES, TEMPLATES
from qwen_vla_ros.train.batches import Batches
from qwen_vla_ros.train.curves import draw_curves
from qwen_vla_ros.train.demonstrations import (
    HELD_OUT_SEEDS,
    TRAINING_SEEDS,
    DemonstrationPlan,
    load_demonstrations,
    make_demonstrations,
)
from qwen_vla_ros.train.grounding import GroundingHead
from qwen_vla_ros.train.measure import held_out_figures
from qwen_vla_ros.transforms import Quantiles


@dataclass(frozen=True)
class Phase:
    """
    Some steps with one mixture of losses; learning rates fall by a cosine to a tenth.

    pictures: distinct pictures a step, each with a sentence for each of its three objects.
    draws: noise draws a sample for the action loss. enough: the phase ends early when the share of
    held-out objects found within 2.5 cm reaches this (looked at every 500 steps; above 1 = never).
    """

    name: str
    steps: int
    backbone_rate: float
    decoder_rate: float
    grounding_weight: float
    action_weight: float
    pictures: int = 12
    draws: int = 4
    warm_up: int = 50
    enough: float = 2.0


@dataclass(frozen=True)
class TrainRun:
    """Everything that decides the weights."""

    preset: str
    phases: tuple[Phase, ...]
    scenes: int
    held_out_scenes: int = 150
    embodiment: str = 'widowx'
    layout: str = 'abs_joint'
    seed: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    disk_dtype: str = 'float16'


def vocabulary_texts(embodiment: Embodiment, layout: str) -> list[str]:
    """Return every sentence that the simulated task can say, inside the prompt."""
    names = [f'{colour} {shape}' for colour in COLOURS for shape in SHAPES]
    instructions = [template.format(name=name) for template in TEMPLATES for name in names]
    return [embodiment.prompt(text, layout=layout) for text in instructions]


def build_model(run: TrainRun, embodiment: Embodiment) -> tuple[QwenVLA, Any]:
    """Return a fresh model and the tokenizer trained on its text."""
    config = preset(run.preset)
    if config.inputs.history_frames:
        raise QwenVlaError(
            f'train {run.preset}: inputs.history_frames is {config.inputs.history_frames}, and '
            'these demonstrations have no past frames; set it to 0'
        )
    texts = vocabulary_texts(embodiment, run.layout)
    tokenizer = train_tokenizer(texts, 512, config.inputs.views)
    backbone = with_vocabulary(config.backbone, tokenizer, len(tokenizer))
    torch.manual_seed(run.seed)
    return QwenVLA(dataclasses.replace(config, backbone=backbone)), tokenizer


def compute_statistics(
    data: Mapping[str, np.ndarray], embodiment: Embodiment, layout: str
) -> dict[str, Quantiles]:
    """Return q01/q99 of the actions and of the state over all demonstrations."""
    names = embodiment.action_names(layout)
    actions = data['actions'].reshape(-1, len(names)).astype(np.float64)
    state = data['state'].astype(np.float64)
    return {
        'actions': _quantiles(names, actions),
        'state': _quantiles(embodiment.state_names, state),
    }


def _quantiles(names: tuple[str, ...], values: np.ndarray) -> Quantiles:
    """
    Return q01 and q99; a channel that hardly moves gets a floor of 1e-2 between them.

    Without the floor, sensor noise of a joint that the task never uses would fill [-1, 1].
    """
    low, high = np.quantile(values, (0.01, 0.99), axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 5e-3)
    return Quantiles(tuple(names), middle - half, middle + half)


def _until(run: dict[str, Any], begun: int) -> str:
    """Return a run's settings without the phases that have not begun: those may still change."""
    return json.dumps({**run, 'phases': run['phases'][:begun]}, sort_keys=True)


def _rate(phase: Phase, step: int) -> float:
    """Return the factor of the learning rates: linear warm-up, then a cosine to a tenth."""
    if step < phase.warm_up:
        return (step + 1) / phase.warm_up
    done = (step - phase.warm_up) / max(1, phase.steps - phase.warm_up)
    return 0.55 + 0.45 * math.cos(math.pi * done)


class Trainer:
    """The state of a run and its steps."""

    def __init__(self, run: TrainRun, out: Path, device: str, workers: int) -> None:
        """Make or find the data, build the model, and take up the state that is there."""
        self.run, self.out = run, out
        if self.state_path.exists():
            self._read_state()  # refused before the data are made
        self.embodiment = Embodiment.load(run.embodiment)
        self.model, self.tokenizer = build_model(run, self.embodiment)
        self.head = GroundingHead(self.model.backbone.config.text_config.hidden_size)
        target = choose_device(device)
        self.model.to(target)
        self.head.to(target)
        sizes = self.model.config.inputs.image_sizes
        timing = {'horizon': self.embodiment.horizon, 'step_s': self.embodiment.step_s}
        train_plan = DemonstrationPlan(sizes, run.scenes, TRAINING_SEEDS, **timing)
        test_plan = DemonstrationPlan(sizes, run.held_out_scenes, HELD_OUT_SEEDS, 2, **timing)
        data = load_demonstrations(make_demonstrations(train_plan, out / 'data', workers))
        test = load_demonstrations(make_demonstrations(test_plan, out / 'data', workers))
        self.statistics = compute_statistics(data, self.embodiment, run.layout)
        processor = Processor(self.tokenizer, self.model.config)
        pipeline = build_pipeline(
            self.model.config, processor, self.embodiment, run.layout, self.statistics
        )
        self.batches = Batches(data, pipeline, self.model)
        self.held_out = Batches(test, pipeline, self.model)
        self.optimiser = torch.optim.AdamW(
            [
                {'params': list(self.model.backbone.parameters())},
                {'params': list(self.model.decoder.parameters())},
                {'params': list(self.head.parameters())},
            ],
            betas=(0.9, 0.95),
            weight_decay=run.weight_decay,
        )
        self.phase_index, self.step, self.seconds = 0, 0, 0.0
        self.figures: dict[str, Any] = {}

    @property
    def state_path(self) -> Path:
        """Return the file that a killed run goes on from."""
        return self.out / 'state.pt'

    def save_state(self) -> None:
        """Write beside, then rename."""
        beside = self.state_path.with_name(f'.state.{os.getpid()}')
        torch.save(
            {
                'run': json.dumps(asdict(self.run)),
                'model': self.model.state_dict(),
                'head': self.head.state_dict(),
                'optimiser': self.optimiser.state_dict(),
                'place': [self.phase_index, self.step, self.seconds],
                'figures': json.dumps(self.figures),
            },
            beside,
        )
        beside.rename(self.state_path)

    def _read_state(self, device: str | torch.device = 'cpu') -> dict[str, Any]:
        """Return the saved state; one of another run is refused."""
        try:
            state = torch.load(self.state_path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds for a broken file
            raise QwenVlaError(
                f'{self.state_path}: broken ({error}); delete it to start the run anew'
            ) from error
        begun = state['place'][0] + (state['place'][1] > 0)
        if _until(json.loads(state['run']), begun) != _until(asdict(self.run), begun):
            raise QwenVlaError(
                f'{self.state_path}: belongs to a run with other settings; choose another --out'
            )
        return state

    def load_state(self) -> None:
        """Take up a saved state."""
        state = self._read_state(self.model.device)
        self.model.load_state_dict(state['model'])
        self.head.load_state_dict(state['head'])
        self.optimiser.load_state_dict(state['optimiser'])
        self.phase_index, self.step, self.seconds = state['place']
        self.figures = json.loads(state['figures'])

    def train_step(self, phase: Phase) -> dict[str, float]:
        """Take one optimiser step and return its losses."""
        place = [self.run.seed, self.phase_index, self.step]
        rng = np.random.default_rng(place)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        factor = _rate(phase, self.step)
        frozen = phase.backbone_rate == 0
        rates = (phase.backbone_rate, phase.decoder_rate, phase.backbone_rate)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group['lr'] = rate * factor
        batch = self.batches.draw(rng, phase.pictures)
        with torch.set_grad_enabled(not frozen):
            hidden = self.model.encode(batch)
        losses = {}
        if phase.grounding_weight and not frozen:
            states = self.batches.ego_states(hidden, batch)
            losses['grounding'] = self.head.loss(states, batch['token'], batch['place']).mean()
        if phase.action_weight:
            context = self.model.condition(hidden, batch)
            losses['action'] = self.model.loss(batch, generator, phase.draws, context).mean()
        weights = {'grounding': phase.grounding_weight, 'action': phase.action_weight}
        total = sum(weights[name] * value for name, value in losses.items())
        if not torch.isfinite(total):
            raise QwenVlaError(
                f'{self.out}: the loss is not finite at phase {phase.name}, step {self.step}; '
                f'the last good state is in {self.state_path}'
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in self.optimiser.param_groups for p in group['params']]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.run.clip)
        self.optimiser.step()
        told = {name: float(value.detach()) for name, value in losses.items()}
        return {**told, 'gradient_norm': float(norm)}

    def log(self, **entry: Any) -> None:
        """Append one line to log.jsonl."""
        with (self.out / 'log.jsonl').open('a') as file:
            file.write(json.dumps(entry) + '\n')

    def remaining(self) -> Iterator[Phase]:
        """Yield the phases from the present place on."""
        while self.phase_index < len(self.run.phases):
            yield self.run.phases[self.phase_index]
            self.phase_index, self.step = self.phase_index + 1, 0

    def fit(self, save_every: int = 100) -> None:
        """Run every phase to its end, saving on the way."""
        for phase in self.remaining():
            bar = tqdm(total=phase.steps, initial=self.step, desc=phase.name, unit='step')
            while self.step < phase.steps:
                begun = time.monotonic()
                entry = self.train_step(phase)
                self.step += 1
                self.seconds += time.monotonic() - begun
                bar.set_postfix({k: f'{value:.3f}' for k, value in entry.items()}, refresh=False)
                bar.update()
                if self.step % 10 == 0:
                    self.log(phase=phase.name, step=self.step, seconds=self.seconds, **entry)
                if self.step % (5 * save_every) == 0 or self.step == phase.steps:
                    self.figures[phase.name] = held_out_figures(
                        self.model, self.head, self.held_out, phase.action_weight > 0
                    )
                    self.log(phase=phase.name, step=self.step, held_out=self.figures[phase.name])
                    bar.write(f'{phase.name} {self.step}: {self.figures[phase.name]}')
                    if self.figures[phase.name]['found'] >= phase.enough:
                        self.step = phase.steps
                if self.step % save_every == 0 or self.step == phase.steps:
                    self.save_state()
            bar.close()

    def finish(self, command: str) -> Path:
        """Write the checkpoint folder and return it."""
        folder = self.out / 'checkpoint'
        training = {
            'command': command,
            'run': asdict(self.run),
            'demonstration_frames': len(self.batches.data['state']),
            'optimisation_seconds': round(self.seconds),
            'held_out': self.figures,
            'machine': machine(self.model.device),
        }
        dtype = getattr(torch, self.run.disk_dtype)
        save_checkpoint(
            folder,
            self.model,
            self.tokenizer,
            [TrainedRobot(self.embodiment, self.run.layout, self.statistics)],
            training,
            dtype,
        )
        draw_curves(self.out / 'log.jsonl', folder / 'curves.png')
        return folder


def machine(device: torch.device) -> dict[str, Any]:
    """Return what a figure must be read with."""
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else _processor_name()
    return {
        'device': name,
        'cores': os.cpu_count(),
        'python': platform.python_version(),
        'torch': torch.__version__,
    }


def _processor_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()
