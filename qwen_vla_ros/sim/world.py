"""
The tabletop in MuJoCo: physics, two rendered cameras, contacts, and the outcome of a task.

Frame base_link (robot base at the origin, x forward, table top at z = 0), SI units. A world is
used from one thread: the OpenGL context belongs to the thread that renders first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm, mjcf
from qwen_vla_ros.sim.cameras import SIZE, CameraInfo, Cameras, looking
from qwen_vla_ros.sim.graphics import load_mujoco
from qwen_vla_ros.sim.scene import (
    COLOURS,
    OBJECTS_PER_SCENE,
    SHAPES,
    WIDTH,
    Scene,
    SceneObject,
    sample_scene,
)

mujoco = load_mujoco()

VIEWS = ('ego', 'cam_right_wrist')
TIMESTEP_S = 0.002
TIME_LIMIT_S = 12.0

_GEOM = {
    'block': (mujoco.mjtGeom.mjGEOM_BOX, (WIDTH / 2,) * 3),
    'ball': (mujoco.mjtGeom.mjGEOM_SPHERE, (WIDTH / 2, 0.0, 0.0)),
    'can': (mujoco.mjtGeom.mjGEOM_CYLINDER, (WIDTH / 2, SHAPES['can'] / 2, 0.0)),
}


@dataclass(frozen=True)
class Touch:
    """The first contact of the robot with an object: which link, and the world's time in s."""

    name: str
    time_s: float
    link: str


@dataclass(frozen=True)
class Outcome:
    """How a task stands; done when any object was touched or the time limit has passed."""

    success: bool
    done: bool
    target: str
    first_touched: str | None
    touched: tuple[str, ...]
    elapsed_s: float


