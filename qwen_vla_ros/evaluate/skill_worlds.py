"""
The skills of one checkpoint of several robots, and the world in which each is measured.

    pick push place stack   WidowX, on a table with distractors; three objects, one sentence
    touch                   WidowX, three objects
    transfer                ALOHA: one arm hands the named cube to the other
    navigation              mobile base, in furnished houses
    traces                  from a picture: the way that a thing is to go, beside the teacher's
    questions               about a picture, answered in words

The first seven are closed loops: the world waits for the policy. Traces and questions are those of
the held-out seeds, frames.HELD_OUT + seed.
"""

import argparse
from collections.abc import Mapping
from typing import Any, Protocol

from qwen_vla_ros.evaluate.skill_policies import Policies
from qwen_vla_ros.evaluate.suite_worlds import open_world
from qwen_vla_ros.policy import Policy
from qwen_vla_ros.sim.tasks.goals import KINDS
from qwen_vla_ros.sim.zero_errors import parse_zero_errors

ROBOTS = {
    **dict.fromkeys(('pick', 'push', 'place', 'stack', 'touch'), 'widowx'),
    'transfer': 'aloha',
    'navigation': 'mobile_base',
}
SKILLS = (*ROBOTS, 'traces', 'questions')
TRACES = ('trace_2d', 'trace_3d')


class SkillWorld(Protocol):
    """Where skills are measured; one at a time is open in a process."""

    def run(self, policies: Policies, skill: str, seed: int) -> dict[str, Any]:
        """Run a seed; return JSON-able facts with success, or with what was asked."""

    def close(self) -> None:
        """Free the GL contexts."""


def world_of(skill: str) -> str:
    """Return the name of the world of a skill; skills of one world share it."""
    return 'tasks' if skill in KINDS else skill


def contracts_of(skill: str) -> tuple[str, ...]:
    """Return the contracts' names that a skill needs; () where words are asked for."""
    if skill in ROBOTS:
        return (ROBOTS[skill],)
    return TRACES if skill == 'traces' else ()


def open_skill(skill: str, args: argparse.Namespace) -> SkillWorld:
    """Return the world of a skill."""
    if skill in KINDS:
        return TaskTable(args.rows, parse_zero_errors(args.zero_errors))
    if skill in ROBOTS:
        return ClosedLoop(skill, args)
    from qwen_vla_ros.evaluate.skill_pictures import Pictures

    return Pictures()


class TaskTable:
    """Pick, push, place and stack."""

    def __init__(self, rows: int, zero_errors: Mapping[str, float]) -> None:
        """
        Make the world.

        rows: of a chunk, run before the next one is asked for; zero_errors: of the arm's joints
        """
        from qwen_vla_ros.sim.tasks.environment import TasksEnv

        self._env, self._rows = TasksEnv(zero_errors=zero_errors), rows

    def run(self, policies: Policies, skill: str, seed: int) -> dict[str, Any]:
        """Run an episode of a kind."""
        from qwen_vla_ros.sim.tasks.environment import run_episode

        policy = self._teacher() if policies.teacher else policies.open('widowx')
        facts = run_episode(policy, seed, skill, self._env, self._rows)
        kept = ('instruction', 'target', 'success', 'elapsed_s', 'inferences')
        return {name: facts[name] for name in kept}

    def close(self) -> None:
        """Free the GL contexts."""
        self._env.close()

    def _teacher(self) -> Policy:
        """Return the teacher, who is told where things are."""
        from qwen_vla_ros.sim.tasks.reactive import ReactivePolicy

        return ReactivePolicy(self._env)


class ClosedLoop:
    """Touching, handing over, driving: the worlds of a suite, as trained."""

    def __init__(self, skill: str, args: argparse.Namespace) -> None:
        """Make the world."""
        self._robot = ROBOTS[skill]
        given = argparse.Namespace(**{**vars(args), 'robot': self._robot})
        self._world = open_world(self._robot, skill, given)

    def run(self, policies: Policies, skill: str, seed: int) -> dict[str, Any]:
        """Run an episode; of the base it is told whether a turn at the start shows the goal."""
        policy = self._world.policy() or policies.open(self._robot)
        facts = self._world.run(policy, 'none', seed, None)
        if skill == 'navigation':
            from qwen_vla_ros.sim.rooms.sight import in_sight
            from qwen_vla_ros.sim.rooms.tasks import sample_task

            facts['in_sight'] = in_sight(sample_task(seed), turning=True)
        return {name: value for name, value in facts.items() if name != 'film'}

    def close(self) -> None:
        """Free the GL contexts."""
        self._world.close()
