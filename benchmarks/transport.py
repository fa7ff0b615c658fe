"""
One inference in another process beside the model's time: through the socket / by shared memory.

Three 640x480 pictures to a policy server of this machine whose policy takes no time: what the way
there and back costs. Both ways are taken in turns by two clients of one server; the server's
pictures are summed up, and the sums compared first.
"""

import sys
import time
from subprocess import PIPE

import numpy as np

from benchmarks import Result, main
from benchmarks.node_overhead import child
from qwen_vla_ros.types import ActionChunk, Observation

VIEWS = ('ego', 'cam_left_wrist', 'cam_right_wrist')
ROUNDS, PAUSE_S, GOAL = 100, 0.01, 4.0


class SumPolicy:
    """Return the sum of each picture's bytes."""

    def __init__(self) -> None:
        """Say what it is."""
        self.metadata = {'checkpoint': 'sum'}

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return two rows of sums of every 1000th byte."""
        row = [int(image.ravel()[::1000].sum()) for image in observation.images.values()]
        return ActionChunk(np.array([row, row], np.float32), VIEWS, observation.stamp_ns, 0.1)

    def reset(self) -> None:
        """Nothing to forget."""


def serve() -> None:
    """Serve until standard input ends; the address is the first line of output."""
    from qwen_vla_ros.remote import PolicyServer

    with PolicyServer(SumPolicy(), port=0) as server:
        print(server.address, flush=True)
        sys.stdin.read()


def run() -> Result:
    """Ask in turns; the median counts."""
    from qwen_vla_ros import remote

    rng = np.random.default_rng(0)
    pictures = {view: rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for view in VIEWS}
    observation = Observation(pictures, np.zeros(1, np.float32), ('a',), 'x', 1, 'benchmark')
    server = child('benchmarks.transport', 'serve', stdout=PIPE)
    address = server.stdout.readline().strip()
    shared, folder = remote.RemotePolicy(address), remote.FOLDER
    remote.FOLDER = folder / 'absent'
    socket = remote.RemotePolicy(address)
    remote.FOLDER = folder
    spent: dict[str, list[float]] = {'socket': [], 'shared memory': []}
    sums = []
    try:
        for _ in range(ROUNDS):
            for policy, times in zip((socket, shared), spent.values(), strict=True):
                begin = time.perf_counter()
                chunk = policy.infer(observation)
                times.append(time.perf_counter() - begin - policy.inference_s)
                sums.append(chunk.actions)
                time.sleep(PAUSE_S)
        ways = socket.transport, shared.transport
    finally:
        for policy in (socket, shared):
            policy.close()
        server.stdin.close()
        server.wait(timeout=10)
    told = '; '.join(
        f'{way} p50 {np.median(times) * 1e3:.2f} ms, p95 {np.percentile(times, 95) * 1e3:.2f}'
        for way, times in zip(ways, spent.values(), strict=True)
    )
    return Result(
        'transport',
        float(np.median(spent['socket'])) * 1e3,
        float(np.median(spent['shared memory'])) * 1e3,
        GOAL,
        'ms',
        f'three 640x480 pictures, there and back, without the model: {told}',
        equal=all(np.array_equal(found, sums[0]) for found in sums) and ways[1] == 'shared memory',
    )


if __name__ == '__main__':
    if sys.argv[1:2] == ['serve']:
        serve()
    else:
        main(run)
