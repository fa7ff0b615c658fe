"""
ActionChunk -> the row for this instant.

Position, velocity and acceleration of the motion are continuous everywhere (C2): inside a chunk,
whose rows are met exactly (curve.py), at the seam between two chunks (splice.py, in four modes),
out of a hold and into a stop (in the time the limits ask for).

    departure = executor.depart(observation.stamp_ns, step_s)       before the policy is asked
    chunk = policy.infer(observation, departure.prefix)
    executor.put(chunk, now_ns, departure)                          when its chunk has come

The delay between both is counted in rows that were consumed meanwhile, by at() and points(); an
arm that rests, or whose chunk ran out, consumes none: there it is the time that has passed. Time
comes from the caller, in int nanoseconds; there is no clock here.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qwen_vla_ros.chunk_check import (
    ChunkRefused,
    refuse_astray,
    refuse_malformed,
    refuse_out_of_order,
    refuse_untimely,
)
from qwen_vla_ros.curve import through_rows
from qwen_vla_ros.ensemble import averaged, members_with
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.latency import DelayEnvelope
from qwen_vla_ros.motion_plan import Plan, standing
from qwen_vla_ros.splice import (
    ENSEMBLE,
    HOLD_FINISH,
    RTC,
    continued,
    landed,
    onto,
    seam_problem,
    stopped,
)
from qwen_vla_ros.splicing import Splicing
from qwen_vla_ros.types import ActionChunk

MAX_SEAMS = 32
JUDGE_S = 0.02  # between the samples that a judge of motions sees
MEMORY_NS = 2_000_000_000  # how far back a prefix may reach
CLOCK_BACK_NS = 100_000_000  # a clock that goes back further is no jitter


# times [N] in s from now, then positions, velocities, accelerations [N, A] -> why not, or ''.
Judge = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], str]


@dataclass(frozen=True)
class Motion:
    """Position, velocity and acceleration float64 [A] of one instant, in the plan's units."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray


@dataclass(frozen=True)
class Departure:
    """
    What the executor knew when an observation went to the policy.

    stamp_ns  of the observation
    consumed  rows that had been consumed at the stamp
    prefix    float32 [d, A] SI, the rows from the stamp on that run anyway; None: none is known,
              or the mode takes none
    epoch     how often the executor had been cleared
    """

    stamp_ns: int
    consumed: float
    prefix: np.ndarray | None
    epoch: int


