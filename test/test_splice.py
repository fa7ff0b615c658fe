"""The four splice modes: C2 at every seam, prefixes kept, chunks finished, refusals by name."""

import numpy as np
import pytest

from qwen_vla_ros.chunk import ChunkExecutor
from qwen_vla_ros.chunk_check import ChunkRefused
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.splice import BLEND, ENSEMBLE, HOLD_FINISH, MODES, RTC
from qwen_vla_ros.splicing import Splicing
from qwen_vla_ros.types import ActionChunk

SECOND = 1_000_000_000
NAMES = ('shoulder', 'elbow', 'finger')
STEP_S, HORIZON = 0.1, 16
STEP_NS = round(STEP_S * SECOND)
TICK_NS = STEP_NS // 5


class Policy:
    """Smooth rows with an error of their own each; it continues a prefix exactly."""

    def __init__(self, seed: int = 0, error: float = 0.02) -> None:
        self.rng, self.error = np.random.default_rng(seed), error
        self.phase = self.rng.uniform(0, 6, 3)
        self.prefixes: list[np.ndarray | None] = []

    def infer(self, stamp_ns: int, prefix: np.ndarray | None = None) -> ActionChunk:
        times = stamp_ns / SECOND + np.arange(HORIZON) * STEP_S
        rows = 0.5 * np.sin(1.3 * times[:, None] + self.phase)
        rows += self.rng.normal(0, self.error, 3)
        rows += self.rng.normal(0, self.error, 3) * np.linspace(0, 1, HORIZON)[:, None]
        self.prefixes.append(prefix)
        if prefix is not None:
            known = len(prefix)
            fade = 0.5 ** np.arange(1, HORIZON - known + 1)[:, None]
            rows[known:] += fade * (prefix[-1] - rows[known - 1])
            rows[:known] = prefix
        return ActionChunk(rows.astype(np.float32), NAMES, stamp_ns, STEP_S)


def state(executor: ChunkExecutor, time_ns: int) -> np.ndarray:
    motion = executor.motion(time_ns)
    return np.array([motion.position, motion.velocity, motion.acceleration])


def executor_of(mode: str, **figures) -> ChunkExecutor:
    splicing = Splicing(mode, max_prefix=4, **figures)
    executor = ChunkExecutor(0.3, NAMES, ('finger',), splicing=splicing)
    executor.hold(Policy().infer(0).actions[0], 0)
    return executor


def fly(executor: ChunkExecutor, policy: Policy, delays: list[int], replan: int = 5):
    """Run inferences one after another; delays in ticks. Yield (executor, now) after each put."""
    tick, served = 0, 0
    for delay in delays:
        while not executor.wants(tick * TICK_NS):
            executor.at(tick * TICK_NS)
            tick += 1
        departure = executor.depart(tick * TICK_NS, STEP_S)
        chunk = policy.infer(tick * TICK_NS, departure.prefix)
        sent = tick
        for tick in range(sent, sent + delay + 1):
            executor.at(tick * TICK_NS)
        executor.put(chunk, tick * TICK_NS, departure)
        yield tick * TICK_NS
        served = max(tick, sent + replan)
        while tick < served:
            tick += 1
            executor.at(tick * TICK_NS)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('seed', range(6))
def test_every_seam_is_c2_and_stays_within_its_bound(mode, seed) -> None:
    rng = np.random.default_rng(seed)
    executor, policy = executor_of(mode), Policy(seed, error=rng.uniform(0, 0.05))
    running = executor._plan
    for now in fly(executor, policy, rng.integers(1, 20, 12).tolist()):
        plan = executor._plan
        while plan.seam is not None and plan.seam.start_ns >= now:
            start, end = plan.seam.start_ns, plan.seam.end_ns
            before = plan.seam.before.motion(start)
            np.testing.assert_allclose(plan.motion(start), before, rtol=0, atol=1e-9)
            np.testing.assert_allclose(
                plan.motion(end - 1),
                plan.path.motion(end - 1),
                rtol=0,
                atol=1e-5,  # 1 ns of jerk
            )
            bridged = np.array([plan.seam.bridge.motion(end), plan.seam.bridge.motion(end + 1)])
            np.testing.assert_allclose(bridged, 0.0, atol=1e-9)
            within_bound(plan)
            plan = plan.seam.before
        np.testing.assert_allclose(
            executor._plan.motion(now), running.motion(now), rtol=0, atol=1e-9
        )
        running = executor._plan


