"""
Every fault, at every stage, one at a time: injected, watched, mended, judged.

A simulated arm swings. Judged are every command that arrives (numbers, names, limits, an end at
rest; none at all in dry-run and shadow) and the arm at every 10 ms (position, velocity,
acceleration, step, tracking, workspace, tip speed). Besides, the node must say the cause in time
and come to rest where that is asked, and go on when all is mended.
"""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from qwen_vla_ros.msg import PolicyStatus

from benchmarks import Result
from benchmarks.fault_campaign.bounds import Bounds, peak_speed, rest_after, told
from benchmarks.fault_campaign.catalogue import (
    BEAR,
    END,
    HOLD,
    LATCH,
    Fault,
    clock_faults,
    model_faults,
    node_faults,
    stream_faults,
)
from benchmarks.fault_campaign.endurance import endure
from benchmarks.fault_campaign.lab import CAMPAIGN_DRIVERS, Lab
from benchmarks.fault_campaign.robot import Command
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.stages import COMMANDING, STAGES

REST_S = 0.6  # from the moment the cause is told to an arm at rest
CHUNK_S = 4.5  # a chunk of 16 rows at 5 Hz, the way to rest, and a look at the resting arm
HEADING = ('fault', 'stage', 'told after ms', 'at rest after ms', 'what the arm did', 'goes on ms')


@dataclass
class Outcome:
    """What one fault did at one stage; times in s from the fault, None where it did not happen."""

    fault: str
    stage: str
    told_s: float | None = None
    rest_s: float | None = None
    resumed_s: float | None = None
    did: str = ''
    unsafe: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """Return a row of the table."""
        did = '; '.join((self.did, *(f'UNSAFE: {text}' for text in self.unsafe), *self.missed))
        return (
            self.fault,
            self.stage,
            told(self.told_s),
            told(self.rest_s),
            did,
            told(self.resumed_s),
        )


def inject(lab: Lab, fault: Fault, stage: str, bounds: Bounds) -> Outcome:
    """Bring node and arm into the stage, inject the fault, watch, mend, watch it go on."""
    found = Outcome(fault.name, stage)
    if not lab.recover(stage):
        found.missed.append(f'could not begin: {lab.status.stage} {lab.status.reason}')
        return found
    lab.robot.ticks.clear()
    lab.robot.commands.clear()
    refusals, since = lab.status.refusals, time.monotonic()
    fault.begin(lab)
    time.sleep(max(fault.lasts_s, fault.within_s + 0.5 if fault.cause else 0.0))
    found.told_s = lab.first_status(since, lambda status: tells(fault, status, refusals))
    ticks = list(lab.robot.ticks)
    found.rest_s = rest_after(ticks, since)
    found.did = what_it_did(lab, fault, found, stage, ticks)
    mended = time.monotonic()
    if lab.recover(stage):
        found.resumed_s = time.monotonic() - mended
    else:
        found.missed.append(f'does not go on: {lab.status.stage} {lab.status.reason}')
    judge(found, fault, stage)
    found.unsafe += bounds.unsafe_commands(commands_at(lab, stage, mended), stage in COMMANDING)
    found.unsafe += bounds.broken(list(lab.robot.ticks))
    return found


def tells(fault: Fault, status: PolicyStatus, refusals: int) -> bool:
    """Return whether a status shows that the node knows of the fault."""
    if fault.cause:
        return fault.cause in status.reason
    calm = status.stage in ('RUNNING', 'WATCHING') and not status.missing
    return status.refusals > refusals or (not calm and fault.act != BEAR)


def commands_at(lab: Lab, stage: str, mended: float) -> list[Command]:
    """Return the commands of the fault's time; where the arm may move, those after it as well."""
    return [c for c in list(lab.robot.commands) if stage in COMMANDING or c.at < mended]


def what_it_did(lab: Lab, fault: Fault, found: Outcome, stage: str, ticks: list) -> str:
    """Return it in words."""
    status = lab.status
    if stage not in COMMANDING:
        return 'nothing was commanded'
    at_end = f'{status.stage}' + (
        f', falls back to {status.arming}' if status.arming != stage else ''
    )
    did = 'came to rest' if found.rest_s is not None else 'went on'
    rejected = sum(1 for command in list(lab.robot.commands) if command.rejected)
    more = f', {rejected} commands rejected by the controller' if rejected else ''
    return f'{did} ({at_end}); at most {peak_speed(ticks):.2f} rad/s{more}'