class ChunkExecutor:
    """
    Splice chunks into one smooth motion and tell the row for any instant.

    All methods may be called from any thread. Rows are float64 [A], ordered as names.
    """

    def __init__(
        self,
        blend_s: float,
        names: tuple[str, ...],
        monotone: tuple[str, ...] = (),
        acceleration: np.ndarray | None = None,
        velocity: np.ndarray | None = None,
        splicing: Splicing | None = None,
    ) -> None:
        """
        Set up with nothing running.

        blend_s       s, the shortest time from the old plan onto a new one
        names         the A action names that every chunk must carry
        monotone      names that may never overshoot a row (grippers)
        acceleration  [A] limits in rad/s^2 or m/s^2, for stretching blends, sizing stops and
                      judging seams; None: none of it
        velocity      [A] limits in rad/s or m/s, for judging seams; None: not judged
        splicing      the mode and its figures; None: 'blend'
        """
        if not blend_s > 0:
            raise QwenVlaError(f'chunk executor: blend_s must be positive, got {blend_s}')
        unknown = set(monotone) - set(names)
        if unknown:
            raise QwenVlaError(
                f'chunk executor: monotone channels {sorted(unknown)} are not among {names}'
            )
        self._blend_s = blend_s
        self._names = tuple(names)
        self._monotone = np.array([name in monotone for name in names])
        self._acceleration = self._limits('acceleration', acceleration)
        self._velocity = self._limits('velocity', velocity)
        self._splicing = splicing or Splicing()
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._envelope: DelayEnvelope | None = None
        self._members: tuple[ActionChunk, ...] = ()
        self._put_ns = self._served_ns = self._epoch = 0

    def _limits(self, what: str, limits: np.ndarray | None) -> np.ndarray | None:
        limits = None if limits is None else np.asarray(limits, float)
        if limits is not None and limits.shape != (len(self._names),):
            raise QwenVlaError(
                f'chunk executor: {limits.shape} {what} limits for {len(self._names)} names'
            )
        return limits

    @property
    def names(self) -> tuple[str, ...]:
        """Return the action names, in the order of every row."""
        return self._names

    @property
    def mode(self) -> str:
        """Return the splice mode."""
        return self._splicing.mode

    @property
    def expires_ns(self) -> int | None:
        """Return the instant of the running chunk's last row; None when it comes to rest."""
        plan = self._plan
        return None if plan is None else plan.end_ns

    @property
    def observed_ns(self) -> int | None:
        """Return the stamp of the observation behind the running chunk; None for a hold."""
        plan = self._plan
        return None if plan is None else plan.observed_ns

    @property
    def consumed(self) -> float:
        """Return how many rows of the policy were consumed since the last clear()."""
        plan = self._plan
        return 0.0 if plan is None else plan.progress(self._served_ns)

    @property
    def notice(self) -> str:
        """Return why each chunk is finished before the next is asked for; '' when it is not."""
        with self._lock:
            return '' if self._envelope is None else self._envelope.told

    @property
    def delay_rows(self) -> float | None:
        """Return the 95th percentile of the newest delays in rows; None before the first."""
        with self._lock:
            return None if self._envelope is None else self._envelope.p95

    @property
    def finishing(self) -> bool:
        """Return whether each chunk is finished at rest: by the mode, or for want of speed."""
        envelope = self._envelope
        return self.mode == HOLD_FINISH or (envelope is not None and envelope.exceeded)

    def wants(self, stamp_ns: int) -> bool:
        """Tell whether a chunk of an observation of this stamp may run."""
        plan = self._plan
        return plan is None or plan.takes(stamp_ns)

    def depart(self, stamp_ns: int, step_s: float) -> Departure:
        """Note that an observation goes to the policy, whose rows are step_s apart."""
        with self._lock:
            plan = self._plan
            if plan is None:
                return Departure(stamp_ns, 0.0, None, self._epoch)
            prefix = None
            if self.mode == RTC and plan.observed_ns is not None and plan.rest_ns is None:
                prefix = self._rows(plan, stamp_ns, self._prefix_rows(), step_s)
            return Departure(stamp_ns, plan.progress(stamp_ns), prefix, self._epoch)

    def _prefix_rows(self) -> int:
        """Return the rows that run until the chunk is here: p95 of the delay, and two more."""
        most = self._splicing.max_prefix
        p95 = None if self._envelope is None else self._envelope.p95
        return most if p95 is None else min(math.ceil(p95) + 2, most)

    def put(
        self,
        chunk: ActionChunk,
        now_ns: int,
        departure: Departure | None = None,
        judge: Judge | None = None,
    ) -> None:
        """
        Lead the motion onto a chunk, from now on; raise ChunkRefused when it may not run.

        The rows that are already past are skipped. Something must run or hold before, so that
        there is a place to start from: see hold(). departure is what depart() returned for the
        chunk's observation; without it there is no prefix, and no delay is measured. judge sees
        the motion that would run, seam and curve included, up to its last row, and refuses it by
        a reason: SafetyGate.check_motion makes one.
        """
        refuse_malformed(chunk, self._names)
        with self._lock:
            running = self._running_for(chunk, now_ns, departure)
            self._note_delay(chunk, running, now_ns, departure)
            still_ns = now_ns if running.observed_ns is None else chunk.start_ns
            if self.finishing and running.rests(still_ns):
                anchored = replace(chunk, start_ns=now_ns)
            else:
                anchored = chunk
                refuse_untimely(chunk, now_ns, self._blend_s)
            members = members_with(self._members, anchored, now_ns)
            plan = self._spliced(anchored, running, now_ns, departure, members)
            if self.finishing:
                ends = self._blend_s, self._acceleration, self._monotone
                plan = landed(plan, now_ns, *ends)
                self._refuse_seam(plan, plan.seam.before)
            if judge is not None and (reason := judge(*_future(plan, now_ns))):
                raise ChunkRefused(f'chunk refused: {reason}')
            self._plan = replace(plan, observed_ns=chunk.start_ns)
            self._members = members if self.mode == ENSEMBLE else ()
            self._put_ns = now_ns

    def hold(self, row: np.ndarray, now_ns: int) -> None:
        """Stand still at a row [A] from now on, without end, until a chunk is put."""
        row = np.array(row, np.float64)
        if row.shape != (len(self._names),) or not np.isfinite(row).all():
            raise QwenVlaError(
                f'chunk executor: a hold takes {len(self._names)} finite values, got {row}'
            )
        with self._lock:
            consumed = 0.0 if self._plan is None else self._plan.progress(now_ns)
            self._plan, self._members = standing(row, now_ns, consumed), ()

    def stop(self, now_ns: int, share: float = 1.0) -> None:
        """
        Come to rest within a share of the acceleration limits; nothing when nothing runs.

        The way travelled is half the velocity times the stopping time. Without limits the
        stopping time is blend_s.
        """
        with self._lock:
            motion = self._motion(now_ns)
            if motion is None:
                return
            consumed = self._plan.progress(now_ns)
            limits = None if self._acceleration is None else share * self._acceleration
            self._plan = stopped(motion, now_ns, self._blend_s, limits, consumed)
            self._members = ()

    def clear(self) -> None:
        """Forget everything that runs; the next chunk needs a hold before it."""
        with self._lock:
            self._plan, self._members = None, ()
            self._put_ns = self._served_ns = 0
            self._epoch += 1

    def at(self, now_ns: int) -> np.ndarray | None:
        """Consume the row float64 [A] of an instant; None when nothing runs or it expired."""
        self._served_ns = now_ns
        found = self.sample(now_ns)
        return None if found is None else found[0]

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return position and velocity, float64 [A] each; None when nothing runs."""
        motion = self.motion(now_ns)
        return None if motion is None else (motion.position, motion.velocity)

    def motion(self, now_ns: int) -> Motion | None:
        """Return position, velocity and acceleration; None when nothing runs or it expired."""
        plan = self._plan
        return None if plan is None or plan.ended(now_ns) else Motion(*plan.motion(now_ns))

    def points(
        self, now_ns: int, lookahead_s: float, dt_s: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """
        Consume up to now; return the near future: at dt_s, 2 dt_s, ... up to lookahead_s.

        times float64 [N] in s after now, positions and velocities float64 [N, A]. A plan that
        ends before gives fewer points, the last one at its end; None when none is left.
        """
        plan, self._served_ns = self._plan, now_ns
        if plan is None:
            return None
        times = dt_s * np.arange(1, max(int(lookahead_s / dt_s + 1e-6), 1) + 1)
        if plan.end_ns is not None:
            left = (plan.end_ns - now_ns) * 1e-9
            if left <= 0:
                return None
            if times[-1] > left:
                times = np.append(times[times < left - dt_s / 2], left)
        motion = plan.motions(now_ns + np.round(times * 1e9).astype(np.int64))
        return times, motion[:, 0], motion[:, 1]

    def prefix(self, start_ns: int, rows: int, step_s: float) -> np.ndarray | None:
        """Return what will run anyway from start_ns on: float32 [<= rows, A]; None if nothing."""
        plan = self._plan
        return None if plan is None else self._rows(plan, start_ns, rows, step_s)

    def _rows(self, plan: Plan, start_ns: int, rows: int, step_s: float) -> np.ndarray | None:
        times = start_ns + np.round(np.arange(rows) * (step_s * 1e9)).astype(np.int64)
        if plan.end_ns is not None:
            times = times[times <= plan.end_ns]
        return plan.motions(times)[:, 0].astype(np.float32) if len(times) else None

    def _motion(self, now_ns: int) -> np.ndarray | None:
        """Return [3, A] also after the end, where a plan stands still at its last row."""
        return None if self._plan is None else self._plan.motion(now_ns)

    # Chunks --------------------------------------------------------------------------------------

    def _running_for(self, chunk: ActionChunk, now_ns: int, departure: Departure | None) -> Plan:
        """Return the plan that a chunk follows upon; ChunkRefused when it may not."""
        running = self._plan
        if departure is not None and departure.epoch != self._epoch:
            raise ChunkRefused(
                'chunk refused: its observation is from before the executor was cleared'
            )
        if running is None:
            raise ChunkRefused(
                'chunk refused: nothing runs or holds, so there is no place to start from; call '
                'hold(measured joints) first'
            )
        if now_ns < self._put_ns - CLOCK_BACK_NS:
            raise ChunkRefused(
                f'chunk refused: the clock went back by {(self._put_ns - now_ns) * 1e-9:.3f} s '
                'since the last one; call clear(), then hold(measured joints)'
            )
        refuse_out_of_order(chunk, running)
        running = running.without_past(now_ns - MEMORY_NS)
        if running.seams(now_ns) >= MAX_SEAMS:
            raise ChunkRefused(
                f'chunk refused: {MAX_SEAMS} chunks came within one blend; let the policy replan '
                'more slowly, or shorten blend_s'
            )
        return running

    def _note_delay(
        self, chunk: ActionChunk, running: Plan, now_ns: int, departure: Departure | None
    ) -> None:
        """Count how many rows were consumed since the observation."""
        if departure is None:
            return
        if self._envelope is None:
            figures = self._splicing
            replan, margin = figures.replan_s / chunk.step_s, figures.margin_s / chunk.step_s
            self._envelope = DelayEnvelope(chunk.horizon, replan, margin)
        alone = running.observed_ns is None or running.rests(chunk.start_ns)
        if alone or running.ended(now_ns):
            rows = (now_ns - chunk.start_ns) * 1e-9 / chunk.step_s
        else:
            served_ns = max(self._served_ns, chunk.start_ns)
            rows = running.progress(served_ns) - departure.consumed
        self._envelope.note(max(0.0, rows))

    def _spliced(
        self,
        chunk: ActionChunk,
        running: Plan,
        now_ns: int,
        departure: Departure | None,
        members: tuple[ActionChunk, ...],
    ) -> Plan:
        rows = averaged(members, self._blend_s) if self.mode == ENSEMBLE else chunk.actions
        row_ns = chunk.step_s * 1e9
        plan = Plan(
            through_rows(chunk.start_ns, chunk.step_s, rows, self._monotone),
            end_ns=chunk.end_ns,
            observed_ns=chunk.start_ns,
            row_ns=row_ns,
            rows=chunk.horizon,
            consumed=running.progress(now_ns) - (now_ns - chunk.start_ns) / row_ns,
        )
        ends = self._blend_s, self._acceleration
        if departure is None or departure.prefix is None:
            plan = onto(running, plan, now_ns, *ends, self._monotone)
        else:
            if running.end_ns is None:
                raise ChunkRefused(
                    'chunk refused: it continues a motion that was stopped meanwhile'
                )
            refuse_astray(chunk, departure.prefix, self._splicing.prefix_tolerance)
            plan = continued(running, plan, now_ns, len(departure.prefix), *ends)
        self._refuse_seam(plan, running)
        return plan

    def _refuse_seam(self, plan: Plan, running: Plan) -> None:
        limits = self._velocity, self._acceleration
        if problem := seam_problem(plan, running, self._names, *limits):
            raise ChunkRefused(f'chunk refused: {problem}')


def _future(plan: Plan, now_ns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a plan's motion from now to its end, JUDGE_S apart: see Judge."""
    ends = [time for time in (plan.end_ns, plan.rest_ns) if time is not None]
    seconds = (max(ends) - now_ns) * 1e-9
    times = np.append(np.arange(0.0, seconds - JUDGE_S / 2, JUDGE_S), seconds)
    motions = plan.motions(now_ns + np.round(times * 1e9).astype(np.int64))
    return times, motions[:, 0], motions[:, 1], motions[:, 2]
