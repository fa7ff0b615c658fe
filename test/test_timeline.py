"""What is still to be sent: a newer plan wins from its first instant on, the late skip."""

from qwen_vla_ros.output_kinds import Timed
from qwen_vla_ros.timeline import Timeline

S = 1_000_000_000


def plan(text, *seconds):
    return [Timed(round(second * S), f'{text}{second:g}') for second in seconds]


def sent(timeline, *seconds):
    found = [timeline.take(round(second * S)) for second in seconds]
    return [None if item is None else item.message for item in found]


def test_messages_go_out_at_their_instants():
    timeline = Timeline()
    timeline.put(plan('a', 1.0, 1.1, 1.2), S)
    assert timeline.next_ns == S
    found = sent(timeline, 0.99, 1.0, 1.05, 1.1, 1.2, 1.3)
    assert found == [None, 'a1', None, 'a1.1', 'a1.2', None]
    assert timeline.next_ns is None


def test_whoever_is_late_sends_only_the_newest():
    timeline = Timeline()
    timeline.put(plan('a', 1.0, 1.1, 1.2), S)
    assert sent(timeline, 1.15, 1.16) == ['a1.1', None]


def test_a_newer_plan_takes_over_at_its_first_instant():
    timeline = Timeline()
    timeline.put(plan('a', 1.0, 1.1, 1.2, 1.3), S)
    timeline.put(plan('b', 1.15, 1.25), S)
    assert sent(timeline, 1.0, 1.1, 1.2, 1.3, 1.4) == ['a1', 'a1.1', 'b1.15', 'b1.25', None]


def test_a_clock_that_falls_back_drops_what_belongs_to_the_other_time():
    timeline = Timeline()
    timeline.put(plan('a', 100.0, 101.0), 100 * S)
    assert sent(timeline, 100.0, 5.0, 101.0) == ['a100', None, None]
    timeline.put(plan('b', 5.0), 5 * S)
    assert sent(timeline, 5.0) == ['b5']


def test_the_speed_is_that_of_the_message_sent_last():
    timeline = Timeline()
    timeline.put([Timed(S, 'slow', (0.1, 0.0, 0.0)), Timed(2 * S, 'fast', (0.5, 0.0, 0.0))], S)
    assert timeline.speed == (0.0, 0.0, 0.0)
    timeline.take(S)
    assert timeline.speed == (0.1, 0.0, 0.0)


def test_a_stream_of_positions_leaves_nothing_out_when_it_is_late():
    timeline = Timeline(spacing_ns=S // 100)
    timeline.put([Timed(round(i * S / 50), i) for i in range(5)], 0)
    assert timeline.take(0).message == 0
    late = 3 * S // 50
    sent = [(t, timeline.take(t)) for t in range(late, late + S // 20, S // 500)]
    sent = [((t - late) / S, timed.message) for t, timed in sent if timed is not None]
    assert [message for _, message in sent] == [1, 2, 3, 4]
    assert [round(t, 3) for t, _ in sent] == [0.0, 0.01, 0.02, 0.03]
    assert timeline.next_ns is None


def test_a_stream_in_time_is_not_held_up():
    timeline = Timeline(spacing_ns=S // 100)
    timeline.put([Timed(round(i * S / 50), i) for i in range(3)], 0)
    assert [timeline.take(round(i * S / 50)).message for i in range(3)] == [0, 1, 2]


def test_a_stream_goes_on_after_its_clock_fell_back():
    timeline = Timeline(spacing_ns=S // 100)
    timeline.put([Timed(10 * S, 'old')], 10 * S)
    assert timeline.take(10 * S).message == 'old'
    timeline.put([Timed(2 * S, 'new')], 2 * S)
    assert timeline.next_ns == 2 * S and timeline.take(2 * S).message == 'new'


def test_a_stream_of_positions_never_goes_back_to_what_a_newer_plan_had_before():
    timeline = Timeline(spacing_ns=S // 100)
    timeline.put(plan('a', 1.0, 1.02, 1.04, 1.06), S)
    assert sent(timeline, 1.0, 1.02) == ['a1', 'a1.02']
    timeline.put(plan('b', 1.01, 1.02, 1.03, 1.05), round(1.025 * S))
    assert sent(timeline, 1.03, 1.05, 1.06) == ['b1.03', 'b1.05', None]
    timeline.put(plan('c', 1.01, 1.02), round(1.06 * S))
    assert sent(timeline, 1.07) == ['c1.02'], 'where the arm shall rest is told all the same'
