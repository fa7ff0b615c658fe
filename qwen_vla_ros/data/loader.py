"""
A mixture's samples made ahead by worker processes, in the mixture's own order.

Worker w of W makes positions w, w + W, ... of its rank, so what comes does not depend on W, and
the position counts what was handed over, never what was made ahead: resuming is exact. A sample
that cannot be read is left out, counted and named by the mixture. What ends or stops a worker (a
decoder that crashes, memory, a dead disk) is counted and named as well: the worker is started
anew and draws again past that spot. An error of another kind than bad data stops the run.
"""

import contextlib
import multiprocessing
import queue
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

from qwen_vla_ros.data.mixture import Mixture, Spot
from qwen_vla_ros.data.sample import Sample
from qwen_vla_ros.errors import QwenVlaError

READY, TRY, DONE, REFUSED, FAILED, GONE = 'ready', 'try', 'done', 'refused', 'failed', 'gone'
START_S = 300.0  # until a worker has opened its data sets
STARTS = 20  # of one worker in a row, without a sample between them


class LoaderError(QwenVlaError):
    """A worker that cannot go on; the message has what it said."""


class Loader:
    """
    An endless stream for one rank, like Mixture's; close() ends the workers.

    position  samples handed over; skipped  why others were left out -> how often
    waited_s  s that __iter__ waited for a sample
    """

    def __init__(
        self,
        make: Callable[[], Mixture],
        workers: int,
        prefetch: int = 4,
        transform: Callable[[Sample], Any] | None = None,
        patience_s: float = 300.0,
    ) -> None:
        """
        Start nothing yet.

        make        builds the mixture, in every worker; a module's function or a partial of one
        prefetch    samples that each worker makes ahead
        transform   what a worker makes of each sample; QwenVlaError leaves a sample out
        patience_s  s after which a worker that reads and says nothing is started anew
        """
        if workers < 1 or prefetch < 1:
            raise QwenVlaError(f'loader: {workers} workers, prefetch {prefetch}: at least 1 each')
        self.skipped: Counter[str] = Counter()
        self.position, self.waited_s = 0, 0.0
        self._mixture = make()  # for its state, and to name what is wrong before anything starts
        self._make, self._transform = make, transform
        self._count, self._prefetch, self._patience_s = workers, prefetch, patience_s
        self._workers: list[_Worker] = []
        self._bad: set[Spot] = set()

    def state(self) -> dict[str, int]:
        """Return what resume() takes, for a checkpoint."""
        return {**self._mixture.state(), 'position': self.position}

    def resume(self, state: Mapping[str, int]) -> None:
        """Go on after the draws of a run; another seed or number of ranks is refused."""
        self._mixture.resume(state)
        self.close()
        self.position = state['position']

    def __iter__(self) -> Iterator[Any]:
        """Yield samples from the position on."""
        while True:
            self._start()
            worker = self._workers[self.position % self._count]
            began = time.monotonic()
            sample, skipped = self._taken(worker)
            self.waited_s += time.monotonic() - began
            self.skipped.update(skipped)
            self.position += 1
            worker.ask(self.position - 1 + self._count * self._prefetch)
            yield sample

    def close(self) -> None:
        """End the workers; iterating again starts new ones at the position."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def __enter__(self) -> 'Loader':
        """Return the loader."""
        return self

    def __exit__(self, *told: object) -> None:
        """End the workers."""
        self.close()

    def _start(self) -> None:
        if self._workers:
            return
        for number in range(self._count):
            worker = _Worker(self._make, self._transform, self._bad)
            first = self.position + (number - self.position) % self._count
            for ahead in range(self._prefetch):
                worker.ask(first + ahead * self._count)
            self._workers.append(worker)

    def _taken(self, worker: '_Worker') -> tuple[Any, list[str]]:
        """Return a worker's next sample; start it anew as often as spots end it."""
        named: list[str] = []
        for _ in range(STARTS):
            try:
                sample, skipped = worker.next(self._patience_s)
                return sample, [*named, *skipped]
            except _Ended as ended:
                if worker.trying is None:
                    raise LoaderError(
                        f'loader: a worker {ended} before its first sample'
                    ) from None
                spot, name = worker.trying
                self._bad.add(spot)
                named.append(f'{name}: the worker that read it {ended}')
                worker.again(self._bad)
        raise LoaderError(f'loader: {STARTS} workers in a row were lost; the last: {named[-1]}')


