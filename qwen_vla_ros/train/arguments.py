"""
The options of `qwen-vla train STAGE`.

Each stage shows and takes its own; one of another stage is refused, with the stages that have it.
"""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen_vla_ros.model.config import PRESETS
from qwen_vla_ros.train.recipe import CPT, RL, SFT, STAGES, T2A
from qwen_vla_ros.train.stage_loop import Every

BUNDLED, SMALL, TINY = 'bundled', 'small', 'tiny'
DEMO = Every(save=20, look=40)  # of --demo
WHAT = {
    T2A: 'text to action: the decoder learns motion from words alone',
    CPT: 'continued pretraining: everything trains on the mixture',
    SFT: 'supervised fine-tuning, every robot alike',
    RL: 'reinforcement learning in simulated worlds',
    BUNDLED: 'every stage of the bundled checkpoint (docs/bundled.md)',
    SMALL: 'the run that made checkpoints/small (train/runs.py)',
    TINY: 'the same in a minute; its policy is no good',
}
AGAIN = 'The same command goes on where a run was stopped or killed.'
# Recipe field -> its argument's type and help.
OVERRIDES = {
    'steps': (int, 'optimiser steps'),
    'batch': (int, 'samples a step, over all processes'),
    'passes': (int, 'parts in which each process takes its share (gradient accumulation)'),
    'backbone_rate': (float, 'peak learning rate of the VLM'),
    'decoder_rate': (float, 'peak learning rate of the action decoder'),
    'warm_up': (int, 'steps of linear warm-up; unless told, it shrinks and grows with --steps'),
    'draws': (int, 'noise draws a sample for one VLM pass'),
    'ema': (float, 'decay of averaged weights, e.g. 0.999; 0: none'),
    'seed': (int, 'of data and noise'),
}

Table = Mapping[str, Mapping[str, Any]]
"""flag -> what argparse is told of it."""

