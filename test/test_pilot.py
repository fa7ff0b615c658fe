"""What the policy node does, without ROS: nothing unchecked moves, every hold has a cause."""

import re
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.nodes.pilot import HOLDING, INACTIVE, RUNNING, WAITING, Pilot
from qwen_vla_ros.nodes.timed_policy import RETRY_S, WARM_UP_CALLS
from qwen_vla_ros.types import ActionChunk

WIDOWX = Embodiment.load('widowx')
SMALL = replace(
    WIDOWX,
    cameras=tuple(replace(camera, width=4, height=2) for camera in WIDOWX.cameras),
)
MEASURED = np.array([0.1, -0.6, 0.6, 0.0, 0.9, 0.0, 0.03])
STEP_S, HORIZON = 0.2, 16
STEADY = np.zeros((HORIZON, 7))
WAIST = np.eye(7)[0]
TURN = np.outer(np.arange(HORIZON) * 0.02, WAIST)  # 0.1 rad/s


class Script:
    """A policy whose rows are the measured joints plus an offset that the test sets."""

    def __init__(self, names):
        self._names = names
        self.offset, self.relative, self.before = TURN, True, lambda observation: None
        self.instructions, self.resets, self.connected, self.problem = [], 0, True, ''

    def infer(self, observation, prefix=None):
        self.instructions.append(observation.instruction)
        self.before(observation)
        rows = self.offset + (observation.state if self.relative else 0.0)
        return ActionChunk(rows.astype(np.float32), self._names, observation.stamp_ns, STEP_S)

    def reset(self):
        self.resets += 1


class Flight:
    """A pilot, the clock in its hand, and a robot that stands still."""

    def __init__(self, layout='abs_joint', warm=True, timeout_s=1.5, **options):
        self.now_ns = 1_000_000_000_000
        safety = replace(SMALL.safety, inference_timeout_s=timeout_s)
        robot = replace(SMALL, safety=safety)
        self.policy = Script(SMALL.action_names(layout))
        clock, lookahead_s, point_s = (lambda: self.now_ns), 0.3, 0.05
        self.pilot = Pilot(robot, self.policy, layout, clock, lookahead_s, point_s, **options)
        self.pilot.instruct('touch the red block')
        self.pilot.activate()
        if warm:
            for _ in range(WARM_UP_CALLS):
                assert self.think() is None
            self.policy.instructions.clear()

    def wait(self, seconds):
        self.now_ns += round(seconds * 1e9)

    def feed(self):
        """Let 20 ms pass and every stream speak."""
        self.wait(0.02)
        second, nanosecond = divmod(self.now_ns, 10**9)
        stamp = SimpleNamespace(sec=second, nanosec=nanosecond)
        header = SimpleNamespace(stamp=stamp, frame_id='')
        names = list(SMALL.state_names)
        joints = SimpleNamespace(header=header, name=names, position=MEASURED.tolist())
        self.pilot.push('state', joints)
        for camera in SMALL.cameras:
            image = SimpleNamespace(
                header=header,
                encoding='rgb8',
                width=4,
                height=2,
                step=12,
                is_bigendian=0,
                data=bytes(24),
            )
            self.pilot.push(camera.view, image)

    def think(self):
        self.feed()
        return self.pilot.think()

    def rest(self):
        """Let the time pass in which a stopped arm comes to rest."""
        self.wait(1.5)
        self.feed()
        self.pilot.watch()

    @property
    def at(self):
        return self.pilot.executor.at(self.now_ns)


def comes_to_rest(motion):
    return motion is not None and np.abs(motion.velocities[-1]).max() < 1e-6


