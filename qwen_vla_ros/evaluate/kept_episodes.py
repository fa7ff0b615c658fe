"""
Episodes kept as they end, one JSON object a line, and worked off by several processes.

A run that was stopped finds what it had done; a line that was cut off by a kill is left out, and
cut off before the next one is added.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from qwen_vla_ros import kernel_hints
from qwen_vla_ros.errors import QwenVlaError

Row = dict[str, Any]
Key = TypeVar('Key')
EPISODES = 'episodes.jsonl'


class Runner(Protocol):
    """What a worker does; made once a process."""

    def run(self, case: Any) -> Row:
        """Run one case and return its episode, JSON-able."""

    def close(self) -> None:
        """Free what it holds."""


def read_rows(path: Path, key: Callable[[Row], Key]) -> dict[Key, Row]:
    """Return the episodes of a file by key; QwenVlaError names a line that is none."""
    found: dict[Key, Row] = {}
    lines = path.read_text(encoding='utf-8').split('\n')
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            found[key(row)] = row
        except (ValueError, KeyError, TypeError) as error:
            raise QwenVlaError(f'{path}, line {number}: no episode ({error})') from error
    return found


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line, after cutting off one that was left unfinished."""
    with path.open('a+b') as file:
        if file.tell():
            file.seek(0)
            text = file.read()
            if not text.endswith(b'\n'):
                file.truncate(text.rfind(b'\n') + 1)
        file.write((json.dumps(row) + '\n').encode())


def run_cases(
    make: Callable[..., Runner], given: tuple[Any, ...], cases: Sequence[Any], workers: int
) -> Iterator[Row]:
    """
    Yield an episode a case as they end; each worker calls make(*given) once.

    One worker, or one case, runs here; more are processes of their own.
    """
    if workers == 1 or len(cases) < 2:
        runner = make(*given)
        try:
            for case in cases:
                yield runner.run(case)
        finally:
            runner.close()
        return
    with ProcessPoolExecutor(
        min(workers, len(cases)), get_context('spawn'), _begin, (make, given)
    ) as pool:
        futures = [pool.submit(_run, case) for case in cases]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_here: dict[str, Runner] = {}


def _begin(make: Callable[..., Runner], given: tuple[Any, ...]) -> None:
    kernel_hints.leave_out()
    _here['runner'] = make(*given)


def _run(case: Any) -> Row:
    return _here['runner'].run(case)
