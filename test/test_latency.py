"""DelayEnvelope: p95 in rows, one slow call is no slow model, recovery with hysteresis."""

import pytest

from qwen_vla_ros.latency import RECOVERY, DelayEnvelope


@pytest.mark.parametrize(
    ('horizon', 'replan', 'margin', 'limit'),
    [(16, 0, 0, 7.5), (50, 10, 0, 24.5), (50, 40, 0, 9.0), (16, 1, 1.5, 6.75), (4, 5, 0, 0.0)],
)
def test_limit_is_the_largest_delay_that_a_chunk_covers(horizon, replan, margin, limit) -> None:
    envelope = DelayEnvelope(horizon, replan, margin)
    assert envelope.limit == limit
    if limit:
        assert max(replan, limit) + limit + margin <= horizon - 1


def test_p95_of_known_delays() -> None:
    envelope = DelayEnvelope(1000)
    assert envelope.p95 is None
    envelope.note(7.0)
    assert envelope.p95 == 7.0
    for rows in range(1, 101):
        envelope.note(float(rows))
    assert envelope.p95 == 95.0


def test_one_slow_call_at_any_time_is_ignored() -> None:
    for slow in range(12):
        envelope = DelayEnvelope(16)
        for call in range(12):
            envelope.note(40.0 if call == slow else 2.0)
            assert not envelope.exceeded
        assert envelope.p95 == 2.0


def test_slow_calls_are_told_and_fast_ones_in_a_row_recover() -> None:
    envelope = DelayEnvelope(16)
    for rows in (2.0, 9.0, 9.0):
        envelope.note(rows)
    assert envelope.exceeded
    assert 'p95 of 9.0 rows exceeds the 7.5 that a chunk covers' in envelope.told
    for _ in range(RECOVERY - 1):
        envelope.note(6.0)
        assert envelope.exceeded
    envelope.note(6.5)  # within the limit, but not well within
    for _ in range(RECOVERY - 1):
        envelope.note(6.0)
        assert envelope.exceeded
    envelope.note(6.0)
    assert not envelope.exceeded
    assert envelope.told == ''
    assert envelope.p95 == 6.0
