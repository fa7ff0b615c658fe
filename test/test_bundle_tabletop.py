"""The WidowX' family: what the memoryless teacher says of hand-made states, and its frames."""

import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.scene import TEMPLATES as TOUCH
from qwen_vla_ros.sim.tasks.environment import TasksEnv, run_episode
from qwen_vla_ros.sim.tasks.expert import CLOSED, OPEN, TRAVEL_M, turn_across
from qwen_vla_ros.sim.tasks.goals import KINDS, PICK, PLACE, PUSH, STACK, TEMPLATES, Goal
from qwen_vla_ros.sim.tasks.reactive import (
    GRIP_M,
    PUSH_FROM_M,
    PUSH_TO_M,
    ReactivePolicy,
    Task,
    Thing,
    chunk,
    goal_of,
    turn_for_push,
)
from qwen_vla_ros.train.bundle.frames import TRAINING
from qwen_vla_ros.train.bundle.tabletop import Tabletop
from qwen_vla_ros.train.bundle.tabletop_starts import posture_at
from qwen_vla_ros.train.bundle.tabletop_tasks import drawn, possible_tasks, sentence_of

RED = Thing(0.30, 0.05, 0.017, 0.3, 'red block')
BLUE = Thing(0.30, -0.10, 0.022, 0.0, 'blue can')
THINGS = {thing.name: thing for thing in (RED, BLUE)}
SIZES = {'ego': (48, 64), 'cam_right_wrist': (32, 32)}
ACROSS = turn_across(RED[:2], RED.yaw)


def rows(place, turn, finger, task, things=THINGS):
    """Return tips [16, 3] and fingers [16] of the answer to a hand at a place."""
    found = chunk(posture_at(place, turn, finger), things, task)
    assert found.shape == (16, 7) and (found >= arm.LOWER).all() and (found <= arm.UPPER).all()
    np.testing.assert_array_equal(found[0], posture_at(place, turn, finger))
    return arm.forward(found)[0], found[:, 6]


def test_it_goes_over_a_thing_before_it_goes_down_and_lifts_it_in_the_end():
    tips, fingers = rows((0.22, 0.0, 0.16), 0.0, OPEN, Task(PICK, RED.name))
    aside = np.linalg.norm(tips[:, :2] - RED[:2], axis=1)
    assert (aside[tips[:, 2] < 0.06] < 0.008).all()
    closing = int(np.argmax(fingers < 0.02))
    assert closing and tips[closing, 2] < 0.025 and (fingers[1:closing] == OPEN).all()
    assert tips[-1, 2] > tips[closing, 2] + 0.02


def test_a_low_hand_beside_a_thing_goes_up_first():
    tips, _ = rows((0.24, 0.0, 0.02), 0.0, OPEN, Task(PICK, RED.name))
    assert tips[2, 2] > 0.07 and np.linalg.norm(tips[2, :2] - tips[0, :2]) < 0.01


def test_a_hand_that_closed_on_nothing_opens_over_the_thing():
    tips, fingers = rows((0.30, 0.05, 0.055), ACROSS, CLOSED, Task(PICK, RED.name))
    assert fingers[1] == OPEN and tips[1, 2] >= tips[0, 2] - 1e-6


def test_around_the_thing_it_closes_and_what_it_holds_it_lifts():
    place = (*RED[:2], RED.z)
    tips, fingers = rows(place, ACROSS, OPEN, Task(PICK, RED.name))
    assert fingers[1] == CLOSED
    np.testing.assert_allclose(tips[1], tips[0], atol=1e-6)
    tips, fingers = rows(place, ACROSS, GRIP_M, Task(PICK, RED.name))
    assert (fingers[1:] == CLOSED).all() and tips[-1, 2] == pytest.approx(TRAVEL_M, abs=1e-4)


def test_a_held_thing_is_let_go_where_it_shall_be_and_left_alone_there():
    task = Task(PLACE, RED.name, BLUE.name, (0.0, 1.0))
    goal = goal_of(task, BLUE)
    assert goal == pytest.approx((0.30, -0.015, 0.017))
    held = {**THINGS, RED.name: Thing(*goal, 0.0, RED.name)}
    tips, fingers = rows(goal, 0.0, GRIP_M, task, held)
    assert fingers[1] == OPEN
    np.testing.assert_allclose(tips[1], tips[0], atol=1e-6)
    tips, fingers = rows(goal, 0.0, OPEN, task, held)
    assert (fingers[1:] == OPEN).all() and tips[-1, 2] == pytest.approx(0.097, abs=1e-3)
    tips, fingers = rows(RED[:3], ACROSS, GRIP_M, task)
    assert (fingers[1:10] == CLOSED).all() and tips[4, 2] > 0.08


def test_stacking_ends_on_top_of_the_reference():
    goal = goal_of(Task(STACK, RED.name, BLUE.name), BLUE)
    assert goal == pytest.approx((0.30, -0.10, 0.044 + 0.017))
    above = (goal[0], goal[1], goal[2] + 0.06)
    held = {**THINGS, RED.name: Thing(*above, 0.0, RED.name)}
    tips, fingers = rows(above, 0.0, GRIP_M, Task(STACK, RED.name, BLUE.name), held)
    opening = int(np.argmax(fingers > 0.034))
    assert opening and tips[opening, 2] == pytest.approx(goal[2] + 0.002, abs=0.003)


