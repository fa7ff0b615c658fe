"""
Practice: pictures of where a policy's own errors lead, labelled by the teacher who knows better.

The families' other frames stray by errors that are drawn. A policy's are its own: fingers that
close beside a cube, a hand that stays over the place where it sees a thing. So the checkpoint so
far acts in physics, and what it meets is labelled like every other frame (DAgger: Ross, Gordon,
Bagnell 2011, arXiv:1011.0686).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from qwen_vla_ros.policy import LocalPolicy, load_policies
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.aloha import vx300s
from qwen_vla_ros.sim.aloha.environment import REPLAN_STEPS, AlohaEnv
from qwen_vla_ros.sim.aloha.reactive import holds
from qwen_vla_ros.sim.aloha.scene import instruction_for
from qwen_vla_ros.sim.environment import rows_in_order
from qwen_vla_ros.sim.rooms.drive import Pose
from qwen_vla_ros.sim.rooms.environment import RoomsEnv, waypoints_of
from qwen_vla_ros.sim.rooms.world import VIEW
from qwen_vla_ros.sim.tasks.goals import PICK, PLACE, PUSH, STACK
from qwen_vla_ros.sim.tasks.reactive import Task, chunk, things_of
from qwen_vla_ros.train.bundle.aloha import AlohaMaker, Moment, weight_of
from qwen_vla_ros.train.bundle.frames import Frame
from qwen_vla_ros.train.bundle.rooms import RoomsMaker, goals_of, said_at, sentence_for
from qwen_vla_ros.train.bundle.rooms_teacher import Asked, RoomsTeacher, rows_on
from qwen_vla_ros.train.bundle.tabletop import STILL_RAD, STILL_ROWS, Tabletop
from qwen_vla_ros.train.bundle.tabletop_starts import put_somewhere
from qwen_vla_ros.train.bundle.tabletop_tasks import drawn, possible_tasks, sentence_of
from qwen_vla_ros.transforms import ResizeImages
from qwen_vla_ros.types import Observation

KINDS = {PICK: 0.15, PUSH: 0.15, PLACE: 0.35, STACK: 0.35}  # of the first tasks
DECISIONS, REPLAN_ROWS = 40, 2  # of an episode on the tabletop, and rows between them
KEPT = 0.5  # share of decisions that become frames
ELSEWHERE = 0.3  # share of episodes that do not begin as the scene does
ALOHA_DECISIONS, ALOHA_FRAMES = 50, 16
CHANGE = 0.03  # chance a decision of another cube, with empty hands
ROOMS_DECISIONS, AT_GOAL = 90, 4  # of an episode, and that it stands at a goal at most
ROOMS_KEPT = 0.4
STUCK, GUIDED = 3, 5  # decisions without a motion, and of the teacher, who then drives
LED = 0.04  # how often he does all the same: a base that turns for ever is met where he would be
_SEED = 23  # told apart from other draws of the same seed


class PracticeTabletop(Tabletop):
    """A policy at the WidowX' tasks."""

    def __init__(self, sizes: Mapping[str, tuple[int, int]], checkpoint: Path) -> None:
        """Open the world and the policy."""
        super().__init__(sizes)
        self._policy = _opened(checkpoint, self.embodiment)

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of a seed."""
        env, rng = self._env, np.random.default_rng((seed, _SEED))
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        env.reset(seed=seed, options={'kind': kind})
        task, words = Task.of(env.goal, env.first), env.instruction
        if rng.random() < ELSEWHERE:
            put_somewhere(env, task, rng)
        frames, still = [], 0
        for number in range(DECISIONS):
            things, joints = things_of(env.world), env.world.positions()
            possible = possible_tasks(env.world, things)
            if not possible:
                break
            ahead = chunk(joints, things, task, 2)[1] if task in possible else joints
            still = still + 1 if np.abs(ahead - joints)[:6].max() < STILL_RAD else 0
            if task not in possible or still >= STILL_ROWS:
                task, still = drawn([t for t in possible if t != task] or possible, rng), 0
                words = sentence_of(task, rng)
            frame = self._frame(env.world, self._taught(joints, things, task, possible, rng))
            if rng.random() < KEPT:
                frames.append(frame)
            asked = _asked(frame, words, number, arm.JOINT_NAMES, self.embodiment)
            rows = rows_in_order(self._policy.infer(asked), arm.JOINT_NAMES, 0.2)
            for row in rows[1 : 1 + REPLAN_ROWS]:
                env.advance(np.clip(row, arm.LOWER, arm.UPPER))
        return frames


class PracticeAloha(AlohaMaker):
    """A policy that hands cubes over."""

    def __init__(self, sizes: Mapping[str, tuple[int, int]], checkpoint: Path) -> None:
        """Open the world and the policy."""
        self._env = AlohaEnv(render_mode='rgb_array', images=False)
        self._world, self._resize = self._env.world, ResizeImages(sizes)
        self._policy = _opened(checkpoint, self.embodiment)

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of a seed; more of those at which a hand grips."""
        env, rng = self._env, np.random.default_rng((seed, _SEED))
        env.reset(seed=seed)
        scene, target, words = env.world.scene, env.world.target, env.instruction
        met: list[tuple[Moment, dict[str, np.ndarray]]] = []
        for number in range(ALOHA_DECISIONS):
            moment = self._moment(target)
            if moment.held is None and rng.random() < CHANGE:
                target = str(rng.choice(scene.names))
                words = instruction_for(scene, target, rng)
                env.world.aim(target)
            pictures = self._pictures()
            met.append((moment, pictures))
            frame = Frame(pictures, moment.q.astype(np.float32), ())
            asked = _asked(frame, words, number, vx300s.JOINT_NAMES, self.embodiment)
            rows = rows_in_order(self._policy.infer(asked), vx300s.JOINT_NAMES, 0.02)
            if any(any(env.advance(row)) for row in rows[1 : 1 + REPLAN_STEPS]):
                break
        chance = np.array([moment.weight for moment, _ in met])
        count = min(ALOHA_FRAMES, len(met))
        chosen = np.sort(rng.choice(len(met), count, replace=False, p=chance / chance.sum()))
        return self._frames([met[index] for index in chosen], rng)

    def _moment(self, target: str) -> Moment:
        """Return where arms and cubes are."""
        world = self._env.world
        q, at = world.positions(), world.object_poses()
        names = world.scene.names
        poses = np.stack([at[name] for name in names])
        held = next(
            (
                cube
                for cube in range(len(names))
                if any(holds(q[None], poses[cube][None], side)[0] for side in ('left', 'right'))
            ),
            None,
        )
        weight = weight_of(q, poses[names.index(target)], held is not None)
        return Moment(q, poses, held, weight)


