"""
URDF -> forward and inverse kinematics of one arm, by pinocchio (imported on first use).

Cartesian deltas (kind delta_eef, as BridgeData's euler deltas): a row (dx, dy, dz, droll, dpitch,
dyaw) in m and rad is a displacement of the tip from its pose (p0, R0) at the chunk's first row,
along and about the axes of base_link, which do not turn with the hand:

    p = p0 + (dx, dy, dz)        R = Rz(dyaw) Ry(dpitch) Rx(droll) R0

that is roll, pitch, yaw about fixed axes, in this order, multiplied from the left.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

POSITION_TOLERANCE = 1e-5  # m
ROTATION_TOLERANCE = 1e-4  # rad
MAX_ITERATIONS = 200
MAX_ITERATION_STEP = 0.2  # rad, of one joint
MAX_ROW_STEP = 1.0  # rad, of one joint; more between two rows is another branch of the solution
DAMPING = 1e-8  # added to the squared error, which damps by itself far from the goal


class KinematicsError(QwenVlaError):
    """A description cannot be used, or a pose cannot be reached; the message says where and why."""


class ArmKinematics:
    """
    One chain of joints from the URDF's root (base_link) to `tip`.

    q is [J], rad, in the order of `joints`; poses are in the root's frame, in m. Safe to call from
    several threads.
    """

    def __init__(
        self, urdf_path: str | Path, tip: str, joints: Sequence[str] | None = None
    ) -> None:
        """
        Read a URDF; joints are the names in the caller's order, else all from root to tip.

        Raises KinematicsError that names the file and the unknown link or joint.
        """
        self._pin = _pinocchio()
        self.path, self.tip = Path(urdf_path), tip
        model = self._read()
        self.joints = tuple(joints) if joints is not None else self._chain(model)
        self._check(model)
        moving = {model.getJointId(name) for name in self.joints}
        still = [index for index in range(1, model.njoints) if index not in moving]
        self._model = self._pin.buildReducedModel(model, still, self._pin.neutral(model))
        self._tip = self._model.getFrameId(tip)
        self._order = np.array(
            [self._model.joints[self._model.getJointId(name)].idx_q for name in self.joints]
        )
        self.lower = np.array(self._model.lowerPositionLimit)[self._order]
        self.upper = np.array(self._model.upperPositionLimit)[self._order]
        self._local = threading.local()

    def forward(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tip's position [3] in m and rotation [3, 3] at q [J]."""
        pose = self._pose(q)
        return pose.translation.copy(), pose.rotation.copy()

    def tip_position(self, q: np.ndarray) -> np.ndarray:
        """Return the tip's position [3] in m at q [J]; the fast way for checks on every row."""
        return self._pose(q).translation.copy()

    def joints_for(
        self, position: np.ndarray, rotation: np.ndarray, seed_q: np.ndarray
    ) -> np.ndarray:
        """
        Return the joints [J] nearest to the way from seed_q to a pose, inside the URDF's limits.

        position [3] in m, rotation [3, 3]. A seed outside the limits starts at them. Damped least
        squares: no joint moves more than MAX_ITERATION_STEP at once, singular or not. Raises
        KinematicsError that tells what is left when the pose is not reached.
        """
        position, rotation = np.asarray(position, np.float64), np.asarray(rotation, np.float64)
        if not (np.isfinite(position).all() and np.isfinite(rotation).all()):
            raise KinematicsError('the pose is not finite')
        q = np.clip(self._vector(seed_q), self.lower, self.upper)
        best, best_size = q, np.inf
        for _ in range(MAX_ITERATIONS):
            error, size = self._error(q, position, rotation)
            if size <= 1.0:
                return q
            if size < best_size:
                best, best_size = q, size
            step = self._step(q, error)
            if np.abs(step).max() < 1e-10:
                break
            q = np.clip(q + step, self.lower, self.upper)
        raise KinematicsError(self._unreached(best, position, rotation))

    def chunk_to_joints(self, rows: np.ndarray, q_now: np.ndarray) -> np.ndarray:
        """
        Return the joint positions [H, J] of displacements rows [H, 6] from the pose at q_now [J].

        The convention of a row stands at the top of this file. Each row starts from the one
        before. Raises KinematicsError that names the row that is not finite, out of reach, or
        reached only by a jump of more than MAX_ROW_STEP in one joint.
        """
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or rows.shape[1] != 6:
            raise KinematicsError(f'rows of 6 displacements are wanted, got shape {rows.shape}')
        start, turned = self.forward(q_now)
        previous, result = self._vector(q_now), []
        for index, row in enumerate(rows):
            if not np.isfinite(row).all():
                raise KinematicsError(f'row {index}: not finite: {row.tolist()}')
            turn = self._pin.rpy.rpyToMatrix(row[3:])
            try:
                q = self.joints_for(start + row[:3], turn @ turned, previous)
            except KinematicsError as error:
                raise KinematicsError(f'row {index}: {error}') from error
            jump = np.abs(q - previous)
            if jump.max() > MAX_ROW_STEP:
                joint = int(jump.argmax())
                raise KinematicsError(
                    f'row {index}: {self.joints[joint]} would jump by {jump[joint]:.2f} rad '
                    f'(limit {MAX_ROW_STEP:g}); the pose lies behind a singularity or too far'
                )
            result.append(q)
            previous = q
        return np.array(result).reshape(len(rows), len(self.joints))

    def _read(self) -> Any:
        if not self.path.is_file():
            raise KinematicsError(f'{self.path}: no such robot description (URDF)')
        try:
            return self._pin.buildModelFromUrdf(str(self.path))
        except (RuntimeError, ValueError) as error:
            raise KinematicsError(f'{self.path}: not a valid URDF: {error}') from error

    def _chain(self, model: Any) -> tuple[str, ...]:
        """Return the joints that move the tip, from the root on."""
        self._require_link(model)
        support = model.supports[model.frames[model.getFrameId(self.tip)].parentJoint]
        return tuple(model.names[index] for index in support if index > 0)

    def _check(self, model: Any) -> None:
        """Refuse names that the description lacks, and joints without limits."""
        self._require_link(model)
        known = [name for name in model.names if name != 'universe']
        for name in self.joints:
            if name not in known:
                raise KinematicsError(
                    f'{self.path}: no movable joint {name!r}; there are {", ".join(known)}'
                )
            joint = model.joints[model.getJointId(name)]
            limits = (model.lowerPositionLimit, model.upperPositionLimit)
            if joint.nq != 1 or not all(np.isfinite(limit[joint.idx_q]) for limit in limits):
                raise KinematicsError(f'{self.path}: the joint {name!r} has no position limits')

    def _require_link(self, model: Any) -> None:
        links = [frame.name for frame in model.frames if frame.type == self._pin.BODY]
        if self.tip not in links:
            raise KinematicsError(
                f'{self.path}: no link {self.tip!r}; there are {", ".join(links)}'
            )

    def _vector(self, q: np.ndarray) -> np.ndarray:
        """Return q as float64 [J], checked."""
        q = np.asarray(q, np.float64)
        if q.shape != (len(self.joints),):
            raise KinematicsError(f'{len(self.joints)} joints are wanted, got shape {q.shape}')
        if not np.isfinite(q).all():
            raise KinematicsError(f'the joints are not finite: {q.tolist()}')
        return q

    def _data(self) -> Any:
        """Return pinocchio's work space, one a thread."""
        if not hasattr(self._local, 'data'):
            self._local.data = self._model.createData()
        return self._local.data

    def _inside(self, q: np.ndarray) -> np.ndarray:
        """Return q in the order of pinocchio's model."""
        ordered = np.empty(len(q))
        ordered[self._order] = q
        return ordered

    def _pose(self, q: np.ndarray) -> Any:
        data = self._data()
        self._pin.framesForwardKinematics(self._model, data, self._inside(self._vector(q)))
        return data.oMf[self._tip]

    def _error(
        self, q: np.ndarray, position: np.ndarray, rotation: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Return what is left [6] in m and rad, and its size in tolerances (1 is reached)."""
        pose = self._pose(q)
        turn = self._pin.log3(rotation @ pose.rotation.T)
        error = np.concatenate([position - pose.translation, turn])
        size = max(
            np.linalg.norm(error[:3]) / POSITION_TOLERANCE,
            np.linalg.norm(error[3:]) / ROTATION_TOLERANCE,
        )
        return error, float(size)

    def _step(self, q: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Return one damped step [J]; joints at a limit that would leave it stand still."""
        frame = self._pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        jacobian = self._pin.computeFrameJacobian(
            self._model, self._data(), self._inside(q), self._tip, frame
        )[:, self._order]
        free = np.ones(len(q), bool)
        damping = (error @ error) * 0.1 + DAMPING
        for _ in range(len(q)):
            part = jacobian[:, free]
            step = np.zeros(len(q))
            step[free] = part.T @ np.linalg.solve(part @ part.T + damping * np.eye(6), error)
            stuck = free & (
                ((q <= self.lower) & (step < 0.0)) | ((q >= self.upper) & (step > 0.0))
            )
            if not stuck.any():
                break
            free &= ~stuck
        return step * min(1.0, MAX_ITERATION_STEP / max(np.abs(step).max(), 1e-12))

    def _unreached(self, q: np.ndarray, position: np.ndarray, rotation: np.ndarray) -> str:
        error, _ = self._error(q, position, rotation)
        at = [
            name
            for name, value, low, high in zip(self.joints, q, self.lower, self.upper, strict=True)
            if value <= low or value >= high
        ]
        x, y, z = position
        return (
            f'{self.tip} cannot reach ({x:.3f}, {y:.3f}, {z:.3f}) m in this rotation from here: '
            f'{np.linalg.norm(error[:3]) * 1000:.1f} mm and {np.linalg.norm(error[3:]):.3f} rad '
            f'are left' + (f'; at their limits: {", ".join(at)}' if at else '')
        )


def _pinocchio() -> Any:
    """Return the module pinocchio; it is needed only where kinematics is."""
    try:
        import pinocchio
    except ImportError as error:
        raise KinematicsError(
            f'pinocchio is missing ({error}): run `pip install pin`, or beside an installed ROS 2 '
            'install the apt package ros-<distro>-pinocchio'
        ) from error
    return pinocchio
