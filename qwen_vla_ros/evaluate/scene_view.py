"""What the film shows beside the pictures: predicted path, facts, outcome; and the live window."""

from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.episodes import Episode
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.world import TabletopWorld


class SceneView:
    """The robot's table once more, without physics: it knows the camera and mirrors the joints."""

    def __init__(self, live: bool = False) -> None:
        """Build the world; live opens MuJoCo's viewer (QwenVlaError without a screen)."""
        self._world = TabletopWorld(render=False)
        self._window = _open_window(self._world) if live else None

    def reset(self, seed: int) -> None:
        """Lay out the scene of a seed."""
        self._world.reset(seed)

    def mirror(self, joints: Any) -> None:
        """Bring the window's robot into the posture of a JointState."""
        if self._window is None or not self._window.is_running():
            return
        position = dict(zip(joints.name, joints.position, strict=True))
        with self._window.lock():
            self._world.set_posture(np.array([position[name] for name in arm.JOINT_NAMES]))
        self._window.sync()

    def predicted_path(self, chunk: Any, now_s: float) -> np.ndarray | None:
        """
        Return where an ActionChunk message takes the tip from now on.

        Pixels [N, 2] of the scene camera at 640 x 480; None when its columns are not the joints.
        """
        names = list(chunk.names)
        if set(names) != set(arm.JOINT_NAMES):
            return None
        rows = np.asarray(chunk.actions).reshape(chunk.horizon, len(names))
        q = rows[:, [names.index(name) for name in arm.JOINT_NAMES]]
        late_s = now_s - seconds(chunk.header.stamp)
        first = int(np.clip(late_s / chunk.step_s, 0, chunk.horizon - 1))
        return self._world.project('ego', arm.forward(q[first:])[0])[0]

    def close(self) -> None:
        """Close the window."""
        if self._window is not None:
            self._window.close()


def facts_of(status: Any, elapsed_s: float) -> tuple[str, ...]:
    """Return the lines beside the picture from a PolicyStatus."""
    return (
        f'time  {elapsed_s:.1f} s',
        f'model  {_milliseconds(status.inference_s)}',
        f'node beside it  {_milliseconds(status.overhead_s, 1)}',
        f'age of chunk  {_milliseconds(status.chunk_age_s)}',
        f'refused  {status.refusals}',
        f'{status.reason.partition(":")[0][:40]}  ',
    )


def outcome_of(episode: Episode) -> str:
    """Return an episode's outcome in words."""
    if episode.success:
        return f'touched the {episode.first_touched} after {episode.elapsed_s:.1f} s'
    if episode.first_touched:
        return f'touched the {episode.first_touched} instead of the {episode.target}'
    return f'touched nothing within {episode.elapsed_s:.0f} s'


def seconds(stamp: Any) -> float:
    """Return a header's stamp in s."""
    return stamp.sec + 1e-9 * stamp.nanosec


def _milliseconds(value_s: float, digits: int = 0) -> str:
    """Return a time in ms; a dash for one that was not measured (0 or NaN)."""
    return f'{1e3 * value_s:.{digits}f} ms' if value_s > 0 else '–'


def _open_window(world: TabletopWorld) -> Any:
    """Open MuJoCo's viewer on a world."""
    try:
        from mujoco import viewer

        return viewer.launch_passive(world.model, world.data)
    except Exception as error:
        raise QwenVlaError(f'live: no window can be opened here ({error})') from error