def test_a_push_is_as_far_as_the_fingers_are_closed():
    behind = (RED.x, RED.y - 0.067, 0.02)
    turn, task = turn_for_push(behind[:2], (0.0, 1.0)), Task(PUSH, RED.name, way=(0.0, 1.0))
    tips, fingers = rows(behind, turn, PUSH_FROM_M, task)
    last = int(np.argmin(np.diff(fingers) < -1e-6))
    assert 0.10 < tips[last, 1] - tips[0, 1] < 0.17 and fingers[last] < PUSH_TO_M + 0.0006
    assert tips[-1, 1] < tips[last, 1] - 0.01 or last == 15
    tips, fingers = rows((RED.x, RED.y - 0.03, 0.02), turn, PUSH_TO_M, task)
    assert tips[3, 1] < tips[0, 1] - 0.025 and tips[5, 2] > 0.06 and fingers[1] == CLOSED


def test_a_goal_of_the_environment_is_a_task():
    places = {thing.name: np.array(thing[:3]) for thing in THINGS.values()}
    push = Goal(PUSH, RED.name, 'push', goal=(0.30, 0.14))
    assert Task.of(push, places) == Task(PUSH, RED.name, way=(0.0, 1.0))
    place = Goal(PLACE, RED.name, 'put', BLUE.name, (0.385, -0.10))
    assert Task.of(place, places) == Task(PLACE, RED.name, BLUE.name, (1.0, 0.0))
    assert Task.of(Goal(PICK, RED.name, 'lift'), places) == Task(PICK, RED.name)


def test_the_teacher_does_a_task_of_each_kind_asked_again_every_second_row():
    env = TasksEnv(images=False)
    policy = ReactivePolicy(env)
    assert [run_episode(policy, 5, kind, env)['success'] for kind in KINDS] == [True] * 4
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize('rows_per_inference', [2, 4])
def test_the_teacher_does_nearly_all_of_thirty_scenes_of_each_kind(rows_per_inference):
    env = TasksEnv(images=False)
    policy = ReactivePolicy(env)
    for kind in KINDS:
        done = [
            run_episode(policy, seed, kind, env, rows_per_inference)['success']
            for seed in range(30)
        ]
        assert sum(done) >= 28, (kind, done)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_told_of_places_that_are_5_mm_off_it_does_most_tasks(kind):
    env = TasksEnv(images=False)
    policy = ReactivePolicy(env)
    told = policy.things

    def mistaken():
        rng = np.random.default_rng(env.world.scene.seed)
        return {
            name: thing._replace(
                x=thing.x + rng.normal(0, 0.005), y=thing.y + rng.normal(0, 0.005)
            )
            for name, thing in told().items()
        }

    policy.things = mistaken
    done = [run_episode(policy, seed, kind, env)['success'] for seed in range(30)]
    env.close()
    assert sum(done) >= 26, (kind, done)


def test_with_a_thing_in_the_hand_only_its_own_tasks_are_possible():
    env = TasksEnv(images=False)
    env.reset(seed=2)
    rng = np.random.default_rng(0)
    things = {name: Thing(*place, 0.0, name) for name, place in env.first.items()}
    free = possible_tasks(env.world, things)
    assert {task.kind for task in free} == set(KINDS)
    assert {task.target for task in free} == set(things)
    name = env.world.scene.names[0]
    tip = (0.3, 0.0, 0.15)
    env.place_arm(posture_at(tip, 0.0, GRIP_M))
    env.world.place_object(name, tip)
    held = possible_tasks(env.world, {**things, name: Thing(*tip, 0.0, name)})
    assert {task.target for task in held} == {name} and PUSH not in {task.kind for task in held}
    for task in free:
        sentence = sentence_of(task, rng)
        assert task.target in sentence and task.reference in sentence and '{' not in sentence
    assert drawn([], rng) is None and drawn(free[:1], rng) == free[0]
    env.close()


def test_frames_are_those_of_their_seed_and_fit_the_contract():
    maker, robot = Tabletop(SIZES), Embodiment.load(Tabletop.embodiment)
    tasks, touches, again = (maker.episode(TRAINING + number) for number in (1, 11, 1))
    words = {template.split('{')[0] for kind in KINDS for template in TEMPLATES[kind]}
    sentences = [one.instruction for frame in tasks for one in frame.taught]
    assert all(any(text.startswith(word) for word in words) for text in sentences)
    words = {template.split('{')[0] for template in TOUCH}
    sentences = [one.instruction for frame in touches for one in frame.taught]
    assert all(any(text.startswith(word) for word in words) for text in sentences)
    for frame, same in zip(tasks, again, strict=True):
        for view, size in SIZES.items():
            assert frame.images[view].shape == (*size, 3)
            np.testing.assert_array_equal(frame.images[view], same.images[view])
        for one, other in zip(frame.taught, same.taught, strict=True):
            assert one.instruction == other.instruction and one.points == other.points
            np.testing.assert_array_equal(one.actions, other.actions)
            assert one.actions.shape == (robot.horizon, len(robot.action_names(Tabletop.layout)))
            assert one.actions.dtype == np.float32
            np.testing.assert_array_equal(one.actions[0], frame.state)
    maker.close()