def within_bound(plan) -> None:
    """Hold the overshoot beyond old and new to 0.2 |v| T + 0.0173 |a| T^2; none if monotone."""
    bridge = plan.seam.bridge
    velocity, acceleration = np.abs(bridge.motion(bridge.start_ns))[1:]
    beyond = 0.2 * velocity * bridge.step_s + 0.0173 * acceleration * bridge.step_s**2
    signed = bridge.motion(bridge.start_ns)[0]
    lower, upper = np.minimum(signed, 0) - beyond, np.maximum(signed, 0) + beyond
    for part in np.linspace(0, 1, 41):
        time = bridge.start_ns + round(part * bridge.step_s * SECOND)
        found = bridge.motion(time)[0]
        assert (lower - 1e-12 <= found).all()
        assert (found <= upper + 1e-12).all()
        finger = plan.motion(time)[0, 2]
        ends = sorted((plan.seam.before.motion(time)[0, 2], plan.path.motion(time)[0, 2]))
        assert ends[0] - 1e-12 <= finger <= ends[1] + 1e-12


@pytest.mark.parametrize('mode', MODES)
def test_many_instants_at_once_are_the_same_as_one_by_one(mode) -> None:
    executor = executor_of(mode)
    for now in fly(executor, Policy(5), [9] * 6):
        plan = executor._plan
        times = np.arange(-20, 60) * (STEP_NS // 3) + now
        singly = [plan.motion(int(time)) for time in times]
        np.testing.assert_allclose(plan.motions(times), singly, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('mode', MODES)
def test_the_motion_has_no_step_anywhere(mode) -> None:
    executor, policy = executor_of(mode), Policy(3)
    executor.hold(policy.infer(0).actions[0], 0)
    last = None
    for _ in fly(executor, policy, [7] * 8):
        plan = executor._plan
        start = executor.consumed
        assert last is None or start >= last
        last = start
        times = np.arange(plan.seam.start_ns - SECOND // 10, plan.seam.end_ns, SECOND // 1000)
        rows = np.array([plan.motion(int(time)) for time in times])
        assert np.abs(np.diff(rows[:, 0], axis=0)).max() < 0.003
        assert np.abs(np.diff(rows[:, 1], axis=0)).max() < 0.03


def test_rtc_has_no_prefix_at_the_first_chunk_and_never_pads() -> None:
    policy = Policy(1)
    list(fly(executor_of(RTC), policy, [10] * 5))
    assert policy.prefixes[0] is None
    for prefix in policy.prefixes[1:]:
        assert prefix.dtype == np.float32
        assert prefix.shape == (4, 3)  # two rows of delay, and two for the fade
        assert (np.abs(prefix).max(axis=1) > 0.01).all()


def test_rtc_is_capped_by_what_the_policy_takes_and_blends_the_rest() -> None:
    policy = Policy(1)
    executor = executor_of(RTC)
    times = list(fly(executor, policy, [28] * 4))
    assert [len(prefix) for prefix in policy.prefixes[1:]] == [4, 4, 4]
    assert executor._plan.seam.start_ns == times[-1]


def test_rtc_fades_up_to_the_last_row_of_the_prefix_and_passes_through_it() -> None:
    policy = Policy(1)
    executor = executor_of(RTC)
    times = list(fly(executor, policy, [10] * 3))
    sent = times[-1] - 10 * TICK_NS
    seam, prefix = executor._plan.seam, policy.prefixes[-1]
    assert (seam.start_ns, seam.end_ns) == (times[-1], sent + 3 * STEP_NS)
    for row in (2, 3):
        np.testing.assert_allclose(executor.at(sent + row * STEP_NS), prefix[row], atol=1e-6)


@pytest.mark.parametrize('delay', range(1, 20))
def test_rtc_hands_no_error_on_from_chunk_to_chunk(delay) -> None:
    """A bridge that the next prefix contains would swing up within a few chunks."""
    policy, executor = Policy(delay), executor_of(RTC)
    executor.hold(policy.infer(0).actions[0], 0)
    for now in fly(executor, policy, [delay] * 30):
        found = state(executor, now + STEP_NS)
        assert np.abs(found[0]).max() < 0.7
        assert np.abs(found[1]).max() < 2.5


def test_rtc_prefix_is_what_was_commanded_even_across_the_last_seam() -> None:
    executor, policy = executor_of(RTC), Policy(2)
    list(fly(executor, policy, [10, 10]))
    stamp = executor._plan.seam.start_ns - STEP_NS
    wanted = [executor._plan.motion(stamp + row * STEP_NS)[0] for row in range(4)]
    np.testing.assert_allclose(executor.depart(stamp, STEP_S).prefix, wanted, atol=1e-6)


def test_rtc_refuses_a_chunk_that_strays_from_its_prefix_and_runs_on() -> None:
    executor, policy = executor_of(RTC), Policy(1)
    now = list(fly(executor, policy, [10, 10]))[-1] + STEP_NS
    departure = executor.depart(now, STEP_S)
    chunk = policy.infer(now, departure.prefix)
    chunk.actions[1, 1] += 0.05
    before = state(executor, now + STEP_NS)
    with pytest.raises(ChunkRefused, match=r'row 1, elbow lies 0\.05 off the prefix of 4 rows'):
        executor.put(chunk, now + STEP_NS, departure)
    np.testing.assert_array_equal(state(executor, now + STEP_NS), before)


def test_rtc_refuses_a_chunk_whose_motion_was_stopped_meanwhile() -> None:
    executor, policy = executor_of(RTC), Policy(1)
    now = list(fly(executor, policy, [10, 10]))[-1] + STEP_NS
    departure = executor.depart(now, STEP_S)
    executor.stop(now)
    with pytest.raises(ChunkRefused, match='stopped meanwhile'):
        executor.put(policy.infer(now, departure.prefix), now + STEP_NS, departure)
    assert executor.depart(now + SECOND, STEP_S).prefix is None


def test_rtc_without_max_prefix_is_refused() -> None:
    with pytest.raises(QwenVlaError, match='no max_prefix; choose'):
        Splicing(RTC)
    with pytest.raises(QwenVlaError, match="mode 'rct' is unknown; choose one of hold-finish"):
        Splicing('rct')


def test_hold_finish_runs_every_row_then_rests_then_takes_the_next() -> None:
    executor, policy = executor_of(HOLD_FINISH), Policy(1)
    times = list(fly(executor, policy, [10] * 2))
    first_end = times[0] + (HORIZON - 1) * STEP_NS
    assert times[1] >= first_end + 10 * TICK_NS
    end = times[1] + (HORIZON - 1) * STEP_NS
    assert executor.expires_ns is None
    assert not executor.wants(end - 2)
    rest = executor._plan.rest_ns
    assert end <= rest <= end + SECOND
    last = executor._plan.path.final
    np.testing.assert_allclose(state(executor, rest), [last, [0] * 3, [0] * 3], atol=1e-9)
    assert executor.consumed <= 2 * (HORIZON - 1)
    executor.at(rest + SECOND)
    np.testing.assert_allclose(executor.consumed, 2 * (HORIZON - 1), atol=1e-9)


def test_hold_finish_refuses_an_observation_from_before_the_rest() -> None:
    executor, policy = executor_of(HOLD_FINISH), Policy(1)
    now = list(fly(executor, policy, [10]))[-1]
    with pytest.raises(ChunkRefused, match='before the arm came to rest'):
        executor.put(policy.infer(now + SECOND), now + SECOND)


def test_ensemble_lies_between_the_chunks_it_averages() -> None:
    executor = ChunkExecutor(0.1, ('a',), splicing=Splicing(ENSEMBLE))
    executor.hold(np.zeros(1), 0)
    for index, value in enumerate((0.0, 0.2)):
        rows = np.full((HORIZON, 1), value, np.float32)
        executor.put(ActionChunk(rows, ('a',), index * STEP_NS, STEP_S), index * STEP_NS)
    weight = np.exp(-0.01)
    expected = 0.2 * weight / (1 + weight)
    np.testing.assert_allclose(executor.at(8 * STEP_NS), [expected], atol=1e-7)
    np.testing.assert_allclose(executor.at((HORIZON) * STEP_NS), [0.2], atol=1e-7)


def test_a_seam_that_would_be_too_fast_is_refused_by_name() -> None:
    limits = np.ones(3)
    executor = ChunkExecutor(0.3, NAMES, (), 4 * limits, limits)
    executor.hold(np.zeros(3), 0)
    rows = np.zeros((HORIZON, 3), np.float32)
    rows[:, 1] = 1.5
    with pytest.raises(ChunkRefused, match=r'the seam would ask .* /s of elbow \(limit 1'):
        executor.put(ActionChunk(rows, NAMES, 0, STEP_S), 0)
    np.testing.assert_array_equal(executor.at(STEP_NS), np.zeros(3))


def test_a_seam_that_would_bend_too_much_is_refused_by_name() -> None:
    executor = ChunkExecutor(0.1, NAMES, (), np.full(3, 0.5), np.full(3, 50.0))
    executor.hold(np.zeros(3), 0)
    rows = np.full((HORIZON, 3), 0.5, np.float32)
    with pytest.raises(ChunkRefused, match=r'the seam would ask .* /s\^2 of'):
        executor.put(ActionChunk(rows, NAMES, 0, STEP_S), 0)


@pytest.mark.parametrize('mode', [BLEND, RTC, ENSEMBLE])
def test_a_model_too_slow_for_its_chunk_is_finished_told_and_recovers(mode) -> None:
    executor, policy = executor_of(mode, margin_s=0.2), Policy(1)
    told = []
    for _ in fly(executor, policy, [10] * 6 + [40] * 6 + [10] * 8):
        told.append(executor.notice)
    assert told[:6] == [''] * 6
    assert told[6] == ''  # one slow call is no slow model
    assert any('p95 of 8.' in text and 'exceeds the 6.5' in text for text in told[7:12])
    assert told[-1] == ''
    assert executor.expires_ns is not None


def test_the_delay_counts_consumed_rows_and_not_the_clock() -> None:
    executor, policy = executor_of(RTC), Policy(1)
    now = list(fly(executor, policy, [10, 10]))[-1]
    departure = executor.depart(now, STEP_S)
    chunk = policy.infer(now, departure.prefix)
    executor.at(now + STEP_NS)  # then the commands stop, the clock does not
    executor.put(chunk, now + 5 * STEP_NS, departure)
    assert executor._envelope._delays[-1] == pytest.approx(1.0)


def test_a_chunk_from_before_a_clear_is_refused() -> None:
    executor, policy = executor_of(BLEND), Policy(1)
    departure = executor.depart(0, STEP_S)
    executor.clear()
    executor.hold(np.zeros(3), 0)
    with pytest.raises(ChunkRefused, match='from before the executor was cleared'):
        executor.put(policy.infer(0), 0, departure)


def test_a_duplicate_and_an_old_chunk_are_refused_and_change_nothing() -> None:
    executor, policy = executor_of(BLEND), Policy(1)
    executor.put(policy.infer(SECOND), SECOND)
    for stamp, match in ((SECOND, 'same observation'), (SECOND - STEP_NS, '0.100 s older')):
        before = state(executor, SECOND + STEP_NS)
        with pytest.raises(ChunkRefused, match=match):
            executor.put(policy.infer(stamp), SECOND + STEP_NS)
        np.testing.assert_array_equal(state(executor, SECOND + STEP_NS), before)


def test_a_clock_that_goes_back_is_refused_until_cleared() -> None:
    executor, policy = executor_of(BLEND), Policy(1)
    executor.put(policy.infer(5 * SECOND), 5 * SECOND)
    with pytest.raises(ChunkRefused, match=r'clock went back by 1\.000 s'):
        executor.put(policy.infer(4 * SECOND + 1), 4 * SECOND)
    executor.clear()
    executor.hold(np.zeros(3), 4 * SECOND)
    executor.put(policy.infer(4 * SECOND), 4 * SECOND)
    assert executor.observed_ns == 4 * SECOND


def test_a_clock_that_jumps_ahead_finds_the_chunk_expired() -> None:
    executor, policy = executor_of(BLEND), Policy(1)
    executor.put(policy.infer(0), 0)
    with pytest.raises(ChunkRefused, match='slower than its horizon'):
        executor.put(policy.infer(STEP_NS), 100 * SECOND)
    assert executor.at(100 * SECOND) is None
