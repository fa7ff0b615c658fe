"""
Where the worlds of reinforcement learning run: `--actors`.

  local           in this process
  processes[:N]   in N processes of this machine (default: one a core)
  ray[://WHERE]   in actors of a Ray cluster, one a free CPU, spread over its machines: WHERE is
                  HOST:PORT of a Ray client server, 'auto' or 'local' (a cluster of this machine);
                  without it what ray.init() finds: RAY_ADDRESS, a running cluster, or a local one

The policy stays in the trainer and decides for all worlds in one pass. A world is decided by its
seeds and chunks, so every placement gives the same rollout. QwenVlaError when worlds are lost.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Protocol

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.rl_worlds import Hall, Met, Order, Sizes

LOCAL, PROCESSES, RAY = 'local', 'processes', 'ray'


class Host(Protocol):
    """One process with some of the worlds."""

    def ask(self, what: str, given: Mapping[int, Any]) -> 'Future[dict[int, Any]]':
        """Call a method of its Hall."""

    def close(self) -> None:
        """Free its worlds and end it."""


class Worlds:
    """All worlds of a run, by number, whichever host has them."""

    def __init__(self, orders: Sequence[Order], hosts: Sequence[Host], where: str) -> None:
        """World w is at host w % len(hosts)."""
        self.orders, self._hosts, self.where = tuple(orders), hosts, where

    def __len__(self) -> int:
        """Return the number of worlds."""
        return len(self.orders)

    def reset(self, seeds: Mapping[int, int]) -> dict[int, dict[str, Any]]:
        """Begin an episode in some worlds, by its seed; return what they show."""
        return self._ask('reset', seeds)

    def step(self, chunks: Mapping[int, np.ndarray]) -> dict[int, Met]:
        """Run a chunk [H, A] in SI units in each of some worlds."""
        return self._ask('step', chunks)

    def close(self) -> None:
        """Free all worlds."""
        for host in self._hosts:
            host.close()

    def _ask(self, what: str, given: Mapping[int, Any]) -> dict[int, Any]:
        count, asked = len(self._hosts), []
        for index, host in enumerate(self._hosts):
            part = {number: thing for number, thing in given.items() if number % count == index}
            if part:
                asked.append((part, host.ask(what, part)))
        found: dict[int, Any] = {}
        for part, future in asked:
            try:
                found |= future.result()
            except Exception as error:
                raise self._lost(part, error) from error
        return found

    def _lost(self, part: Mapping[int, Any], error: Exception) -> QwenVlaError:
        """Return what is told when a host fails: its own error, or that it is gone."""
        cause = getattr(error, 'cause', error)  # Ray wraps what an actor raised
        if isinstance(cause, QwenVlaError):
            return cause
        told = str(error).strip().splitlines() or [type(error).__name__]
        return QwenVlaError(
            f'--actors {self.where}: worlds {", ".join(map(str, part))} are lost ({told[-1]}); '
            'the same command goes on at the last state'
        )


def check_actors(actors: str) -> tuple[str, str]:
    """Return what --actors says: a kind, and how many or where; QwenVlaError: what it may say."""
    kind, mark, place = actors.partition(':')
    right = {
        LOCAL: not mark,
        PROCESSES: not mark or place.isdecimal(),
        RAY: not mark or (place.startswith('//') and len(place) > 2),
    }
    if not right.get(kind, False):
        raise QwenVlaError(
            f'--actors {actors}: choose {LOCAL}, {PROCESSES}[:N], {RAY} or {RAY}://ADDRESS'
        )
    if kind == PROCESSES and mark and int(place) < 1:
        raise QwenVlaError(f'--actors {actors}: at least one process')
    return kind, place


def open_worlds(orders: Sequence[Order], sizes: Sizes, actors: str = LOCAL) -> Worlds:
    """Make the worlds where --actors says, as check_actors() has it."""
    kind, place = check_actors(actors)
    if kind == LOCAL:
        make, count = _LocalHost, 1
    elif kind == PROCESSES:
        make, count = _ProcessHost, int(place) if place else os.cpu_count() or 1
    else:
        make, count = _cluster(place.removeprefix('//'))
    count = min(count, len(orders))
    halls = [dict(list(enumerate(orders))[index::count]) for index in range(count)]
    return Worlds(orders, [make(hall, sizes) for hall in halls], actors)


class _LocalHost:
    """Worlds of this process."""

    def __init__(self, orders: Mapping[int, Order], sizes: Sizes) -> None:
        self._hall = Hall(orders, sizes)

    def ask(self, what: str, given: Mapping[int, Any]) -> 'Future[dict[int, Any]]':
        done: Future[dict[int, Any]] = Future()
        done.set_result(getattr(self._hall, what)(given))
        return done

    def close(self) -> None:
        self._hall.close()


class _ProcessHost:
    """Worlds of a process of their own."""

    def __init__(self, orders: Mapping[int, Order], sizes: Sizes) -> None:
        context = multiprocessing.get_context('spawn')
        self._pool = ProcessPoolExecutor(1, mp_context=context)
        self._opened = self._pool.submit(_open_hall, orders, sizes)

    def ask(self, what: str, given: Mapping[int, Any]) -> 'Future[dict[int, Any]]':
        if (error := self._opened.exception()) is not None:
            failed: Future[dict[int, Any]] = Future()
            failed.set_exception(error)
            return failed
        return self._pool.submit(_ask_hall, what, given)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


_hall: Hall | None = None  # of a process that _ProcessHost started


def _open_hall(orders: Mapping[int, Order], sizes: Sizes) -> None:
    """Make the worlds of this process, which ends with the one that started it."""
    global _hall
    for number in (signal.SIGINT, signal.SIGTERM):  # of the whole group: the trainer ends the run
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(
        target=_end_with, args=(multiprocessing.parent_process(),), daemon=True
    ).start()
    _hall = Hall(orders, sizes)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _ask_hall(what: str, given: Mapping[int, Any]) -> dict[int, Any]:
    return getattr(_hall, what)(given)


class _RayHost:
    """Worlds of an actor of a Ray cluster."""

    def __init__(self, orders: Mapping[int, Order], sizes: Sizes) -> None:
        import ray

        kind = ray.remote(num_cpus=1, scheduling_strategy='SPREAD')(Hall)
        self._actor = kind.remote(orders, sizes)

    def ask(self, what: str, given: Mapping[int, Any]) -> 'Future[dict[int, Any]]':
        return getattr(self._actor, what).remote(given).future()

    def close(self) -> None:
        import ray

        ray.kill(self._actor)


def _cluster(place: str) -> tuple[Callable[..., Host], int]:
    """Join a Ray cluster; return what makes a host of it, and how many it has room for."""
    try:
        import ray
    except ImportError as error:
        raise QwenVlaError(f"--actors ray: {error}; pip install 'qwen_vla_ros[ray]'") from error
    address = place if place in ('auto', 'local') else f'ray://{place}' if place else None
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise QwenVlaError(
                f'--actors ray: no cluster at {place or "hand"} ({error})'
            ) from error
    free = int(ray.available_resources().get('CPU', 0))
    if not free:
        raise QwenVlaError('--actors ray: the cluster has no free CPU')
    return _RayHost, free
