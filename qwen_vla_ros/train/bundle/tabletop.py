"""
The WidowX' family: touch, pick, place, push and stack, with the teachers' chunks.

A third of the episodes are tables of the touching task with the arm led over them kinematically
(train/demonstrations.py). In the others the memoryless teacher (sim/tasks/reactive.py) does tasks
in physics, with errors: it is told of places that are some millimetres off, its commands are
noisy, it begins anywhere (also with a thing in its hand) and changes its mind. A frame is
labelled from the true state, for the task under way and for others that its picture allows.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from qwen_vla_ros.sim.expert import expert_chunk
from qwen_vla_ros.sim.scene import instruction_for
from qwen_vla_ros.sim.tasks.environment import TasksEnv
from qwen_vla_ros.sim.tasks.goals import KINDS, PICK, PLACE, PUSH, STACK
from qwen_vla_ros.sim.tasks.reactive import Task, Thing, chunk, things_of
from qwen_vla_ros.sim.world import VIEWS, TabletopWorld
from qwen_vla_ros.train.bundle.frames import POINTS, Frame, Points, Taught, inside, values_of
from qwen_vla_ros.train.bundle.tabletop_starts import put_somewhere
from qwen_vla_ros.train.bundle.tabletop_tasks import drawn, possible_tasks, sentence_of
from qwen_vla_ros.train.demonstrations import DemonstrationPlan, start_posture, walk
from qwen_vla_ros.transforms import ResizeImages

HORIZON = 16
TOUCH_SHARE = 0.2
TOUCH_FRAMES = 6
ROWS = 26  # of a walk
KEPT_HIGH, KEPT_LOW, LOW_M = 0.22, 0.55, 0.075  # share of rows that become frames
KIND_SHARES = {PICK: 0.28, PLACE: 0.15, PUSH: 0.42, STACK: 0.15}  # of the first tasks
CHANGE = 0.03  # chance a row of another task
STILL_ROWS, STILL_RAD = 3, 0.006  # after so long at rest there is another task
PLACE_ERROR_M, YAW_ERROR_RAD = 0.006, 0.1  # of what a walk's teacher is told
COMMAND_ERROR = np.array([0.008] * 3 + [0.006] * 3 + [0.0003])  # rad, m


class Tabletop:
    """A Maker of frames.py: the simulated WidowX."""

    embodiment, layout, views = 'widowx', 'abs_joint', VIEWS

    def __init__(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Compile the worlds; sizes are the model's pictures (h, w) by view."""
        self._resize = ResizeImages({view: sizes[view] for view in self.views})
        self._table = TabletopWorld()
        self._env = TasksEnv(render_mode='rgb_array', images=False)

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of a seed."""
        rng = np.random.default_rng((seed, 21))
        return self._touches(seed, rng) if rng.random() < TOUCH_SHARE else self._tasks(seed, rng)

    def close(self) -> None:
        """Free the GL contexts."""
        self._table.close()
        self._env.close()

    def _touches(self, seed: int, rng: np.random.Generator) -> list[Frame]:
        """Return frames of the touching task: a sentence for each object."""
        world = self._table
        scene = world.reset(seed)
        places = np.array([item.position for item in scene.objects])
        plan = DemonstrationPlan(self._resize.sizes, 1, seed, TOUCH_FRAMES, HORIZON)
        frames = []
        for posture in walk(rng, start_posture(rng, np.array(scene.posture)), places, plan):
            world.set_posture(posture)
            chunks = expert_chunk(posture, places, HORIZON).astype(np.float32)
            taught = tuple(
                _said_of(world, instruction_for(item, rng), rows, item.position)
                for item, rows in zip(scene.objects, chunks, strict=True)
            )
            frames.append(self._frame(world, taught))
        return frames

    def _tasks(self, seed: int, rng: np.random.Generator) -> list[Frame]:
        """Return frames of an erring teacher's way through one task or several."""
        env = self._env
        kind = rng.choice(list(KIND_SHARES), p=list(KIND_SHARES.values()))
        env.reset(seed=seed, options={'kind': str(kind)})
        task = Task.of(env.goal, env.first)
        put_somewhere(env, task, rng)
        noise = COMMAND_ERROR * rng.uniform(0, 1)
        blur = rng.uniform(0, 1) * rng.integers(2)
        frames, errors, still = [], _errors(rng, env, blur), 0
        for _ in range(ROWS):
            things, joints = things_of(env.world), env.world.positions()
            possible = possible_tasks(env.world, things)
            if not possible:
                break
            if still >= STILL_ROWS:
                possible_next = [one for one in possible if one.kind != task.kind]
                task, still = drawn(possible_next or possible, rng), 0
            elif task not in possible or rng.random() < CHANGE:
                task = drawn(possible, rng)
            low = env.world.tip_position()[2] < LOW_M
            if rng.random() < (KEPT_LOW if low else KEPT_HIGH):
                taught = self._taught(joints, things, task, possible, rng)
                frames.append(self._frame(env.world, taught))
            if rng.random() < 0.15:
                errors = _errors(rng, env, blur)
            told = {name: _mistaken(thing, errors[name]) for name, thing in things.items()}
            ahead = chunk(joints, told, task, 2)[1]
            still = still + 1 if np.abs(ahead - joints)[:6].max() < STILL_RAD else 0
            env.step(ahead + rng.normal(0, noise))
        return frames

    def _taught(
        self,
        joints: np.ndarray,
        things: Mapping[str, Thing],
        task: Task,
        possible: list[Task],
        rng: np.random.Generator,
    ) -> tuple[Taught, ...]:
        """Return the present task's sentence, and one of each other kind that is possible."""
        others = (kind for kind in KINDS if kind != task.kind)
        found = (drawn([one for one in possible if one.kind == kind], rng) for kind in others)
        chosen = [task, *(one for one in found if one is not None)]
        return tuple(
            _said_of(
                self._env.world,
                sentence_of(one, rng),
                chunk(joints, things, one, HORIZON).astype(np.float32),
                things[one.target][:3],
                turn_of(things[one.target]),
                things[one.reference][:3] if one.reference else None,
            )
            for one in chosen
        )

    def _frame(self, world: TabletopWorld, taught: tuple[Taught, ...]) -> Frame:
        images = {view: world.render(view) for view in self.views}
        seen = self._resize.forward({'images': images})['images']
        return Frame(seen, world.positions().astype(np.float32), taught)


