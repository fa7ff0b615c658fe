"""
The joints of a robot: chunks in, checked motions out, at full speed or at a share of it.

Executor and safety gate work in execution time (execution_clock.py): the robot's own at full
speed, slower while scaled. A stop at full speed comes to rest within the acceleration limits;
scaled or parking it comes to rest on the path itself, by running execution time down.

Every command ends with a way to rest within the limits, so an arm whose node dies or sleeps
brakes by itself. Once it does, what runs here is no longer where the arm is: see lapsed().
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.chunk import ChunkExecutor, Departure
from qwen_vla_ros.chunk import Motion as Instant
from qwen_vla_ros.chunk_check import ChunkRefused
from qwen_vla_ros.curve import Curve, through_knots
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.execution_clock import ExecutionClock
from qwen_vla_ros.nodes.motion import CHUNK, LOOKAHEAD, STOP, Motion
from qwen_vla_ros.park import SAMPLE_S, plan_park
from qwen_vla_ros.safety import SafetyGate
from qwen_vla_ros.splice import stopped
from qwen_vla_ros.splicing import Splicing
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from qwen_vla_ros.capsules import CapsuleModel
    from qwen_vla_ros.embodiment import ActionGroup, Embodiment
    from qwen_vla_ros.interlocks import Interlocks

STOP_S, STOP_DT_S = 1.0, 0.02
LEAP_SHARE = 0.5  # of the acceleration limits: what was under way takes its part as well
LEAD_S = 0.15  # from a leap of the clock to the first point of the way to rest
SHORTEST_STOP_S = 0.05
STOP_PEAK = 1.5  # peak of a smoothstep's slope
SETTLE_S = 0.1  # how long an arm lags behind the end of its last command
SAG_RAD, SAG_M = 0.02, 0.002  # how far it may stand from there and still be where it was sent
REST = 1e-6


OfArm = Callable[[np.ndarray, np.ndarray], np.ndarray]
ToJoints = OfArm | Mapping[str, OfArm]


class RowRefused(QwenVlaError):
    """Safety refused a row that was about to be sent; the gate has latched."""


class ArmDrive:
    """Executor, safety gate and execution clock of the joints. Not thread-safe: Pilot locks."""

    def __init__(
        self,
        embodiment: 'Embodiment',
        layout: str,
        splicing: Splicing,
        lookahead_s: float,
        dt_s: float,
        interlocks: 'Interlocks',
        tip_position: Callable[[np.ndarray], np.ndarray] | None = None,
        to_joints: ToJoints | None = None,
        capsules: 'CapsuleModel | None' = None,
        policy_groups: 'tuple[ActionGroup, ...] | None' = None,
    ) -> None:
        """
        Set up at rest.

        layout is one of joints alone. policy_groups are the policy's own groups for the same
        joints, in the same order; to_joints(rows [H, 6], q) -> [H, J] turns Cartesian ones, by
        name of the group where arms differ.
        """
        self._embodiment, self._lookahead_s, self._dt_s = embodiment, lookahead_s, dt_s
        self.groups = embodiment.action_groups(layout)
        self._policy_groups = policy_groups or self.groups
        self._to_joints = to_joints
        self.names = tuple(embodiment.action_names(layout))
        limits = [embodiment.limits[name] for name in self.names]
        self._acceleration = np.array([limit.acceleration for limit in limits])
        units = (unit for group in self.groups for unit in group.units)
        self._sag = np.array([SAG_M if unit == 'm' else SAG_RAD for unit in units])
        self.gate = SafetyGate(
            embodiment, layout, tip_position, capsules=capsules, interlocks=interlocks
        )
        self.executor = ChunkExecutor(
            embodiment.safety.blend_s,
            self.names,
            tuple(name for g in self.groups if g.kind == 'gripper' for name in g.names),
            self._acceleration,
            np.array([limit.velocity for limit in limits]),
            splicing,
        )
        self.clock = ExecutionClock()
        self.moving = False
        self._parking: tuple[Curve, int] | None = None
        self._sent_ns: int | None = None
        self._reach_ns = self._rests_ns = 0
        self._end: np.ndarray | None = None

    # Chunks --------------------------------------------------------------------------------------

    def measured(self, observation: Observation) -> np.ndarray:
        """Return where the joints were, float64 [A]."""
        order = [observation.state_names.index(name) for name in self.names]
        return observation.state[order].astype(np.float64)

    def wants(self, stamp_ns: int) -> bool:
        """Tell whether a chunk of an observation of this stamp may run."""
        return self.executor.wants(self.clock.at(stamp_ns))

    def depart(self, stamp_ns: int) -> Departure:
        """Note that an observation goes to the policy."""
        return self.executor.depart(self.clock.at(stamp_ns), self._embodiment.step_s)

    def in_joints(self, chunk: ActionChunk, measured: np.ndarray) -> ActionChunk:
        """Return the joints' part of a chunk; Cartesian deltas go through the kinematics."""
        wanted = [name for group in self._policy_groups for name in group.names]
        if absent := [name for name in wanted if name not in chunk.names]:
            raise QwenVlaError(f'the chunk lacks {", ".join(absent)}; it has {chunk.names}')
        columns = []
        for group, joints in zip(self._policy_groups, self.groups, strict=True):
            rows = chunk.actions[:, [chunk.names.index(name) for name in group.names]]
            if group.kind == 'delta_eef':
                at = [self.names.index(name) for name in joints.names]
                solve = self._to_joints
                if isinstance(solve, Mapping):
                    solve = solve[group.name]
                rows = solve(rows, measured[at])
            columns.append(rows)
        actions = np.concatenate(columns, axis=1).astype(np.float32)
        return ActionChunk(actions, self.names, chunk.start_ns, chunk.step_s)

    def follow(
        self,
        chunk: ActionChunk,
        measured: np.ndarray,
        departure: Departure,
        now_ns: int,
        rate: float,
        ramp_s: float,
    ) -> None:
        """
        Lead the motion onto an admitted chunk; raise ChunkRefused when it may not run.

        An arm at rest starts from where it is measured, at `rate` of the speed after ramp_s.
        """
        if not self.moving:
            self.gate.rest()
            if rate < 1.0:
                self.clock.change(rate, now_ns, ramp_s, begin=0.0)
            else:
                self.clock.restart()
            self.executor.hold(self._standing(measured), self.clock.at(now_ns))
        started = replace(chunk, start_ns=self.clock.at(chunk.start_ns))

        def judge(*future: np.ndarray) -> str:
            verdict = self.gate.check_motion(*future, now_ns)
            return '' if verdict.ok else verdict.reason

        self.executor.put(started, self.clock.at(now_ns), departure, judge)
        if not self.moving:
            self.moving, self._sent_ns = True, None

    def refuse_moving(self, before: np.ndarray, now: np.ndarray | None) -> None:
        """
        Raise ChunkRefused when joints [A] moved between an observation and now: rest is a must.

        A person, another node or a driver that lags moves them; a start from where they were
        would be a jump.
        """
        moved = np.full(len(self.names), np.inf) if now is None else np.abs(now - before)
        if (moved <= self._sag).all():
            return
        worst = int(np.argmax(moved / self._sag))
        raise ChunkRefused(
            f'chunk refused: {self.names[worst]} still moves (by {moved[worst]:.3g} since the '
            'observation); the arm starts from rest only'
        )

    def _standing(self, measured: np.ndarray) -> np.ndarray:
        """Return where a resting arm starts from: where it was sent, if it stands there."""
        end = self._end
        near = end is not None and (np.abs(measured - end) <= self._sag).all()
        return end if near else measured

    def change_speed(self, rate: float, now_ns: int, ramp_s: float) -> None:
        """Go over to another share of the speed."""
        if self.moving and self._parking is None and self.clock.target != rate:
            self.clock.change(rate, now_ns, ramp_s)

    # Motion --------------------------------------------------------------------------------------

    def ends(self, now_ns: int) -> str:
        """Return why the motion has no future; '' when it has."""
        expires = self.executor.expires_ns
        if not self.moving or expires is None or self._parking is not None:
            return ''
        left_s = (expires - self.clock.at(now_ns)) * 1e-9
        if left_s < self._lookahead_s * self.clock.rate(now_ns):
            return 'policy: the chunk ends and no new one came'
        return ''

    def command(self, now_ns: int, whole: bool = False) -> Motion | None:
        """Return the next lookahead, or all that is left; RowRefused when a row is refused."""
        if not self.moving:
            return None
        self.executor.at(self.clock.at(now_ns))
        reach_s, left_s = self._lookahead_s, self._left_s(now_ns)
        if whole and left_s is not None:
            reach_s = max(reach_s, left_s)
        count = max(int(reach_s / self._dt_s + 1e-6), 1)
        times = self._dt_s * np.arange(1, count + 1)
        if left_s is not None and times[-1] > left_s:
            if left_s <= 0:
                return None
            times = np.append(times[times < left_s - self._dt_s / 2], left_s)
        rows = [self._row(now_ns + round(seconds * 1e9)) for seconds in times]
        positions, velocities = (
            np.array([getattr(row, what) for row in rows]) for what in ('position', 'velocity')
        )
        self._check(now_ns + np.round(times * 1e9).astype(np.int64), positions, velocities)
        times, positions, velocities = self._braked(times, positions, velocities, rows[-1])
        left_ns = 0 if self._sent_ns is None else self._reach_ns - (now_ns - self._sent_ns)
        self._sent_ns, self._reach_ns = now_ns, max(round(float(times[-1]) * 1e9), left_ns)
        self._end = positions[-1]
        return Motion(times, positions, velocities, now_ns, CHUNK if whole else LOOKAHEAD)

    def lapsed(self, now_ns: int) -> bool:
        """Tell whether the last command is so old that the arm has begun to brake by itself."""
        if not self.moving or self._sent_ns is None:
            return False
        return now_ns - self._sent_ns > round(self._lookahead_s * 1e9)

    def brakes(self, now_ns: int) -> bool:
        """Tell whether an arm that is to rest still goes there; nothing may start meanwhile."""
        return not self.moving and now_ns < self._rests_ns

    def stop(self, now_ns: int, share: float = 1.0) -> Motion:
        """Come to rest within a share of the acceleration limits; return the way there."""
        if self._parking is not None or self.clock.rate(now_ns) < 1.0:
            motion = self._stopped_on_the_path(now_ns, share)
        else:
            self.executor.stop(self.clock.at(now_ns), share)
            shown = self.clock.at(now_ns)
            times, positions, velocities = self.executor.points(shown, STOP_S, STOP_DT_S)
            resting = np.flatnonzero((np.abs(velocities) < REST).all(axis=1))
            end = int(resting[0]) + 1 if resting.size else len(times)
            motion = Motion(times[:end], positions[:end], velocities[:end], now_ns, STOP)
        self.moving, self._parking = False, None
        self._end = motion.positions[-1]
        self._rests_ns = now_ns + round((float(motion.times_s[-1]) + SETTLE_S) * 1e9)
        self.gate.rest()
        return motion

    def forget(self, now_ns: int) -> None:
        """Drop what runs, its time is gone: the arm ends the last command and rests."""
        if self.moving:
            self._rests_ns = now_ns + self._reach_ns + round(SETTLE_S * 1e9)
        self._drop()

    def leap(self, now_ns: int, leap_ns: int) -> Motion | None:
        """
        Come to rest after the clock leapt by leap_ns to now_ns; None for an arm at rest.

        The motion goes on as before the leap; its first points are not for controllers that join
        them from where they are (Motion.lead_s).
        """
        motion = None
        if self.moving and not self.lapsed(now_ns - leap_ns):
            stop = self.stop(now_ns - leap_ns, LEAP_SHARE)
            motion = replace(stop, now_ns=now_ns, lead_s=LEAD_S)
        elif self.moving:
            self.forget(now_ns - leap_ns)
        self._rests_ns += leap_ns
        self._drop()
        return motion

    def _drop(self) -> None:
        self.executor.clear()
        self.clock.restart()
        self.moving, self._parking = False, None
        self.gate.rest()

    # Park ----------------------------------------------------------------------------------------

    @property
    def parking(self) -> bool:
        """Return whether the arm is on its way to the park posture."""
        return self._parking is not None

    def park(self, measured: np.ndarray, now_ns: int) -> str:
        """Begin the checked way to the park posture; ParkRefused says why there is none."""
        if self.moving or self.brakes(now_ns):
            raise QwenVlaError('park: the arm still moves; call again at rest')
        plan = plan_park(self.gate, self._embodiment, measured, now_ns)
        knots = np.stack((plan.positions, plan.velocities, plan.accelerations), axis=1)
        self.clock.restart()
        end_ns = now_ns + round(float(plan.times_s[-1]) * 1e9)
        self._parking = through_knots(now_ns, SAMPLE_S, knots), end_ns
        self.moving, self._sent_ns = True, None
        return plan.via

    def parked(self, now_ns: int) -> bool:
        """End a way to the park posture that is over; tell whether it just ended."""
        if self._parking is None or now_ns < self._parking[1] + round(self._lookahead_s * 1e9):
            return False
        self.moving, self._parking = False, None
        self.gate.rest()
        return True

    # Rows ----------------------------------------------------------------------------------------

    def _left_s(self, now_ns: int) -> float | None:
        """Return how long the chunk lasts as the rate will be; None: without end."""
        expires = self.executor.expires_ns
        if expires is None or self._parking is not None or self.clock.rate(now_ns) <= 0:
            return None
        end_ns = self.clock.when(expires)
        return None if end_ns is None else (end_ns - now_ns) * 1e-9

    def _row(self, time_ns: int) -> Instant:
        """Return position, velocity and acceleration that the joints have at an instant."""
        rate, shown = self.clock.rate(time_ns), self.clock.at(time_ns)
        if self._parking is not None:
            curve, end_ns = self._parking
            found = Instant(*curve.motion(min(shown, end_ns)))
        else:
            shown = min(shown, self.executor.expires_ns or shown)
            found = self.executor.motion(shown)
        if found is None:
            raise RowRefused('the motion ends before the row that was to be sent')
        return Instant(found.position, found.velocity * rate, found.acceleration * rate**2)

    def _check(self, at_ns: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> None:
        if self._parking is None:
            verdict = self.gate.check_rows(at_ns, positions, velocities)
            if not verdict.ok:
                raise RowRefused(f'safety: {verdict.reason}; call ~/reset_safety')
            return
        # A latched gate may park: the way was checked as a whole, its rows for where they stand.
        if causes := self.gate.interlocks.causes(int(at_ns[0])):
            raise RowRefused(f'park: {"; ".join(causes.values())}')
        if problem := self.gate.place_problem(positions):
            raise RowRefused(f'park: {problem.reason}')

    def _braked(
        self, times: np.ndarray, positions: np.ndarray, velocities: np.ndarray, end: Instant
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Add the way from the last point to rest, where it leads to no forbidden place."""
        if (np.abs(end.velocity) < REST).all():
            return times, positions, velocities
        state = np.stack((end.position, end.velocity, end.acceleration))
        plan = stopped(state, 0, SHORTEST_STOP_S, self._acceleration, 0.0)
        count = max(2, int(np.ceil(plan.rest_ns * 1e-9 / self._dt_s)))
        after = plan.rest_ns * 1e-9 / count * np.arange(1, count + 1)
        way = plan.motions(np.round(after * 1e9).astype(np.int64))
        if self.gate.place_problem(way[-1:, 0]):
            return times, positions, velocities
        return (
            np.concatenate((times, times[-1] + after)),
            np.concatenate((positions, way[:, 0])),
            np.concatenate((velocities, way[:, 1])),
        )

    def _stopped_on_the_path(self, now_ns: int, share: float) -> Motion:
        """Run execution time down to a stand, within a share of the acceleration limits."""
        speed = np.abs(self._row(now_ns).velocity)
        seconds = max(
            SHORTEST_STOP_S, float((STOP_PEAK * speed / (share * self._acceleration)).max())
        )
        self.clock.change(0.0, now_ns, seconds)
        count = int(np.ceil(seconds / STOP_DT_S))
        times = STOP_DT_S * np.arange(1, count + 1)
        rows = [self._row(now_ns + round(float(time) * 1e9)) for time in times]
        positions, velocities = (
            np.array([getattr(row, what) for row in rows]) for what in ('position', 'velocity')
        )
        return Motion(times, positions, velocities, now_ns, STOP)
