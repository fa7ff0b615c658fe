"""ChunkExecutor: rows exactly, C2 everywhere, refusals by reason."""

import threading

import numpy as np
import pytest

from qwen_vla_ros.chunk import ChunkExecutor
from qwen_vla_ros.chunk_check import ChunkRefused
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.types import ActionChunk

SECOND = 1_000_000_000
NAMES = ('shoulder', 'left_finger')


def chunk(rows, start_s: float = 0.0, step_s: float = 0.2, names=NAMES) -> ActionChunk:
    rows = np.asarray(rows, np.float32)
    return ActionChunk(rows, names, round(start_s * SECOND), step_s)


def wave(start_s: float = 0.0, phase: float = 0.0, horizon: int = 16) -> ActionChunk:
    times = start_s + 0.2 * np.arange(horizon)
    rows = np.stack([np.sin(2 * times + phase), 0.02 + 0.01 * np.sin(times)], axis=1)
    return chunk(rows, start_s)


def running(plan: ActionChunk, **settings) -> ChunkExecutor:
    """Return an executor that is on the plan's own path from its first instant on."""
    executor = ChunkExecutor(0.3, plan.names, **settings)
    executor.hold(plan.actions[0], plan.start_ns)
    executor.put(plan, plan.start_ns)
    return executor


def state(executor: ChunkExecutor, time_ns: int) -> np.ndarray:
    motion = executor.motion(time_ns)
    return np.array([motion.position, motion.velocity, motion.acceleration])


def test_rows_are_met_exactly_after_the_blend() -> None:
    plan = wave()
    executor = running(plan)
    for row in range(2, plan.horizon):
        expected = plan.actions[row].astype(np.float64)
        np.testing.assert_allclose(executor.at(round(row * 0.2 * SECOND)), expected, atol=1e-12)


def test_straight_line_is_followed_between_rows() -> None:
    executor = running(chunk([[0.5 * i, 0.01] for i in range(8)]))
    position, velocity = executor.sample(round(0.71 * SECOND))
    np.testing.assert_allclose(position, [0.71 * 2.5, 0.01], atol=1e-7)
    np.testing.assert_allclose(velocity, [2.5, 0.0], atol=1e-7)


def test_velocity_and_acceleration_are_the_derivatives() -> None:
    executor = running(wave(), monotone=('left_finger',))
    for time_s in (0.05, 0.21, 0.4003, 1.234, 2.9):
        now, step = round(time_s * SECOND), 100_000
        before, middle, after = (executor.at(now + offset) for offset in (-step, 0, step))
        found = state(executor, now)
        dt = step * 1e-9
        np.testing.assert_allclose(found[1], (after - before) / (2 * dt), atol=1e-6)
        np.testing.assert_allclose(found[2], (after - 2 * middle + before) / dt**2, atol=2e-4)


@pytest.mark.parametrize('monotone', [(), ('left_finger',), NAMES])
def test_c2_across_rows(monotone) -> None:
    executor = running(wave(), monotone=monotone)
    for row in range(3, 15):
        now = round(row * 0.2 * SECOND)
        jump = state(executor, now + 1) - state(executor, now - 1)
        np.testing.assert_allclose(jump, 0.0, atol=2e-5)  # 2 ns of the largest jerk


def test_c2_at_the_seam_exactly() -> None:
    executor = running(wave())
    now = round(0.93 * SECOND)
    before = state(executor, now)
    executor.put(wave(0.6, phase=0.4), now)
    np.testing.assert_allclose(state(executor, now), before, atol=1e-9)


@pytest.mark.parametrize('monotone', [(), NAMES])
def test_c2_at_a_seam_in_the_middle_of_a_blend(monotone) -> None:
    executor = running(wave(), monotone=monotone)
    executor.put(wave(0.6, phase=0.4), round(0.9 * SECOND))
    now = round(1.05 * SECOND)
    before = state(executor, now)
    executor.put(wave(0.8, phase=-0.3), now)
    np.testing.assert_allclose(state(executor, now), before, atol=1e-9)