class PracticeRooms(RoomsMaker):
    """A policy that drives to rooms and pieces; where it stands wrongly its teacher drives on."""

    def __init__(self, sizes: Mapping[str, tuple[int, int]], checkpoint: Path) -> None:
        """Open the world and the policy."""
        self._env = RoomsEnv(render_mode='rgb_array', size=sizes[VIEW], images=False)
        self._policy = _opened(checkpoint, self.embodiment)

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of a seed; every one where it stops in a wrong place."""
        env, rng = self._env, np.random.default_rng((seed, _SEED))
        env.reset(seed=seed)
        house = env.task.house
        teacher, goals = RoomsTeacher(house), goals_of(house, rng)
        goal = env.task.goal
        words, with_room = sentence_for(house, goal, rng)
        frames, arrived, stood, guided = [], 0, 0, 0
        for number in range(ROOMS_DECISIONS):
            seen, pose = env.observation(), env.world.base.pose
            frame = Frame({VIEW: env.render()}, seen.state, ())
            right = _right(teacher, Asked(goal, with_room), pose, seen.state)
            asked = _asked(frame, words, number, seen.state_names, self.embodiment)
            own = waypoints_of(self._policy.infer(asked))
            env.step(right if guided else own)
            wrong = env.stopped and right.any()
            if wrong or rng.random() < ROOMS_KEPT:
                said, rays = said_at(teacher, goal, goals, pose, seen.state, rng)
                frames.append(replace(frame, taught=said, rays=rays))
            arrived = 0 if right.any() else arrived + 1
            moved = np.abs(np.subtract(env.world.base.pose, pose)).max() > STILL_RAD
            stood = 0 if moved or arrived else stood + 1
            lost = wrong or stood >= STUCK or rng.random() < LED
            guided = GUIDED if lost else max(0, guided - 1)
            if arrived >= AT_GOAL or (arrived and env.stopped):
                goal = goals[int(rng.integers(len(goals)))]
                (words, with_room), arrived = sentence_for(house, goal, rng), 0
        return frames


def _right(teacher: RoomsTeacher, asked: Asked, pose: Pose, state: np.ndarray) -> np.ndarray:
    """Return the teacher's waypoints [8, 3]."""
    seen = teacher.sight.look(pose)
    return rows_on(teacher.next_way(pose, state, asked, seen), pose)


def _opened(checkpoint: Path, robot: str) -> LocalPolicy:
    """Return a policy that leaves the other cores to the other processes."""
    torch.set_num_threads(1)
    return load_policies(checkpoint, 'cpu').open(robot)


def _asked(
    frame: Frame, words: str, number: int, names: tuple[str, ...], robot: str
) -> Observation:
    """Return what the policy sees at a decision; its noise comes from the number."""
    stamp = (number + 1) * 1_000_000
    sources = dict.fromkeys((*frame.images, 'state'), stamp)
    return Observation(frame.images, frame.state, names, words, stamp, robot, sources)
