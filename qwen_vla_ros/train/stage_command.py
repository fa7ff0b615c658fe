"""`qwen-vla train t2a|cpt|sft|rl`: arguments -> a recipe, its data or its world, a run."""

import argparse
import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qwen_vla_ros.data.left_out import bags_left_out, frames_left_out
from qwen_vla_ros.data.loader import Loader
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.adapters import fingerprint
from qwen_vla_ros.model.placement import choose_device
from qwen_vla_ros.train.arguments import DEMO, OVERRIDES
from qwen_vla_ros.train.curves import draw_log
from qwen_vla_ros.train.ending import held_out_line, next_line, pictures_line, way_of_losses
from qwen_vla_ros.train.ranks import Ranks, open_ranks
from qwen_vla_ros.train.recipe import RECIPES, Recipe, demo
from qwen_vla_ros.train.robots import MEASURED, driven
from qwen_vla_ros.train.run_folder import begin_anew, claim
from qwen_vla_ros.train.run_state import facts_of_same, last_state
from qwen_vla_ros.train.sources import DataSet, open_sources, training_mixture
from qwen_vla_ros.train.stage_loop import Every, StageRun
from qwen_vla_ros.train.start import refuse_nothing_to_start_from, start
from qwen_vla_ros.train.starting_point import look_at, preset_for

if TYPE_CHECKING:
    from qwen_vla_ros.train.rl_recipe import RLRecipe

INTERRUPTED = 130
WORLD = 'tabletop'


def run_rl_from_arguments(args: argparse.Namespace) -> int:
    """Train by acting, or go on where a run stopped; print the checkpoint's folder."""
    from qwen_vla_ros.train.rl_loop import identity_of, start_rl
    from qwen_vla_ros.train.rl_recipe import Limits

    begun = time.monotonic()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = rl_recipe_of(args)
    recipe.orders()  # refuses what worlds there are not, before a checkpoint is looked at
    recipe.kept_orders()
    origin = fingerprint(look_at(args.init)) if args.init else ''
    _claim(args, identity_of(recipe, origin))
    run = start_rl(recipe, args.init, args.out, args.device, args.actors)
    with contextlib.closing(run.worlds):
        if run.iteration:
            print(f'going on at iteration {run.iteration}')
        else:
            begin_anew(args.out)
        try:
            done = run.fit(Limits(args.minutes), begun, args.wandb)
            if not done:
                print(f'stopped at iteration {run.iteration}; the same command goes on')
                return INTERRUPTED
            folder = run.finish('qwen-vla ' + shlex.join(sys.argv[1:]))
        except OSError as error:
            raise _unwritable(args.out, error) from error
    if (args.out / 'log.jsonl').exists():
        draw_log(args.out / 'log.jsonl', args.out / 'curves.png')
        print(pictures_line(args.out))
    print('success by iteration: ' + ' '.join(f'{share:.2f}' for share in run.successes))
    print(f'{run.iteration} iterations; {run.cost()}')
    print(f'checkpoint: {folder}')
    print(next_line(folder, {order.robot for order in run.worlds.orders}))
    return 0


def rl_recipe_of(args: argparse.Namespace) -> 'RLRecipe':
    """Return the recipe of the arguments; QwenVlaError for what cannot be."""
    from qwen_vla_ros.sim.zero_errors import parse_zero_errors
    from qwen_vla_ros.train.rl_recipe import RLRecipe, rl_demo

    told = {
        'kinds': tuple(args.kinds.split(',')) if args.kinds else None,
        'worlds': args.worlds,
        'decisions': args.decisions,
        'rows': args.rows,
        'keep': tuple(args.keep.split(',')) if args.keep else None,
        'keep_weight': args.keep_weight,
        'zero_errors': tuple(parse_zero_errors(args.zero_errors).items()) or None,
        'iterations': args.iterations,
        'epochs': args.epochs,
        'rate': args.rate,
        'minibatch': args.batch,
        'freeze_vlm': args.freeze_vlm,
        'noise': args.noise,
        'smooth': args.smooth,
        'lasting': args.lasting,
        'seed': args.seed,
    }
    _refuse_beside(args)
    positive = ('worlds', 'decisions', 'rows', 'iterations', 'epochs', 'batch', 'minutes', 'noise')
    for name in (*positive, 'keep_weight'):
        value = getattr(args, name)
        if value is not None and not value > 0:
            option = name.replace('_', '-')
            raise QwenVlaError(f'train rl --{option} {value}: give more than 0')
    for name in ('smooth', 'lasting'):
        value = getattr(args, name)
        if value is not None and not 0 <= value < 1:
            raise QwenVlaError(f'train rl --{name} {value}: give 0 or more, and less than 1')
    recipe = rl_demo() if args.demo else RLRecipe(tuple((args.world or WORLD).split(',')))
    return dataclasses.replace(recipe, **{k: v for k, v in told.items() if v is not None})


def _claim(args: argparse.Namespace, identity: Mapping[str, Any]) -> None:
    """Refuse another run's --out before anything is made."""
    claim(args.out, args.name)
    if (state := last_state(args.out / 'state')) is not None:
        facts_of_same(state, identity)


