"""What the film shows beside the pictures: predicted path, facts, outcome; and the live window."""

from dataclasses import replace
from typing import Any

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.episodes import Episode
from qwen_vla_ros.seeing.camera import Camera
from qwen_vla_ros.seeing.captions import milliseconds
from qwen_vla_ros.seeing.intention import Intention
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.seeing.picture import Picture
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.tasks.scene import sample_task_scene
from qwen_vla_ros.sim.world import TabletopWorld
from qwen_vla_ros.types import ActionChunk

SHOWN = ('predicted', 'executed', 'seam', 'left', 'refused', 'stopped')


class SceneView:
    """The robot's table once more, without physics: it knows the camera and mirrors the joints."""

    def __init__(self, live: bool = False) -> None:
        """Build the world; live opens MuJoCo's viewer (QwenVlaError without a screen)."""
        self._embodiment = Embodiment.load('widowx')
        self._links = RobotLinks(self._embodiment.description_path)
        self._world = TabletopWorld(render=False)
        self.reset(0)
        self._window = _open_window(self._world) if live else None

    def reset(self, seed: int, kind: str = '') -> None:
        """Lay out the scene of a seed, to touch a thing or for a task of a kind."""
        self._world.reset(seed, sample_task_scene(seed) if kind else None)
        info = self._world.camera_info('ego')
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = info.rotation, info.position
        self._camera = Camera(info.matrix, info.width, info.height, pose, np.zeros(4))
        self._intention = Intention(self._embodiment, self._links)

    def mirror(self, joints: Any) -> None:
        """Bring the window's robot into the posture of a JointState."""
        if self._window is None or not self._window.is_running():
            return
        position = dict(zip(joints.name, joints.position, strict=True))
        with self._window.lock():
            self._world.set_posture(np.array([position[name] for name in arm.JOINT_NAMES]))
        self._window.sync()

    def take_joints(self, joints: Any) -> None:
        """Hear a JointState; one without all joints of the arm is left out."""
        position = dict(zip(joints.name, joints.position, strict=True))
        if set(arm.JOINT_NAMES) <= set(position):
            self._intention.take_joints(position, _nanoseconds(joints.header.stamp))

    def take_chunk(self, chunk: ActionChunk, now_s: float) -> None:
        """Hear a chunk that the policy follows."""
        self._intention.take_chunk(chunk, round(now_s * 1e9))

    def take_status(self, status: Any, now_s: float) -> None:
        """Hear a PolicyStatus."""
        self._intention.take_status(status, round(now_s * 1e9))

    def intended(self, now_s: float) -> tuple[Picture, Camera]:
        """Return what to draw into the scene camera's image of 640 x 480, and that camera."""
        picture = self._intention.picture(round(now_s * 1e9))
        shapes = tuple(s for s in picture.shapes if s.name.partition('/')[0] in SHOWN)
        return replace(picture, shapes=shapes), self._camera

    def close(self) -> None:
        """Close the window."""
        if self._window is not None:
            self._window.close()


def facts_of(status: Any, elapsed_s: float) -> tuple[str, ...]:
    """Return the lines beside the picture from a PolicyStatus."""
    return (
        f'time  {elapsed_s:.1f} s',
        f'model  {milliseconds(status.inference_s)}',
        f'node beside it  {milliseconds(status.overhead_s, 1)}',
        f'age of chunk  {milliseconds(status.chunk_age_s)}',
        f'refused  {status.refusals}',
        f'{status.reason.partition(":")[0][:40]}  ',
    )


def outcome_of(episode: Episode, kind: str = '') -> str:
    """Return an episode's outcome in words; kind: of a task that the world judges."""
    if kind:
        return f'{kind}: {"done" if episode.success else "not done"}, {episode.elapsed_s:.1f} s'
    if episode.success:
        return f'touched the {episode.first_touched} after {episode.elapsed_s:.1f} s'
    if episode.first_touched:
        return f'touched the {episode.first_touched} instead of the {episode.target}'
    return f'touched nothing within {episode.elapsed_s:.0f} s'


def seconds(stamp: Any) -> float:
    """Return a header's stamp in s."""
    return stamp.sec + 1e-9 * stamp.nanosec


def _nanoseconds(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def _open_window(world: TabletopWorld) -> Any:
    """Open MuJoCo's viewer on a world."""
    try:
        from mujoco import viewer

        return viewer.launch_passive(world.model, world.data)
    except Exception as error:
        raise QwenVlaError(f'live: no window can be opened here ({error})') from error