def _errors(rng: np.random.Generator, env: TasksEnv, share: float) -> dict[str, np.ndarray]:
    """Return by how much each object is believed elsewhere: x, y in m and yaw in rad."""
    spread = share * np.array([PLACE_ERROR_M, PLACE_ERROR_M, YAW_ERROR_RAD])
    return {name: rng.normal(0, spread) for name in env.world.scene.names}


def _mistaken(thing: Thing, error: np.ndarray) -> Thing:
    x, y, yaw = error.tolist()
    return thing._replace(x=thing.x + x, y=thing.y + y, yaw=thing.yaw + yaw)


def _said_of(
    world: TabletopWorld,
    words: str,
    rows: np.ndarray,
    target: Sequence[float],
    yaw: float | None = None,
    reference: Sequence[float] | None = None,
) -> Taught:
    points = points_of(world, target, reference)
    hands = {'right': world.tip_position()}
    return Taught(words, rows, points, values=values_of(target, yaw, reference, hands))


def turn_of(thing: Thing) -> float | None:
    """Return a block's yaw; a can looks the same from all sides."""
    return None if thing.name.endswith('can') else thing.yaw


def points_of(
    world: TabletopWorld, target: Sequence[float], reference: Sequence[float] | None = None
) -> Points:
    """Return where places [3] in base_link and the hand are in the pictures."""
    found = dict.fromkeys(POINTS)
    for name, view, place in (
        ('ego/target', 'ego', target),
        ('ego/reference', 'ego', reference),
        ('ego/right_hand', 'ego', world.tip_position()),
        ('cam_right_wrist/target', 'cam_right_wrist', target),
    ):
        if place is not None:
            found[name] = inside(world.project(view, np.array([place])))
    return found
