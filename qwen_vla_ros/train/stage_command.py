"""`qwen-vla train t2a|cpt|sft|rl`: arguments -> a recipe, its data or its world, a run."""

import argparse
import contextlib
import dataclasses
import math
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qwen_vla_ros.data.loader import Loader
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.curves import draw_log
from qwen_vla_ros.train.ranks import Ranks, open_ranks
from qwen_vla_ros.train.recipe import RECIPES, Recipe, demo
from qwen_vla_ros.train.run_folder import begin_anew
from qwen_vla_ros.train.sources import DataSet, open_sources, training_mixture
from qwen_vla_ros.train.stage_loop import Every, StageRun
from qwen_vla_ros.train.start import start

if TYPE_CHECKING:
    from qwen_vla_ros.train.rl_recipe import RLRecipe

INTERRUPTED = 130
DEMO_SAVE, DEMO_LOOK = 20, 40
# Recipe field -> its argument's type and help.
OVERRIDES = {
    'steps': (int, 'optimiser steps'),
    'batch': (int, 'samples a step, over all processes'),
    'passes': (int, 'parts in which each process takes its share (gradient accumulation)'),
    'backbone_rate': (float, 'peak learning rate of the VLM'),
    'decoder_rate': (float, 'peak learning rate of the action decoder'),
    'warm_up': (int, 'steps of linear warm-up'),
    'draws': (int, 'noise draws a sample for one VLM pass'),
    'ema': (float, 'decay of averaged weights, e.g. 0.999; 0: none'),
    'seed': (int, 'of data and noise'),
}


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the stages."""
    _supervised_arguments(parser)
    _rl_arguments(parser)


def _supervised_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('stages t2a, cpt, sft')
    group.add_argument('--preset', default='tiny', help='tiny, small, 0.8b, 2b, 4b')
    group.add_argument(
        '--data',
        action='append',
        default=[],
        metavar='[FAMILY=]PATH',
        help='give it again for more',
    )
    group.add_argument(
        '--readers',
        type=int,
        default=0,
        metavar='N',
        help='processes a rank that read --data ahead and survive what they read (default: a '
        'thread of the trainer)',
    )
    group.add_argument('--demo', action='store_true', help='make small data, run for minutes')
    group.add_argument('--init', metavar='CHECKPOINT', help='folder or hub name to start from')
    group.add_argument('--dtype', choices=('float32', 'bfloat16'), help='what is computed in')
    group.add_argument(
        '--recompute',
        action=argparse.BooleanOptionalAction,
        help='activation checkpointing (default: from 0.8b on)',
    )
    group.add_argument('--lora', type=int, metavar='RANK', help='train adapters of this rank')
    group.add_argument(
        '--quantise', choices=('int8',), help='with --lora: frozen weights in 8 bits'
    )
    group.add_argument(
        '--save-every',
        type=int,
        metavar='STEPS',
        help=f'a state to go on from (default: {Every.save}, of --demo {DEMO_SAVE})',
    )
    group.add_argument(
        '--look-every',
        type=int,
        metavar='STEPS',
        help=f'held-out figures and pictures (default: {Every.look}, of --demo {DEMO_LOOK})',
    )
    group.add_argument('--threads', type=int, help='of torch on a CPU')
    group.add_argument('--wandb', metavar='PROJECT', help='tell Weights & Biases too')
    for name, (kind, text) in OVERRIDES.items():
        option = f'--{name.replace("_", "-")}'
        group.add_argument(option, type=kind, help=f'{text} (default: of the stage)')


def _rl_arguments(parser: argparse.ArgumentParser) -> None:
    acting = parser.add_argument_group('stage rl (also --init, --batch, --seed, --demo)')
    acting.add_argument(
        '--world', default='tabletop', help='turn, tabletop, tasks, rooms; several with commas'
    )
    acting.add_argument('--kinds', help='of tasks: pick, place, push, stack; with commas')
    acting.add_argument('--worlds', type=int, help='acting at a time, of each kind in turn')
    acting.add_argument('--decisions', type=int, help='chunks of each world in an iteration')
    acting.add_argument('--rows', type=int, help='of a chunk, run before the next decision')
    acting.add_argument(
        '--zero-errors',
        default='',
        metavar='JOINT=RAD,..',
        help='of tasks: an arm whose joints read so much more than they are',
    )
    acting.add_argument(
        '--keep', help='worlds in which the policy is to stay what it was; with commas'
    )
    acting.add_argument('--iterations', type=int)
    acting.add_argument(
        '--minutes', type=float, default=math.inf, help='end before so much time has passed'
    )
    acting.add_argument('--epochs', type=int, help='over the chunks of an iteration (default: 4)')
    acting.add_argument('--rate', type=float, help='of the policy (default: 5e-6)')
    acting.add_argument(
        '--noise', type=float, help="level of the random step's noise (default: of the model)"
    )
    acting.add_argument(
        '--smooth', type=float, help='its correlation from row to row, 0 to 0.99 (default: 0)'
    )
    acting.add_argument(
        '--lasting', type=float, help='from decision to decision, 0 to 0.99 (default: 0)'
    )
    acting.add_argument(
        '--freeze-vlm', action='store_true', help='train the decoder alone; much cheaper'
    )
    acting.add_argument(
        '--actors',
        default='local',
        help='where the worlds run: local, processes[:N], ray[://ADDRESS] (default: local)',
    )


def run_rl_from_arguments(args: argparse.Namespace) -> int:
    """Train by acting, or go on where a run stopped; print the checkpoint's folder."""
    from qwen_vla_ros.train.rl_loop import start_rl
    from qwen_vla_ros.train.rl_recipe import Limits

    begun = time.monotonic()
    if args.threads:
        torch.set_num_threads(args.threads)
    init = args.init if not args.demo else None
    run = start_rl(rl_recipe_of(args), init, args.out, args.device, args.actors)
    with contextlib.closing(run.worlds):
        if run.iteration:
            print(f'going on at iteration {run.iteration}')
        else:
            begin_anew(args.out)
        try:
            done = run.fit(Limits(args.minutes), begun)
            if not done:
                print(f'stopped at iteration {run.iteration}; the same command goes on')
                return INTERRUPTED
            folder = run.finish('qwen-vla ' + shlex.join(sys.argv[1:]))
        except OSError as error:
            raise _unwritable(args.out, error) from error
    if (args.out / 'log.jsonl').exists():
        draw_log(args.out / 'log.jsonl', args.out / 'curves.png')
    print('success by iteration: ' + ' '.join(f'{share:.2f}' for share in run.successes))
    print(f'{run.iteration} iterations; {run.cost()}')
    print(f'checkpoint: {folder}')
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
    if args.demo and args.preset != 'tiny':
        raise QwenVlaError('train rl --demo: it is made for --preset tiny')
    if args.demo and args.keep:
        raise QwenVlaError('train rl --demo: it keeps nothing; give --keep with --init')
    positive = ('worlds', 'decisions', 'rows', 'iterations', 'epochs', 'batch', 'minutes', 'noise')
    for name in positive:
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise QwenVlaError(f'train rl --{name} {value}: give more than 0')
    for name in ('smooth', 'lasting'):
        value = getattr(args, name)
        if value is not None and not 0 <= value < 1:
            raise QwenVlaError(f'train rl --{name} {value}: give 0 or more, and less than 1')
    recipe = rl_demo() if args.demo else RLRecipe(tuple(args.world.split(',')))
    return dataclasses.replace(recipe, **{k: v for k, v in told.items() if v is not None})


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the recipe of the arguments."""
    recipe = RECIPES[args.name](args.preset)
    if args.demo:
        recipe = demo(recipe)
    told = {name: getattr(args, name) for name in (*OVERRIDES, 'dtype', 'recompute', 'quantise')}
    told['adapters'] = args.lora
    return dataclasses.replace(recipe, **{k: v for k, v in told.items() if v is not None})


def _sets(args: argparse.Namespace, recipe: Recipe, ranks: Ranks) -> list[DataSet]:
    if args.demo == bool(args.data):
        raise QwenVlaError(f'train {args.name}: give --data or --demo, one of them')
    if not args.demo:
        return open_sources(args.data, recipe)
    from qwen_vla_ros.train.demo_data import demo_sets

    # The first process makes the files, the others wait for them.
    found = demo_sets(recipe, args.out / 'data') if ranks.first else None
    ranks.gathered(None)
    return found or demo_sets(recipe, args.out / 'data')


def _loader(args: argparse.Namespace, recipe: Recipe, ranks: Ranks) -> Loader | None:
    """Return the processes that read ahead, where they are asked for; --demo lies in memory."""
    if not args.readers or args.demo:
        return None
    make = partial(training_mixture, tuple(args.data), recipe, ranks.rank, ranks.world)
    return Loader(make, args.readers)


def _every(args: argparse.Namespace) -> Every:
    usual = Every(DEMO_SAVE, DEMO_LOOK) if args.demo else Every()
    told = {'save': args.save_every, 'look': args.look_every}
    return dataclasses.replace(usual, **{k: v for k, v in told.items() if v is not None})


def run_from_arguments(args: argparse.Namespace) -> int:
    """Train a stage to its end, or go on where a run stopped; print the checkpoint's folder."""
    recipe = recipe_of(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(open_ranks())
        sets = _sets(args, recipe, ranks)
        loader = _loader(args, recipe, ranks)
        if loader is not None:
            stack.enter_context(loader)
        begun = start(recipe, sets, args.init, ranks.device(args.device))
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


def _unwritable(out: Path, error: OSError) -> QwenVlaError:
    return QwenVlaError(
        f'{out}: cannot write ({error}); the state saved before is intact: free space and run '
        'the same command again'
    )


def _tell(run: StageRun, folder: Path | None) -> None:
    if folder is None:
        print(f'stopped at step {run.step}; the same command goes on', file=sys.stderr)
        return
    for source, figures in run.figures.items():
        told = {key: value for key, value in figures.items() if key.startswith('error_')}
        print(f'held out, {source}: ' + ', '.join(f'{k[6:]} {v:.4f}' for k, v in told.items()))
    print(f'checkpoint: {folder}')
