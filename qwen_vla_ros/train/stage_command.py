"""`qwen-vla train t2a|cpt|sft|rl`: arguments -> a recipe, its data or its world, a run."""

import argparse
import contextlib
import dataclasses
import shlex
import sys
from functools import partial
from pathlib import Path

import torch

from qwen_vla_ros.data.loader import Loader
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.curves import draw_log
from qwen_vla_ros.train.ranks import Ranks, open_ranks
from qwen_vla_ros.train.recipe import RECIPES, Recipe, demo
from qwen_vla_ros.train.sources import DataSet, open_sources, training_mixture
from qwen_vla_ros.train.stage_loop import Every, StageRun
from qwen_vla_ros.train.start import start

INTERRUPTED = 130
DEMO_LOOK = 40
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
    group.add_argument('--save-every', type=int, default=Every.save, metavar='STEPS')
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

    acting = parser.add_argument_group('stage rl (also --init, --batch, --seed, --demo)')
    acting.add_argument('--world', default='tabletop', help='turn, tabletop, rooms')
    acting.add_argument('--worlds', type=int, help='acting at a time')
    acting.add_argument('--decisions', type=int, help='chunks of each world in an iteration')
    acting.add_argument('--iterations', type=int)
    acting.add_argument('--rate', type=float, help='of the policy (default: 5e-6)')
    acting.add_argument(
        '--processes', action='store_true', help='every world in a process of its own'
    )


def run_rl_from_arguments(args: argparse.Namespace) -> int:
    """Train by acting, or go on where a run stopped; print the checkpoint's folder."""
    from qwen_vla_ros.train.rl_loop import RLRecipe, rl_demo, run_rl

    if args.threads:
        torch.set_num_threads(args.threads)
    told = {
        'worlds': args.worlds,
        'decisions': args.decisions,
        'iterations': args.iterations,
        'rate': args.rate,
        'minibatch': args.batch,
        'seed': args.seed,
    }
    recipe = rl_demo() if args.demo else RLRecipe(args.world)
    recipe = dataclasses.replace(recipe, **{k: v for k, v in told.items() if v is not None})
    if args.demo and args.preset != 'tiny':
        raise QwenVlaError('train rl --demo: it is made for --preset tiny')
    init = args.init if not args.demo else None
    run = run_rl(recipe, init, args.out, args.device, args.processes)
    draw_log(args.out / 'log.jsonl', args.out / 'curves.png')
    print('success by iteration: ' + ' '.join(f'{share:.2f}' for share in run.successes))
    print(f'checkpoint: {run.finish("qwen-vla " + shlex.join(sys.argv[1:]))}')
    return 0


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
        usual = DEMO_LOOK if args.demo else Every.look
        look = usual if args.look_every is None else args.look_every
        every = Every(args.save_every, look)
        run = StageRun(recipe, sets, begun, args.out, ranks, every, loader)
        if run.step and ranks.first:
            print(f'going on at step {run.step}')
        try:
            done = run.fit(args.wandb)
            folder = run.finish('qwen-vla ' + shlex.join(sys.argv[1:])) if done else None
        except OSError as error:
            raise QwenVlaError(
                f'{args.out}: cannot write ({error}); the state saved before is intact: free '
                'space and run the same command again'
            ) from error
        if ranks.first:
            draw_log(args.out / 'log.jsonl', args.out / 'curves.png')
            _tell(run, folder)
    return 0 if done else INTERRUPTED


def _tell(run: StageRun, folder: Path | None) -> None:
    if folder is None:
        print(f'stopped at step {run.step}; the same command goes on', file=sys.stderr)
        return
    for source, figures in run.figures.items():
        told = {key: value for key, value in figures.items() if key.startswith('error_')}
        print(f'held out, {source}: ' + ', '.join(f'{k[6:]} {v:.4f}' for k, v in told.items()))
    print(f'checkpoint: {folder}')
