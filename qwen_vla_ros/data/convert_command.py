"""`qwen-vla convert`: any data set that can be read -> LeRobot v3.0, or a packed cache."""

import argparse
import os
from pathlib import Path
from typing import Any

from qwen_vla_ros.data.cleaning import Thresholds
from qwen_vla_ros.data.conversion import (
    Conversion,
    NothingLeftError,
    Target,
    convert,
    refuse_used,
)
from qwen_vla_ros.data.film import CODECS
from qwen_vla_ros.data.lerobot_writer import LeRobotTarget
from qwen_vla_ros.data.packed import PackedEpisodes, read_json
from qwen_vla_ros.data.packed_writer import PackedTarget, parse_sizes
from qwen_vla_ros.data.work_list import units_of
from qwen_vla_ros.errors import QwenVlaError

NEVER = 1e9


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla convert`."""
    source_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, help='folder of the new data set')
    parser.add_argument(
        '--to',
        choices=('lerobot', 'packed'),
        default='lerobot',
        help='lerobot: a LeRobot v3.0 data set (default); packed: samples at training size, for '
        'training alone',
    )
    parser.add_argument(
        '--size',
        default='224',
        help='packed: of pictures, HEIGHTxWIDTH or VIEW=HEIGHTxWIDTH,... (default: 224)',
    )
    parser.add_argument(
        '--checkpoint', type=Path, help="packed: pictures at this checkpoint's sizes"
    )
    parser.add_argument(
        '--codec', choices=tuple(CODECS), default='av1', help='of the films (default: av1)'
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=os.cpu_count() or 1,
        help='processes (default: one a core)',
    )
    own = Thresholds()
    parser.add_argument(
        '--keep-all', action='store_true', help='leave out what cannot be read, and nothing else'
    )
    parser.add_argument(
        '--min-frames',
        type=int,
        default=own.min_frames,
        help='of an episode (default: %(default)s)',
    )
    parser.add_argument(
        '--max-seconds',
        type=float,
        default=own.max_seconds,
        help='of an episode (default: %(default)g)',
    )


def source_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which data sets are read and how."""
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='DATA',
        help='bag, folder of bags, data set folder, format:path, or its description in YAML',
    )
    parser.add_argument('--robot', help='contract, name or YAML file (default: as the data say)')
    parser.add_argument('--instruction', help='where the data have no words')
    parser.add_argument('--layout', help='bags: which actions of the contract')
    parser.add_argument(
        '--pseudo-actions',
        action='store_const',
        const=True,
        help='LeRobot without actions: take the steps of its state',
    )
    parser.add_argument('--horizon', type=int, help="rows of a chunk (default: the data's)")


def source_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of open_dataset() that were given."""
    if args.horizon is not None and args.horizon < 1:
        raise QwenVlaError(f'--horizon {args.horizon}: at least 1')
    told = {
        'embodiment': args.robot,
        'instruction': args.instruction,
        'layout': args.layout,
        'horizon': args.horizon,
        'pseudo_actions': args.pseudo_actions,
    }
    return {key: value for key, value in told.items() if value is not None}


def thresholds_of(args: argparse.Namespace) -> Thresholds:
    """Return what is still trained on."""
    if args.keep_all:
        return Thresholds(
            min_frames=1,
            max_seconds=NEVER,
            length_factor=NEVER,
            max_missing_share=1.0,
            still_share=-1.0,
            check_instruction=False,
        )
    return Thresholds(min_frames=args.min_frames, max_seconds=args.max_seconds)


def target_of(args: argparse.Namespace) -> Target:
    """Return the format to write."""
    if args.to == 'lerobot':
        return LeRobotTarget(args.codec)
    size, sizes = parse_sizes(args.size)
    return PackedTarget(size, {**sizes, **(checkpoint_sizes(args.checkpoint) or {})})


def checkpoint_sizes(folder: Path | None) -> dict[str, tuple[int, int]] | None:
    """Return view -> (height, width) of a checkpoint; QwenVlaError names what is missing."""
    if folder is None:
        return None
    try:
        sizes = read_json(folder / 'config.json')['inputs']['image_sizes']
        return {view: (int(height), int(width)) for view, (height, width) in sizes.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise QwenVlaError(f'{folder}/config.json: no inputs.image_sizes in it') from error


def run_from_arguments(args: argparse.Namespace) -> int:
    """Convert, and print what was left out and why."""
    refuse_used(args.out)
    if args.jobs < 1:
        raise QwenVlaError(f'--jobs {args.jobs}: at least 1')
    units = units_of([_absolute(source) for source in args.sources], source_options(args))
    asked = Conversion(units, target_of(args), thresholds_of(args))
    try:
        report = convert(asked, args.out, args.jobs)
    except NothingLeftError as error:
        print(error.report)
        raise
    print(report)
    kind = ''
    if args.to == 'packed':
        per_sample = PackedEpisodes(args.out).bytes_per_sample
        kind = f': {per_sample / 1024:.1f} KiB a sample'
    print(f'{args.out}{kind}')
    return 0


def _absolute(source: str) -> str:
    """Return a path that means the same in every process; 'format:path' keeps its format."""
    if '://' in source:
        return source
    name, colon, rest = source.partition(':')
    if colon and not Path(source).exists():
        return f'{name}:{Path(rest).absolute()}'
    return str(Path(source).absolute())