def test_the_chunks_of_the_warm_up_are_never_executed():
    flight = Flight(warm=False)
    flight.feed()
    assert flight.pilot.watch() is None
    assert (flight.pilot.stage, flight.pilot.reason) == (WAITING, 'warming up the policy')
    for call in range(1, WARM_UP_CALLS + 1):
        assert flight.think() is None
        assert len(flight.policy.instructions) == call
        assert flight.pilot.command() is None
        assert flight.pilot.chunks == 0
    assert flight.think() is not None
    assert flight.pilot.stage == RUNNING
    assert flight.pilot.chunks == 1


def test_the_first_chunk_starts_where_the_joints_are_measured():
    flight = Flight()
    flight.policy.offset = TURN + 0.2 * WAIST
    assert flight.think() is not None
    np.testing.assert_allclose(flight.at, MEASURED, atol=1e-6)
    motion = flight.pilot.command()
    np.testing.assert_allclose(motion.times_s[:6], np.arange(1, 7) * 0.05)
    assert MEASURED[0] < motion.positions[0, 0] < MEASURED[0] + 0.02
    still = np.tile(MEASURED[1:], (len(motion.positions), 1))
    np.testing.assert_allclose(motion.positions[:, 1:], still, atol=1e-6)


def test_every_command_ends_with_a_way_to_rest_within_the_limits():
    flight = Flight()
    flight.policy.offset = 5 * TURN  # 0.5 rad/s
    assert flight.think() is not None
    flight.wait(0.6)
    motion = flight.pilot.command()
    assert comes_to_rest(motion)
    tail = motion.times_s >= 0.3 - 1e-9
    braking = np.diff(motion.velocities[tail, 0]) / np.diff(motion.times_s[tail])
    assert np.abs(motion.velocities[tail][0, 0]) > 0.2
    assert np.abs(braking).max() <= SMALL.limits['waist'].acceleration * 1.01


def test_an_observation_is_used_once():
    flight = Flight()
    assert flight.think() is not None
    assert flight.pilot.think() is None
    assert len(flight.policy.instructions) == 1


def test_an_inference_that_takes_too_long_is_not_executed():
    flight = Flight(timeout_s=0.3)
    flight.policy.before = lambda observation: time.sleep(0.35)
    assert flight.think() is None
    flight.pilot.watch()
    assert flight.pilot.stage == WAITING
    words = r'policy: an inference took 0\.\d\d s \(limit 0.3 s\)'
    assert re.fullmatch(words, flight.pilot.reason)


def test_an_inference_that_does_not_end_holds_the_moving_arm():
    flight = Flight(timeout_s=0.3)
    assert flight.think() is not None
    entered, leave = threading.Event(), threading.Event()

    def stall(observation):
        entered.set()
        assert leave.wait(5.0)

    flight.policy.before = stall
    flight.feed()
    worker = threading.Thread(target=flight.pilot.think)
    worker.start()
    assert entered.wait(5.0)
    assert flight.pilot.watch() is None
    begin, motion = time.monotonic(), None
    while motion is None:
        assert time.monotonic() - begin < 2.0
        motion = flight.pilot.watch()
        time.sleep(0.002)
    leave.set()
    worker.join()
    assert comes_to_rest(motion)
    assert flight.pilot.stage == HOLDING
    assert flight.pilot.reason == 'policy: an inference runs longer than 0.3 s'
    assert flight.pilot.command() is None


def test_a_policy_that_refuses_is_quoted_and_asked_again_after_a_pause():
    flight = Flight()

    def refuse(observation):
        raise QwenVlaError('no such object')

    flight.policy.before = refuse
    assert flight.think() is None
    flight.pilot.watch()
    assert flight.pilot.reason == 'policy: no such object'
    flight.policy.before = lambda observation: None
    assert flight.think() is None
    assert len(flight.policy.instructions) == 1
    begin = time.monotonic()
    while flight.think() is None:
        assert time.monotonic() - begin < 2.0
        time.sleep(0.01)
    assert len(flight.policy.instructions) == 2
    assert flight.pilot.reason == ''


