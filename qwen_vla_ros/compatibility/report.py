"""The findings as a table for people, or as JSON for programs."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qwen_vla_ros.compatibility.finding import PASS, REFUSE, WARN, Finding

_COLOURS = {PASS: 'green', WARN: 'yellow', REFUSE: 'bold red'}
PIPED_WIDTH = 160


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 2 when anything is refused, else 0: a warning stops nothing."""
    return 2 if any(finding.level == REFUSE for finding in findings) else 0


def print_table(findings: Sequence[Finding]) -> None:
    """Print a row a finding, and how many of each level."""
    table = Table('', 'check', 'found', 'remedy', show_edge=False, pad_edge=False)
    for finding in findings:
        level = Text(finding.level, _COLOURS[finding.level])
        remedy = '' if finding.level == PASS else finding.remedy
        table.add_row(level, finding.subject, Text(finding.found), Text(remedy))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    console.print(table)
    console.print(summary(findings))


def summary(findings: Sequence[Finding]) -> str:
    """Return how many checks refuse and warn."""
    refused = sum(finding.level == REFUSE for finding in findings)
    warned = sum(finding.level == WARN for finding in findings)
    return f'{len(findings)} checks: {refused} refused, {warned} warnings'


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings as a JSON object: exit_code and findings."""
    rows = [
        {'check': f.subject, 'level': f.level, 'found': f.found, 'remedy': f.remedy}
        for f in findings
    ]
    return json.dumps({'exit_code': exit_code(findings), 'findings': rows}, indent=2)
