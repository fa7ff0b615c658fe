"""The faults of the campaign, as data: what is broken, what the node must say, what it may do."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from benchmarks.fault_campaign.lab import Lab
from benchmarks.fault_campaign.model import SLOW_S
from benchmarks.fault_campaign.robot import STREAMS

HOLD, REFUSE, LATCH, BEAR, END = 'hold', 'refuse', 'latch', 'bear', 'end'


@dataclass(frozen=True)
class Fault:
    """
    One fault.

    act      what the node must do: hold (at once, with the cause; it goes on by itself), refuse
             (the chunk; what runs goes on, as long as it lasts), latch (hold until a reset), bear
             (go on, or hold and go on: only the bounds count), end (the arm comes to rest alone)
    cause    text that the status must hold, '' when there is none
    within_s s from the fault to that status
    """

    name: str
    begin: Callable[[Lab], object]
    act: str = HOLD
    cause: str = ''
    within_s: float = 0.3
    lasts_s: float = 0.8
    needs_motion: bool = False


def _stream(
    name: str, fault: str, act: str = HOLD, cause: str = '', within_s: float = 0.3
) -> Fault:
    return Fault(
        f'{name}: {fault}',
        lambda lab: lab.robot.streams[name].become(fault),
        act,
        cause or STREAMS[name] if act == HOLD else '',
        within_s,
    )


def _gap(name: str, seconds: float) -> Callable[[Lab], None]:
    def begin(lab: Lab) -> None:
        lab.robot.streams[name].become('lost')
        time.sleep(seconds)
        lab.robot.streams[name].become('')

    return begin


def _model(fault: str, act: str = REFUSE, within_s: float = 1.0, lasts_s: float = 1.2) -> Fault:
    return Fault(f'model: {fault}', lambda lab: lab.tell_model(fault), act, '', within_s, lasts_s)


def _signal(name: str, number: int) -> Callable[[Lab], None]:
    return lambda lab: getattr(lab, name).send_signal(number)


def _shift(seconds: float) -> Callable[[Lab], None]:
    def begin(lab: Lab) -> None:
        lab.robot.shift_ns += round(seconds * 1e9)

    return begin


def _set(owner: str, name: str, value: object) -> Callable[[Lab], None]:
    return lambda lab: setattr(lab.robot if owner == 'robot' else lab, name, value)


def stream_faults() -> list[Fault]:
    """Return what can happen to a camera or to the joint states."""
    found = []
    for name in STREAMS:
        found += [
            _stream(name, 'lost'),
            _stream(name, 'restarted'),
            _stream(name, 'delayed'),
            _stream(name, 'frozen'),
            _stream(name, 'corrupted'),
            _stream(name, 'renamed'),
            _stream(name, 'from the future'),
            _stream(name, 'unstamped'),
            _stream(name, 'duplicated', BEAR),
            _stream(name, 'reordered', BEAR),
        ]
    for name, seconds in product(STREAMS, (0.18, 0.25)):
        found.append(Fault(f'{name}: lost for {seconds:g} s', _gap(name, seconds), BEAR))
    found += [_stream('joints', kind, cause='elbow is') for kind in ('NaN', 'infinite')]
    return [*found, _stream('joints', 'a wild elbow', BEAR)]


def model_faults() -> list[Fault]:
    """Return what a model can answer, and what can become of its process."""
    answers = (
        *('answers NaN', 'answers infinity', 'beyond a joint limit', 'through the table'),
        *('faster than a joint', 'jumps at its start', 'other joints', 'too few rows'),
        *('of long ago', 'of the future', 'raises an error'),
    )
    return [
        *(_model(answer) for answer in answers),
        _model('late', BEAR),
        _model('slow', HOLD, SLOW_S + 0.3, SLOW_S + 0.5),
        Fault('model: killed', _signal('model', signal.SIGKILL), HOLD, 'model process'),
        Fault('model: stopped', _signal('model', signal.SIGSTOP), HOLD, 'policy', 2.2, 2.5),
    ]


def node_faults() -> list[Fault]:
    """Return what people and the machine do to the node."""
    return [
        Fault('emergency stop', lambda lab: lab.press_estop(True), LATCH, 'emergency stop', 0.2),
        Fault(
            'dead-man switch let go',
            _set('lab', 'holding_switch', False),
            LATCH,
            'dead-man',
            0.5,
            needs_motion=True,
        ),
        Fault('node: stopped', _signal('policy_node', signal.SIGSTOP), END, '', 0.6, 1.0),
        Fault('node: killed', _signal('policy_node', signal.SIGKILL), END, '', 0.6, 1.0),
    ]


def clock_faults() -> list[Fault]:
    """Return what /clock can do; these need a node on simulated time."""
    return [
        Fault('clock: 5 s forward', _shift(5.0), BEAR),
        Fault('clock: 5 s back', _shift(-5.0), BEAR),
        Fault('clock: 0.1 s back', _shift(-0.1), BEAR),
        Fault('clock: stands', _set('robot', 'clock_stands', True), BEAR, lasts_s=1.0),
    ]
