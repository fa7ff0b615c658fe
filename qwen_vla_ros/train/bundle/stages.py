"""
The bundled checkpoint: one set of weights for every family, by the stages of the paper.

  see   a model that begins from nothing first learns to see (train/runs.py `small`: the named
        block in the picture), which words a sentence has (naming.py), where things are in
        pictures (sight.py) and to answer (answering.py); it stands in for the released VLM that
        other sizes begin with
  t2a   words to motion, without pictures: first the draft alone (drafting.py), which then
        practises (practice.py): sight and draft learn from what it met; then the decoder
  cpt   all families, everything trains
  sft   the same families, weighed by what a robot is asked to do
  rl    train/rl_loop.py from there (`qwen-vla train rl --world tasks`)

A stage whose checkpoint is there is not run again, so the same command goes on after any kill.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import (
    from_pretrained,
    load_tokenizer,
    read_robots,
    save_checkpoint,
)
from qwen_vla_ros.train.bundle.answering import fit_answers
from qwen_vla_ros.train.bundle.beginning import SIZES, begin
from qwen_vla_ros.train.bundle.drafting import fit_draft
from qwen_vla_ros.train.bundle.fitting import FAST
from qwen_vla_ros.train.bundle.frames import TRAINING
from qwen_vla_ros.train.bundle.naming import fit_naming
from qwen_vla_ros.train.bundle.shards import Order, ShardEpisodes, render
from qwen_vla_ros.train.bundle.sight import fit_sight
from qwen_vla_ros.train.curves import draw_log
from qwen_vla_ros.train.demo_data import ArrayEpisodes, kept, make_words
from qwen_vla_ros.train.ranks import Ranks, open_ranks
from qwen_vla_ros.train.recipe import CPT, SFT, T2A, Recipe
from qwen_vla_ros.train.sources import DataSet
from qwen_vla_ros.train.stage_loop import Every, StageRun
from qwen_vla_ros.train.stage_step import ALONE

# What comes before the stages: how many steps of what, and how often each set is drawn.
NAMED = {'tabletop': 0.35, 'aloha': 0.1, 'rooms': 0.35, 'trace2d': 0.1, 'trace3d': 0.1}
HELD = ('tabletop', 'aloha', 'trace2d', 'trace3d')  # whose prompts a former run's readout knows
SEEN = {'tabletop': 0.48, 'aloha': 0.22, 'rooms': 0.3}
DRAFTED = {'tabletop': 0.55, 'aloha': 0.25, 'rooms': 0.1, 'trace2d': 0.05, 'trace3d': 0.05}
READ = {'questions': 1.0, **dict.fromkeys(DRAFTED, 0.0)}
SEEN_AGAIN = {
    'tabletop': 0.2,
    'practicetabletop': 0.13,
    'aloha': 0.17,
    'practicealoha': 0.2,
    'rooms': 0.15,
    'practicerooms': 0.15,
}
SETTLED = {
    'tabletop': 0.2,
    'practicetabletop': 0.07,
    'aloha': 0.14,
    'practicealoha': 0.09,
    'rooms': 0.25,
    'practicerooms': 0.25,
}
DRAFTED_AGAIN = {
    'tabletop': 0.28,
    'practicetabletop': 0.12,
    'aloha': 0.16,
    'practicealoha': 0.14,
    'rooms': 0.12,
    'practicerooms': 0.12,
    'trace2d': 0.03,
    'trace3d': 0.03,
}
PARTS = {
    'naming': (1500, partial(fit_naming, held=HELD), NAMED),
    'sight': (8000, fit_sight, SEEN),
    'answers': (500, fit_answers, READ),
    'draft': (12000, fit_draft, DRAFTED),
    'sharpen': (5000, partial(fit_sight, share=0.5), SEEN_AGAIN),
    'settle': (3200, partial(fit_sight, share=0.8, held=True), SETTLED),
    'redraft': (6000, partial(fit_draft, share=0.5), DRAFTED_AGAIN),
}
ACTS = 'draft'  # whose checkpoint practises
# family of the mixture -> its sets: maker, episodes, share
SETS: Mapping[str, tuple[tuple[str, int], ...]] = {
    'robot manipulation': (('tabletop:Tabletop', 3200),),
    'bimanual manipulation': (('aloha:AlohaMaker', 900),),
    'navigation': (('rooms:RoomsMaker', 500),),
    'synthetic': (('traces:Trace2DMaker', 250), ('traces:Trace3DMaker', 250)),
    'vision-language': (('questions:QuestionsMaker', 500),),
}
# What is made of the practice of the draft's checkpoint; see practice.py.
PRACTICE: Mapping[str, tuple[tuple[str, int], ...]] = {
    'robot manipulation': (('practice:PracticeTabletop', 420),),
    'bimanual manipulation': (('practice:PracticeAloha', 400),),
    'navigation': (('practice:PracticeRooms', 300),),
}
PRACTISING = TRAINING + 100_000  # the first seed
SCRATCH = {
    'preset': 'small',
    'backbone_rate': 3e-5,
    'decoder_rate': 2e-4,
    'warm_up': 20,
    'batch': 24,
    'draws': 1,
    'sentences': 3,
    'pointing_weight': 1.0,
    'readout_share': 0.05,
    'dtype': FAST,
}
RECIPES = (
    Recipe(
        T2A,
        **{
            **SCRATCH,
            'backbone_rate': 0.0,
            'decoder_rate': 5e-4,
            'sentences': 1,
            'batch': 48,
            'warm_up': 50,
        },
        steps=120,
        text_weight=0.0,
        told=1.0,
        distribution='logit_normal',
        images=False,
        whole=True,
        families={'synthetic': 0.1, 'real': 0.9},
    ),
    Recipe(
        CPT,
        **SCRATCH,
        steps=250,
        told=0.4,
        families={
            'robot manipulation': 52,
            'bimanual manipulation': 26,
            'navigation': 11,
            'synthetic': 5,
            'vision-language': 6,
        },
    ),
    Recipe(
        SFT,
        **{**SCRATCH, 'backbone_rate': 1.5e-5, 'decoder_rate': 1e-4},
        steps=150,
        families={
            'robot manipulation': 54,
            'bimanual manipulation': 28,
            'navigation': 10,
            'synthetic': 4,
            'vision-language': 4,
        },
    ),
)


def orders(scale: float = 1.0, acting: Path | None = None) -> dict[str, list[Order]]:
    """
    Return what to render by family: the families, or the practice of a checkpoint.

    scale: another number of episodes
    """
    first = TRAINING if acting is None else PRACTISING
    return {
        family: [
            Order(maker, SIZES, first, _some(episodes, scale), acting) for maker, episodes in sets
        ]
        for family, sets in (SETS if acting is None else PRACTICE).items()
    }


def load_sets(
    folder: Path, workers: int, ranks: Ranks, scale: float = 1.0, acting: Path | None = None
) -> list[DataSet]:
    """Return the sets of orders(); the first process renders what is not there yet."""

    def load() -> list[DataSet]:
        return [
            DataSet.of(
                family, ShardEpisodes.load(order, render(order, folder / order.kind, workers))
            )
            for family, found in orders(scale, acting).items()
            for order in found
        ]

    sets = load() if ranks.first else []
    ranks.gathered(None)
    return sets or load()


def stage_sets(stage: str, sets: Sequence[DataSet], folder: Path) -> list[DataSet]:
    """Return a stage's sets: T2A has motions in words, and the robots' chunks without pictures."""
    if stage != T2A:
        return list(sets)
    words = ArrayEpisodes(
        'words', Embodiment.load('widowx'), kept(folder / 'words.npz', make_words)
    )
    real = [
        DataSet('real', data.episodes, data.training, data.held_out)
        for data in sets
        if data.family not in ('synthetic', 'vision-language')
    ]
    return [DataSet.of('synthetic', words), *real]


def _some(count: int, scale: float) -> int:
    return max(2, round(count * scale))


@contextlib.contextmanager
def _all_cores() -> Iterator[None]:
    """Compute on every core: the other processes wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_part(
    part: str,
    before: Path,
    sets: Sequence[DataSet],
    out: Path,
    ranks: Ranks = ALONE,
    scale: float = 1.0,
) -> Path | None:
    """Train one of PARTS, on the first process alone, and return its checkpoint or None."""
    done = out / part / 'checkpoint'
    if ranks.first and not done.is_dir():
        steps, fit, shares = PARTS[part]
        begun = begin(before, sets, part == next(iter(PARTS)))
        known = {data.episodes.source: data.episodes for data in sets}
        episodes = {source: known[source] for source in shares}
        with _all_cores():
            seconds = fit(begun, episodes, shares, _some(steps, scale), out / part)
        if seconds is None:
            return None
        facts = {'stage': part, 'text': None, 'optimisation_seconds': seconds}
        robots = list(begun.robots.values())
        save_checkpoint(done, begun.model, begun.tokenizer, robots, facts)
        draw_log(out / part / 'log.jsonl', out / part / 'curves.png')
    ranks.gathered(None)
    return done