def judge(found: Outcome, fault: Fault, stage: str) -> None:
    """Note what the node should have done and did not."""
    commanding = stage in COMMANDING
    if fault.act in (BEAR, END) or (fault.needs_motion and not commanding):
        if fault.act == END and commanding and found.rest_s is None:
            found.missed.append('the arm did not come to rest')
        return
    if found.told_s is None:
        found.missed.append('not told')
    elif found.told_s > fault.within_s:
        found.missed.append(f'told later than {fault.within_s * 1e3:.0f} ms')
    if fault.act in (HOLD, LATCH) and commanding:
        if found.rest_s is None:
            found.missed.append('the arm did not come to rest')
        elif found.told_s is not None and found.rest_s > found.told_s + REST_S:
            found.missed.append(f'not at rest {REST_S * 1e3:.0f} ms after it was told')


def campaign(stages: list[str], only: str = '', driver: str = 'jtc-jazzy') -> list[Outcome]:
    """
    Inject all faults whose name holds a text, at the stages; print each as it is known.

    Raises QwenVlaError, before anything is started, where no name holds the text.
    """
    bounds, outcomes = Bounds(Embodiment.load('widowx')), []
    for simulated_time, faults in plans(only):
        chosen = [at_driver(fault, driver) for fault in faults]
        with TemporaryDirectory() as folder:
            lab = Lab(Path(folder), simulated_time, driver)
            try:
                for stage in reversed(stages):
                    for fault in chosen:
                        outcomes.append(inject(lab, fault, stage, bounds))
                        print(' | '.join(outcomes[-1].cells()), file=sys.stderr, flush=True)
            finally:
                lab.close()
    return outcomes


def plans(only: str = '') -> list[tuple[bool, list[Fault]]]:
    """
    Return (whether the node runs on simulated time, faults) of those whose name holds a text.

    Raises QwenVlaError that lists the names where none does.
    """
    known = ((False, [*stream_faults(), *model_faults(), *node_faults()]), (True, clock_faults()))
    found = [(clock, [fault for fault in faults if only in fault.name]) for clock, faults in known]
    if not any(faults for _, faults in found):
        names = '\n  '.join(fault.name for _, faults in known for fault in faults)
        raise QwenVlaError(f'--only {only!r}: no fault has this in its name; there are\n  {names}')
    return [(clock, faults) for clock, faults in found if faults]


def at_driver(fault: Fault, driver: str) -> Fault:
    """Return a fault as a driver has it: a goal of an action runs to its chunk's end."""
    if fault.act == END and driver.startswith('action-'):
        return replace(fault, lasts_s=CHUNK_S)
    return fault


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    rows = [HEADING, tuple('---' for _ in HEADING), *(outcome.cells() for outcome in outcomes)]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def result(outcomes: list[Outcome]) -> Result:
    """Return 1 or 0, and what was seen."""
    unsafe = [outcome for outcome in outcomes if outcome.unsafe]
    missed = [outcome for outcome in outcomes if outcome.missed]
    times = sorted(o.told_s for o in outcomes if o.told_s is not None)
    middle = told(times[len(times) // 2]) if times else '-'
    note = (
        f'{len(outcomes)} injections of {len({o.fault for o in outcomes})} faults: '
        f'{len(unsafe)} unsafe, {len(missed)} not handled as asked; told after {middle} ms '
        f'(median), {told(times[-1]) if times else "-"} ms (largest)'
    )
    held = bool(outcomes) and not unsafe and not missed
    return Result('faults', float(held), 1.0, 1.0, '1 = safe', note)


def options() -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        prog='python -m benchmarks.faults',
        description='every fault, at every stage, in simulation',
    )
    parser.add_argument('--stage', choices=STAGES, action='append', help='default: all')
    parser.add_argument(
        '--only', default='', help='only faults whose name holds this, e.g. joints (see --list)'
    )
    parser.add_argument('--list', action='store_true', help="print the faults' names and end")
    parser.add_argument(
        '--driver', choices=CAMPAIGN_DRIVERS, default='jtc-jazzy', help="the robot's"
    )
    parser.add_argument('--table', type=Path, help='write the table to this file')
    parser.add_argument('--endurance', type=float, metavar='MINUTES', help='no faults, under load')
    parser.add_argument('--result', type=Path, help='write the result to this file, as JSON')
    return parser.parse_args()


if __name__ == '__main__':
    chosen = options()
    try:
        faults = plans(chosen.only)
    except QwenVlaError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if chosen.list:
        print('\n'.join(fault.name for _, group in faults for fault in group))
        sys.exit(0)
    if chosen.endurance:
        sys.exit(endure(chosen.endurance))
    outcomes = campaign(chosen.stage or list(STAGES), chosen.only, chosen.driver)
    if chosen.table is not None:
        chosen.table.write_text(table(outcomes) + '\n')
    if chosen.result is not None:
        chosen.result.write_text(json.dumps(asdict(result(outcomes))))