def test_a_refused_row_holds_until_reset_safety():
    tip = np.array([0.3, 0.0, 0.2])
    flight = Flight(tip_position=lambda q: tip)
    assert flight.think() is not None
    assert flight.pilot.command() is not None
    tip[0] = 9.0
    assert comes_to_rest(flight.pilot.command())
    tip[0] = 0.3
    for _ in range(2):
        assert flight.think() is None
        assert flight.pilot.command() is None
        assert flight.pilot.watch() is None
        assert flight.pilot.stage == HOLDING
        assert 'workspace: ee_gripper_link.x 9 m > limit 0.55 m' in flight.pilot.reason
        assert 'call ~/reset_safety' in flight.pilot.reason
    assert 'workspace' in flight.pilot.reset_safety()[1]
    assert flight.pilot.reset_safety() == (True, 'nothing was latched')
    assert flight.think() is None  # it comes to rest first
    flight.rest()
    assert flight.think() is not None
    assert flight.pilot.stage == RUNNING


def test_a_refused_chunk_keeps_the_running_one():
    flight = Flight()
    running = flight.think()
    flight.policy.offset = TURN + WAIST
    assert flight.think() is None
    assert flight.pilot.watch() is None
    assert flight.pilot.stage == RUNNING
    assert flight.pilot.chunk is running
    assert flight.pilot.gate.refused_chunks == 1
    assert 'jump' in flight.pilot.gate.refusals[-1].reason
    refused, reason = flight.pilot.take_refused()
    assert reason == flight.pilot.gate.refusals[-1].reason
    assert refused is not flight.pilot.chunk
    assert flight.pilot.take_refused() is None
    assert flight.pilot.command() is not None


def test_a_refused_first_chunk_is_told_and_nothing_moves():
    flight = Flight()
    flight.policy.offset = TURN + WAIST
    assert flight.think() is None
    assert flight.pilot.watch() is None
    assert flight.pilot.stage == WAITING
    assert 'safety refused a chunk' in flight.pilot.reason
    assert flight.pilot.command() is None


def test_cartesian_rows_move_the_tip_by_what_they_command():
    group = SMALL.action_groups('delta_eef')[0]
    arm = ArmKinematics(SMALL.description_path, group.tip, group.joints)
    flight = Flight('delta_eef', tip_position=arm.tip_position, to_joints=arm.chunk_to_joints)
    rows = np.zeros((HORIZON, 7))
    rows[:, 0], rows[:, 2] = np.linspace(0, 0.03, HORIZON), np.linspace(0, -0.02, HORIZON)
    rows[:, 6] = MEASURED[6]
    flight.policy.offset, flight.policy.relative = rows, False
    chunk = flight.think()
    assert chunk.names == SMALL.action_names('abs_joint')
    begin, turned = arm.forward(MEASURED[:6])
    flight.wait(STEP_S * (HORIZON - 1) - 0.02)
    last = flight.at
    end, turned_after = arm.forward(last[:6])
    np.testing.assert_allclose(end - begin, [0.03, 0.0, -0.02], atol=5e-4)
    np.testing.assert_allclose(turned_after, turned, atol=5e-3)
    assert last[6] == pytest.approx(MEASURED[6], abs=1e-6)


def test_a_pose_out_of_reach_is_told_with_its_row():
    group = SMALL.action_groups('delta_eef')[0]
    arm = ArmKinematics(SMALL.description_path, group.tip, group.joints)
    flight = Flight('delta_eef', to_joints=arm.chunk_to_joints)
    flight.policy.offset, flight.policy.relative = np.zeros((HORIZON, 7)), False
    flight.policy.offset[3:, 0] = 2.0
    assert flight.think() is None
    flight.pilot.watch()
    assert flight.pilot.reason.startswith('policy: row 3: ')