COMMON: Table = {
    '--out': {
        'type': Path,
        'help': 'folder of the run; goes on if its state is there (default: out/STAGE)',
    },
    '--device': {'default': 'auto', 'help': 'auto, cpu or cuda (default: auto)'},
}
THREADS: Table = {'--threads': {'type': int, 'help': 'of torch on a CPU'}}
INIT: Table = {'--init': {'metavar': 'CHECKPOINT', 'help': 'folder or hub name to start from'}}
SEEING: Table = {
    '--init': {
        'metavar': 'CHECKPOINT',
        'help': 'folder of a model that can see, or of one that this command made (default: '
        'OUT/see, which the run small makes)',
    }
}
TOLD: Table = {'--wandb': {'metavar': 'PROJECT', 'help': 'tell Weights & Biases too'}}
RENDERING: Table = {
    '--workers': {
        'type': int,
        'default': os.cpu_count() or 1,
        'help': 'rendering processes (default: as many as cores)',
    }
}
SHORTER: Table = {
    '--scale': {
        'type': float,
        'default': 1.0,
        'metavar': 'F',
        'help': 'other numbers of episodes and steps: 0.4 takes 0.4 of the time (default: 1)',
    }
}
SUPERVISED: Table = {
    '--preset': {
        'choices': PRESETS,
        'help': 'size of the model, which the recipe goes by (default: tiny; with --init that of '
        'the checkpoint, and another is refused)',
    },
    '--data': {
        'action': 'append',
        'default': [],
        'metavar': '[FAMILY=]PATH',
        'help': 'give it again for more',
    },
    '--readers': {
        'type': int,
        'default': 0,
        'metavar': 'N',
        'help': 'processes a rank that read --data ahead and survive what they read (default: a '
        'thread of the trainer)',
    },
    '--demo': {'action': 'store_true', 'help': 'make small data, run for minutes'},
    '--dtype': {'choices': ('float32', 'bfloat16'), 'help': 'what is computed in'},
    '--recompute': {
        'action': argparse.BooleanOptionalAction,
        'help': 'activation checkpointing (default: from 0.8b on)',
    },
    '--lora': {'type': int, 'metavar': 'RANK', 'help': 'train adapters of this rank'},
    '--quantise': {'choices': ('int8',), 'help': 'with --lora: frozen weights in 8 bits'},
    '--save-every': {
        'type': int,
        'metavar': 'STEPS',
        'help': f'a state to go on from (default: {Every.save}, of --demo {DEMO.save})',
    },
    '--look-every': {
        'type': int,
        'metavar': 'STEPS',
        'help': f'held-out figures and pictures (default: {Every.look}, of --demo {DEMO.look})',
    },
    **{
        f'--{name.replace("_", "-")}': {'type': kind, 'help': f'{text} (default: of the stage)'}
        for name, (kind, text) in OVERRIDES.items()
    },
}
ACTING: Table = {
    '--demo': {'action': 'store_true', 'help': 'the world turn, from nothing'},
    '--preset': {'choices': ('tiny',), 'help': 'of --demo, which is made for it'},
    '--world': {
        'help': 'turn, tabletop, tasks, handover, rooms; several with commas (default: tabletop)'
    },
    '--kinds': {'help': 'of tasks: pick, place, push, stack; with commas'},
    '--worlds': {'type': int, 'help': 'acting at a time, of each kind in turn'},
    '--decisions': {'type': int, 'help': 'chunks of each world in an iteration'},
    '--rows': {'type': int, 'help': 'of a chunk, run before the next decision'},
    '--zero-errors': {
        'default': '',
        'metavar': 'JOINT=RAD,..',
        'help': 'of tasks: an arm whose joints read so much more than they are',
    },
    '--keep': {'help': 'worlds in which the policy is to stay what it was; with commas'},
    '--keep-weight': {'type': float, 'help': 'of a nat from what it was (default: 0.2)'},
    '--iterations': {'type': int, 'help': 'of acting and learning'},
    '--minutes': {
        'type': float,
        'default': math.inf,
        'help': 'end before so much time has passed',
    },
    '--epochs': {'type': int, 'help': 'over the chunks of an iteration (default: 4)'},
    '--batch': {'type': int, 'help': 'decisions a step of the optimiser'},
    '--rate': {'type': float, 'help': 'of the policy (default: 5e-6)'},
    '--noise': {'type': float, 'help': "level of the random step's noise (default: of the model)"},
    '--smooth': {'type': float, 'help': 'its correlation from row to row, 0 to 0.99 (default: 0)'},
    '--lasting': {'type': float, 'help': 'from decision to decision, 0 to 0.99 (default: 0)'},
    '--freeze-vlm': {'action': 'store_true', 'help': 'train the decoder alone; much cheaper'},
    '--actors': {
        'default': 'local',
        'help': 'where the worlds run: local, processes[:N], ray[://ADDRESS] (default: local)',
    },
    '--seed': {'type': int, 'help': 'of worlds and noise'},
}
OF_STAGE: Mapping[str, Table] = {
    **{stage: {**COMMON, **THREADS, **INIT, **TOLD, **SUPERVISED} for stage in STAGES},
    RL: {**COMMON, **THREADS, **INIT, **TOLD, **ACTING},
    BUNDLED: {**COMMON, **THREADS, **SEEING, **RENDERING, **SHORTER},
    SMALL: {**COMMON, **RENDERING},
    TINY: {**COMMON, **RENDERING},
}


class _Foreign(argparse.Action):
    """An option of other stages: refused by name."""

    def __init__(self, option_strings: Sequence[str], dest: str, stages: Sequence[str]) -> None:
        hidden = argparse.SUPPRESS
        super().__init__(option_strings, dest, nargs='*', default=hidden, help=hidden)
        self.stages = stages

    def __call__(self, *_: Any) -> None:
        """Tell who has it."""
        raise argparse.ArgumentError(self, f'not of this stage, but of {", ".join(self.stages)}')


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stages of `qwen-vla train`, each with its options."""
    parser.description = f'Train a stage or a named run. {AGAIN}'
    chosen = parser.add_subparsers(title='stages', dest='name', metavar='STAGE', required=True)
    having: dict[str, list[str]] = {}
    for stage, own in OF_STAGE.items():
        for flag in own:
            having.setdefault(flag, []).append(stage)
    for stage, own in OF_STAGE.items():
        what = WHAT[stage]
        told = f'{what[0].upper()}{what[1:]}. {AGAIN}'
        added = chosen.add_parser(stage, help=what, description=told)
        for flag, settings in own.items():
            added.add_argument(flag, **settings)
        added.set_defaults(out=Path('out') / stage)
        for flag in having.keys() - own.keys():
            added.add_argument(flag, action=_Foreign, stages=having[flag])
