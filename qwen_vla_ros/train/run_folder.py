"""The folder of a run, --out: what an earlier run left in it."""

import json
from pathlib import Path

LOG = 'log.jsonl'


def begin_anew(out: Path) -> None:
    """Drop the log of a run that was killed before its first state, and say so."""
    log = out / LOG
    if steps := logged_steps(log):
        print(f'no state in {out}: beginning anew; {steps} steps of the log are dropped')
        log.unlink()


def logged_steps(log: Path) -> int:
    """Return how many steps a log tells of, those of its phases together."""
    last: dict[str, int] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        try:
            entry = json.loads(line)
            last[entry.get('phase', '')] = entry['step']
        except ValueError:  # cut short by the kill
            break
    return sum(last.values())