def test_a_new_instruction_discards_what_is_inferred_for_the_old_one():
    flight = Flight()
    flight.policy.before = lambda observation: flight.pilot.instruct('touch the blue can')
    assert flight.think() is None
    assert flight.pilot.chunks == 0
    resets = flight.policy.resets
    assert flight.think() is not None
    assert flight.policy.instructions == ['touch the red block', 'touch the blue can']
    assert flight.policy.resets == resets + 1


def test_the_same_instruction_again_discards_nothing():
    flight = Flight()
    flight.policy.before = lambda observation: flight.pilot.instruct(' touch the red block ')
    assert flight.think() is not None


def test_an_empty_instruction_stops_the_arm():
    flight = Flight()
    flight.think()
    flight.pilot.instruct('')
    assert comes_to_rest(flight.pilot.watch())
    assert (flight.pilot.stage, flight.pilot.reason) == (
        WAITING,
        'no instruction on ~/instruction',
    )


def test_silent_streams_hold_the_arm_by_the_names_of_their_topics():
    flight = Flight()
    flight.think()
    flight.wait(0.2)
    assert comes_to_rest(flight.pilot.watch())
    assert flight.pilot.watch() is None
    assert flight.pilot.stage == HOLDING
    for topic in ('camera/scene/image_raw', 'camera/wrist/image_raw', 'joint_states'):
        assert any(topic in text for text in flight.pilot.missing)
    assert flight.think() is None  # it comes to rest first
    flight.rest()
    assert flight.think() is not None
    assert flight.pilot.missing == ()


def test_a_model_process_that_is_gone_holds_the_arm():
    flight = Flight()
    flight.think()
    flight.policy.connected, flight.policy.problem = False, 'nobody answers'
    assert comes_to_rest(flight.pilot.watch())
    assert flight.pilot.missing == ('model process: nobody answers',)
    assert flight.think() is None


def test_a_chunk_that_runs_out_holds_the_arm_before_its_end():
    flight = Flight()
    chunk = flight.think()
    while flight.now_ns < chunk.end_ns - 310_000_000:
        flight.feed()
        assert flight.pilot.watch() is None
    flight.feed()
    assert comes_to_rest(flight.pilot.watch())
    assert flight.pilot.reason == 'policy: the chunk ends and no new one came'


def test_a_clock_that_leaps_brings_the_arm_to_rest_as_if_it_had_not():
    for leap_ns in (-10_000_000_000, -100_000_000):
        flight = Flight()
        flight.think()
        before = flight.pilot.command()
        flight.now_ns += leap_ns
        motion = flight.pilot.command()
        assert comes_to_rest(motion)
        assert motion.now_ns == flight.now_ns
        assert motion.lead_s >= 0.15, 'a command under way may have moved the arm aside'
        assert (before.leaps_ns, motion.leaps_ns) == (0, leap_ns)
        at = before.positions[np.argmin(np.abs(before.times_s - motion.times_s[0]))]
        np.testing.assert_allclose(motion.positions[0], at, atol=0.02)
        assert flight.pilot.watch() is None, 'once'
        assert flight.pilot.stage == HOLDING
        assert 'clock leapt' in flight.pilot.reason
        flight.rest()
        assert flight.think() is not None
        np.testing.assert_allclose(flight.at, motion.positions[-1], atol=1e-6)


def test_deactivation_brings_the_arm_to_rest_and_forbids_motion():
    flight = Flight()
    flight.think()
    assert comes_to_rest(flight.pilot.deactivate())
    assert flight.pilot.stage == INACTIVE
    assert flight.think() is None
    assert flight.pilot.watch() is None
    assert flight.pilot.command() is None
    assert flight.pilot.deactivate() is None
    flight.pilot.activate()
    flight.rest()
    assert flight.think() is not None


class Continuing(Script):
    """A script that continues a prefix, as a checkpoint trained for it does."""

    def __init__(self, names):
        super().__init__(names)
        self.metadata, self.prefixes = {'max_prefix': 4, 'prefix': 'trained'}, []

    def infer(self, observation, prefix=None):
        chunk = super().infer(observation)
        self.prefixes.append(prefix)
        if prefix is not None:
            chunk.actions[:] = prefix[-1]
            chunk.actions[: len(prefix)] = prefix
        return chunk


