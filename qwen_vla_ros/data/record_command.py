"""`qwen-vla record`: episodes by keys, by the clock or by services; a list of them; mending."""

import argparse
import sys
from pathlib import Path

from qwen_vla_ros.data.bag_files import open_bag
from qwen_vla_ros.data.episode_notes import NOTES, RECORDING, read_notes
from qwen_vla_ros.errors import QwenVlaError

KEYS = """keys in a terminal:
  space    start an episode; stop it, unlabelled
  y, n     stop it with the label success, failure; after its end: label the last one
  d        discard the running episode, or the last one
  i        type the instruction of the next episodes
  q        quit (a running episode is kept); Ctrl-C does the same

Each episode is a folder OUT/episode_NNNN with an MCAP, metadata.yaml and episode.json (words,
label, rates, what the audit found). Discarded ones move to OUT/discarded. Episodes that the audit
marks stay, and are left out when the bags are read, unless asked for. Without a terminal, the
services /recorder/start, stop, discard (Trigger) and label (SetBool) do the same.
"""


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla record`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = KEYS
    parser.add_argument('--out', type=Path, help='folder of the episodes; may hold some already')
    parser.add_argument('--robot', default='widowx', help='robot contract, name or YAML file')
    parser.add_argument(
        '--instruction', default='', help='of the episodes (default: heard on policy/instruction)'
    )
    parser.add_argument(
        '--seconds', type=float, help='start by itself, and end each episode after so long'
    )
    parser.add_argument(
        '--episodes', type=int, default=1, metavar='N', help='with --seconds: so many (default: 1)'
    )
    parser.add_argument(
        '--max-gb', type=float, default=20.0, help='largest bag of an episode (default: 20)'
    )
    parser.add_argument(
        '--stop-free-gb',
        type=float,
        default=2.0,
        help='end the episode before the disk has less free (default: 2)',
    )
    parser.add_argument(
        '--one-bag', action='store_true', help='one bag OUT from now to the end, no episodes'
    )
    parser.add_argument('--list', action='store_true', help='list the episodes in OUT and end')
    parser.add_argument(
        '--mend', type=Path, metavar='BAG', help='make a bag that was cut off whole again and end'
    )


def run_from_arguments(args: argparse.Namespace) -> int:
    """Record, list or mend; the exit code."""
    if args.mend is not None:
        from qwen_vla_ros.data.mend import mend_bag

        print(mend_bag(args.mend))
        return 0
    if args.out is None:
        raise QwenVlaError('record: say where to, with --out DIR')
    if args.list:
        print('\n'.join(episode_lines(args.out)))
        return 0
    if args.seconds is not None and not (args.seconds > 0 and args.episodes > 0):
        raise QwenVlaError('record: --seconds and --episodes must be positive')
    from qwen_vla_ros.nodes.record_console import record

    return record(args, sys.stdin)


def episode_lines(out: Path) -> list[str]:
    """Return a line an episode, with the faults that the audit found; QwenVlaError."""
    lines: list[str] = []
    places = sorted(out.glob(f'*/{NOTES}')) + sorted(out.glob(f'discarded/*/{NOTES}'))
    for place in places:
        notes = read_notes(place.parent)
        if notes is None:
            continue
        lines.append(notes.line())
        if notes.state == RECORDING:
            with open_bag(place.parent) as reader:
                lines.append(f'  {reader.lost or "whole"}; qwen-vla record --mend {place.parent}')
        lines += [f'  {finding}' for finding in notes.findings]
    if not lines:
        raise QwenVlaError(f'{out}: there is no episode in it')
    return lines
