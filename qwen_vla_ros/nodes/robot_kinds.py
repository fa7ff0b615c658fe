"""
Which robots robot_sim can be, chosen by the contract's joints, and what differs between them.

A kind opens its world, lays out its scenes and knows its arms: each has seven joints in a row (six
and the finger), a prefix in the contract, and a namespace in which its driver speaks, both taken
from the contract's sources of state. No ROS here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.aloha import scene as aloha_scene
from qwen_vla_ros.sim.aloha import vx300s
from qwen_vla_ros.sim.aloha.world import AlohaWorld
from qwen_vla_ros.sim.scene import instruction_for, parse_target, sample_scene
from qwen_vla_ros.sim.six_axis import SixAxisArm
from qwen_vla_ros.sim.tasks.goals import KINDS
from qwen_vla_ros.sim.tasks.watched import WatchedTasks
from qwen_vla_ros.sim.world import TabletopWorld

TASKS = 'tasks'
WORLDS = ('', TASKS)


@dataclass(frozen=True)
class ArmPlace:
    """One arm: namespace is '' or ends with '/', first is its first column of the robot's row."""

    namespace: str
    first: int

    @property
    def columns(self) -> slice:
        """Return where its seven joints stand."""
        return slice(self.first, self.first + 7)


@dataclass(frozen=True)
class ArmModel:
    """What all arms of a robot are: config/controllers/<name>_*.yaml, and the fingers' crank."""

    name: str
    geometry: SixAxisArm
    horn_m: float
    rod_m: float


class RobotKind(Protocol):
    """What the simulation's thread and the node ask of a kind of robot."""

    model: ArmModel
    arms: tuple[ArmPlace, ...]

    def open(self) -> Any:
        """Return the world, made in the calling thread."""

    def reset(self, world: Any, seed: int, task: str) -> tuple[str, str]:
        """Lay out a scene, task '' is any; return sentence and target. Refused, it stays."""

    def aim(self, world: Any, name: str) -> str:
        """Change the target; return its name, QwenVlaError for one not on the table."""

    def result(self, world: Any, target: str) -> Any:
        """Return the outcome."""


class WidowxTable:
    """One WidowX 250s and three objects to be touched."""

    model = ArmModel('wx250s', arm.WX250S, 0.014, 0.024)

    def __init__(self, namespace: str = '') -> None:
        """Speak in a namespace."""
        self.arms = (ArmPlace(namespace, 0),)

    def open(self) -> TabletopWorld:
        """Return the world."""
        return TabletopWorld()

    def reset(self, world: TabletopWorld, seed: int, task: str) -> tuple[str, str]:
        """Lay out the scene; without a task the seed draws the target."""
        scene = sample_scene(seed)
        if not task:
            target = scene.names[int(np.random.default_rng([seed, 1]).integers(len(scene.names)))]
        else:
            target = parse_target(task, scene.names) or scene.named(task).name
        world.reset(seed, scene)
        sentence = task if ' ' in task and task != target else instruction_for(target)
        return sentence, target

    def aim(self, world: TabletopWorld, name: str) -> str:
        """Return the name if there is such an object."""
        return world.scene.named(name).name

    def result(self, world: TabletopWorld, target: str) -> Any:
        """Return the outcome of touching the target."""
        return world.result(target)


class WidowxTasks:
    """One WidowX 250s and three objects to be picked, placed, pushed or stacked."""

    model = WidowxTable.model

    def __init__(self, namespace: str = '') -> None:
        """Speak in a namespace."""
        self.arms = (ArmPlace(namespace, 0),)

    def open(self) -> WatchedTasks:
        """Return the world."""
        return WatchedTasks()

    def reset(self, world: WatchedTasks, seed: int, task: str) -> tuple[str, str]:
        """Lay out the scene and the task of the seed, of the kind that `task` names."""
        if task and task not in KINDS:
            raise QwenVlaError(f'task {task!r}: the world tasks has {", ".join(KINDS)}')
        goal = world.begin(seed, task)
        return goal.instruction, goal.target

    def aim(self, world: WatchedTasks, name: str) -> str:
        """Refuse: a task is more than its object."""
        raise QwenVlaError('the world tasks draws its task from the seed; reset to another one')

    def result(self, world: WatchedTasks, target: str) -> Any:
        """Return the outcome."""
        return world.outcome()


class AlohaTable:
    """Two ViperX 300s: a cube to be handed over, or a peg to be brought into a socket."""

    model = ArmModel('vx300s', vx300s.VX300S, 0.022, 0.036)

    def __init__(self, namespaces: Mapping[str, str]) -> None:
        """Take each side's namespace."""
        self.arms = tuple(
            ArmPlace(namespaces[side], 7 * index) for index, side in enumerate(vx300s.SIDES)
        )

    def open(self) -> AlohaWorld:
        """Return the world."""
        return AlohaWorld()

    def reset(self, world: AlohaWorld, seed: int, task: str) -> tuple[str, str]:
        """Lay out the scene of the task that a sentence is about, or of a task by its name."""
        kind = task if task in aloha_scene.TASKS else aloha_scene.parse_task(task)
        scene = aloha_scene.sample_scene(seed, kind or aloha_scene.TRANSFER)
        named = aloha_scene.target_in(scene, task)
        if named is None and task and task not in aloha_scene.TASKS:
            raise QwenVlaError(f'task {task!r} names none of {", ".join(scene.names)}')
        target = named or scene.target
        world.reset(seed, scene)
        world.aim(target)
        sentence = task if ' ' in task and task != target else ''
        return sentence or aloha_scene.instruction_for(scene, target), target

    def aim(self, world: AlohaWorld, name: str) -> str:
        """Make another object of the same shape the target."""
        world.aim(name)
        return name

    def result(self, world: AlohaWorld, target: str) -> Any:
        """Return the outcome."""
        return world.result()


def kind_of(embodiment: Embodiment, world: str = '') -> RobotKind:
    """
    Return the simulated robot that has a contract's joints; QwenVlaError where none has.

    world: 'tasks' puts a WidowX before the table of pick, place, push and stack.
    """
    sources = (embodiment.state, *embodiment.further_states)
    joints = {field.name: source for source in sources for field in source.fields}
    if world not in WORLDS:
        raise QwenVlaError(f'robot_sim: world {world!r}; choose from {WORLDS}')
    if set(vx300s.JOINT_NAMES) <= set(joints) and not world:
        sides = {side: joints[f'{side}_waist'] for side in vx300s.SIDES}
        return AlohaTable({side: _namespace(source.topic) for side, source in sides.items()})
    if set(arm.JOINT_NAMES) & set(joints):
        kind = WidowxTasks if world == TASKS else WidowxTable
        return kind(_namespace(embodiment.state.topic))
    raise QwenVlaError(
        f'robot_sim: no simulated robot has the joints of contract {embodiment.name}; it can be '
        f'widowx or aloha, and with world {TASKS} widowx'
    )


def _namespace(topic: str) -> str:
    """Return what stands before a topic's last word, '/' included."""
    return topic[: topic.rfind('/') + 1]
