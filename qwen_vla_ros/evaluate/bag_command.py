"""
`qwen-vla eval bag PATH`: what it is told, and what it writes.

Each policy (checkpoints, an address, or a scripted one) runs in each manner of splicing once
through the bag. OUT gets summary.json, report.html, the film, and with --write-bag a bag for rviz.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qwen_vla_ros.compatibility.bag_checks import BagEars
from qwen_vla_ros.compatibility.finding import PASS, REFUSE, Finding
from qwen_vla_ros.compatibility.registry import static_findings
from qwen_vla_ros.compatibility.training import Pairing
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.bag_measures import Measures
from qwen_vla_ros.evaluate.bag_report import verdict
from qwen_vla_ros.evaluate.bag_run import FREE, RECORDED, BagRun, Latency, RunOptions
from qwen_vla_ros.evaluate.bag_source import INPUT, BagSource, Event, RecordedChunk, Shifts
from qwen_vla_ros.evaluate.base_measures import BaseMeasures
from qwen_vla_ros.policy import Policy
from qwen_vla_ros.splice import MODES

SCRIPTED = ('expert', 'constant')


def cli_arguments(parser: argparse.ArgumentParser, where: str) -> None:
    """Declare the arguments of `eval bag` or `eval replay`."""
    parser.add_argument('where', choices=('bag', 'replay'))
    if where == 'replay':
        from qwen_vla_ros.evaluate.step_replay import cli_arguments as replay_arguments

        replay_arguments(parser)
        return
    parser.add_argument('path', type=Path, help='folder of the bag, or one .mcap or .db3 file')
    parser.add_argument(
        '--checkpoint', action='append', default=[], help='folder or hub name; may be repeated'
    )
    parser.add_argument(
        '--policy',
        action='append',
        default=[],
        help="'expert', 'constant', or an address ws://host:port; may be repeated",
    )
    parser.add_argument('--robot', help='contract, name or file (default: the one in the bag)')
    parser.add_argument(
        '--splice', action='append', default=[], choices=MODES, help='may be repeated'
    )
    parser.add_argument(
        '--house', type=int, default=0, help='of --policy expert of a simulated base: its map'
    )
    parser.add_argument('--layout', default='', help='action layout of the contract')
    parser.add_argument('--instruction', default='', help='instead of those in the bag')
    parser.add_argument(
        '--schedule',
        choices=('auto', FREE, RECORDED),
        default='auto',
        help='when to infer: as the node would, or for the observations of the recorded chunks '
        '(auto: recorded where the bag has chunks)',
    )
    parser.add_argument(
        '--latency',
        default='0',
        metavar='S',
        help="of an inference in the bag's time; 'measured': as long as it takes here",
    )
    parser.add_argument('--jitter', type=float, default=0.0, metavar='S', help='added to that')
    parser.add_argument('--seed', type=int, default=0, help='of the jitter')
    parser.add_argument('--replan', type=float, default=0.2, metavar='S', help='as of the node')
    for name, what in (
        ('delay', 'its messages arrive so much later'),
        ('stamp', 'its stamps are set so much forward'),
    ):
        parser.add_argument(
            f'--{name}', action='append', default=[], metavar='SOURCE=S', help=f'a fault: {what}'
        )
    parser.add_argument(
        '--swap', action='append', default=[], metavar='A=B', help='a fault: two sources exchanged'
    )
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=int)
    parser.add_argument('--out', type=Path, default=Path('out/bag'), help='folder of the results')
    parser.add_argument('--write-bag', action='store_true', help='also a bag for rviz: OUT/bag')
    parser.add_argument('--no-film', action='store_true', help='leave the film out')


def run_from_arguments(args: argparse.Namespace) -> int:
    """Evaluate; 1 when the bag could not be read to its end, else 0."""
    if args.where == 'replay':
        from qwen_vla_ros.evaluate.step_replay import run_from_arguments as run_replay

        return run_replay(args)
    embodiment = Embodiment.load(args.robot) if args.robot else None
    if args.write_bag and args.no_film:
        raise QwenVlaError('--write-bag: the markers are those of the film; leave --no-film out')
    source = BagSource(args.path, embodiment, shifts=_shifts(args))
    policies = _policies(args, source.embodiment)
    result = evaluate(
        source,
        policies,
        _manners(args),
        args.out,
        args.schedule,
        film=not args.no_film,
        write_bag=args.write_bag,
    )
    _print(result)
    return 1 if result['damage'] else 0


def evaluate(
    source: BagSource,
    policies: Mapping[str, Policy],
    manners: Sequence[RunOptions],
    out: Path,
    schedule: str = 'auto',
    film: bool = True,
    write_bag: bool = False,
) -> dict[str, Any]:
    """Measure, and write summary.json and report.html into out; return the summary."""
    out.mkdir(parents=True, exist_ok=True)
    (out / 'strip.mp4').unlink(missing_ok=True)
    result, drawn = measure(source, policies, manners, schedule, out, film, write_bag)
    write_results(result, drawn, out, source.embodiment.step_s)
    return result


def measure(
    source: BagSource,
    policies: Mapping[str, Policy],
    manners: Sequence[RunOptions],
    schedule: str = 'auto',
    out: Path | None = None,
    film: bool = False,
    write_bag: bool = False,
) -> tuple[dict[str, Any], list[tuple[str, Measures | BaseMeasures]]]:
    """
    Run every policy in every manner; return the summary and what is drawn of each run.

    schedule 'auto' takes 'recorded' where the bag has chunks; out is where film and bag go.
    """
    recorded = source.recorded() if schedule != FREE else []
    schedule = (RECORDED if recorded else FREE) if schedule == 'auto' else schedule
    results: dict[str, Any] = {}
    drawn: list[tuple[str, Measures | BaseMeasures]] = []
    findings: list[Finding] = []
    began = time.perf_counter()
    for name, policy in policies.items():
        for manner in manners:
            label = ', '.join(part for part in (name, manner.splice) if part)
            options = replace(manner, name=label, schedule=schedule)
            first = not results
            measures, found = _one(
                source, policy, options, recorded, out, film and first, write_bag and first
            )
            results[label] = {'options': asdict(options), **measures.as_dict()}
            drawn.append((label, measures))
            findings += _labelled(found, label if len(policies) > 1 else '', findings)
    wall_s = time.perf_counter() - began
    result = {
        'bag': str(source.path),
        'robot': source.embodiment.name,
        'first_ns': source.first_ns,
        'seconds': source.seconds,
        'step_s': source.embodiment.step_s,
        'speed': source.seconds * len(results) / max(wall_s, 1e-9),
        'schedule': schedule,
        'damage': source.damage,
        'notices': [source.damage] if source.damage else [],
        'findings': [asdict(finding) for finding in findings],
        'runs': results,
    }
    return result, drawn


def write_results(
    result: dict[str, Any],
    drawn: Sequence[tuple[str, Measures | BaseMeasures]],
    out: Path,
    step_s: float,
) -> None:
    """Write summary.json, the plots and report.html; each beside, then renamed."""
    from qwen_vla_ros.evaluate import bag_plots, bag_report, base_report

    runs = list(result['runs'].items())
    steps, base = out / 'steps.png', runs[0][1]['of'] == 'base'
    over, title = (out / 'way.png', 'Way') if base else (out / 'joints.png', 'Joints')
    if base:
        base_report.plot_ways(drawn, over, 'Waypoints and the way that was driven, from above')
    else:
        bag_plots.plot_joints(drawn, result['first_ns'], over, 'Joints in time')
    bag_plots.plot_steps(runs, step_s, steps)
    svg = bag_plots.timeline(runs, result['first_ns'], result['seconds'])
    plots = [(title, {'path': over}), ('Error by step', {'path': steps})]
    film = out / 'strip.mp4'
    page = bag_report.render(result, svg, plots, film if film.is_file() else None)
    for name, text in (('summary.json', json.dumps(result, indent=1)), ('report.html', page)):
        beside = out / f'.{name}'
        beside.write_text(text, encoding='utf-8')
        beside.replace(out / name)


def _one(
    source: BagSource,
    policy: Policy,
    options: RunOptions,
    recorded: Sequence[RecordedChunk],
    out: Path | None,
    film: bool,
    write_bag: bool,
) -> tuple[Measures | BaseMeasures, list[Finding]]:
    """Make one run with everybody who looks on."""
    from contextlib import ExitStack

    run = BagRun(source, policy, options, recorded=recorded)
    robot, layout = source.embodiment, options.layout or source.embodiment.default_layout
    if run.base is None:
        measures = Measures(robot, run.pilot, recorded)
    else:
        measures = BaseMeasures(robot, run, recorded)
    pair = Pairing(policy.metadata, robot, layout)
    ears = _Ears(BagEars(pair))
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=round(source.seconds, 1), unit='s', desc=options.name, disable=None)
        )
        onlookers = [measures, ears, _Bar(bar, source.first_ns)]
        if film:
            from qwen_vla_ros.evaluate.bag_strip import Strip

            strip = Strip(out / 'strip.mp4', robot, source.first_ns)
            onlookers.append(stack.enter_context(strip))
        if film and write_bag:
            from qwen_vla_ros.nodes.prediction_bag import PredictionBag

            written = PredictionBag(out / 'bag', robot, strip.intention)
            onlookers.append(stack.enter_context(written))
        run.look(onlookers)
        run.run()
    prediction = measures.as_dict()
    return measures, [*static_findings(pair), *ears.ears.findings(prediction)]


class _Ears:
    """The doctor as an onlooker."""

    def __init__(self, ears: BagEars) -> None:
        self.ears = ears

    def heard(self, event: Event) -> None:
        """Pass inputs on."""
        if event.kind == INPUT:
            self.ears.hear(event.source, event.message, event.time_ns)

    def said(self, said: Any) -> None:
        """Nothing to hear."""

    def commanded(self, now_ns: int, motion: Any, pilot: Any) -> None:
        """Nothing to hear."""

    def happened(self, now_ns: int, kind: str, text: str) -> None:
        """Nothing to hear."""


class _Bar(_Ears):
    """How far the bag has been played."""

    def __init__(self, bar: Any, first_ns: int) -> None:
        self._bar, self._first_ns = bar, first_ns

    def heard(self, event: Event) -> None:
        """Nothing to tell."""

    def commanded(self, now_ns: int, motion: Any, pilot: Any) -> None:
        """Tell it."""
        passed_s = (now_ns - self._first_ns) * 1e-9 - self._bar.n
        if passed_s >= 1.0:
            self._bar.update(round(passed_s, 1))


def _labelled(found: Sequence[Finding], label: str, known: Sequence[Finding]) -> list[Finding]:
    """Return the findings that are new, those of one of several policies with its name."""
    told = {(f.subject, f.level, f.found) for f in known}
    new = [f for f in found if (f.subject, f.level, f.found) not in told]
    if not label or not known:
        return new
    return [replace(f, found=f'{label}: {f.found}') if f.level != PASS else f for f in new]


def _policies(args: argparse.Namespace, embodiment: Embodiment) -> dict[str, Policy]:
    """Return every policy that is named, by the name that the report gives it."""
    from qwen_vla_ros.evaluate import choose_policy as choosing

    found: dict[str, Policy] = {}
    checkpoints = list(args.checkpoint)
    if not checkpoints and not args.policy:
        checkpoints = [str(choosing.bundled_checkpoint())]
    for name in args.policy:
        if name not in SCRIPTED and '://' not in name:
            raise QwenVlaError(f"--policy {name}: choose 'expert', 'constant' or ws://host:port")
        found[name] = choosing.named_policy(name, embodiment, args.house)
    for place in checkpoints:
        from qwen_vla_ros.policy import load_policy

        choosing.use_threads(args.threads)
        name = Path(place).name if Path(place).name not in found else place
        layout = args.layout or None
        found[name] = load_policy(Path(place), embodiment, args.device, layout)
    return found


def _manners(args: argparse.Namespace) -> list[RunOptions]:
    """Return one manner for each way of splicing."""
    try:
        seconds = None if args.latency == 'measured' else float(args.latency)
    except ValueError:
        seconds = -1.0
    if (seconds is not None and not 0 <= seconds <= 60) or not 0 <= args.jitter <= 60:
        raise QwenVlaError("--latency, --jitter: give seconds from 0 to 60, or 'measured'")
    latency = Latency(seconds, args.jitter, args.seed)
    return [
        RunOptions(
            '',
            splice,
            latency,
            args.replan,
            instruction=args.instruction,
            layout=args.layout,
        )
        for splice in (args.splice or [''])
    ]


def _shifts(args: argparse.Namespace) -> Shifts:
    """Return the faults that are planted."""
    swap: dict[str, str] = {}
    for first, second in _pairs('--swap', args.swap):
        swap |= {first: second, second: first}
    numbers = []
    for option, words in (('--delay', args.delay), ('--stamp', args.stamp)):
        try:
            numbers.append({name: float(value) for name, value in _pairs(option, words)})
        except ValueError as error:
            raise QwenVlaError(f'{option}: {error}; write SOURCE=SECONDS') from error
    if any(value < 0 for value in numbers[0].values()):
        raise QwenVlaError('--delay: messages cannot arrive before they were recorded')
    return Shifts(*numbers, swap)


def _pairs(option: str, words: Sequence[str]) -> list[tuple[str, str]]:
    found = [word.partition('=') for word in words]
    if wrong := [word for word, (a, _, b) in zip(words, found, strict=True) if not (a and b)]:
        raise QwenVlaError(f'{option} {wrong[0]}: write A=B')
    return [(a, b) for a, _, b in found]


def _print(result: Mapping[str, Any]) -> None:
    """Print what a reader needs before opening the report."""
    for finding in result['findings']:
        if finding['level'] == REFUSE:
            print(f'refuse  {finding["subject"]}: {finding["found"]}')
    for name, run in result['runs'].items():
        same = run['same_as_recorded']
        again = f' ({same["equal"]} of {same["matched"]} equal the recorded chunks)'
        print(verdict(name, run) + (again if same['matched'] else ''))
    if result['damage']:
        print(f'not whole: {result["damage"]}')
    print(f'{result["speed"]:.1f} x real time')
