"""The named runs, and `qwen-vla train` around them."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train import stage_command
from qwen_vla_ros.train.recipe import RECIPES, RL
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


RUNS = {'small': small, 'tiny': tiny}


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla train`."""
    parser.add_argument(
        'name',
        choices=[*RECIPES, RL, *sorted(RUNS)],
        help='stage (docs/training.md), or a run of the bundled checkpoint (train/runs.py)',
    )
    parser.add_argument('--out', type=Path, required=True, help='folder; goes on if it is there')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda (default: auto)')
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count() or 1, help='rendering processes'
    )
    stage_command.cli_arguments(parser)


def run_from_arguments(args: argparse.Namespace) -> int:
    """Train to the end, or go on where a killed run stopped; print the checkpoint's folder."""
    if args.name == RL:
        return stage_command.run_rl_from_arguments(args)
    if args.name in RECIPES:
        return stage_command.run_from_arguments(args)
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(RUNS[args.name](), args.out, args.device, args.workers)
    if trainer.state_path.exists():
        trainer.load_state()
        print(f'going on at phase {trainer.phase_index}, step {trainer.step}')
    try:
        trainer.fit()
        folder = trainer.finish('qwen-vla ' + shlex.join(sys.argv[1:]))
    except OSError as error:
        raise QwenVlaError(
            f'{args.out}: cannot write ({error}); what was saved before is intact, free space '
            'and run the same command again'
        ) from error
    print(f'checkpoint: {folder}')
    return 0
