"""
Who makes the blocks of a set: this process, processes of this machine, or a Ray cluster.

A runner takes a function of a module and its jobs, and yields the results in the order of the
jobs, with a bounded number of them under way. So files are written in order, and a run that is cut
goes on after its last file.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from qwen_vla_ros.errors import QwenVlaError

AHEAD = 3  # jobs a worker that are asked for before they are needed
BLAS = 'OPENBLAS_NUM_THREADS'

Runner = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


def in_processes(workers: int) -> Runner:
    """Return a runner on this machine; one worker is this process."""

    def run(make: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        if workers == 1:
            yield from map(make, jobs)
            return
        before = os.environ.get(BLAS)
        os.environ[BLAS] = '1'  # the processes share the cores already
        try:
            context = multiprocessing.get_context('spawn')
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                try:
                    yield from _in_order(jobs, lambda job: pool.submit(make, job), workers)
                finally:  # a run that is cut does not wait for what it asked for ahead
                    pool.shutdown(wait=False, cancel_futures=True)
        finally:
            if before is None:
                del os.environ[BLAS]
            else:
                os.environ[BLAS] = before

    return run


def over_ray(address: str) -> Runner:
    """Return a runner on a Ray cluster ('auto', an address, or 'local': this machine's cores)."""
    try:
        import ray
    except ImportError as error:
        raise QwenVlaError(f"--ray: {error}; pip install 'qwen_vla_ros[ray]'") from error

    def run(make: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        remote = ray.remote(make)
        workers = max(int(ray.cluster_resources().get('CPU', 1)), 1)
        yield from _in_order(jobs, lambda job: remote.remote(job).future(), workers)

    return run


def _in_order(
    jobs: Sequence[Any], submit: Callable[[Any], 'Future[Any]'], workers: int
) -> Iterator[Any]:
    """Yield results in the order of jobs, with a bounded number of them under way."""
    waiting: deque[Future[Any]] = deque()
    for job in jobs:
        waiting.append(submit(job))
        if len(waiting) >= workers * AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
