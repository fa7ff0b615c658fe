"""The tabletop with smaller objects, a texture on the table, and things that no sentence names."""

import numpy as np

from qwen_vla_ros.sim import arm, mjcf
from qwen_vla_ros.sim.graphics import load_mujoco
from qwen_vla_ros.sim.scene import Scene
from qwen_vla_ros.sim.tasks.scene import (
    DISTRACTORS,
    HEIGHTS,
    WIDTH,
    TaskScene,
    sample_task_scene,
    texture_pixels,
)
from qwen_vla_ros.sim.world import TabletopWorld

mujoco = load_mujoco()

_GEOM = {
    'block': (mujoco.mjtGeom.mjGEOM_BOX, (WIDTH / 2,) * 3),
    'can': (mujoco.mjtGeom.mjGEOM_CYLINDER, (WIDTH / 2, HEIGHTS['can'] / 2, 0.0)),
}
_KINDS = {
    'box': mujoco.mjtGeom.mjGEOM_BOX,
    'cylinder': mujoco.mjtGeom.mjGEOM_CYLINDER,
    'ellipsoid': mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}
_AWAY = (0.0, 0.0, -0.6)  # under the table, where no camera looks


class TaskWorld(TabletopWorld):
    """A world of TaskScenes; scenes of the touching task are laid out with its smaller objects."""

    width, heights, geoms = WIDTH, HEIGHTS, _GEOM

    def reset(self, seed: int, scene: Scene | None = None) -> Scene:
        """Lay out the scene of a seed (or a given scene), the arm at its first posture."""
        return super().reset(seed, sample_task_scene(seed) if scene is None else scene)

    def step(self, duration_s: float) -> None:
        """Advance the physics; touches are looked for at its end."""
        if self._drifts:
            super().step(duration_s)
            return
        mujoco.mj_step(self.model, self.data, max(1, round(duration_s / self.model.opt.timestep)))
        if self.data.ncon:
            self._note_touches()

    def object_speeds(self) -> dict[str, float]:
        """Return how fast each object's centre moves, in m/s."""
        found = {}
        for index, name in enumerate(self.scene.names):
            address = self.model.joint(f'object{index}').dofadr[0]
            found[name] = float(np.linalg.norm(self.data.qvel[address : address + 3]))
        return found

    def object_yaw(self, name: str) -> float:
        """Return how far an object is turned about z, in rad."""
        matrix = self.data.geom_xmat[self._object_geoms[self._index(name)]].reshape(3, 3)
        return float(np.arctan2(matrix[1, 0], matrix[0, 0]))

    def object_upright(self, name: str) -> bool:
        """Tell whether an object stands as it was laid out."""
        return bool(self.data.geom_xmat[self._object_geoms[self._index(name)]][8] > 0.97)

    def finger_opening(self) -> float:
        """Return the left finger's joint in m."""
        return float(self.positions()[arm.JOINT_NAMES.index('left_finger')])

    def _xml(self, timestep_s: float) -> str:
        things = ''.join(
            f'<body name="distractor{i}" pos="0 0 -0.6"><geom name="distractor{i}" type="box" '
            f'size="0.02 0.02 0.02" contype="{mjcf.OBJECT}" conaffinity="{mjcf.OBJECT}"/></body>'
            for i in range(DISTRACTORS)
        )
        return super()._xml(timestep_s).replace('</worldbody>', f'{things}</worldbody>')

    def _dress_surroundings(self) -> None:
        """Set light, table, cameras, texture and distractors."""
        super()._dress_surroundings()
        if not isinstance(self.scene, TaskScene):
            return
        for index in range(DISTRACTORS):
            self._dress_distractor(index)
        texture = self.model.texture('table')
        size = int(texture.width[0])
        pixels = texture_pixels(self.scene, size).reshape(-1)
        first = int(texture.adr[0])
        self.model.tex_data[first : first + pixels.size] = pixels
        self._cameras.send_texture(texture.id)

    def _dress_distractor(self, index: int) -> None:
        name, model = f'distractor{index}', self.model
        geom, body = model.geom(name).id, model.body(name).id
        if index >= len(self.scene.distractors):
            model.body_pos[body] = _AWAY
            return
        thing = self.scene.distractors[index]
        half = np.array(thing.half)
        model.body_pos[body] = thing.position
        model.body_quat[body] = [np.cos(thing.yaw / 2), 0, 0, np.sin(thing.yaw / 2)]
        model.geom_type[geom] = _KINDS[thing.kind]
        size = half if thing.kind != 'cylinder' else np.array([half[0], half[2], 0.0])
        if thing.kind == 'cylinder':
            half = np.array([half[0], half[0], half[2]])
        model.geom_size[geom] = size
        model.geom_aabb[geom] = [0, 0, 0, *half]
        model.geom_rbound[geom] = np.linalg.norm(half)
        model.geom_rgba[geom] = [*thing.rgb, 1.0]
