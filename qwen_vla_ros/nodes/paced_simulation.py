"""
One thread that owns a simulated world and its OpenGL, in step with a clock. No ROS here.

The world advances in ticks of 10 ms at the clock's pace; after a moment without the processor it
catches up tick by tick: an arm would have to jump over what was left out. Pictures are taken one
at a time, only when the world has caught up. Other threads have their work with the world done by
call().
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # in 3.10 its own
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from qwen_vla_ros.errors import QwenVlaError

TICK_NS = 10_000_000
SLIP_NS = 2_000_000_000  # further behind than this, the world leaves time out
WAIT_S = 0.01

Result = TypeVar('Result')


class PacedSimulation(ABC):
    """The thread, its pace and its pictures; a subclass has the world."""

    def __init__(self, clock: Callable[[], int], camera_rate_hz: float, who: str) -> None:
        """Take a clock in ns that never jumps back; who: what to restart when it hangs."""
        self._clock, self._who, self.slips = clock, who, 0
        self._camera_ns = round(1e9 / camera_rate_hz)
        self._due: dict[str, int] = {}
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name='simulation', daemon=True)
        self._built: Future[None] = Future()

    @abstractmethod
    def _open(self) -> None:
        """Build the world and take its first picture; in the simulation's thread."""

    @abstractmethod
    def _close(self) -> None:
        """Let the world go."""

    @abstractmethod
    def _views(self, begin_ns: int) -> dict[str, int]:
        """Return view -> instant of its first picture."""

    @abstractmethod
    def _tick(self, stamp_ns: int) -> None:
        """Bring the world to an instant."""

    @abstractmethod
    def _picture(self, view: str, stamp_ns: int) -> None:
        """Take a picture of the world as it is."""

    def start(self) -> None:
        """Start the thread; raises what building the world or its first picture raised."""
        self._thread.start()
        self._built.result()

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join()

    def now_ns(self) -> int:
        """Return the clock's time."""
        return self._clock()

    def call(self, work: Callable[[], Result], timeout_s: float = 10.0) -> Result:
        """Do something with the world in its thread and return the result."""
        future: Future[Result] = Future()
        self._jobs.put((work, future))
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as error:
            raise QwenVlaError(
                f'the simulation does not answer within {timeout_s:g} s; restart {self._who}'
            ) from error

    def _run(self) -> None:
        try:
            self._open()
        except BaseException as error:
            self._built.set_exception(error)
            return
        self._built.set_result(None)
        try:
            self._drive()
        finally:
            self._close()

    def _drive(self) -> None:
        next_ns = self.now_ns()
        self._due = self._views(next_ns)
        while not self._end.is_set():
            self._work_off()
            now_ns = self.now_ns()
            if now_ns - next_ns > SLIP_NS:
                self.slips += 1
                next_ns = now_ns
            if now_ns < next_ns:
                self._end.wait(min((next_ns - now_ns) * 1e-9, WAIT_S))
                continue
            self._tick(next_ns)
            if now_ns - next_ns < TICK_NS:
                self._look(next_ns)
            next_ns += TICK_NS

    def _look(self, stamp_ns: int) -> None:
        """Take the picture that waits longest, if one is due."""
        view = min(self._due, key=lambda name: self._due[name])
        if stamp_ns < self._due[view]:
            return
        self._due[view] = max(self._due[view] + self._camera_ns, stamp_ns + self._camera_ns // 2)
        self._picture(view, stamp_ns)

    def _work_off(self) -> None:
        """Do what other threads have asked for."""
        while True:
            try:
                work, future = self._jobs.get_nowait()
            except Empty:
                return
            try:
                future.set_result(work())
            except Exception as error:  # belongs to the caller
                future.set_exception(error)
