"""
A policy process that misbehaves when told: `python -m benchmarks.fault_campaign.model`.

It swings waist and wrist. Its first line of output is its address; each line of its input is one
of FAULTS (an empty one mends it), and the end of the input ends it.
"""

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.types import ActionChunk, Observation

PERIOD_S, SWING_RAD = 4.0, 0.4
SLOW_S, LATE_S = 2.0, 0.5
HORIZON = 16


class FaultyPolicy:
    """Swing the waist and the wrist by a sine of the observation's time, faults aside."""

    def __init__(self, embodiment: Embodiment) -> None:
        """Wear the metadata of a policy that fits the contract."""
        self.metadata = {**describe_policy(embodiment), 'checkpoint': 'faulty'}
        self._step_s = embodiment.step_s
        self.fault = ''

    def infer(self, observation: Observation, prefix: Any = None) -> ActionChunk:
        """Return the swing from the measured joints on, or what the fault makes of it."""
        fault = self.fault
        if fault == 'raises an error':
            raise QwenVlaError('faulty model: out of memory')
        time.sleep({'slow': SLOW_S, 'late': LATE_S}.get(fault, 0.0))
        ahead = np.arange(HORIZON) * self._step_s
        phase = 2 * np.pi * (observation.stamp_ns * 1e-9 % 1000 + ahead) / PERIOD_S
        swing = SWING_RAD * np.sin(phase)
        rows = np.tile(observation.state.astype(np.float64), (HORIZON, 1))
        for joint in (0, 5):
            rows[:, joint] = swing + (rows[:, joint] - swing[0]) * np.exp(-ahead)
        names = tuple(self.metadata['action_names'])
        chunk = ActionChunk(rows.astype(np.float32), names, observation.stamp_ns, self._step_s)
        return SPOILED[fault](chunk) if fault in SPOILED else chunk

    def reset(self) -> None:
        """Nothing to forget."""


def _ramped(joint: int, end: float, rows: int = HORIZON - 1) -> Any:
    """Return what leads one joint to a position within some rows."""

    def spoil(chunk: ActionChunk) -> ActionChunk:
        actions = chunk.actions.copy()
        share = np.minimum(1.0, np.arange(HORIZON) / rows)
        actions[:, joint] += (end - actions[0, joint]) * share
        return replace(chunk, actions=actions.astype(np.float32))

    return spoil


def _filled(value: float) -> Any:
    def spoil(chunk: ActionChunk) -> ActionChunk:
        actions = chunk.actions.copy()
        actions[5, 2] = value
        return replace(chunk, actions=actions)

    return spoil


def _shifted(seconds: float) -> Any:
    return lambda chunk: replace(chunk, start_ns=chunk.start_ns + round(seconds * 1e9))


SPOILED = {
    'answers NaN': _filled(float('nan')),
    'answers infinity': _filled(float('-inf')),
    'beyond a joint limit': _ramped(2, 1.7),
    'through the table': _ramped(1, 1.5),
    'faster than a joint': _ramped(0, 1.5, 1),
    'jumps at its start': lambda chunk: replace(chunk, actions=chunk.actions + np.float32(0.6)),
    'other joints': lambda chunk: replace(chunk, names=tuple(f'b_{n}' for n in chunk.names)),
    'too few rows': lambda chunk: replace(chunk, actions=chunk.actions[:1]),
    'of long ago': _shifted(-10.0),
    'of the future': _shifted(10.0),
}
FAULTS = ('', 'raises an error', 'slow', 'late', *SPOILED)


def main() -> None:
    """Serve until the input ends."""
    from qwen_vla_ros.remote import PolicyServer

    policy = FaultyPolicy(Embodiment.load('widowx'))
    with PolicyServer(policy, port=int(sys.argv[1]) if len(sys.argv) > 1 else 0) as server:
        print(server.address.removeprefix('ws://'), flush=True)
        for line in sys.stdin:
            policy.fault = line.strip()


if __name__ == '__main__':
    main()
