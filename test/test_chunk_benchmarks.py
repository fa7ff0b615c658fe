"""The simulated benchmarks of the executor: no clock in them, so their goals hold anywhere."""

import numpy as np
import pytest

from benchmarks import asynchrony, seams


@pytest.mark.parametrize('benchmark', [seams, asynchrony])
def test_goals_hold(benchmark) -> None:
    result = benchmark.run()
    assert result.holds, result.note


def test_synchronous_loop_waits_for_every_chunk() -> None:
    trace = [5 * seams.STEP_NS] * 4
    assert asynchrony.synchronous(15, trace).per_thousand == pytest.approx(1000 * 0.4 / 15)


def test_reaction_is_the_wait_for_the_observation_and_the_latency() -> None:
    stamps = np.arange(0, 100, 10) * seams.STEP_NS
    late = asynchrony.reaction(stamps, stamps + 4 * seams.STEP_NS)
    assert late == pytest.approx((5 + 4) * seams.STEP_S, rel=0.02)
