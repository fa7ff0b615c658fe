"""
The rendered cameras of a MuJoCo world, the same for every simulated robot.

An OpenGL context belongs to the thread that renders first. Shadows and reflections are off: a
picture of 640x480 takes milliseconds on a CPU.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.graphics import REMEDY, load_mujoco

mujoco = load_mujoco()

SIZE = (480, 640)  # h, w
OPTICAL = np.diag([1.0, -1.0, -1.0])  # MuJoCo camera (x right, y up, looks along -z) -> optical


@dataclass(frozen=True)
class CameraInfo:
    """
    A pinhole camera at one instant, without distortion.

    matrix K [3, 3] in pixels; position [3] and rotation [3, 3] (columns: the optical axes x right,
    y down, z forward) in the world's frame.
    """

    matrix: np.ndarray
    position: np.ndarray
    rotation: np.ndarray
    width: int
    height: int


class Cameras:
    """Pictures and geometry of a model's named cameras; renders=False never opens a context."""

    def __init__(self, model: Any, data: Any, views: Sequence[str], renders: bool) -> None:
        """Serve the views of a world; nothing is opened before the first picture."""
        self._model, self._data = model, data
        self.views, self._renders = tuple(views), renders
        self._renderers: dict[tuple[int, int], Any] = {}

    def close(self) -> None:
        """Free the GL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def send_texture(self, texture: int) -> None:
        """Send a texture whose pixels were changed to OpenGL, which keeps its own copy."""
        for renderer in self._renderers.values():
            renderer._gl_context.make_current()
            mujoco.mjr_uploadTexture(self._model, renderer._mjr_context, texture)

    def render(
        self, view: str, size: tuple[int, int] = SIZE, groups: Sequence[int] | None = None
    ) -> np.ndarray:
        """
        Return the image uint8 [h, w, 3] RGB of a view; size is (h, w).

        groups: 1 or 0 for each of MuJoCo's six groups of geoms, drawn or not; None: its default.
        """
        camera, renderer = self.identity(view), self._renderer(size)
        option = mujoco.MjvOption()
        if groups is not None:
            option.geomgroup[:] = groups
        renderer.update_scene(self._data, camera=camera, scene_option=option)
        return renderer.render().copy()

    def info(self, view: str, size: tuple[int, int] = SIZE) -> CameraInfo:
        """Return matrix and present pose of a view for images of size (h, w)."""
        camera = self.identity(view)
        height, width = size
        focal = 0.5 * height / np.tan(0.5 * np.radians(self._model.cam_fovy[camera]))
        matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        rotation = self._data.cam_xmat[camera].reshape(3, 3) @ OPTICAL
        return CameraInfo(matrix, self._data.cam_xpos[camera].copy(), rotation, width, height)

    def project(
        self, view: str, points: np.ndarray, size: tuple[int, int] = SIZE
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Return pixels [N, 2] (u right, v down) and depths [N] in m of points [N, 3] in the world.

        A point behind the camera has a depth <= 0 and NaN pixels.
        """
        info = self.info(view, size)
        seen = (np.asarray(points, np.float64) - info.position) @ info.rotation
        depth = seen[:, 2]
        ahead = np.where(depth > 0, depth, np.nan)[:, None]
        return (seen @ info.matrix.T)[:, :2] / ahead, depth

    def mount(self, view: str, position: np.ndarray, rotation: np.ndarray, fovy: float) -> None:
        """Set a camera's pose in the frame of its body, and its vertical angle in degrees."""
        camera = self.identity(view)
        self._model.cam_pos[camera] = position
        mujoco.mju_mat2Quat(self._model.cam_quat[camera], rotation.flatten())
        self._model.cam_fovy[camera] = fovy

    def identity(self, view: str) -> int:
        """Return the camera's id; QwenVlaError lists the views there are."""
        if view not in self.views:
            raise QwenVlaError(
                f'simulated cameras: no view {view!r}; choose from {list(self.views)}'
            )
        return self._model.camera(view).id

    def _renderer(self, size: tuple[int, int]) -> Any:
        """Return the renderer for images of size (h, w), opened when first asked for."""
        if not self._renders:
            raise QwenVlaError('simulation: the world was made with render=False')
        if size not in self._renderers:
            try:
                renderer = mujoco.Renderer(self._model, *size)
            except Exception as error:  # each GL backend raises its own kind
                raise QwenVlaError(
                    f'simulation: cannot render with MUJOCO_GL={os.environ.get("MUJOCO_GL")} '
                    f'({error}); {REMEDY}'
                ) from error
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            self._renderers[size] = renderer
        return self._renderers[size]


def looking(ahead: np.ndarray, up: Sequence[float]) -> np.ndarray:
    """Return the rotation [3, 3] of a MuJoCo camera that looks ahead with up upwards."""
    back = -ahead / np.linalg.norm(ahead)
    right = np.cross(np.asarray(up, np.float64), back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], -1)
