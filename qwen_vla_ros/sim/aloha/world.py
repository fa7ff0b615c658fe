"""
ALOHA's table in MuJoCo: physics, three rendered cameras, contacts, and the outcome of a task.

Frame table (on the table top, in the middle between the bases), SI units. A world is used from one
thread: the OpenGL context belongs to the thread that renders first. Objects are held by friction
alone.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.aloha import mjcf, vx300s
from qwen_vla_ros.sim.aloha.grading import HOLD_S, AlohaOutcome, Contacts, stage_of
from qwen_vla_ros.sim.aloha.scene import TRANSFER, AlohaObject, AlohaScene, sample_scene
from qwen_vla_ros.sim.cameras import SIZE, CameraInfo, Cameras, looking
from qwen_vla_ros.sim.graphics import load_mujoco
from qwen_vla_ros.sim.scene import COLOURS
from qwen_vla_ros.sim.six_axis import rotation_x, rotation_y, rotation_z

mujoco = load_mujoco()

VIEWS = ('ego', 'cam_left_wrist', 'cam_right_wrist')
TIMESTEP_S = 0.002
TIME_LIMIT_S = 25.0
LOOK_S = 0.01  # contacts are looked at this often
_LENGTHS = ('geom_size', 'geom_pos', 'geom_aabb', 'geom_rbound')  # of a geom; all grow with it
_ARMS = (*range(7), *range(8, 15))  # in the order of both arms' 16 joints: all but right fingers


class AlohaWorld:
    """
    Two ViperX 300s and three objects; render=False never opens a GL context.

    frame is the world's, bases the bodies that carry arms, tips the sites of frames at hands.
    """

    views = VIEWS
    frame, bases = 'table', tuple(f'{side}_base_link' for side in vx300s.SIDES)
    tips: ClassVar[dict[str, str]] = {
        f'{side}_ee_gripper_link': f'{side}_tip' for side in vx300s.SIDES
    }

    def __init__(self, render: bool = True, timestep_s: float = TIMESTEP_S) -> None:
        """Compile the model and reset to scene 0 of the transfer."""
        self.model = mujoco.MjModel.from_xml_string(mjcf.world_xml(timestep_s))
        self.data = mujoco.MjData(self.model)
        self._cameras = Cameras(self.model, self.data, VIEWS, render)
        names = [
            f'{side}_{name}'
            for side in vx300s.SIDES
            for name in (*vx300s.ARM_JOINTS, 'left_finger', 'right_finger')
        ]
        joints = [self.model.joint(name) for name in names]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._qvel = np.array([joint.dofadr[0] for joint in joints])
        self._tips = [self.model.site(f'{side}_tip').id for side in vx300s.SIDES]
        self._body_of = {self.model.body(name).id: name for name in mjcf.OBJECTS}
        self._finger_of = {
            self.model.body(f'{side}_{finger}_link').id: f'{side}_{finger}'
            for side in vx300s.SIDES
            for finger in ('left_finger', 'right_finger')
        }
        self._table = self.model.geom('table').id
        kept = (*_LENGTHS, 'bvh_aabb', 'body_inertia')
        self._nominal = {name: getattr(self.model, name).copy() for name in kept}
        self.reset(0)

    def reset(
        self, seed: int, scene: AlohaScene | None = None, task: str = TRANSFER
    ) -> AlohaScene:
        """Lay out the scene of a seed and a task (or a given one), arms at their first posture."""
        self.scene = sample_scene(seed, task) if scene is None else scene
        mujoco.mj_resetData(self.model, self.data)
        self._dress_surroundings()
        for index, body in enumerate(mjcf.OBJECTS):
            self._put_away(index, body)
        for item in self.scene.objects:
            self._dress_object(item)
            self.place_object(item.name, item.position, item.yaw)
        self.target = self.scene.target
        self._touched: list[str] = []
        self._stage = self._best = 0
        self._since_s: float | None = None
        self._success = False
        self.set_posture(np.array(self.scene.posture))
        return self.scene

    def close(self) -> None:
        """Free the GL contexts."""
        self._cameras.close()

    # Arms --------------------------------------------------------------------------------------

    def set_targets(
        self, positions: Sequence[float], velocities: Sequence[float] | None = None
    ) -> None:
        """
        Give the servos their targets [14] in the order of JOINT_NAMES.

        velocities [14] feed the motion forward, so a moving target is tracked without lag.
        """
        target = np.asarray(positions, np.float64)
        speed = np.zeros(14) if velocities is None else np.asarray(velocities, np.float64)
        if target.shape != (14,) or speed.shape != (14,) or not np.isfinite([target, speed]).all():
            raise QwenVlaError(f'simulated arms: expected 14 finite targets, got {positions}')
        target = np.clip(target, vx300s.LOWER, vx300s.UPPER)
        speed = np.clip(speed, -vx300s.VELOCITY, vx300s.VELOCITY)
        self.data.ctrl[:16], self.data.ctrl[16:] = _with_right_fingers(target, speed)

    def set_posture(self, q: Sequence[float]) -> None:
        """Teleport the arms to q [14], at rest there, without physics."""
        q = np.asarray(q, np.float64)
        self.data.qpos[self._qpos] = _with_right_fingers(q)[0]
        self.data.qvel[self._qvel] = 0.0
        self.set_targets(q)
        mujoco.mj_forward(self.model, self.data)

    def step(self, duration_s: float) -> None:
        """Advance the physics; every 10 ms the stage of the task is looked at."""
        steps = max(1, round(duration_s / self.model.opt.timestep))
        look = max(1, round(LOOK_S / self.model.opt.timestep))
        for done in range(0, steps, look):
            mujoco.mj_step(self.model, self.data, min(look, steps - done))
            self._look()

    def positions(self) -> np.ndarray:
        """Return the joints float64 [14] (rad, m) in the order of JOINT_NAMES."""
        return self.data.qpos[self._qpos[[*_ARMS]]].copy()

    def velocities(self) -> np.ndarray:
        """Return the joint velocities float64 [14] (rad/s, m/s)."""
        return self.data.qvel[self._qvel[[*_ARMS]]].copy()

    def tip_positions(self) -> np.ndarray:
        """Return both tips [2, 3] in m, left first."""
        return self.data.site_xpos[self._tips].copy()

    @property
    def time(self) -> float:
        """Return the seconds since reset."""
        return float(self.data.time)

    # Objects -----------------------------------------------------------------------------------

    def place_object(self, name: str, position: Sequence[float], yaw: float = 0.0) -> None:
        """Put an object's centre at position [3] in m, at rest, turned by yaw in rad."""
        self._place(self.scene.named(name).body, position, yaw)
        mujoco.mj_forward(self.model, self.data)

    def set_object_pose(self, name: str, pose: np.ndarray) -> None:
        """Put an object at a pose [4, 4] in table, at rest; set_posture() then brings it about."""
        body = self.scene.named(name).body
        self._place(body, pose[:3, 3])
        address, turn = self.model.joint(body).qposadr[0], np.empty(4)
        mujoco.mju_mat2Quat(turn, pose[:3, :3].flatten())
        self.data.qpos[address + 3 : address + 7] = turn

    def object_poses(self) -> dict[str, np.ndarray]:
        """Return the present pose [4, 4] in table of each object of the scene by name."""
        return {item.name: self._pose(item.body) for item in self.scene.objects}

    def aim(self, target: str) -> None:
        """Change which object the task is about; QwenVlaError for one that it cannot be about."""
        wanted = self.scene.named(self.scene.target).shape
        if self.scene.named(target).shape != wanted:
            raise QwenVlaError(f'scene {self.scene.seed}: the {self.scene.task} takes a {wanted}')
        self.target = target
        self._since_s, self._best, self._success = None, 0, False

    def result(self, limit_s: float = TIME_LIMIT_S) -> AlohaOutcome:
        """Return how the task stands."""
        return AlohaOutcome(
            self._success,
            self._success or self.time >= limit_s,
            self.target,
            self._stage,
            self._best,
            tuple(self._touched),
            self.time,
        )

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
        """Return pixels [N, 2] and depths [N] in m of points [N, 3] in table."""
        return self._cameras.project(view, points, size)

    def sees(self, view: str, name: str) -> bool:
        """Return whether a ray from a view to an object's middle meets it first."""
        body = self.model.body(self.scene.named(name).body).id
        eye, first = self._cameras.info(view).position, np.zeros(1, np.int32)
        way = self.data.xpos[body] - eye
        mujoco.mj_ray(self.model, self.data, eye, way, None, 1, -1, first)
        return first[0] >= 0 and int(self.model.geom_bodyid[first[0]]) == body

    # Inside ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take note of contacts and of the stage that they make."""
        contacts = self._contacts()
        for item in self.scene.objects:
            if contacts.fingers.get(item.body) and item.name not in self._touched:
                self._touched.append(item.name)
        poses = {item.body: self._pose(item.body) for item in self.scene.objects}
        self._stage = stage_of(self.scene, self.target, contacts, poses)
        self._best = max(self._best, self._stage)
        if self._stage < 4:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = self.time
        elif self.time - self._since_s >= HOLD_S:
            self._success = True

    def _contacts(self) -> Contacts:
        """Return what touches the objects now."""
        fingers: dict[str, set[str]] = {}
        on_table = set()
        for pair in self.data.contact.geom[: self.data.ncon]:
            bodies = [int(body) for body in self.model.geom_bodyid[pair]]
            for one, two, geom in ((bodies[0], bodies[1], pair[1]), (*bodies[::-1], pair[0])):
                name = self._body_of.get(one)
                if name is not None and two in self._finger_of:
                    fingers.setdefault(name, set()).add(self._finger_of[two])
                elif name is not None and geom == self._table:
                    on_table.add(name)
        held = {name: frozenset(found) for name, found in fingers.items()}
        return Contacts(held, frozenset(on_table))

    def _pose(self, body: str) -> np.ndarray:
        pose, index = np.eye(4), self.model.body(body).id
        pose[:3, :3] = self.data.xmat[index].reshape(3, 3)
        pose[:3, 3] = self.data.xpos[index]
        return pose

    def _place(self, body: str, position: Sequence[float], yaw: float = 0.0) -> None:
        joint = self.model.joint(body)
        address, velocity = joint.qposadr[0], joint.dofadr[0]
        self.data.qpos[address : address + 7] = [*position, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        self.data.qvel[velocity : velocity + 6] = 0.0

    def _put_away(self, index: int, body: str) -> None:
        """Leave an object out of the scene: unseen, weightless, far from everything."""
        identity = self.model.body(body).id
        self.model.body_gravcomp[identity] = 1.0
        self.model.geom_rgba[self.model.geom_bodyid == identity] = 0.0
        self._place(body, (5.0 + index, 0.0, -5.0), 0.0)

    def _dress_object(self, item: AlohaObject) -> None:
        """Give a body its colour and its size; its mass stays."""
        model, identity = self.model, self.model.body(item.body).id
        model.body_gravcomp[identity] = 0.0
        geoms = np.flatnonzero(model.geom_bodyid == identity)
        model.geom_rgba[geoms] = [*(item.rgb or COLOURS[item.colour]), 1.0]
        for name in _LENGTHS:
            getattr(model, name)[geoms] = item.scale * self._nominal[name][geoms]
        first, count = model.body_bvhadr[identity], model.body_bvhnum[identity]
        tree = slice(first, first + count)
        model.bvh_aabb[tree] = item.scale * self._nominal['bvh_aabb'][tree]
        inertia = self._nominal['body_inertia'][identity]
        model.body_inertia[identity] = item.scale**2 * inertia

    def _dress_surroundings(self) -> None:
        """Set light, table and cameras."""
        room, model = self.scene.surroundings, self.model
        lamp = np.array(room.light_position) - [0.3, 0.0, 0.0]
        model.light_pos[0], model.light_dir[0] = lamp, -lamp / np.linalg.norm(lamp)
        model.light_diffuse[0] = room.light
        model.vis.headlight.ambient[:] = room.ambient
        model.mat_rgba[model.material('table').id, :3] = room.table_rgb
        high, turn = mjcf.HIGH_CAMERA, np.array(room.camera_turn)
        position = np.array(high['position'])
        jitter = rotation_z(turn[2]) @ rotation_y(turn[1]) @ rotation_x(turn[0])
        nominal = looking(np.array(high['target']) - position, (0, 1, 0))
        place = position + np.array(room.camera_shift)
        self._cameras.mount('ego', place, jitter @ nominal, high['fovy'])
        wrist, tilt = mjcf.WRIST_CAMERA, mjcf.WRIST_CAMERA['tilt']
        ahead = looking(np.array([np.cos(tilt), 0.0, -np.sin(tilt)]), (0, 0, 1))
        for view in VIEWS[1:]:
            self._cameras.mount(view, np.array(wrist['position']), ahead, wrist['fovy'])


def _with_right_fingers(*rows: np.ndarray) -> list[np.ndarray]:
    """Return rows [14] as [16]: the right finger of each hand mirrors the left one."""
    return [np.concatenate([r[:7], -r[6:7], r[7:], -r[13:]]) for r in rows]