class TabletopWorld:
    """
    A WidowX 250s and three objects; render=False never opens a GL context.

    frame is the world's, bases the bodies that carry arms, tips the sites of frames at hands.
    """

    views = VIEWS
    frame, bases = 'base_link', ('base_link',)
    tips: ClassVar[dict[str, str]] = {'ee_gripper_link': 'tip'}
    # Objects: their width, the height of a shape, its MuJoCo type and size; all in m.
    width: ClassVar[float] = WIDTH
    heights: ClassVar[Mapping[str, float]] = SHAPES
    geoms: ClassVar[Mapping[str, Any]] = _GEOM

    def __init__(self, render: bool = True, timestep_s: float = TIMESTEP_S) -> None:
        """Compile the model and reset to scene 0."""
        self.model = mujoco.MjModel.from_xml_string(self._xml(timestep_s))
        self.data = mujoco.MjData(self.model)
        self._cameras = Cameras(self.model, self.data, VIEWS, render)
        names = (*arm.JOINT_NAMES, 'right_finger')
        joints = [self.model.joint(name) for name in names]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._qvel = np.array([joint.dofadr[0] for joint in joints])
        self._tip = self.model.site('tip').id
        self._object_geoms = np.array([self.model.geom(f'object{i}').id for i in range(3)])
        base = self.model.body('base_link').id
        self._is_arm = np.array(
            [self.model.body_rootid[body] == base for body in self.model.geom_bodyid]
        )
        self.reset(0)

    def reset(self, seed: int, scene: Scene | None = None) -> Scene:
        """Lay out the scene of a seed (or a given scene), the arm at its first posture."""
        scene = sample_scene(seed) if scene is None else scene
        if len(scene.objects) != OBJECTS_PER_SCENE:
            raise QwenVlaError(
                f'scene {scene.seed}: the table takes {OBJECTS_PER_SCENE} objects, '
                f'got {len(scene.objects)}'
            )
        self.scene = scene
        mujoco.mj_resetData(self.model, self.data)
        self._dress_surroundings()
        for index, item in enumerate(self.scene.objects):
            self._dress_object(index, item)
            self.place_object(item.name, item.position, item.yaw)
        self._touches: list[Touch] = []
        self._drifts: dict[int, np.ndarray] = {}
        self.set_posture(np.array(self.scene.posture))
        return self.scene

    def close(self) -> None:
        """Free the GL contexts."""
        self._cameras.close()

    # Arm ---------------------------------------------------------------------------------------

    def set_targets(
        self,
        positions: Sequence[float] | Mapping[str, float],
        velocities: Sequence[float] | None = None,
    ) -> None:
        """
        Give the servos their targets: [7] in the order of JOINT_NAMES, or some by name.

        velocities [7] feed the motion forward, so a moving target is tracked without lag; without
        them the servos brake against their own motion.
        """
        if isinstance(positions, Mapping):
            positions = self._merge_targets(positions)
        target = np.asarray(positions, np.float64)
        speed = np.zeros(7) if velocities is None else np.asarray(velocities, np.float64)
        if target.shape != (7,) or speed.shape != (7,) or not np.isfinite([target, speed]).all():
            raise QwenVlaError(f'simulated arm: expected 7 finite targets, got {positions}')
        self.data.ctrl[:7] = np.clip(target, arm.LOWER, arm.UPPER)
        self.data.ctrl[7] = -self.data.ctrl[6]
        self.data.ctrl[8:15] = np.clip(speed, -arm.VELOCITY, arm.VELOCITY)
        self.data.ctrl[15] = -self.data.ctrl[14]

    def set_posture(self, q: Sequence[float]) -> None:
        """Teleport the arm to q [7], at rest there, without physics; contacts are not noted."""
        q = np.asarray(q, np.float64)
        self.data.qpos[self._qpos] = [*q, -q[6]]
        self.data.qvel[self._qvel] = 0.0
        self.set_targets(q)
        mujoco.mj_forward(self.model, self.data)

    def step(self, duration_s: float) -> None:
        """Advance the physics and note first contacts of the robot with objects."""
        for _ in range(max(1, round(duration_s / self.model.opt.timestep))):
            for address, velocity in self._drifts.items():
                self.data.qpos[address : address + 2] += velocity * self.model.opt.timestep
            mujoco.mj_step(self.model, self.data)
            if self.data.ncon:
                self._note_touches()

    def positions(self) -> np.ndarray:
        """Return the joints float64 [7] (rad, m) in the order of JOINT_NAMES."""
        return self.data.qpos[self._qpos[:7]].copy()

    def velocities(self) -> np.ndarray:
        """Return the joint velocities float64 [7] (rad/s, m/s)."""
        return self.data.qvel[self._qvel[:7]].copy()

    def tip_position(self) -> np.ndarray:
        """Return ee_gripper_link [3] in m."""
        return self.data.site_xpos[self._tip].copy()

    @property
    def time(self) -> float:
        """Return the seconds since reset."""
        return float(self.data.time)

    # Objects -----------------------------------------------------------------------------------

    def place_object(self, name: str, position: Sequence[float], yaw: float = 0.0) -> None:
        """Put an object's centre at position [3] in m, at rest, turned by yaw in rad."""
        joint = self.model.joint(f'object{self._index(name)}')
        address, velocity = joint.qposadr[0], joint.dofadr[0]
        self.data.qpos[address : address + 7] = [*position, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        self.data.qvel[velocity : velocity + 6] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def drift_object(self, name: str, velocity: Sequence[float]) -> None:
        """Let an object glide over the table at velocity [2] in m/s until the next reset."""
        joint = self.model.joint(f'object{self._index(name)}')
        self._drifts[joint.qposadr[0]] = np.array(velocity, np.float64)

    def object_positions(self) -> dict[str, np.ndarray]:
        """Return the present centre [3] in m of each object by name."""
        places = self.data.geom_xpos[self._object_geoms]
        return {name: place.copy() for name, place in zip(self.scene.names, places, strict=True)}

    def touched(self) -> tuple[Touch, ...]:
        """Return the first touch of each touched object, in the order of time."""
        return tuple(self._touches)

    @property
    def first_touched(self) -> str | None:
        """Return the name of the object that the robot touched first."""
        return self._touches[0].name if self._touches else None

    def result(self, target: str, limit_s: float = TIME_LIMIT_S) -> Outcome:
        """Return how the task of touching the target stands; QwenVlaError for an unknown name."""
        self.scene.named(target)
        names = tuple(touch.name for touch in self._touches)
        success = bool(names) and names[0] == target
        done = bool(names) or self.time >= limit_s
        return Outcome(success, done, target, self.first_touched, names, self.time)

    # Cameras -----------------------------------------------------------------------------------

    def render(self, view: str, size: tuple[int, int] = SIZE) -> np.ndarray:
        """Return the image uint8 [h, w, 3] RGB of a view; size is (h, w)."""
        return self._cameras.render(view, size)

    def camera_info(self, view: str, size: tuple[int, int] = SIZE) -> CameraInfo:
        """Return matrix and present pose of a view for images of size (h, w)."""
        return self._cameras.info(view, size)

    def project(
        self, view: str, points: np.ndarray, size: tuple[int, int] = SIZE
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Return pixels [N, 2] (u right, v down) and depths [N] in m of points [N, 3] in base_link.

        A point behind the camera has a depth <= 0 and NaN pixels.
        """
        return self._cameras.project(view, points, size)

    # Inside ------------------------------------------------------------------------------------

    def _xml(self, timestep_s: float) -> str:
        """Return the MJCF text of the world."""
        return mjcf.tabletop_xml(timestep_s)

    def _merge_targets(self, named: Mapping[str, float]) -> np.ndarray:
        """Return the present targets [7] with some replaced by name."""
        unknown = set(named) - set(arm.JOINT_NAMES)
        if unknown:
            raise QwenVlaError(f'simulated arm: no joints {sorted(unknown)}')
        target = self.data.ctrl[:7].copy()
        for name, value in named.items():
            target[arm.JOINT_NAMES.index(name)] = value
        return target

    def _index(self, name: str) -> int:
        """Return the number of an object."""
        self.scene.named(name)
        return self.scene.names.index(name)

    def _note_touches(self) -> None:
        """Append objects that an arm link touches for the first time."""
        pairs = self.data.contact.geom[: self.data.ncon]
        for a, b in pairs[self._is_arm[pairs].any(1)]:
            if not self._is_arm[a]:
                a, b = b, a
            found = np.flatnonzero(self._object_geoms == b)
            if not found.size:
                continue
            name = self.scene.names[found[0]]
            if all(touch.name != name for touch in self._touches):
                link = self.model.body(self.model.geom_bodyid[a]).name
                self._touches.append(Touch(name, self.time, link))

    def _dress_object(self, index: int, item: SceneObject) -> None:
        """Give body number index the item's shape, colour and inertia."""
        geom, body = self._object_geoms[index], self.model.body(f'object{index}').id
        kind, size = self.geoms[item.shape]
        self.model.geom_type[geom] = kind
        self.model.geom_size[geom] = item.scale * np.array(size)
        edges = np.array([self.width, self.width, self.heights[item.shape]])
        half = item.scale * edges / 2
        self.model.geom_aabb[geom] = [0, 0, 0, *half]
        self.model.geom_rbound[geom] = half[0] if item.shape == 'ball' else np.linalg.norm(half)
        self.model.geom_rgba[geom] = [*(item.rgb or COLOURS[item.colour]), 1.0]
        inertia = mjcf.OBJECT_MASS / 3 * (np.sum(half**2) - half**2)
        self.model.body_inertia[body] = inertia

    def _dress_surroundings(self) -> None:
        """Set light, table and cameras."""
        room, model = self.scene.surroundings, self.model
        lamp = np.array(room.light_position)
        model.light_pos[0] = lamp
        model.light_dir[0] = -(lamp - [0.3, 0, 0]) / np.linalg.norm(lamp - [0.3, 0, 0])
        model.light_diffuse[0] = room.light
        model.vis.headlight.ambient[:] = room.ambient
        model.mat_rgba[model.material('table').id, :3] = room.table_rgb
        mounting = _scene_mounting(room.camera_shift, room.camera_turn)
        self._cameras.mount('ego', *mounting, mjcf.SCENE_CAMERA['fovy'])
        wrist, tilt = mjcf.WRIST_CAMERA, mjcf.WRIST_CAMERA['tilt']
        ahead = np.array([np.cos(tilt), 0.0, -np.sin(tilt)])
        self._cameras.mount(
            'cam_right_wrist',
            np.array(wrist['position']),
            looking(ahead, (0, 0, 1)),
            wrist['fovy'],
        )


def _scene_mounting(
    shift: Sequence[float], turn: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return position [3] and MuJoCo rotation [3, 3] of the scene camera."""
    position = np.array(mjcf.SCENE_CAMERA['position'])
    nominal = looking(np.array(mjcf.SCENE_CAMERA['target']) - position, (0, 0, 1))
    jitter = (
        arm.rotation_z(np.float64(turn[2]))
        @ arm.rotation_y(np.float64(turn[1]))
        @ arm.rotation_x(np.float64(turn[0]))
    )
    return position + np.array(shift), jitter @ nominal
