"""`qwen-vla synthesise`: the command's arguments and what it does."""

import argparse
import os
from pathlib import Path

from qwen_vla_ros.data.synthetic.arms import ARMS
from qwen_vla_ros.data.synthetic.families import FAMILIES
from qwen_vla_ros.errors import QwenVlaError


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
    text.add_argument(
        '--ray', metavar='ADDRESS', help="on a Ray cluster: its address, 'auto' or 'local'"
    )
    text.add_argument('--no-report', action='store_true', help='leave report.html out')


def run_from_arguments(args: argparse.Namespace) -> int:
    """Make the set that is asked for, and print how fast."""
    if args.workers < 1:
        raise QwenVlaError(f'--workers {args.workers}: at least one')
    return _text_action(args)


def _text_action(args: argparse.Namespace) -> int:
    from qwen_vla_ros.data.synthetic.generate import in_processes, over_ray
    from qwen_vla_ros.data.synthetic.text_action import Order, synthesise

    order = Order(args.out, args.episodes, args.seed, tuple(args.arms), tuple(args.families))
    runner = over_ray(args.ray) if args.ray else in_processes(args.workers)
    made, seconds = synthesise(order, runner)
    where = f'Ray at {args.ray}' if args.ray else f'{args.workers} workers'
    rate = f'{made} trajectories in {seconds:.1f} s on {where}: {made / seconds:.1f} a second'
    print(rate if made else f'{args.out}: all {order.episodes} trajectories are there')
    if not args.no_report:
        from qwen_vla_ros.data.synthetic.report import write_report

        print(write_report(args.out, rate if made else ''))
    return 0


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