def run_stage(
    recipe: Recipe,
    before: Path,
    sets: Sequence[DataSet],
    out: Path,
    command: str,
    ranks: Ranks = ALONE,
) -> Path | None:
    """Train one stage to its end and return its checkpoint; None when a signal stopped it."""
    folder = out / recipe.stage
    done = folder / 'checkpoint'
    if done.is_dir():
        return done
    begun = begin(before, sets, False)
    model = begun.model
    flow = replace(model.config.flow, distribution=recipe.distribution)
    model.config = replace(model.config, flow=flow)
    own = stage_sets(recipe.stage, sets, out / 'data')
    run = StageRun(recipe, own, begun, folder, ranks, Every(save=100, look=400), repeated=True)
    if not run.fit():
        return None
    if ranks.first:
        draw_log(folder / 'log.jsonl', folder / 'curves.png')
    run.finish(command)
    ranks.gathered(None)  # nobody reads the checkpoint before the first process has written it
    return done


def train_bundled(
    out: Path,
    init: Path,
    command: str,
    workers: int = os.cpu_count() or 1,
    recipes: Sequence[Recipe] = RECIPES,
    scale: float = 1.0,
) -> Path | None:
    """
    Train the supervised stages one after another from a checkpoint that can see.

    scale: other numbers of episodes and steps

    Return out/checkpoint, the last one in half the bytes with every stage's curves, or None when a
    signal stopped it.
    """
    if not (init / 'config.json').is_file():
        raise QwenVlaError(f'{init}: no checkpoint to begin with; `qwen-vla train small` makes it')
    with open_ranks() as ranks:
        sets = load_sets(out / 'data', workers, ranks, scale)
        before: Path | None = init
        for part in PARTS:
            before = run_part(part, before, sets, out, ranks, scale)
            if before is None:
                return None
            if part == ACTS:
                sets += load_sets(out / 'data', workers, ranks, scale, before)
        for recipe in recipes:
            shorter = replace(recipe, steps=_some(recipe.steps, scale))
            before = run_stage(shorter, before, sets, out, command, ranks)
            if before is None:
                return None
            if ranks.first:
                print(f'{recipe.stage}: {before}')
        if ranks.first:
            _bundle(out, [recipe.stage for recipe in recipes], command)
        return out / 'checkpoint'


def _bundle(out: Path, stages: Sequence[str], command: str) -> None:
    """Write the last stage's checkpoint in float16, with what every stage told of itself."""
    last = out / stages[-1] / 'checkpoint'
    told = {stage: _told_of(out / stage) for stage in stages}
    facts = {'command': command, 'stage': stages[-1], 'text': told[stages[-1]].get('text')}
    kept = ('run', 'data', 'optimisation_seconds', 'held_out', 'machine')
    facts['stages'] = {stage: {k: own[k] for k in kept} for stage, own in told.items()}
    facts['parts'] = {part: _told_of(out / part)['optimisation_seconds'] for part in PARTS}
    model = from_pretrained(last, 'cpu', 'float32')
    folder = out / 'checkpoint'
    save_checkpoint(folder, model, load_tokenizer(last), read_robots(last), facts, torch.float16)
    for stage in (*PARTS, *stages):
        draw_log(out / stage / 'log.jsonl', folder / f'curves-{stage}.png')


def _told_of(folder: Path) -> dict[str, Any]:
    """Return what a stage's checkpoint says of its training."""
    return json.loads((folder / 'checkpoint' / 'training.json').read_text())
