"""TimedPolicy: warm only after a steady latency, and reset before the first executed chunk."""

from types import SimpleNamespace

import pytest

from qwen_vla_ros.nodes import timed_policy
from qwen_vla_ros.nodes.timed_policy import WARM_UP_CALLS, TimedPolicy


class Slow:
    """A policy whose calls take what the test says, on a clock that only it moves."""

    def __init__(self, monkeypatch, seconds: list[float]) -> None:
        self.now, self.seconds, self.calls, self.resets = 0.0, iter(seconds), [], 0
        clock = SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now)
        monkeypatch.setattr(timed_policy, 'time', clock)

    def infer(self, observation, prefix=None):
        self.now += next(self.seconds)
        self.calls.append(prefix)
        return 'chunk'

    def reset(self):
        self.resets += 1


@pytest.mark.parametrize(
    ('seconds', 'cold'),
    [
        ([9.0, 0.3, 0.3], WARM_UP_CALLS),
        ([0.001, 0.012, 0.001], WARM_UP_CALLS),
        ([9.0, 5.0, 1.0, 0.3, 0.31], 5),
    ],
)
def test_nothing_is_executed_before_the_latency_is_steady(monkeypatch, seconds, cold) -> None:
    policy = Slow(monkeypatch, [*seconds, 0.3])
    timed = TimedPolicy(policy, 20.0)
    for _ in range(cold):
        assert timed.problem == 'warming up the policy'
        assert timed.infer(None, 0) is None
    assert timed.problem == ''
    found = timed.infer(None, 0, 'prefix')
    assert (found.chunk, found.call_s) == ('chunk', pytest.approx(0.3))
    assert policy.calls == [None] * cold + ['prefix']


def test_the_first_executed_chunk_is_the_first_after_a_reset(monkeypatch) -> None:
    policy = Slow(monkeypatch, [0.1] * 6)
    timed = TimedPolicy(policy, 1.0)
    for _ in range(WARM_UP_CALLS):
        timed.infer(None, 0)
    assert policy.resets == 1
    timed.infer(None, 0)
    timed.infer(None, 0)
    assert policy.resets == 2


def test_a_model_process_that_comes_back_is_warmed_up_and_reset_again(monkeypatch) -> None:
    policy = Slow(monkeypatch, [0.1] * WARM_UP_CALLS + [0.1] + [9.0, 0.1, 0.1] + [0.1])
    policy.connections = 1
    timed = TimedPolicy(policy, 1.0)
    for _ in range(WARM_UP_CALLS):
        timed.infer(None, 0)
    assert timed.infer(None, 0).chunk == 'chunk'
    policy.connections = 2
    for _ in range(WARM_UP_CALLS):
        assert timed.infer(None, 0) is None
    assert policy.resets == 3
    assert timed.infer(None, 0).chunk == 'chunk'
    assert (timed.problem, policy.resets) == ('', 4)