def _refuse_beside(args: argparse.Namespace) -> None:
    """Refuse what has no meaning beside --demo, or without it."""
    if not args.demo and args.preset:
        raise QwenVlaError('train rl --preset: of --demo; else --init tells the size of the model')
    if args.demo and args.init:
        raise QwenVlaError('train rl --demo: it begins from nothing; give --demo or --init')
    if args.keep_weight is not None and not args.keep:
        raise QwenVlaError('train rl --keep-weight: of what --keep names; give both')
    if args.demo and args.keep:
        raise QwenVlaError('train rl --demo: it keeps nothing; give --keep with --init')
    if args.demo and args.world not in (None, 'turn'):
        raise QwenVlaError(
            f'train rl --demo: its world is turn; give --world {args.world} without'
        )


def recipe_of(args: argparse.Namespace, init: Path | None) -> Recipe:
    """Return the recipe of the arguments and of the checkpoint to start from."""
    if args.demo == bool(args.data):
        raise QwenVlaError(f'train {args.name}: give --data or --demo, one of them')
    if args.demo and args.readers:
        raise QwenVlaError(f'train {args.name} --readers: they read --data; --demo lies in memory')
    recipe = RECIPES[args.name](preset_for(args.preset, init))
    if args.demo:
        recipe = demo(recipe)
    told = {name: getattr(args, name) for name in (*OVERRIDES, 'dtype', 'recompute', 'quantise')}
    told['adapters'] = args.lora
    if args.steps and args.warm_up is None:  # as large a share as of the recipe's own steps
        told['warm_up'] = max(1, round(recipe.warm_up * args.steps / recipe.steps))
    return dataclasses.replace(recipe, **{k: v for k, v in told.items() if v is not None})


def _sets(args: argparse.Namespace, recipe: Recipe, ranks: Ranks) -> list[DataSet]:
    if not args.demo:
        return open_sources(args.data, recipe)
    from qwen_vla_ros.train.demo_data import demo_sets

    # The first process makes the files, the others wait for them.
    found = demo_sets(recipe, args.out / 'data') if ranks.first else None
    ranks.gathered(None)
    return found or demo_sets(recipe, args.out / 'data')


def _loader(args: argparse.Namespace, recipe: Recipe, ranks: Ranks) -> Loader | None:
    """Return the processes that read ahead, where they are asked for."""
    if not args.readers:
        return None
    make = partial(training_mixture, tuple(args.data), recipe, ranks.rank, ranks.world)
    return Loader(make, args.readers)


def _every(args: argparse.Namespace) -> Every:
    usual = DEMO if args.demo else Every()
    told = {'save': args.save_every, 'look': args.look_every}
    return dataclasses.replace(usual, **{k: v for k, v in told.items() if v is not None})


def run_from_arguments(args: argparse.Namespace) -> int:
    """Train a stage to its end, or go on where a run stopped; print the checkpoint's folder."""
    init = look_at(args.init) if args.init else None
    recipe = recipe_of(args, init)
    if init is None:
        refuse_nothing_to_start_from(recipe)
    origin = fingerprint(init) if init else ''
    _claim(args, {'recipe': dataclasses.asdict(recipe), 'init': origin})
    if args.threads:
        torch.set_num_threads(args.threads)
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(open_ranks())
        device = ranks.device(args.device)
        choose_device(device)
        sets = _sets(args, recipe, ranks)
        loader = _loader(args, recipe, ranks)
        if loader is not None:
            stack.enter_context(loader)
        begun = start(recipe, sets, args.init, device)
        if ranks.first:
            _tell_left_out(sets)
        run = StageRun(recipe, sets, begun, args.out, ranks, _every(args), loader)
        if ranks.first:
            if run.step:
                print(f'going on at step {run.step}')
            else:
                begin_anew(args.out)
        try:
            done = run.fit(args.wandb)
            folder = run.finish('qwen-vla ' + shlex.join(sys.argv[1:])) if done else None
        except OSError as error:
            raise _unwritable(args.out, error) from error
        if ranks.first:
            draw_log(args.out / 'log.jsonl', args.out / 'curves.png')
            _tell(run, folder)
    return 0 if done else INTERRUPTED


def _tell_left_out(sets: Sequence[DataSet]) -> None:
    """Print which bags are no episodes, and which of the frames that were measured are none."""
    for line in bags_left_out(data.episodes for data in sets):
        print(line)
    for part in (data.training for data in sets):
        if part.refused:
            frames = sum(part.frames(episode) for episode in range(len(part)))
            looked = min(frames, MEASURED)
            print(f'{part.source}: {len(part.refused)} of {looked} frames measured are left out')
            for line in frames_left_out(part.refused.values()):
                print(f'  {line}')


def _unwritable(out: Path, error: OSError) -> QwenVlaError:
    return QwenVlaError(
        f'{out}: cannot write ({error}); the state saved before is intact: free space and run '
        'the same command again'
    )


def _tell(run: StageRun, folder: Path | None) -> None:
    if folder is None:
        print(f'stopped at step {run.step}; the same command goes on', file=sys.stderr)
        return
    print(way_of_losses(run.out / 'log.jsonl'))
    if run.mixture.skipped:
        print('left out of what was drawn:')
    for line in frames_left_out(run.mixture.skipped):
        print(f'  {line}')
    for source, figures in run.figures.items():
        print(held_out_line(source, figures))
    print(pictures_line(run.out))
    robots = [robot.embodiment.name for robot in driven(run.begun.robots)]
    print(f'checkpoint: {folder}')
    print(next_line(folder, robots, run.begun.before if run.recipe.adapters else None))