class _Ended(Exception):
    """A worker is gone or silent; the text tells which."""


class _Worker:
    """
    One process, the positions it was asked for and has not answered, and the spot it reads.

    A thread takes what it sends, so that samples wait here and not in the process.
    """

    def __init__(
        self,
        make: Callable[[], Mixture],
        transform: Callable[[Sample], Any] | None,
        bad: set[Spot],
    ) -> None:
        self._make, self._transform = make, transform
        self._asked: list[int] = []
        self.trying: tuple[Spot, str] | None = None
        self._begin(bad)

    def ask(self, position: int) -> None:
        """Ask for the sample of a position."""
        self._asked.append(position)
        self._send(position)

    def next(self, patience_s: float) -> tuple[Any, list[str]]:
        """Return the answer to the first open question; _Ended when there is none."""
        while True:
            try:
                kind, *told = self._heard.get(timeout=patience_s if self._ready else START_S)
            except queue.Empty:
                raise _Ended(f'said nothing for {patience_s:g} s') from None
            if kind == READY:
                self._ready = True
            elif kind == TRY:
                self.trying = told[0], told[1]
            elif kind == DONE:
                self._asked.pop(0)
                return told[0], told[1]
            elif kind == GONE:
                self._process.join()
                raise _Ended(f'ended with code {self._process.exitcode}')
            elif kind == REFUSED:
                raise QwenVlaError(told[0])
            else:
                raise LoaderError(f'loader: a worker failed:\n{told[0]}')

    def again(self, bad: set[Spot]) -> None:
        """Start anew with the open questions."""
        self.end()
        self.trying = None
        self._begin(bad)
        for position in self._asked:
            self._send(position)

    def end(self) -> None:
        """Stop the process and the thread."""
        self._process.terminate()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._thread.join()
        self._pipe.close()

    def _begin(self, bad: set[Spot]) -> None:
        self._ready = False
        context = multiprocessing.get_context('spawn')
        self._pipe, far = context.Pipe()
        self._heard: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self._process = context.Process(
            target=_serve, args=(far, self._make, self._transform, frozenset(bad)), daemon=True
        )
        self._process.start()
        far.close()
        self._thread = threading.Thread(
            target=_listen, args=(self._pipe, self._heard), daemon=True
        )
        self._thread.start()

    def _send(self, position: int) -> None:
        # Where it is gone next() finds out, and again() repeats the question.
        with contextlib.suppress(OSError):
            self._pipe.send(position)


def _listen(pipe: Connection, heard: 'queue.Queue[tuple[Any, ...]]') -> None:
    """Put what a worker sends into a queue, and GONE at its end."""
    try:
        while True:
            heard.put(pipe.recv())
    except (EOFError, OSError):
        heard.put((GONE,))


def _serve(
    pipe: Connection,
    make: Callable[[], Mixture],
    transform: Callable[[Sample], Any] | None,
    bad: frozenset[Spot],
) -> None:
    """Answer positions until the pipe is closed."""
    # Ctrl-C is for the trainer, which ends its workers when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        mixture = make()
        pipe.send((READY,))
        while True:
            position = pipe.recv()
            sample, skipped = mixture.at(
                position, bad, lambda spot, name: pipe.send((TRY, spot, name)), transform
            )
            pipe.send((DONE, sample, skipped))
    except (EOFError, BrokenPipeError):
        return
    except QwenVlaError as error:
        pipe.send((REFUSED, str(error)))
    except Exception:
        pipe.send((FAILED, traceback.format_exc()))
