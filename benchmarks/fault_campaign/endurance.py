"""
A long run under load: `python -m benchmarks.faults --endurance 30` (minutes).

The arm of the fault campaign swings at stage full, without faults, while 40 other topics bring
1,500 messages a second to the same machine. Told are the memory of the node and of the model at
the start (after a fifth of the time), at the end and by the line fitted between, how far commands
are apart, how many came late (half a period or more), and every time that the arm did not run (it
is started again as a person would). Judged is memory that only the process has; what it shares is
the rings of pictures, whose pages are touched one after the other, up to their size.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.fault_campaign.lab import Lab
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.stages import FULL

SAMPLE_S = 2.0
LATE = 1.5  # periods between two commands that count as a missed deadline
GROWTH_MB = 10.0  # of a process over the whole run, by the fitted line
OWN_SHARED = OWN, SHARED = 'its own', 'shared'


@dataclass
class Record:
    """What was seen: s since the start, MB by process, s between commands, times not running."""

    times_s: list[float] = field(default_factory=list)
    memory_mb: dict[str, list[float]] = field(default_factory=dict)
    intervals_s: list[float] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)


def memory_mb(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process in MB: its own, and what it shares with others."""
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    found = {name: float(rest.split()[0]) / 1024 for name, rest in map(_entry, lines) if name}
    return found['RssAnon'] + found['RssFile'], found['RssShmem']


def _entry(line: str) -> tuple[str, str]:
    name, _, rest = line.partition(':')
    return (name, rest) if name.startswith('Rss') else ('', '')


def observe(lab: Lab, seconds: float) -> Record:
    """Watch a running arm for some time."""
    record, begin, newest = Record(), time.monotonic(), time.monotonic()
    told = lab.status.stage
    while (elapsed := time.monotonic() - begin) < seconds:
        time.sleep(SAMPLE_S)
        record.times_s.append(elapsed)
        for name, child in (('node', lab.policy_node), ('model', lab.model)):
            for whose, megabytes in zip(OWN_SHARED, memory_mb(child.pid), strict=True):
                record.memory_mb.setdefault(f'{name}, {whose}', []).append(megabytes)
        arrived = [c.at for c in list(lab.robot.commands) if c.topic.startswith('arm')]
        fresh = [at for at in arrived if at > newest]
        record.intervals_s += np.diff([newest, *fresh]).tolist() if fresh else []
        newest = fresh[-1] if fresh else newest
        for at, status in list(lab.statuses):
            if at > begin + elapsed and status.stage != told:
                told = status.stage
                if told != 'RUNNING':
                    record.stops.append(f'{at - begin:.1f} s: {told} {status.reason}')
        if lab.status.stage != 'RUNNING' and lab.recover(FULL):
            newest = time.monotonic()
    return record


def report(record: Record, period_s: float) -> tuple[bool, str]:
    """Return whether memory stayed, and all figures in words."""
    start = len(record.times_s) // 5
    times, lines, steady = np.array(record.times_s[start:]), [], True
    for name, values in record.memory_mb.items():
        values = np.array(values[start:])
        growth = float(np.polyfit(times, values, 1)[0] * (times[-1] - times[0]))
        steady &= growth < GROWTH_MB or name.endswith(SHARED)
        lines.append(
            f'{name}: {values[0]:.1f} MB at the start, {values[-1]:.1f} MB at the end, fitted '
            f'growth {growth:+.1f} MB'
        )
    intervals = np.array(record.intervals_s)
    p50, p99, p999, most = (*np.percentile(intervals, (50, 99, 99.9)) * 1e3, intervals.max() * 1e3)
    late = float(np.mean(intervals > LATE * period_s))
    lines.append(
        f'{len(intervals)} commands, apart p50 {p50:.1f} ms, p99 {p99:.1f} ms, p99.9 {p999:.1f} '
        f'ms, at most {most:.1f} ms (period {period_s * 1e3:.0f} ms); {late:.3%} late'
    )
    lines += [f'{len(record.stops)} stops', *record.stops]
    return steady, '\n'.join(lines)


def endure(minutes: float) -> int:
    """Run, print, and return the exit code: 0 when memory did not grow."""
    period_s = 1.0 / Embodiment.load('widowx').safety.command_rate_hz
    with TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        command = [sys.executable, '-m', 'benchmarks.traffic', 'small']
        traffic = Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)
        try:
            if not lab.recover(FULL):
                print(f'the arm does not run: {lab.status.stage} {lab.status.reason}')
                return 1
            steady, told = report(observe(lab, minutes * 60), period_s)
        finally:
            traffic.stdin.close()
            traffic.wait(timeout=10)
            lab.close()
    print(told)
    return 0 if steady else 1
