"""
What a check says: pass, warn or refuse, what was found, and the remedy.

A check yields problems; none is a pass. Its entry in registry.py tells what it compares and the
remedy that holds unless a problem brings a better one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from qwen_vla_ros.errors import QwenVlaError

PASS, WARN, REFUSE = 'pass', 'warn', 'refuse'


class Incompatible(QwenVlaError):
    """Policy, robot and machine do not fit; the message names each finding with its remedy."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; refuse: nothing may move."""

    subject: str
    level: str
    found: str
    remedy: str = ''

    def __str__(self) -> str:
        """Say it in one line."""
        return f'{self.subject}: {self.found}' + (f'; {self.remedy}' if self.remedy else '')


@dataclass(frozen=True)
class Problem:
    """What a check found wrong; remedy '' takes the check's own."""

    level: str
    found: str
    remedy: str = ''


@dataclass(frozen=True)
class Check:
    """
    One check of the registry.

    compares  what with what, in words
    levels    those that it can give beside pass
    remedy    what to do, unless the problem says better
    run       facts -> problems
    """

    subject: str
    compares: str
    levels: tuple[str, ...]
    remedy: str
    run: Callable[[Any], Iterable[Problem]]

    def findings(self, facts: Any, tell: Callable[[Any], str] | None = None) -> list[Finding]:
        """Return a finding a problem, or one that passes; tell(facts) says what was found."""
        found = [
            Finding(self.subject, problem.level, problem.found, problem.remedy or self.remedy)
            for problem in self.run(facts)
        ]
        return found or [Finding(self.subject, PASS, tell(facts) if tell else self.compares)]


def refusals(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that refuse."""
    return [finding for finding in findings if finding.level == REFUSE]


def warnings(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that warn."""
    return [finding for finding in findings if finding.level == WARN]
