"""The named runs, and `qwen-vla train` around them."""

import argparse
import math
import shlex
import sys
from pathlib import Path

import torch

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train import arguments, stage_command
from qwen_vla_ros.train.arguments import BUNDLED, SMALL, TINY
from qwen_vla_ros.train.recipe import RECIPES, RL
from qwen_vla_ros.train.run_folder import begin_anew, claim
from qwen_vla_ros.train.starting_point import look_at
from qwen_vla_ros.train.supervised import Phase, Trainer, TrainRun


def small() -> TrainRun:
    """Return the run that made the bundled checkpoint: grounding, decoder, joint."""
    return TrainRun(
        preset='small',
        scenes=5000,
        phases=(
            Phase('grounding', 2000, 1e-3, 0.0, 1.0, 0.0, enough=0.93),
            Phase('decoder', 1100, 0.0, 1e-3, 0.0, 1.0),
            Phase('joint', 300, 2e-4, 4e-4, 0.3, 1.0),
        ),
    )


def tiny() -> TrainRun:
    """Return a run of a minute that shows every part at work; its policy is no good."""
    return TrainRun(
        preset='tiny',
        scenes=12,
        held_out_scenes=4,
        phases=(
            Phase('grounding', 6, 1e-3, 0.0, 1.0, 0.0, pictures=3, warm_up=2),
            Phase('decoder', 6, 0.0, 1e-3, 0.0, 1.0, pictures=3, warm_up=2),
            Phase('joint', 4, 2e-4, 4e-4, 0.3, 1.0, pictures=3, warm_up=2),
        ),
    )


RUNS = {SMALL: small, TINY: tiny}


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stages and runs of `qwen-vla train`."""
    arguments.cli_arguments(parser)


def run_from_arguments(args: argparse.Namespace) -> int:
    """Train to the end, or go on where a killed run stopped; print the checkpoint's folder."""
    if args.name == RL:
        return stage_command.run_rl_from_arguments(args)
    if args.name in RECIPES:
        return stage_command.run_from_arguments(args)
    command = 'qwen-vla ' + shlex.join(sys.argv[1:])
    if args.name == BUNDLED:
        return _bundled(args, command)
    claim(args.out, args.name)
    folder = _run(RUNS[args.name](), args.out, args, command)
    print(f'checkpoint: {folder}')
    return 0


def _bundled(args: argparse.Namespace, command: str) -> int:
    """Train every stage of the bundled checkpoint that is not there yet."""
    from qwen_vla_ros.train.bundle.stages import train_bundled

    if not 0 < args.scale < math.inf:
        raise QwenVlaError(f'--scale {args.scale}: choose a number above 0, e.g. 0.4')
    claim(args.out, BUNDLED)
    if args.init:
        look_at(args.init)
    if args.threads:
        torch.set_num_threads(args.threads)
    init = Path(args.init) if args.init else args.out / 'see' / 'checkpoint'
    if not args.init and not init.is_dir():
        _run(small(), args.out / 'see', args, command)
    folder = train_bundled(args.out, init, command, args.workers, scale=args.scale)
    if folder is None:
        print('stopped; the same command goes on', file=sys.stderr)
        return stage_command.INTERRUPTED
    print(f'checkpoint: {folder}')
    return 0


def _run(run: TrainRun, out: Path, args: argparse.Namespace, command: str) -> Path:
    """Run to the end, or go on where a killed run stopped; return the checkpoint's folder."""
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(run, out, args.device, args.workers)
    if trainer.state_path.exists():
        trainer.load_state()
        print(f'going on at phase {trainer.phase_index}, step {trainer.step}')
    else:
        begin_anew(out)
    try:
        trainer.fit()
        return trainer.finish(command)
    except OSError as error:
        raise QwenVlaError(
            f'{out}: cannot write ({error}); what was saved before is intact, free space '
            'and run the same command again'
        ) from error
