"""
Child processes that never outlive us: own sessions, a stop ladder, a check that all are gone.

Each child leads a process group of its own, so a Ctrl-C in the terminal reaches only this process,
which then stops the children in order. On Linux the kernel also ends them if this process is
killed outright.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from qwen_vla_ros.errors import QwenVlaError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None  # loaded before any fork
LADDER = ((signal.SIGINT, 6.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0))


class ChildFailed(QwenVlaError):
    """A child ended when it should have gone on; the message holds the end of its log."""


class ProcessFamily:
    """The children of one run; a context manager that stops them all, last started first."""

    def __init__(self, logs: Path, environment: Mapping[str, str] | None = None) -> None:
        """Write each child's output to logs/<name>.log."""
        self._logs, self._environment = logs, dict(environment or os.environ)
        self._children: dict[str, subprocess.Popen[Any]] = {}
        self._files: list[IO[Any]] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(
        self, name: str, command: Sequence[str], pipe_output: bool = False
    ) -> subprocess.Popen[Any]:
        """Start a child; with pipe_output its stdout is a text pipe, its stderr the log."""
        log = (self._logs / f'{name}.log').open('w', encoding='utf-8')
        self._files.append(log)
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe_output else log,
            stderr=log if pipe_output else subprocess.STDOUT,
            text=True,
            env=self._environment,
            start_new_session=True,
            preexec_fn=_die_with_parent if _LIBC else None,
        )
        self._children[name] = child
        return child

    def check(self, besides: str = '') -> None:
        """Raise ChildFailed when a child, besides one, has ended by itself."""
        for name, child in self._children.items():
            if name != besides and child.poll() is not None:
                raise ChildFailed(self.failure(name))

    def failure(self, name: str) -> str:
        """Return a message about a child that ended: its code and the end of its log."""
        path = self._logs / f'{name}.log'
        lines = [line for line in path.read_text(errors='replace').splitlines() if line.strip()]
        return (
            f'{name} ended with code {self._children[name].returncode}: '
            f'{lines[-1] if lines else "no output"} (whole log: {path})'
        )

    def finish(self, name: str) -> None:
        """Stop one child and forget it."""
        stop_groups([self._children.pop(name)])

    def stop(self) -> None:
        """Stop every child, last started first; return when none of them lives."""
        with _signals_blocked():
            stop_groups(list(reversed(self._children.values())))
            self._children.clear()
            for file in self._files:
                file.close()
            self._files.clear()

    def memory_mb(self) -> float:
        """Return the memory of all children and of this process in MB, shared pages once."""
        total, seen = 0, set()
        for pid in [os.getpid(), *(child.pid for child in list(self._children.values()))]:
            try:
                process = psutil.Process(pid)
                family = [process, *(process.children(True) if pid != os.getpid() else [])]
            except psutil.Error:
                continue
            for member in family:
                if member.pid not in seen:
                    seen.add(member.pid)
                    total += _proportional_bytes(member)
        return total / 2**20

    def __enter__(self) -> 'ProcessFamily':
        """Return the family."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all."""
        self.stop()


class MemoryWatch:
    """Samples the family's memory in a thread and keeps the peak in MB."""

    def __init__(self, family: ProcessFamily, period_s: float = 1.0) -> None:
        """Start to watch."""
        self.peak_mb: float | None = None
        self._family, self._period_s, self._end = family, period_s, threading.Event()
        self._thread = threading.Thread(target=self._watch, name='memory', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop to watch."""
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        """Sample until told to stop."""
        while not self._end.wait(self._period_s):
            self.peak_mb = max(self.peak_mb or 0.0, self._family.memory_mb())


def stop_groups(children: Sequence[subprocess.Popen[Any]]) -> None:
    """
    End the process groups: interrupt, terminate, kill, with a patience after each.

    The children are asked one after the other in the given order at the first step (a recorder
    that comes last still records the others' end), and all at once at the later ones.
    """
    for number, patience in LADDER:
        deadline = time.monotonic() + patience
        for child in children:
            if _signal_group(child, number) and number == signal.SIGINT:
                _wait(child, min(deadline, time.monotonic() + patience / 2))
        while time.monotonic() < deadline and any(_alive(child) for child in children):
            time.sleep(0.02)
        if not any(_alive(child) for child in children):
            break
    for child in children:
        if child.stdout is not None:
            child.stdout.close()
    left = [child.args for child in children if _alive(child)]
    if left:
        raise QwenVlaError(f'processes that could not be ended: {left}')


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does: by KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class EndOfServing:
    """
    What Ctrl-C, SIGTERM and SIGHUP tell from now on: a server ends by them without an error.

    A signal that comes just before a thread begins to wait for a lock does not wake it, and a
    handler that sets an Event may meet its lock taken by the very wait. So the signal's number
    goes through a pipe, which holds it until somebody reads. Of the main thread only.
    """

    def __init__(self) -> None:
        """Take the signals."""
        self._told, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def wait(self) -> None:
        """Return when a signal has come, at once if one came before."""
        os.read(self._told, 1)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Ignore further interrupts while the children are being stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _die_with_parent() -> None:
    """
    Ask the kernel to end this process when its parent dies (runs in the child).

    A shell lets background programs ignore Ctrl-C, and children inherit that: undone here.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(child: subprocess.Popen[Any], number: int) -> bool:
    """Send a signal to the child's group; False when nobody is left in it."""
    if not _alive(child):
        return False
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return False
    return True


def _wait(child: subprocess.Popen[Any], deadline: float) -> None:
    """Wait until the child has ended, at most until the deadline."""
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)


def _alive(child: subprocess.Popen[Any]) -> bool:
    """Return whether the child or anybody of its group lives (the dead, unreaped do not)."""
    if child.poll() is None:
        return True
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return any(_in_group(process, child.pid) for process in psutil.process_iter())


def _in_group(process: psutil.Process, group: int) -> bool:
    """Return whether the process lives and belongs to the group."""
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def _proportional_bytes(process: psutil.Process) -> int:
    """Return the process' share of memory in bytes; 0 when it has just ended."""
    try:
        full = process.memory_full_info()
        return getattr(full, 'pss', full.rss)
    except psutil.Error:
        return 0
