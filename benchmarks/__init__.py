"""
Ratios that we claim, each one file: `python -m benchmarks.<name> --json` prints one object.

A benchmark module has `run() -> Result`. Both sides are measured in the same run, interleaved,
and their outputs are compared first. `python -m benchmarks` runs all and prints a table.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path


def machine() -> dict[str, str | int]:
    """Return what a reader needs to judge the figures."""
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith('model name')]
        cpu = names[0].split(':', 1)[1].strip() if names else cpu
    return {'cpu': cpu, 'cores': os.cpu_count() or 0, 'python': platform.python_version()}


@dataclass(frozen=True)
class Result:
    """One ratio: baseline / ours in the same unit, and the goal it is held against."""

    name: str
    baseline: float
    ours: float
    goal: float
    unit: str
    note: str
    equal: bool = True
    machine: dict[str, str | int] = field(default_factory=machine)

    @property
    def ratio(self) -> float:
        """Return how many times better ours is."""
        return self.baseline / self.ours

    @property
    def holds(self) -> bool:
        """Tell whether the goal is met by outputs that are at least as good."""
        return self.equal and self.ratio >= self.goal

    def as_dict(self) -> dict[str, object]:
        """Return the object that --json prints."""
        found = asdict(self)
        return {**found, 'ratio': self.ratio, 'holds': self.holds}

    def as_line(self) -> str:
        """Return one row of the table."""
        sign = 'holds' if self.holds else 'FAILS'
        return (
            f'{self.name:16s} {self.baseline:12.4g} {self.ours:12.4g} {self.unit:12s} '
            f'{self.ratio:8.1f} {self.goal:8.3g}  {sign}'
        )


HEADING = f'{"name":16s} {"baseline":>12s} {"ours":>12s} {"unit":12s} {"ratio":>8s} {"goal":>8s}'


def main(run: Callable[[], Result]) -> None:
    """Run one benchmark as a program; exit code 1 when its goal is missed."""
    result = run()
    if '--json' in sys.argv[1:]:
        print(json.dumps(result.as_dict()))
    else:
        print(f'{HEADING}\n{result.as_line()}\n{result.note}')
    sys.exit(0 if result.holds else 1)