def test_rtc_gives_the_policy_the_rows_that_run_while_it_thinks(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], 'Script', Continuing)
    flight = Flight(splice='rtc')
    prefixes = flight.policy.prefixes
    prefixes.clear()
    assert flight.think() is not None
    assert prefixes == [None]
    rows = flight.pilot.executor.prefix(flight.now_ns + 20_000_000, 4, STEP_S)
    assert flight.think() is not None
    assert 1 <= len(prefixes[1]) <= 4
    np.testing.assert_allclose(prefixes[1], rows[: len(prefixes[1])])
    flight.pilot.watch()
    assert flight.pilot.stage == RUNNING


def test_rtc_is_refused_by_a_policy_without_max_prefix_and_for_cartesian_layouts(monkeypatch):
    monkeypatch.setattr(Script, 'metadata', {'max_prefix': 4}, raising=False)
    with pytest.raises(QwenVlaError, match='needs a layout of absolute joints; delta_eef has'):
        Flight('delta_eef', splice='rtc', to_joints=lambda rows, q: rows)
    monkeypatch.setattr(Script, 'metadata', {})
    with pytest.raises(QwenVlaError, match='no max_prefix'):
        Flight(splice='rtc')


def test_hold_finish_infers_nothing_until_the_arm_rests():
    flight = Flight(splice='hold-finish')
    chunk = flight.think()
    assert chunk is not None
    while flight.now_ns < chunk.end_ns - 50_000_000:
        assert flight.think() is None
        assert flight.pilot.command() is not None
        assert flight.pilot.watch() is None
    assert len(flight.policy.instructions) == 1
    flight.wait(1.0)
    assert flight.think() is not None
    assert flight.pilot.stage == RUNNING


def test_a_whole_chunk_reaches_to_its_last_row_and_a_stop_tells_that_it_is_one():
    flight = Flight()
    flight.think()
    near, whole = flight.pilot.command(), flight.pilot.command(whole=True)
    assert (near.part, whole.part) == ('lookahead', 'chunk')
    expires_s = (flight.pilot.executor.expires_ns - flight.now_ns) * 1e-9
    assert near.times_s[5] == pytest.approx(0.3)
    assert expires_s <= whole.times_s[-1] < expires_s + 0.3  # and the way to rest
    assert (np.diff(whole.times_s) > 0).all()
    np.testing.assert_array_equal(whole.positions[:6], near.positions[:6])
    assert flight.pilot.deactivate().part == 'stop'
    assert flight.pilot.command(whole=True) is None


def test_a_model_slower_than_its_chunk_finishes_each_one_and_says_so():
    flight = Flight()

    def slow(observation):
        for _ in range(71):  # 1.42 s: 7.1 rows, 6.75 are covered
            flight.feed()
            flight.pilot.command()

    flight.policy.before = slow
    for _ in range(2):
        assert flight.think() is not None
        assert flight.pilot.watch() is None
    assert flight.pilot.stage == RUNNING
    assert re.match(r'latency: p95 of 7\.\d rows exceeds the 6\.8 ', flight.pilot.reason)
    assert flight.think() is None
    for _ in range(200):
        flight.feed()
        assert flight.pilot.command() is not None
        assert flight.pilot.watch() is None
    assert comes_to_rest(flight.pilot.command())
    assert flight.think() is not None


def test_the_executor_tells_how_late_chunks_come():
    flight = Flight()
    assert flight.pilot.executor.delay_rows is None
    flight.policy.before = lambda observation: flight.wait(0.1)
    assert flight.think() is not None
    assert flight.pilot.executor.delay_rows == pytest.approx(0.5)


