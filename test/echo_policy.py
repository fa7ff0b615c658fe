"""A policy that returns the state, for the tests of what lies between policy and robot."""

import time

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.types import ActionChunk, Observation


class Echo:
    """Return the state as every row; slow or refusing when the instruction says so."""

    def __init__(self, checkpoint='echo'):
        self.metadata = {'checkpoint': checkpoint, 'horizon': 4}
        self.resets, self.running, self.most = 0, 0, 0

    def infer(self, observation, prefix=None):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if observation.instruction == 'slow':
                time.sleep(0.5)
            if observation.instruction == 'refuse':
                raise QwenVlaError('this instruction is refused')
            if observation.instruction == 'defect':
                raise ZeroDivisionError('a defect')
            assert prefix is None or prefix.dtype == np.float32
            rows = np.tile(observation.state, (4, 1))
            return ActionChunk(rows, observation.state_names, observation.stamp_ns, 0.2, 'base')
        finally:
            self.running -= 1

    def reset(self):
        self.resets += 1


def observation(instruction='touch the red block'):
    rng = np.random.default_rng(0)
    return Observation(
        images={'ego': rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)},
        state=np.array([0.25, -1.5], np.float32),
        state_names=('waist', 'shoulder'),
        instruction=instruction,
        stamp_ns=1_700_000_000_123_456_789,
        embodiment='widowx',
        sources_ns={'ego': 1, 'state': 2},
    )
