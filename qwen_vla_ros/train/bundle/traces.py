"""
Trajectory prediction: where the gripper will go, in the picture and in space.

The tables, postures and teacher of the touching scenes (train/demonstrations.py). A trace is the
way of ee_gripper_link to the named object, a point a step: (u, v) in 0..1 of the scene camera's
picture (contract trace_2d), or (x, y, z) in m in base_link (trace_3d).
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.cameras import SIZE
from qwen_vla_ros.sim.expert import expert_chunk
from qwen_vla_ros.sim.world import TabletopWorld
from qwen_vla_ros.train.bundle.frames import Frame, Points, Taught, inside, values_of
from qwen_vla_ros.train.demonstrations import DemonstrationPlan, start_posture, walk

VIEW, LAYOUT = 'ego', 'trace'
FRAMES, HORIZON, STEP_S = 5, 16, 0.2
TEMPLATES = ('trace the way to the {name}', 'show the way of the hand to the {name}')


class Trace2DMaker:
    """Traces in the picture."""

    embodiment: ClassVar[str] = 'trace_2d'
    layout, views = LAYOUT, (VIEW,)

    def __init__(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Take the sizes (h, w) of the model's pictures by view."""
        self._size, self._world = sizes[VIEW], TabletopWorld()

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of a seed, always the same ones."""
        world, rng = self._world, np.random.default_rng([seed, 17])
        scene = world.reset(seed)
        xyz = np.array([item.position for item in scene.objects])
        plan = DemonstrationPlan({}, 1, seed, FRAMES)
        frames = []
        for posture in walk(rng, start_posture(rng, np.array(scene.posture)), xyz, plan):
            world.set_posture(posture)
            traces = self.traces(world, tip_ways(posture, xyz))
            taught = tuple(
                Taught(
                    said(name, rng),
                    trace.astype(np.float32),
                    self.points(world, place),
                    values=values_of(place, hands={'right': world.tip_position()}),
                )
                for name, trace, place in zip(scene.names, traces, xyz, strict=True)
            )
            image = world.render(VIEW, self._size)
            frames.append(Frame({VIEW: image}, posture.astype(np.float32), taught))
        return frames

    def points(self, world: TabletopWorld, target: np.ndarray) -> Points:
        """Return where a place [3] in base_link and the hand are in the picture."""
        places = {'ego/target': target, 'ego/right_hand': world.tip_position()}
        return {name: inside(world.project(VIEW, at[None])) for name, at in places.items()}

    def traces(self, world: TabletopWorld, ways: np.ndarray) -> np.ndarray:
        """Return what is taught of ways [N, H, 3] in m in base_link."""
        return in_picture(world, ways.reshape(-1, 3)).reshape(*ways.shape[:2], 2)


class Trace3DMaker(Trace2DMaker):
    """Traces in space."""

    embodiment: ClassVar[str] = 'trace_3d'

    def traces(self, world: TabletopWorld, ways: np.ndarray) -> np.ndarray:
        """Return the ways themselves."""
        return ways


def tip_ways(posture: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the tip's ways [N, 16, 3] in m in base_link from a posture [7] to targets [N, 3]."""
    return arm.forward(expert_chunk(posture, targets, HORIZON, STEP_S))[0]


def in_picture(world: TabletopWorld, points: np.ndarray) -> np.ndarray:
    """Return places [N, 2] (u, v) of points [N, 3] in base_link; 0..1 inside the picture."""
    return world.project(VIEW, points)[0] / (SIZE[1], SIZE[0])


def said(name: str, rng: np.random.Generator) -> str:
    """Return a sentence that asks for the trace to an object."""
    return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(name=name)


def trace_error(given: np.ndarray, true: np.ndarray) -> float:
    """
    Return the mean distance of the points [..., H, K] of given traces from the true ones.

    2D: in widths of the picture (v counts as high as the picture is); 3D: in m.
    """
    away = np.asarray(given, np.float64) - true
    if away.shape[-1] == 2:
        away = away * (1.0, SIZE[0] / SIZE[1])
    return float(np.linalg.norm(away, axis=-1).mean())
