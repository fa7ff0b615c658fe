"""
Chunks, motions and rows -> a verdict, and the latch that holds the arm.

    admit, check_chunk   a policy's rows, before they are used; a refused one is not executed, the
                         arm goes on with what runs
    check_motion         what the executor would make of them, curve and seam included: refused
                         before it runs, so that no row of it is refused later
    check_row            every row that is sent; a refusal is a fault and latches
    watchdog             rows that stay away while the arm moves, and the interlocks

A latched gate refuses everything until reset(), which is refused as long as a cause persists.
Refused or clamped chunks in a row latch as well. The gate works on joint positions; Cartesian
chunks are turned into joints before they come here. Nothing is clamped except by admit() for
groups whose contract says on_limit: clamp.

This is a filter for learned policies, not a certified safety function.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qwen_vla_ros.capsules import CapsuleModel
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.interlocks import DEAD_MAN, ESTOP, Interlocks
from qwen_vla_ros.limits import Tolerances, Verdict
from qwen_vla_ros.row_checks import CARTESIAN, ROW_MEMORY_S, Checks, Row
from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

__all__ = ['CARTESIAN', 'Latch', 'SafetyGate', 'Tolerances', 'Verdict', 'capsule_model']

AT_REST = 1e-6  # rad/s or m/s
CHUNKS, MOTIONS, CLAMPED = 'chunks', 'motions', 'clamped'


@dataclass(frozen=True)
class Latch:
    """Why the gate refuses everything: time_ns of the node's clock, wall_s of the machine's."""

    cause: str
    reason: str
    time_ns: int
    wall_s: float


class SafetyGate:
    """Check chunks and motions before they run and rows before they are sent. Thread-safe."""

    def __init__(
        self,
        embodiment: 'Embodiment',
        layout: str | None = None,
        tip_position: Callable[[np.ndarray], np.ndarray] | None = None,
        tolerances: Tolerances | None = None,
        capsules: CapsuleModel | None = None,
        interlocks: Interlocks | None = None,
    ) -> None:
        """
        Take the limits of a contract's joints.

        tip_position  maps rows [R, J] of the arm's group (all but grippers) to tips [R, 3] in
                      the frame of the workspace box; without it neither box nor speed is checked
        capsules      the arm's volume, see capsule_model(); without it no distance is checked
        interlocks    emergency stops and dead-man switch; left out, those of the contract's
                      safety.dead_man_s, see the attribute of this name
        """
        self._checks = Checks(embodiment, layout, tip_position, tolerances, capsules)
        self.names, self.limits = self._checks.names, self._checks.limits
        self._safety = embodiment.safety
        self.interlocks = interlocks or Interlocks(self._safety.dead_man_s)
        self._lock = threading.RLock()
        self.refusals: deque[Verdict] = deque(maxlen=100)
        self.refused_chunks = self.refused_motions = self.refused_rows = self.clamped_chunks = 0
        self._running = {CHUNKS: 0, MOTIONS: 0, CLAMPED: 0}
        self._latch: Latch | None = None
        self._last: Row | None = None

    @property
    def latched(self) -> str:
        """Return why the gate refuses everything; empty when it does not."""
        return '' if self._latch is None else self._latch.reason

    @property
    def latch_state(self) -> Latch | None:
        """Return cause, reason and time of the latch; None when the gate is not latched."""
        return self._latch

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Return which checks this gate cannot make, for want of a box, a model or a limit."""
        return self._checks.unchecked

    # Chunks and motions --------------------------------------------------------------------------

    def check_chunk(
        self, chunk: ActionChunk, now_ns: int, observed: np.ndarray | None = None
    ) -> Verdict:
        """
        Judge a whole chunk of joint positions, as it is.

        observed [A], when given, is where the joints were at the chunk's start; the first row
        must lie within the jump limit of it.
        """
        with self._lock:
            if blocked := self._blocked(now_ns):
                return blocked
            problem = self._checks.chunk(chunk, now_ns, observed)
            if problem is None:
                self._running[CHUNKS] = 0
                return Verdict(True, time_ns=now_ns, chunk=chunk)
            self.refused_chunks += 1
            return self._counted(CHUNKS, problem, now_ns)

    def admit(
        self, chunk: ActionChunk, now_ns: int, observed: np.ndarray | None = None
    ) -> Verdict:
        """
        Judge a chunk after clamping what the contract allows; verdict.chunk is what may run.

        Only positions and velocities of groups with on_limit: clamp are moved. What is not
        finite, stale, too far from observed [A], or leaves box or clearance is refused all the
        same, and so is an acceleration or jerk that is over after clamping.
        """
        with self._lock:
            if not self._checks.clampable.any() or not self._clampable(chunk):
                return self.check_chunk(chunk, now_ns, observed)
            rows = chunk.actions.astype(np.float64)
            kept, clamped = self.limits.clamped(rows, chunk.step_s, self._checks.clampable)
            if not clamped:
                self._running[CLAMPED] = 0
                return self.check_chunk(chunk, now_ns, observed)
            if observed is not None and (problem := self._checks.jump(rows[0], observed)):
                self.refused_chunks += 1
                return self._blocked(now_ns) or self._counted(CHUNKS, problem, now_ns)
            verdict = self.check_chunk(
                replace(chunk, actions=kept.astype(np.float32)), now_ns, observed
            )
            if not verdict.ok:
                return verdict
            self.clamped_chunks += 1
            self._running[CLAMPED] += 1
            told = ', '.join(
                f'{one.what} of {one.joint} by {one.amount:.3g} {one.unit} in {one.rows} rows'
                for one in clamped
            )
            if self._running[CLAMPED] >= self._safety.max_clamped_chunks:
                reason = f'{self._running[CLAMPED]} chunks in a row were clamped, the last: {told}'
                return self.latch(reason, now_ns, CLAMPED)
            return replace(verdict, reason=f'clamped: {told}', clamped=clamped)

    def check_motion(
        self,
        times_s: np.ndarray,
        positions: np.ndarray,
        velocities: np.ndarray,
        accelerations: np.ndarray | None,
        now_ns: int,
    ) -> Verdict:
        """
        Judge what an executor would do with a chunk, sampled from now to its end.

        times_s float64 [N] from now, increasing; positions, velocities, accelerations [N, A].
        Without accelerations neither they nor jerks are checked. Samples 20 ms apart or closer
        keep what lies between them within the tolerances of check_row. A refusal does not latch;
        max_refused_chunks of them in a row do.
        """
        with self._lock:
            if blocked := self._blocked(now_ns):
                return blocked
            problem = self.motion_problem(times_s, positions, velocities, accelerations)
            if problem is None:
                self._running[MOTIONS] = 0
                return Verdict(True, time_ns=now_ns)
            self.refused_motions += 1
            reason = f'the motion onto the chunk, {problem.reason}'
            return self._counted(MOTIONS, replace(problem, reason=reason), now_ns)

    # Rows ----------------------------------------------------------------------------------------

    def check_row(
        self,
        position: np.ndarray,
        velocity: np.ndarray | None,
        now_ns: int,
        acceleration: np.ndarray | None = None,
    ) -> Verdict:
        """
        Judge a commanded row, position, velocity, acceleration [A]; a refusal latches the gate.

        now_ns is the row's instant. Rows less than half a second apart are also compared with one
        another: jerks only where both have an acceleration.
        """
        with self._lock:
            if self._latch is not None:
                return self._refuse_latched(now_ns)
            if estop := self.interlocks.estop:
                return self.latch(estop, now_ns, ESTOP)
            row = Row(now_ns, *(_floats(v) for v in (position, velocity, acceleration)), None)
            problem, row = self._checks.row(row, self._last)
            if problem is not None:
                self.refused_rows += 1
                self._set_latch(f'row refused: {problem.reason}', now_ns, 'refused row')
                return self._log(problem, now_ns)
            self._last = row
            return Verdict(True, time_ns=now_ns)

    def check_rows(
        self, times_ns: np.ndarray, positions: np.ndarray, velocities: np.ndarray
    ) -> Verdict:
        """
        Judge rows that go out together, int64 [R] and float64 [R, A]: as check_row() one by one.

        All at once where none is refused, which takes a fraction of the time.
        """
        with self._lock:
            if self._latch is None and not self.interlocks.estop and self._comparable(times_ns):
                fine, row = self._checks.rows(times_ns, positions, velocities, self._last)
                if fine:
                    self._last = row
                    return Verdict(True, time_ns=row.time_ns)
            for now_ns, *row in zip(times_ns.tolist(), positions, velocities, strict=True):
                verdict = self.check_row(*row, now_ns)
                if not verdict.ok:
                    return verdict
            return verdict

    def rest(self) -> None:
        """Hear that the arm is brought to rest on purpose: the next row is a first one."""
        with self._lock:
            self._last = None

    def watchdog(self, now_ns: int) -> Verdict:
        """
        Latch when the arm moves and a person or a silent caller forbids it; call it often.

        The arm moves from the first row that is not at rest until rest() or a row at rest.
        """
        with self._lock:
            if self._latch is not None:
                return self._refuse_latched(now_ns)
            if estop := self.interlocks.estop:
                return self.latch(estop, now_ns, ESTOP)
            if not self._moving:
                return Verdict(True, time_ns=now_ns)
            if reason := self.interlocks.dead_man(now_ns):
                return self.latch(reason, now_ns, DEAD_MAN)
            silent = (now_ns - self._last.time_ns) * 1e-9
            if silent > self._safety.watchdog_s:
                reason = (
                    f'the arm moves, and its last row was due {silent:.3f} s ago '
                    f'(limit {self._safety.watchdog_s:g} s)'
                )
                return self.latch(reason, now_ns, 'watchdog')
            return Verdict(True, time_ns=now_ns)

    # Latch ---------------------------------------------------------------------------------------

    def latch(self, reason: str, now_ns: int, cause: str = 'caller') -> Verdict:
        """Refuse everything from now on, for a reason that the caller found."""
        with self._lock:
            self._set_latch(reason, now_ns, cause)
            return self._log(Verdict(False, reason), now_ns)

    def reset(self, now_ns: int | None = None, measured: np.ndarray | None = None) -> Verdict:
        """
        Release the latch and forget the rows before, unless a cause persists.

        now_ns    the node's time, without which the dead-man switch is not asked
        measured  [A] joints, refused outside their limits or box, or without clearance

        The counts and the log stay. A refusal says what to do away with first.
        """
        with self._lock:
            causes = self.causes(now_ns, measured)
            if causes:
                reason = '; '.join(causes.values())
                return Verdict(False, f'reset refused: {reason}', time_ns=now_ns or 0)
            self._latch = None
            self._running = dict.fromkeys(self._running, 0)
            self._last = None
            return Verdict(True, time_ns=now_ns or 0)

    def causes(
        self, now_ns: int | None = None, measured: np.ndarray | None = None
    ) -> dict[str, str]:
        """Return what would forbid a reset now: cause -> reason; arguments as of reset()."""
        found = {ESTOP: self.interlocks.estop} if self.interlocks.estop else {}
        if now_ns is not None:
            found.update(self.interlocks.causes(now_ns))
        if measured is not None:
            rows = np.asarray(measured, np.float64)[None]
            problem = self.limits.finite('measured position', rows) or self.place_problem(rows)
            if problem:
                found['measured joints'] = f'measured joints: {problem.reason}'
        return found

    def place_problem(self, rows: np.ndarray) -> Verdict | None:
        """Return what is wrong with standing at rows [R, A]: limits, box, clearance."""
        return self._checks.place(rows)

    def motion_problem(
        self,
        times_s: np.ndarray,
        positions: np.ndarray,
        velocities: np.ndarray,
        accelerations: np.ndarray | None,
    ) -> Verdict | None:
        """Return what is wrong with a motion, as check_motion() does, latched or not."""
        return self._checks.motion(times_s, positions, velocities, accelerations)

    # Parts --------------------------------------------------------------------------------------

    @staticmethod
    def _comparable(times_ns: np.ndarray) -> bool:
        steps = np.diff(times_ns)
        return bool(((steps > 0) & (steps <= ROW_MEMORY_S * 1e9)).all())

    @property
    def _moving(self) -> bool:
        velocity = None if self._last is None else self._last.velocity
        return velocity is not None and bool((np.abs(velocity) > AT_REST).any())

    def _blocked(self, now_ns: int) -> Verdict | None:
        """Return the refusal of everything, or None; an emergency stop latches here too."""
        if self._latch is None and (estop := self.interlocks.estop):
            return self.latch(estop, now_ns, ESTOP)
        if self._latch is not None:
            return self._refuse_latched(now_ns)
        reason = self.interlocks.dead_man(now_ns)
        if not reason:
            return None
        return self.latch(reason, now_ns, DEAD_MAN) if self._moving else Verdict(False, reason)

    def _refuse_latched(self, now_ns: int) -> Verdict:
        return Verdict(False, f'latched: {self.latched}', time_ns=now_ns)

    def _set_latch(self, reason: str, now_ns: int, cause: str) -> None:
        self._latch = Latch(cause, reason, now_ns, time.time())

    def _counted(self, what: str, problem: Verdict, now_ns: int) -> Verdict:
        """Log a refusal; too many in a row latch."""
        verdict = self._log(problem, now_ns)
        self._running[what] += 1
        if self._running[what] >= self._safety.max_refused_chunks:
            reason = (
                f'{self._running[what]} {what} in a row were refused, the last one: '
                f'{verdict.reason}'
            )
            self._set_latch(reason, now_ns, f'refused {what}')
        return verdict

    def _log(self, problem: Verdict, now_ns: int) -> Verdict:
        verdict = replace(problem, time_ns=now_ns)
        self.refusals.append(verdict)
        return verdict

    def _clampable(self, chunk: ActionChunk) -> bool:
        return chunk.names == self.names and bool(np.isfinite(chunk.actions).all())