def test_c2_at_the_end_of_the_blend_where_the_new_plan_begins() -> None:
    executor = running(wave())
    new = wave(0.6, phase=0.4)
    executor.put(new, round(0.9 * SECOND))
    end = round(1.2 * SECOND)
    expected = state(running(new), end)
    np.testing.assert_allclose(state(executor, end), expected, atol=1e-9)
    np.testing.assert_allclose(state(executor, end - 10), expected, atol=1e-5)


def test_constant_difference_is_blended_by_smootherstep() -> None:
    executor = ChunkExecutor(0.3, NAMES)
    executor.hold(np.array([1.0, 0.0]), 0)
    executor.put(chunk(np.zeros((8, 2))), 0)
    s = 0.1 / 0.3
    weight = 10 * s**3 - 15 * s**4 + 6 * s**5
    np.testing.assert_allclose(executor.at(SECOND // 10), [1 - weight, 0.0], atol=1e-9)


def test_out_of_a_hold_it_starts_at_rest_where_it_stands() -> None:
    executor = ChunkExecutor(0.3, NAMES)
    row = np.array([0.7, 0.03])
    executor.hold(row, 0)
    executor.put(wave(), SECOND)
    np.testing.assert_allclose(state(executor, SECOND), [row, [0, 0], [0, 0]], atol=1e-9)


def test_late_chunk_is_entered_where_it_is_due_and_not_at_its_first_row() -> None:
    plan = chunk([[0.1 * i, 0.0] for i in range(16)])
    executor = ChunkExecutor(0.3, NAMES)
    executor.hold(np.array([0.0, 0.0]), 0)
    executor.put(plan, SECOND)
    np.testing.assert_allclose(executor.at(round(1.4 * SECOND)), [0.7, 0.0], atol=1e-7)


def test_chunk_slightly_ahead_of_now_is_reached_without_a_step() -> None:
    executor = ChunkExecutor(0.3, NAMES)
    executor.hold(np.array([0.2, 0.0]), 0)
    plan = wave(0.04)
    executor.put(plan, 0)
    before, after = (
        state(executor, plan.start_ns - 1),
        state(executor, plan.start_ns + 1),
    )
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_monotone_channel_never_leaves_its_rows() -> None:
    rows = np.zeros((12, 2), np.float32)
    rows[4:8, 1] = 0.037
    rows[8:, 1] = [0.03, 0.011, 0.01, 0.01]
    executor = running(chunk(rows), monotone=('left_finger',))
    for index in range(3, 11):
        low, high = sorted(rows[index : index + 2, 1].astype(float))
        for part in np.linspace(0.0, 1.0, 41):
            value = executor.at(round((index + part) * 0.2 * SECOND))[1]
            assert low - 1e-12 <= value <= high + 1e-12


def test_monotone_channel_stays_between_old_and_new_at_a_seam() -> None:
    """A finger that closes fast while the next chunk already holds it closed."""
    closing = np.full((12, 2), 0.01, np.float32)
    closing[:5, 1] = 0.037
    executor = running(chunk(closing), monotone=('left_finger',))
    now = round(0.9 * SECOND)
    before = state(executor, now)
    executor.put(chunk(np.full((12, 2), 0.01), 0.8), now)
    np.testing.assert_allclose(state(executor, now), before, atol=1e-9)
    times = [now + round(part * SECOND) for part in np.linspace(0, 0.5, 101)]
    fingers = [executor.at(time)[1] for time in times]
    assert before[1, 1] < -0.2
    assert min(fingers) >= 0.01 - 1e-8
    np.testing.assert_allclose(fingers[-1], 0.01, atol=1e-8)


def test_chunks_may_come_faster_than_they_blend_but_not_without_end() -> None:
    executor = running(wave(), monotone=('left_finger',))
    for index in range(1, 100):
        executor.put(wave(0.02 * index), round(0.02 * index * SECOND))
    with pytest.raises(ChunkRefused, match='32 chunks came within one blend'):
        for index in range(100):
            executor.put(wave(2.0 + 1e-6 * index), 2 * SECOND + index)


def test_ordinary_channel_overshoots_a_step_so_monotone_is_needed() -> None:
    rows = np.zeros((12, 2), np.float32)
    rows[6:, 1] = 0.037
    executor = running(chunk(rows))
    values = [executor.at(round(t * SECOND))[1] for t in np.linspace(0.4, 2.0, 161)]
    assert max(values) > 0.0375


def test_expired_gives_nothing_and_says_when() -> None:
    plan = wave()
    executor = running(plan)
    assert executor.expires_ns == plan.end_ns
    assert executor.at(plan.end_ns) is not None
    assert executor.at(plan.end_ns + 1) is None
    assert executor.points(plan.end_ns, 0.3, 0.05) is None


def test_after_expiry_the_next_chunk_starts_from_the_last_row_at_rest() -> None:
    plan = wave()
    executor = running(plan)
    now = plan.end_ns + SECOND
    executor.put(wave(4.0), now)
    last = plan.actions[-1].astype(np.float64)
    np.testing.assert_allclose(state(executor, now), [last, [0, 0], [0, 0]], atol=1e-9)


@pytest.mark.parametrize('monotone', [(), NAMES])
def test_old_plan_that_expires_within_the_blend_leaves_no_step(monotone) -> None:
    old = wave(horizon=6)
    executor = running(old, monotone=monotone)
    executor.put(wave(0.4, phase=0.5), round(0.9 * SECOND))
    before, after = state(executor, old.end_ns - 1), state(executor, old.end_ns + 1)
    np.testing.assert_allclose(before, after, atol=1e-6)


@pytest.mark.parametrize(
    ('plan', 'message'),
    [
        (
            chunk(np.zeros((4, 2)), 5.0, names=('left_finger', 'shoulder')),
            'in that order',
        ),
        (chunk(np.zeros((4, 2)), 4.0), 'slower than its horizon'),
        (chunk(np.zeros((4, 2)), 6.0), 'in the future'),
        (chunk([[0, 0], [np.nan, 0]], 4.99), 'row 1, shoulder is nan'),
        (chunk([[0, 0]], 5.01), 'at least two'),
    ],
)
def test_refused_chunks_name_the_reason_and_change_nothing(plan, message) -> None:
    executor = ChunkExecutor(0.3, NAMES)
    executor.hold(np.array([1.0, 0.01]), 0)
    with pytest.raises(ChunkRefused, match=message):
        executor.put(plan, 5 * SECOND)
    np.testing.assert_array_equal(executor.at(5 * SECOND), [1.0, 0.01])


def test_chunk_of_an_older_observation_is_refused() -> None:
    executor = running(wave(0.5))
    with pytest.raises(ChunkRefused, match=r'0\.300 s older'):
        executor.put(wave(0.2), SECOND)


def test_without_a_hold_there_is_no_place_to_start() -> None:
    executor = ChunkExecutor(0.3, NAMES)
    with pytest.raises(ChunkRefused, match='hold'):
        executor.put(wave(), 0)
    assert executor.at(0) is None


def test_hold_never_expires_and_clear_forgets_it() -> None:
    executor = ChunkExecutor(0.3, NAMES)
    executor.hold(np.array([0.4, 0.02]), 0)
    np.testing.assert_array_equal(executor.at(3600 * SECOND), [0.4, 0.02])
    assert executor.expires_ns is None
    executor.clear()
    assert executor.at(0) is None


def test_hold_refuses_numbers_that_are_not_finite() -> None:
    with pytest.raises(QwenVlaError, match='finite'):
        ChunkExecutor(0.3, NAMES).hold(np.array([np.nan, 0.0]), 0)


def test_stop_travels_half_the_velocity_times_the_stopping_time() -> None:
    executor = running(chunk([[0.1 * i, 0.0] for i in range(16)]), acceleration=np.ones(2))
    now = 2 * SECOND
    executor.stop(now)
    seconds = 1.5 * 0.5 / 1.0
    rest = now + round(seconds * SECOND)
    expected = [[1.0 + 0.5 * seconds / 2, 0.0], [0.0, 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(state(executor, rest), expected, atol=1e-5)
    np.testing.assert_allclose(state(executor, rest + SECOND), expected, atol=1e-6)


def test_stop_is_c2_and_within_the_limit() -> None:
    executor = running(chunk([[0.1 * i, 0.0] for i in range(16)]), acceleration=np.ones(2))
    before = state(executor, 2 * SECOND)
    executor.stop(2 * SECOND)
    np.testing.assert_allclose(state(executor, 2 * SECOND), before, atol=1e-9)
    times = 2 * SECOND + np.arange(0, SECOND, SECOND // 200)
    peak = max(np.abs(state(executor, int(time))[2]).max() for time in times)
    assert 0.95 < peak <= 1.0 + 1e-5


def test_blend_is_stretched_where_it_would_exceed_half_the_limit() -> None:
    executor = ChunkExecutor(0.3, NAMES, acceleration=np.array([4.0, 4.0]))
    executor.hold(np.array([0.3, 0.0]), 0)
    executor.put(chunk(np.zeros((16, 2))), 0)
    times = np.arange(0, 2 * SECOND, SECOND // 200)
    peak = max(np.abs(state(executor, int(time))[2]).max() for time in times)
    assert 1.9 < peak <= 2.0 + 1e-6


def test_points_are_the_plan_at_even_times() -> None:
    executor = running(wave())
    now = round(1.03 * SECOND)
    times, positions, velocities = executor.points(now, 0.3, 0.1)
    np.testing.assert_allclose(times, [0.1, 0.2, 0.3])
    for time, position, velocity in zip(times, positions, velocities, strict=True):
        expected = executor.sample(now + round(time * SECOND))
        np.testing.assert_allclose(position, expected[0], atol=1e-12)
        np.testing.assert_allclose(velocity, expected[1], atol=1e-12)


def test_two_rows_are_a_straight_line() -> None:
    executor = running(chunk([[0.0, 0.01], [1.0, 0.01]], step_s=1.0))
    np.testing.assert_allclose(executor.at(SECOND // 2), [0.5, 0.01], atol=1e-7)


def test_points_end_with_the_plan() -> None:
    plan = wave()
    executor = running(plan)
    times, positions, _ = executor.points(plan.end_ns - round(0.12 * SECOND), 0.3, 0.05)
    np.testing.assert_allclose(times, [0.05, 0.12], atol=1e-9)
    np.testing.assert_allclose(positions[-1], plan.actions[-1], atol=1e-7)


def test_prefix_is_what_will_run_anyway() -> None:
    plan = wave()
    executor = running(plan)
    found = executor.prefix(plan.start_ns + SECOND, 4, 0.2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plan.actions[5:9], atol=1e-7)
    assert executor.prefix(plan.end_ns - SECOND // 5, 4, 0.2).shape == (2, 2)
    assert executor.prefix(plan.end_ns + 1, 4, 0.2) is None


def test_threads_may_read_while_chunks_are_put() -> None:
    executor = running(wave())
    failures = []

    def read() -> None:
        for time in range(0, SECOND, SECOND // 500):
            row = executor.at(time)
            if row is None or not np.isfinite(row).all():
                failures.append(time)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for index in range(1, 50):
        executor.put(wave(0.01 * index), round(0.02 * index * SECOND))
    for thread in threads:
        thread.join()
    assert not failures
    assert executor.observed_ns == round(0.49 * SECOND)
