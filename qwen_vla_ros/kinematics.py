"""
Joints <-> tip of one arm, through pinocchio: poses, and Cartesian chunks as joint rows.

The arm is what the URDF has between its root and the tip; q [J] follows that order (J = 6 for the
WidowX). Poses are in the URDF's root link (base_link), metres, rotations as matrices.

A Cartesian row (kind delta_eef, as BridgeData's euler deltas) is dx dy dz in m and droll dpitch
dyaw in rad: the displacement of the tip from its pose (p0, R0) at the chunk's first row, along and
about the axes of base_link, which do not turn with the hand:

    p = p0 + (dx, dy, dz)        R = Rz(dyaw) Ry(dpitch) Rx(droll) R0

that is roll, pitch, yaw about fixed axes in this order, multiplied from the left.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.chain import Chain
from qwen_vla_ros.errors import QwenVlaError

POSITION_TOLERANCE_M = 2e-5
ROTATION_TOLERANCE_RAD = 2e-4
# One radian of orientation weighs as much as this distance, so that both are one error.
RADIAN_M = 0.1
# Below this smallest singular value of the tip's Jacobian (m a rad) the posture is near singular
# and steps are damped the more the nearer, up to the square of SINGULAR_DAMPING.
SINGULAR_M = 0.01
SINGULAR_DAMPING_M = 0.003


class KinematicsError(QwenVlaError):
    """A description cannot be used, or no posture of the arm reaches a pose."""


class ArmKinematics:
    """Forward and inverse kinematics of one arm. Thread-safe."""

    def __init__(
        self,
        urdf: str | Path,
        tip: str,
        joints: Sequence[str] | None = None,
        max_step_rad: float = 1.0,
    ) -> None:
        """
        Read a URDF; tip is the link whose pose counts.

        joints        names in the caller's order, refused unless they are those of the arm
        max_step_rad  rad, largest turn of a joint between two rows of a chunk; more means that
                      the arm would have to change its posture near a singular one

        Raises KinematicsError when pinocchio, the file, the link or a joint is missing.
        """
        self._pin = load_pinocchio()
        self._model = _arm_model(self._pin, Path(urdf), tip)
        self._frame = self._model.getFrameId(tip)
        self._chain = Chain(self._pin, self._model)
        tip_frame = self._model.frames[self._frame]
        self._tip_joint = _parent_joint(tip_frame)
        self._tip_place = np.append(tip_frame.placement.translation, 1.0)
        self._max_step_rad = max_step_rad
        self._local = threading.local()  # pinocchio's Data is scratch space: one a thread
        self.tip = tip
        self.joint_names = tuple(self._model.names)[1:]
        if joints is not None and tuple(joints) != self.joint_names:
            raise KinematicsError(
                f'{urdf}: the joints up to {tip} are {", ".join(self.joint_names)}, '
                f'but the caller has {", ".join(joints)}'
            )
        self.lower = np.array(self._model.lowerPositionLimit)
        self.upper = np.array(self._model.upperPositionLimit)

    def forward(self, q: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Return the tip's position [3] in m and rotation [3, 3] at the joints q [J] in rad."""
        pose = self._pose(q)
        return pose.translation.copy(), pose.rotation.copy()

    def tip_position(self, q: Sequence[float]) -> np.ndarray:
        """Return the tip's position [3] in m at q [J] in rad, or [R, 3] at rows [R, J]."""
        if np.ndim(q) == 1:
            return self._pose(q).translation.copy()
        return self.joint_transforms(q)[:, self._tip_joint] @ self._tip_place

    def singular_value(self, q: Sequence[float]) -> float:
        """
        Return the smallest singular value of the tip's Jacobian at q, in m a rad.

        That is how far the tip moves in its weakest direction for one rad of the joints; 0 at a
        singular posture. A rad of orientation counts as RADIAN_M.
        """
        q = self._joints(q)
        return float(np.linalg.svd(self._error(q, self._pose(q))[1], compute_uv=False)[-1])

    def joint_transforms(self, q: Sequence[float]) -> np.ndarray:
        """
        Return where each joint's moving side is: [J + 1, 3, 4], the root link first, in m.

        Rows [R, J] give [R, J + 1, 3, 4], all at once.
        """
        if np.ndim(q) == 2:
            return self._chain.transforms(self._rows(q))
        data = self._data()
        self._pin.forwardKinematics(self._model, data, self._joints(q))
        return np.array([pose.homogeneous for pose in data.oMi])[:, :3]

    def link_place(self, link: str) -> tuple[int, np.ndarray]:
        """
        Return which of joint_transforms moves a link, and the link's pose [4, 4] in it.

        Links of joints that are not the arm's (fingers) are placed with these joints at zero.
        Raises KinematicsError when the description has no such link.
        """
        if not self._model.existBodyName(link):
            known = ', '.join(self._links())
            raise KinematicsError(f'no link {link!r} in the description; it has {known}')
        frame = self._model.frames[self._model.getFrameId(link)]
        return _parent_joint(frame), frame.placement.homogeneous.copy()

    def _links(self) -> list[str]:
        body = self._pin.FrameType.BODY
        return [frame.name for frame in self._model.frames if frame.type == body]

    def joints_for(
        self,
        position: Sequence[float],
        rotation: np.ndarray,
        seed: Sequence[float],
        iterations: int = 200,
    ) -> np.ndarray:
        """
        Return joints q [J] inside their limits that bring the tip to a pose, starting at seed.

        Damped least squares: damping grows with the nearness of a singular posture and where a
        step would not help (Levenberg-Marquardt); joints at a limit stand still. Reaches 0.02 mm
        and 0.0002 rad.

        position [3] in m, rotation [3, 3], seed q [J] in rad. Raises KinematicsError that tells
        how close the arm comes and which joints stand at their limit.
        """
        target = self._pin.SE3(_rotation(rotation), _finite(position, (3,), 'position'))
        q = np.clip(self._joints(seed), self.lower, self.upper)
        error, jacobian = self._error(q, target)
        damping = 1e-4
        for _ in range(iterations):
            if self._reached(error):
                return q
            step = self._step(q, error, jacobian, damping)
            tried = np.clip(q + step, self.lower, self.upper)
            new_error, new_jacobian = self._error(tried, target)
            if new_error @ new_error < error @ error:
                q, error, jacobian = tried, new_error, new_jacobian
                damping = max(damping * 0.3, 1e-9)
            else:
                damping *= 4.0
                if damping > 1e6:
                    break
        raise KinematicsError(self._out_of_reach(q, error))

    def chunk_to_joints(self, rows: np.ndarray, q_now: Sequence[float]) -> np.ndarray:
        """
        Return the joints float64 [H, J] of a delta_eef chunk.

        rows   [H, 6] m and rad, displacements from the pose at q_now as told at the file's top
        q_now  [J] rad, the joints at the chunk's first instant (those of the observation)

        Raises KinematicsError that names the row which cannot be reached, or where a joint would
        turn by more than max_step_rad.
        """
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or rows.shape[1] != 6:
            raise KinematicsError(f'delta_eef rows: [H, 6] is wanted, got {list(rows.shape)}')
        q = self._joints(q_now)
        position, rotation = self.forward(q)
        joints = np.empty((len(rows), len(q)))
        for index, row in enumerate(rows):
            if not np.isfinite(row).all():
                raise KinematicsError(f'row {index}: {row.tolist()} is not finite throughout')
            turn = self._pin.rpy.rpyToMatrix(*row[3:])
            try:
                joints[index] = self.joints_for(position + row[:3], turn @ rotation, q)
            except KinematicsError as error:
                raise KinematicsError(f'row {index}: {error}') from error
            self._refuse_jump(index, joints[index] - q)
            q = joints[index]
        return joints

    def _refuse_jump(self, index: int, change: np.ndarray) -> None:
        worst = int(np.argmax(np.abs(change)))
        if abs(change[worst]) > self._max_step_rad:
            raise KinematicsError(
                f'row {index}: {self.joint_names[worst]} would turn by {abs(change[worst]):.2f} '
                f'rad in one step (limit {self._max_step_rad:g}); the pose is near a singular '
                'posture: ask for smaller displacements'
            )

    def _pose(self, q: Sequence[float]) -> Any:
        data = self._data()
        self._pin.framesForwardKinematics(self._model, data, self._joints(q))
        return data.oMf[self._frame]

    def _data(self) -> Any:
        if not hasattr(self._local, 'data'):
            self._local.data = self._model.createData()
        return self._local.data

    def _joints(self, q: Sequence[float]) -> np.ndarray:
        return _finite(q, (self._model.nq,), f'joints {", ".join(self.joint_names)}')

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.float64)
        if rows.shape[1] != self._model.nq or not np.isfinite(rows).all():
            for row in rows:
                self._joints(row)
        return rows

    def _error(self, q: np.ndarray, target: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the weighted way to the target [6] and its Jacobian [6, J], in root axes."""
        pin, data = self._pin, self._data()
        axes = pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        jacobian = pin.computeFrameJacobian(self._model, data, q, self._frame, axes)
        pose = pin.updateFramePlacement(self._model, data, self._frame)
        turn = pin.log3(target.rotation @ pose.rotation.T)
        error = np.concatenate([target.translation - pose.translation, RADIAN_M * turn])
        jacobian[3:] *= RADIAN_M
        return error, jacobian

    def _step(
        self, q: np.ndarray, error: np.ndarray, jacobian: np.ndarray, damping: float
    ) -> np.ndarray:
        """Return a damped step [J]; joints that would leave their limits stand still."""
        free = np.ones(len(q), bool)
        step = np.zeros(len(q))
        for _ in range(len(q)):
            part = jacobian[:, free]
            square = part @ part.T
            weakest = max(float(np.linalg.eigvalsh(square)[0]), 0.0) / SINGULAR_M**2
            extra = SINGULAR_DAMPING_M**2 * max(0.0, 1.0 - weakest)
            square[np.diag_indices(6)] += damping + extra
            step[:] = 0.0
            step[free] = part.T @ np.linalg.solve(square, error)
            stuck = free & (
                ((q <= self.lower) & (step < 0.0)) | ((q >= self.upper) & (step > 0.0))
            )
            if not stuck.any():
                break
            free &= ~stuck
            if not free.any():
                return np.zeros(len(q))
        return step * min(1.0, 0.5 / max(np.abs(step).max(), 1e-12))

    @staticmethod
    def _reached(error: np.ndarray) -> bool:
        return bool(
            np.linalg.norm(error[:3]) < POSITION_TOLERANCE_M
            and np.linalg.norm(error[3:]) < RADIAN_M * ROTATION_TOLERANCE_RAD
        )

    def _out_of_reach(self, q: np.ndarray, error: np.ndarray) -> str:
        at_limit = [
            name
            for name, value, low, high in zip(
                self.joint_names, q, self.lower, self.upper, strict=True
            )
            if value <= low or value >= high
        ]
        text = (
            f'no posture near the last one brings {self.tip} to the pose; the closest misses by '
            f'{1e3 * np.linalg.norm(error[:3]):.1f} mm and '
            f'{np.degrees(np.linalg.norm(error[3:]) / RADIAN_M):.1f} deg'
        )
        if at_limit:
            text += f', with {", ".join(at_limit)} at the limit'
        singular = self.singular_value(q)
        if singular < SINGULAR_M:
            text += f'; the arm is near a singular posture there ({1e3 * singular:.1f} mm a rad)'
        return text


def load_pinocchio() -> Any:
    """Return pinocchio, imported only where kinematics are wanted."""
    try:
        import pinocchio
    except ImportError as error:
        raise KinematicsError(
            f'kinematics need pinocchio ({error}); install it with `pip install pin`, or beside '
            'an installed ROS 2 with the apt package ros-<distro>-pinocchio'
        ) from error
    return pinocchio


def _arm_model(pin: Any, urdf: Path, tip: str) -> Any:
    """Return the model of the joints between root and tip; all others stand at zero."""
    if not urdf.is_file():
        raise KinematicsError(f'{urdf}: no such robot description (URDF)')
    try:
        model = pin.buildModelFromUrdf(str(urdf))
    except (ValueError, RuntimeError) as error:
        raise KinematicsError(f'{urdf}: not a URDF ({error})') from error
    if not model.existBodyName(tip):
        known = ', '.join(f.name for f in model.frames if f.type == pin.FrameType.BODY)
        raise KinematicsError(f'{urdf}: no link {tip!r}; it has {known}')
    frame = model.frames[model.getFrameId(tip)]
    chain = list(model.supports[_parent_joint(frame)])
    endless = [model.names[i] for i in chain[1:] if model.joints[i].nq != 1]
    if endless:
        raise KinematicsError(f'{urdf}: joint {endless[0]!r} has no limits; make it revolute')
    others = [i for i in range(1, model.njoints) if i not in chain]
    return pin.buildReducedModel(model, others, pin.neutral(model))


def _parent_joint(frame: Any) -> int:
    """Return the joint of a frame; pinocchio 2.7, the last for numpy 1, calls it otherwise."""
    return frame.parentJoint if hasattr(frame, 'parentJoint') else frame.parent


def _finite(values: Sequence[float], shape: tuple[int, ...], what: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise KinematicsError(
            f'{what}: {shape[0]} finite numbers are wanted, got {array.tolist()}'
        )
    return array


def _rotation(matrix: np.ndarray) -> np.ndarray:
    array = np.asarray(matrix, np.float64)
    turns = array.shape == (3, 3) and np.allclose(array @ array.T, np.eye(3), atol=1e-6)
    if not turns or np.linalg.det(array) < 0.0:
        raise KinematicsError('rotation: a rotation matrix [3, 3] is wanted')
    return array