def capsule_model(embodiment: 'Embodiment', layout: str | None = None) -> CapsuleModel | None:
    """
    Return the volume of a contract's arm, or of several; None when it declares none.

    One arm ends at its workspace's tip; several are the layout's groups of joints. Raises
    KinematicsError when pinocchio, the description or a link is missing, or the joints up to the
    workspace's tip are not those of the layout.
    """
    if embodiment.capsules is None:
        return None
    groups = embodiment.action_groups(layout)
    arms = [group.names for group in groups if group.kind == 'abs_joint']
    boxes = embodiment.workspaces
    if len(arms) > 1 and len(boxes) != 1:
        from qwen_vla_ros.several_arms import SeveralArms

        return CapsuleModel(embodiment.capsules, SeveralArms(embodiment.description_path, arms))
    if len(boxes) != 1:
        raise QwenVlaError(
            f'safety: capsules in {embodiment.source} need the arm, which workspace.tip ends; '
            'add a workspace'
        )
    from qwen_vla_ros.kinematics import ArmKinematics

    joints = [name for group in groups if group.kind != 'gripper' for name in group.names]
    arm = ArmKinematics(embodiment.description_path, boxes[0].tip, joints)
    return CapsuleModel(embodiment.capsules, arm)


def _floats(values: np.ndarray | None) -> np.ndarray | None:
    return None if values is None else np.asarray(values, np.float64)
