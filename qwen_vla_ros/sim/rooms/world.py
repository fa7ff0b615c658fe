"""
The rooms in MuJoCo: a house that collides, a base that drives, its camera and a view from above.

The base moves by its kinematics (drive.py); MuJoCo finds the contacts of its footprint and draws.
Frames: map is the house's, odom begins at the base's first pose, base_link lies on the floor.
"""

from dataclasses import dataclass, replace

import numpy as np

from qwen_vla_ros.sim.cameras import OPTICAL, CameraInfo, Cameras
from qwen_vla_ros.sim.graphics import load_mujoco
from qwen_vla_ros.sim.rooms.drive import DifferentialBase, Drift, Pose, inverted, joined
from qwen_vla_ros.sim.rooms.house import House, sample_house
from qwen_vla_ros.sim.rooms.house_mjcf import SEEN_ABOVE, SEEN_EMPTY, SEEN_INSIDE, house_xml

mujoco = load_mujoco()

VIEW, ABOVE = 'ego', 'above'
SIZE = (240, 320)  # h, w of the camera, as in the contract
TICK_S = 0.01
_ABOVE_FOVY = 6.0  # degrees; a long lens, so that walls hardly lean
_NEAR, _ABOVE_NEAR = 0.01, 10.0  # share of the model's extent; depth is scarce from so far above


@dataclass(frozen=True)
class Look:
    """
    How a house looks other than usual; as it stands: as usual.

    light   factor of all lamps
    floor   factors of red, green and blue of floors and ceilings
    camera_shift  m in base_link, camera_tilt rad (upwards): from the nominal mounting
    """

    light: float = 1.0
    floor: tuple[float, float, float] = (1.0, 1.0, 1.0)
    camera_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_tilt: float = 0.0


class RoomsWorld:
    """One house and one base; render=False never opens a GL context."""

    def __init__(self, seed: int = 0, render: bool = True) -> None:
        """Build the house of a seed with the base in its first room."""
        self._renders = render
        self._cameras: Cameras | None = None
        house = sample_house(seed)
        box = house.rooms[0].inside
        self.reset(house, ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, 0.0))

    def reset(self, house: House, pose: Pose, drift: Drift | None = None) -> None:
        """Build a house and put the base at a pose on its map, at rest."""
        self.close()
        self.house = house
        self.model = mujoco.MjModel.from_xml_string(house_xml(house))
        self.data = mujoco.MjData(self.model)
        self._cameras = Cameras(self.model, self.data, (VIEW, ABOVE), self._renders)
        self._footprint = self.model.geom('footprint').id
        self.base = DifferentialBase(pose, drift, house.seed)
        self.time, self.ticks = 0.0, 0
        self.bumped: list[str] = []
        self._put(pose)

    def dress(self, look: Look) -> None:
        """Change how the house of now looks to the base's camera, until the next reset."""
        camera = self.model.camera(VIEW).id
        self.model.light_diffuse *= look.light
        self.model.vis.headlight.ambient *= look.light
        self.model.vis.headlight.diffuse *= look.light
        self.model.mat_rgba[:, :3] = np.clip(self.model.mat_rgba[:, :3] * look.floor, 0.0, 1.0)
        self.model.cam_pos[camera] += look.camera_shift
        tilted, turn = np.zeros(4), np.zeros(4)
        mujoco.mju_axisAngle2Quat(turn, np.array([1.0, 0.0, 0.0]), look.camera_tilt)
        mujoco.mju_mulQuat(tilted, self.model.cam_quat[camera], turn)
        self.model.cam_quat[camera] = tilted
        self._put(self.base.pose)

    def close(self) -> None:
        """Free the GL contexts."""
        if self._cameras is not None:
            self._cameras.close()

    def step(self, duration_s: float) -> None:
        """Drive on in ticks of TICK_S."""
        for _ in range(max(1, round(duration_s / TICK_S))):
            self.base.step(TICK_S, self._is_free)
            self.ticks += 1
            self.time = self.ticks * TICK_S
        self._put(self.base.pose)

    def put(self, pose: Pose) -> None:
        """Set the base down elsewhere on the map, at rest; its odometry begins anew there."""
        self.base = DifferentialBase(pose, None, self.house.seed)
        self._put(pose)

    @property
    def odom_on_map(self) -> Pose:
        """Return where the frame odom is on the map now: its drift moves it."""
        return joined(self.base.pose, inverted(self.base.odometry))

    def room_name(self) -> str:
        """Return the name of the room in which the base is; '' outside."""
        room = self.house.room_at(*self.base.pose[:2])
        return room.name if room else ''

    def render(self, view: str = VIEW, size: tuple[int, int] = SIZE) -> np.ndarray:
        """Return the camera's image uint8 [h, w, 3] RGB; size is (h, w)."""
        return self._cameras.render(view, size, SEEN_INSIDE)

    def render_above(self, size: tuple[int, int], base: bool = True) -> np.ndarray:
        """Return the house from above uint8 [h, w, 3], walls cut at 1 m; with the base or not."""
        camera = self._cameras.identity(ABOVE)
        self.model.cam_fovy[camera] = _ABOVE_FOVY
        self.model.cam_pos[camera, 2] = self._above(size)[0]
        self._put(self.base.pose)
        self.model.vis.map.znear = _ABOVE_NEAR
        try:
            return self._cameras.render(ABOVE, size, SEEN_ABOVE if base else SEEN_EMPTY)
        finally:
            self.model.vis.map.znear = _NEAR

    def above_pixels(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return pixels [N, 2] (u, v) of points [N, 2] on the floor in render_above()."""
        _, scale = self._above(size)
        middle = np.array([self.house.width, self.house.depth]) / 2
        offset = (np.asarray(points, np.float64) - middle) * scale
        return np.array([size[1], size[0]]) / 2 + offset * [1.0, -1.0]

    def camera_info(self, view: str = VIEW, size: tuple[int, int] = SIZE) -> CameraInfo:
        """Return matrix and pose (in base_link) of the camera for images of size (h, w)."""
        camera, seen = self._cameras.identity(view), self._cameras.info(view, size)
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, self.model.cam_quat[camera])
        place = self.model.cam_pos[camera].copy()
        return replace(seen, position=place, rotation=rotation.reshape(3, 3) @ OPTICAL)

    def _above(self, size: tuple[int, int]) -> tuple[float, float]:
        """Return height in m and pixels a metre of the view from above."""
        half = np.tan(np.radians(_ABOVE_FOVY) / 2)
        needed = max(self.house.depth, self.house.width * size[0] / size[1]) + 0.3
        height = needed / (2 * half)
        return height, size[0] / needed

    def _put(self, pose: Pose) -> None:
        self.data.qpos[:] = pose
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _is_free(self, pose: Pose) -> bool:
        """Return whether the footprint touches nothing at a pose; note what it touches."""
        self.data.qpos[:] = pose
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_collision(self.model, self.data)
        contact = self.data.contact
        for index in range(self.data.ncon):
            if contact.dist[index] < 0.0:
                self._note(contact.geom[index])
                return False
        return True

    def _note(self, pair: np.ndarray) -> None:
        other = int(pair[0] if pair[1] == self._footprint else pair[1])
        name = self.model.geom(other).name or 'wall'
        if name not in self.bumped:
            self.bumped.append(name)
