"""`qwen-vla synthesise`: the command's arguments and what it does."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_vla_ros.data.synthetic.arms import ARMS
from qwen_vla_ros.data.synthetic.families import FAMILIES
from qwen_vla_ros.errors import QwenVlaError

if TYPE_CHECKING:
    from qwen_vla_ros.data.synthetic.runners import Runner


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.set_defaults(kind='')
    kinds = parser.add_subparsers(title='sets', metavar='SET', dest='kind', required=True)
    text = kinds.add_parser('text-action', help='trajectories of six arms in words, no pictures')
    _shared_arguments(text)
    text.add_argument(
        '--arms', nargs='+', default=list(ARMS), metavar='ARM', help=f'of {", ".join(ARMS)}'
    )
    text.add_argument(
        '--families',
        nargs='+',
        default=list(FAMILIES),
        metavar='NAME',
        help=f'of {", ".join(map(repr, FAMILIES))}',
    )
    text.add_argument('--no-report', action='store_true', help='leave report.html out')
    seen = kinds.add_parser('vision-action', help="the teacher's successes in simulated scenes")
    _shared_arguments(seen)
    seen.add_argument(
        '--tasks', nargs='+', default=None, metavar='TASK', help='of pick, place, push, stack'
    )


def run_from_arguments(args: argparse.Namespace) -> int:
    """Make the set that is asked for, and print how fast."""
    if args.workers < 1:
        raise QwenVlaError(f'--workers {args.workers}: at least one')
    return _text_action(args) if args.kind == 'text-action' else _vision_action(args)


def _vision_action(args: argparse.Namespace) -> int:
    from qwen_vla_ros.data.synthetic.vision_action import VisionOrder, synthesise

    order = VisionOrder(args.out, args.episodes, args.seed)
    if args.tasks:
        order = replace(order, kinds=tuple(args.tasks))
    made, seconds, failed = synthesise(order, _runner(args))
    kept = order.episodes / (order.episodes + failed.total())
    print(f'{made} episodes in {seconds:.1f} s on {_where(args)}; the teacher did {kept:.0%}')
    for kind, count in failed.items():
        print(f'{kind}: {count} scenes where it failed were left out')
    return 0


def _text_action(args: argparse.Namespace) -> int:
    from qwen_vla_ros.data.synthetic.text_action import Order, synthesise

    order = Order(args.out, args.episodes, args.seed, tuple(args.arms), tuple(args.families))
    made, seconds = synthesise(order, _runner(args))
    rate = (
        f'{made} trajectories in {seconds:.1f} s on {_where(args)}: {made / seconds:.1f} a second'
    )
    print(rate if made else f'{args.out}: all {order.episodes} trajectories are there')
    if not args.no_report:
        from qwen_vla_ros.data.synthetic.report import write_report

        print(write_report(args.out, rate if made else ''))
    return 0


def _runner(args: argparse.Namespace) -> 'Runner':
    from qwen_vla_ros.data.synthetic.runners import in_processes, over_ray

    return over_ray(args.ray) if args.ray else in_processes(args.workers)


def _where(args: argparse.Namespace) -> str:
    return f'Ray at {args.ray}' if args.ray else f'{args.workers} workers'


def _shared_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder of the set')
    parser.add_argument('--episodes', type=int, default=600, metavar='N', help='in all (600)')
    parser.add_argument('--seed', type=int, default=0, metavar='S', help='equal seed, equal files')
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count() or 1,
        metavar='W',
        help='processes (default: one for each core)',
    )
    parser.add_argument(
        '--ray', metavar='ADDRESS', help="on a Ray cluster: its address, 'auto' or 'local'"
    )
