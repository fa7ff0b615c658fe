"""`qwen-vla check home` and `check hand-eye`: what is asked, and the table that answers."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from qwen_vla_ros.checks.home import Finding, check_home
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla check`."""
    kinds = parser.add_subparsers(title='checks', metavar='CHECK', required=True)
    home = kinds.add_parser('home', help='joints against the home pose; --move: their signs')
    home.add_argument('--robot', default='widowx', help='robot contract, name or YAML file')
    home.add_argument('--home', type=Path, help='YAML of joint: value (default: zero, in rad)')
    home.add_argument('--tolerance', type=float, default=0.05, help='rad (default: 0.05)')
    home.add_argument(
        '--move',
        action='store_true',
        help='MOVES THE ROBOT: nudge each joint and back, if all joints passed at home',
    )
    home.add_argument(
        '--move-anyway',
        action='store_true',
        help='MOVES THE ROBOT, though a joint was refused at home (its zero or sign may be wrong)',
    )
    home.add_argument('--nudge', type=float, default=0.05, help='rad (default: 0.05)')
    home.set_defaults(run=run_home)
    eye = kinds.add_parser('hand-eye', help='known points of the hand against a camera')
    eye.add_argument('samples', type=Path, help='YAML: camera, extrinsics, samples')
    eye.add_argument('--robot', default='widowx', help='robot contract, name or YAML file')
    eye.add_argument('--tip', default='', help="the point's link (default: workspace's tip)")
    eye.add_argument('--tolerance', type=float, default=10.0, help='mm (default: 10)')
    eye.set_defaults(run=run_hand_eye)


def run_home(args: argparse.Namespace) -> int:
    """Check the home pose, and the signs when asked to; 1 when a joint is refused."""
    from qwen_vla_ros.nodes.arm_check import ArmCheck, Nudges

    if not 0.005 <= args.nudge <= 0.2:
        raise QwenVlaError(f'--nudge {args.nudge}: choose between 0.005 and 0.2 rad')
    embodiment = Embodiment.load(args.robot)
    units = {field.name: field.unit for field in embodiment.state.fields}
    home = _read_home(args.home) if args.home else dict.fromkeys(_angles(units), 0.0)
    with ArmCheck(embodiment) as arm:
        found = check_home(arm.measure(), home, units, args.tolerance)
        print(table(found))
        if args.move_anyway or (args.move and may_move(found)):
            moved = arm.nudge_all(Nudges(args.nudge))
            print(table(moved))
            found += moved
    return 0 if all(finding.ok for finding in found) else 1


def may_move(found: Sequence[Finding]) -> bool:
    """Return whether all joints passed at home; say on stderr why nothing is moved otherwise."""
    refused = [finding.name for finding in found if not finding.ok]
    if refused:
        print(
            f'nothing was moved: {", ".join(refused)} refused at home; mend that first, or add '
            '--move-anyway',
            file=sys.stderr,
        )
    return not refused


def run_hand_eye(args: argparse.Namespace) -> int:
    """Compare the samples of a file; 1 when they are too far off."""
    from qwen_vla_ros.checks.hand_eye import compare, read_samples
    from qwen_vla_ros.kinematics import ArmKinematics

    embodiment = Embodiment.load(args.robot)
    tips = [box.tip for box in embodiment.workspaces]
    tip = args.tip or (tips[0] if len(tips) == 1 else '')
    if not tip:
        raise QwenVlaError(f'{args.robot}: no workspace names a tip; give one with --tip')
    kinematics = ArmKinematics(embodiment.description_path, tip)
    finding = compare(*read_samples(args.samples, kinematics)).finding(args.tolerance)
    print(table([finding]))
    return 0 if finding.ok else 1


def table(findings: Sequence[Finding]) -> str:
    """Return one line a finding, and the remedy below those that are refused."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f'{finding.verdict:6s} {finding.name:{width}s}  {finding.seen}')
        if finding.remedy:
            lines.append(f'{"":6s} {"":{width}s}  -> {finding.remedy}')
    return '\n'.join(lines)


def _angles(units: dict[str, str]) -> list[str]:
    return [name for name, unit in units.items() if unit == 'rad']


def _read_home(path: Path) -> dict[str, float]:
    try:
        data = yaml.safe_load(path.read_text())
        return {str(name): float(value) for name, value in data.items()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise QwenVlaError(f'{path}: a mapping of joint: value is expected: {error}') from error