def test_an_arm_that_is_moved_while_the_policy_thinks_is_not_started():
    flight = Flight()
    moved = MEASURED.copy()
    moved[1] += 0.05

    def push(observation):
        flight.wait(0.05)
        second, nanosecond = divmod(flight.now_ns, 10**9)
        stamp = SimpleNamespace(sec=second, nanosec=nanosecond)
        header = SimpleNamespace(stamp=stamp, frame_id='')
        names = list(SMALL.state_names)
        joints = SimpleNamespace(header=header, name=names, position=moved.tolist())
        flight.pilot.push('state', joints)

    flight.policy.before = push
    assert flight.think() is None
    assert f'{SMALL.state_names[1]} still moves (by 0.05' in flight.pilot._policy.problem
    assert flight.pilot.command() is None
    flight.policy.before = lambda observation: None
    time.sleep(RETRY_S)
    flight.wait(0.3)
    assert flight.think() is not None


def fly(flight, seconds):
    """Let time pass as a node does: everything speaks, the watch looks, commands go out."""
    for _ in range(round(seconds / 0.02)):
        flight.feed()
        flight.pilot.watch()
        flight.pilot.command()


def test_park_comes_to_rest_parks_and_stays_until_an_instruction_comes():
    flight = Flight()
    flight.think()
    parked, told, motion = flight.pilot.park()
    assert parked, told
    assert told == 'comes to rest, then parks'
    assert comes_to_rest(motion)
    assert flight.think() is None
    fly(flight, 1.0)
    assert flight.pilot.stage == 'PARKING'
    assert flight.pilot.park()[:2] == (True, 'on its way already')
    fly(flight, 20.0)
    assert flight.pilot.reason.startswith('parked; the policy rests until an instruction comes')
    assert flight.think() is None, 'the policy must not take the arm back'
    flight.pilot.instruct('touch the red block')
    assert flight.think() is not None, 'the same sentence will do'
    assert flight.pilot.stage == RUNNING


def test_an_arm_that_an_emergency_stop_left_somewhere_can_be_parked():
    flight = Flight()
    flight.think()
    flight.pilot.emergency('button', True)
    assert flight.pilot.park()[1] == 'park: emergency stop pressed (button)'
    flight.pilot.emergency('button', False)
    fly(flight, 1.0)
    assert flight.pilot.stages.stage == 'shadow'
    assert 'emergency stop released, still latched' in flight.pilot.reason
    assert flight.pilot.reset_safety()[0]
    assert flight.pilot.park()[0]
    fly(flight, 20.0)
    assert flight.pilot.reason.startswith('parked')
    flight.pilot.request_stage('dry-run', 'by a person')
    assert flight.pilot.park()[1] == 'park: stage dry-run commands nothing'


def test_the_way_to_rest_is_not_taken_for_another_drivers_commands():
    flight = Flight()
    flight.think()
    motion = flight.pilot.request_stage('shadow', 'to compare')[1]
    flight.pilot.saw('commands', flight.pilot.names, motion.positions[-1])
    for _ in range(200):
        flight.think()
        flight.pilot.watch()
    seen = flight.pilot.shadow.agreement()
    assert (seen.reference, seen.seconds > 3.0) == ('measured', True)
    assert flight.pilot.request_stage('scaled', 'compared')[0].granted


def test_a_chunk_refused_for_how_it_begins_is_counted():
    flight = Flight()

    def moves(observation):
        time_ns = flight.now_ns + 1
        stamp = SimpleNamespace(sec=time_ns // 10**9, nanosec=time_ns % 10**9)
        header = SimpleNamespace(stamp=stamp, frame_id='')
        position = (MEASURED + 0.1 * WAIST).tolist()
        names = list(SMALL.state_names)
        flight.pilot.push('state', SimpleNamespace(header=header, name=names, position=position))

    flight.policy.before = moves
    assert flight.think() is None
    assert 'waist still moves' in flight.pilot.take_refused()[1]
    assert flight.pilot.refused_starts == 1
