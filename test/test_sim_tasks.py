"""Pick, place, push, stack: scenes by seed, goals with room, earned success, the teacher."""

import gymnasium
import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.scene import AREA_LOWER, AREA_UPPER
from qwen_vla_ros.sim.tasks.environment import ENVIRONMENT_ID, TasksEnv, run_episode
from qwen_vla_ros.sim.tasks.expert import GRASP, LIFT, MOVE, REACH, RELEASE
from qwen_vla_ros.sim.tasks.goals import KINDS, PICK, PLACE, PUSH, STACK, Goal, done, sample_goal
from qwen_vla_ros.sim.tasks.scene import TEXTURES, sample_task_scene, texture_pixels
from qwen_vla_ros.sim.tasks.world import TaskWorld
from qwen_vla_ros.sim.zero_errors import parse_zero_errors
from qwen_vla_ros.types import ActionChunk


@pytest.fixture(scope='module')
def env():
    made = TasksEnv(images=False)
    yield made
    made.close()


def perform(env, seed, kind):
    """Let the teacher do a task; return the last facts and the rows."""
    scene = sample_task_scene(seed)
    goal = sample_goal(scene, np.random.default_rng(seed), kind)
    env.reset(seed=seed, options={'goal': goal})
    rows, facts = [], {}
    for row in env.expert():
        rows.append(row)
        _, _, terminated, truncated, facts = env.step(row.joints)
        if terminated or truncated:
            return facts, rows
    for _ in range(6):
        _, _, terminated, truncated, facts = env.step(rows[-1].joints)
        if terminated or truncated:
            break
    return facts, rows


def test_a_seed_gives_the_same_scene_and_seeds_differ():
    assert sample_task_scene(5) == sample_task_scene(5)
    scenes = [sample_task_scene(seed) for seed in range(40)]
    assert len({scene.surroundings.table_rgb for scene in scenes}) == 40
    assert {scene.texture for scene in scenes} == set(TEXTURES)
    assert {len(scene.distractors) for scene in scenes} == {0, 1, 2, 3}
    with pytest.raises(QwenVlaError, match='from 0 on'):
        sample_task_scene(-1)


@pytest.mark.parametrize('texture', TEXTURES)
def test_textures_are_grey_and_of_the_shades_of_the_scene(texture):
    scene = next(s for s in map(sample_task_scene, range(40)) if s.texture == texture)
    pixels = texture_pixels(scene, 64)
    assert pixels.shape == (64, 64, 3) and (pixels == pixels[:, :, :1]).all()
    low, high = sorted(255 * shade for shade in scene.shades)
    assert low - 1 <= pixels.min() and pixels.max() <= high + 1


def test_goals_lie_in_the_area_and_are_told():
    rng = np.random.default_rng(0)
    for seed in range(60):
        scene = sample_task_scene(seed)
        goal = sample_goal(scene, rng)
        assert goal.target in goal.instruction and goal.target in scene.names
        if goal.kind in (PLACE, STACK):
            assert goal.reference in goal.instruction and goal.reference != goal.target
        if goal.kind in (PLACE, PUSH):
            assert (np.array(AREA_LOWER) <= goal.goal).all()
            assert (np.array(goal.goal) <= np.array(AREA_UPPER)).all()
    with pytest.raises(QwenVlaError, match='juggle'):
        sample_goal(scene, rng, 'juggle')


@pytest.mark.parametrize('kind', KINDS)
def test_the_teacher_does_each_task_in_its_steps(env, kind):
    wanted = {
        PICK: [REACH, GRASP, LIFT],
        PLACE: [REACH, GRASP, LIFT, MOVE, RELEASE],
        PUSH: [REACH, MOVE, RELEASE],
        STACK: [REACH, GRASP, LIFT, MOVE, RELEASE],
    }[kind]
    for seed in (0, 1):
        facts, rows = perform(env, seed, kind)
        assert facts['success'] and facts['kind'] == kind
        steps = [row.step for row in rows]
        assert list(dict.fromkeys(steps)) == wanted[: len(dict.fromkeys(steps))]
        assert set(steps) >= set(wanted) - {RELEASE}
        joints = np.array([row.joints for row in rows])
        assert (joints >= arm.LOWER).all() and (joints <= arm.UPPER).all()
        assert (np.abs(np.diff(joints, axis=0)) <= arm.VELOCITY * 0.2).all()


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_the_teacher_does_nearly_all_of_fifty_scenes(env, kind):
    assert sum(perform(env, seed, kind)[0]['success'] for seed in range(50)) >= 48


def test_nothing_is_done_by_standing_still(env):
    for kind in KINDS:
        goal = sample_goal(sample_task_scene(3), np.random.default_rng(3), kind)
        env.reset(seed=3, options={'goal': goal})
        for _ in range(5):
            _, reward, terminated, _, facts = env.step(env.world.positions())
            assert not terminated and reward == 0 and not facts['success']


def test_success_is_where_things_lie_not_where_they_fell():
    world = TaskWorld(render=False)
    scene = world.reset(11)
    target, reference = scene.names[:2]
    first = world.object_positions()
    stack = Goal(STACK, target, 'stack', reference)
    heights = [2 * scene.named(name).position[2] for name in (target, reference)]
    below = first[reference]
    on_top = below + [0, 0, sum(heights) / 2]
    world.place_object(target, on_top)
    assert done(world, stack, first)
    world.place_object(target, on_top + [0.016, 0, 0])
    assert not done(world, stack, first)
    place = Goal(PLACE, target, 'put', reference, (0.3, 0.0))
    world.place_object(target, (0.3, 0.025, first[target][2]))
    assert done(world, place, first)
    world.place_object(target, (0.3, 0.025, first[target][2] + 0.05))
    assert not done(world, place, first)
    world.place_object(target, (0.3, 0.035, first[target][2]))
    assert not done(world, place, first)
    way = Goal(PUSH, target, 'push', goal=(first[target][0], first[target][1] + 0.09))
    world.place_object(target, first[target] + [0, 0.06, 0])
    assert done(world, way, first)
    world.place_object(target, first[target] + [0.04, 0.06, 0])
    assert not done(world, way, first)
    world.close()


def test_it_is_a_gymnasium_environment():
    env = gymnasium.make(ENVIRONMENT_ID, size=(48, 64))
    observation, facts = env.reset(seed=4)
    assert env.observation_space.contains(observation) and facts['success'] is False
    again, _ = env.reset(seed=4)
    assert again['instruction'] == observation['instruction']
    assert (again['state'] == observation['state']).all()
    with pytest.raises(QwenVlaError, match='bad action'):
        env.step(np.full(7, np.nan, np.float32))
    env.close()


class Rows:
    """A policy that does the phased teacher's rows, two an inference, with its eyes shut."""

    def __init__(self, env):
        self._env, self._rows, self.resets = env, None, 0

    def reset(self):
        self.resets += 1
        self._rows = iter(self._env.expert())
        self._last = self._env.world.positions()

    def infer(self, observation):
        rows = [observation.state]
        for _ in range(2):
            row = next(self._rows, None)
            self._last = self._last if row is None else row.joints
            rows.append(self._last)
        return ActionChunk(np.stack(rows), arm.JOINT_NAMES, observation.stamp_ns, 0.2)


def test_a_policy_is_run_in_closed_loop(env):
    policy = Rows(env)
    facts = run_episode(policy, 0, PUSH, env)
    assert facts['success'] and facts['kind'] == PUSH and policy.resets == 1
    assert facts['inferences'] == -(-round(facts['elapsed_s'] / 0.2) // 2)
    assert facts['target'] in facts['instruction']
    assert run_episode(policy, 0, PUSH, env) == facts
    assert run_episode(policy, 1, PICK, env)['seed'] == 1


def test_pictures_show_another_table_for_another_seed():
    env = TasksEnv(size=(48, 64))
    try:
        pictures = [env.reset(seed=seed)[0]['images']['ego'] for seed in (21, 22, 21)]
    finally:
        env.close()
    assert (pictures[0] == pictures[2]).all()
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 5


def test_an_arm_with_an_error_of_its_zero_reads_and_stands_otherwise():
    error = {'shoulder': 0.05, 'left_finger': -0.001}
    off, plain = TasksEnv(images=False, zero_errors=error), TasksEnv(images=False)
    seen, _ = off.reset(seed=3)
    truth, _ = plain.reset(seed=3)
    read = np.array([error.get(name, 0.0) for name in arm.JOINT_NAMES])
    np.testing.assert_allclose(seen['state'] - truth['state'], read, atol=1e-6)
    np.testing.assert_array_equal(off.world.positions(), plain.world.positions())
    goal = plain.world.positions() + [0.05, 0.1, 0, 0, 0, 0.1, 0.002]
    seen = off.step(goal + read)[0]
    truth = plain.step(goal)[0]
    np.testing.assert_allclose(off.world.positions(), plain.world.positions(), atol=1e-6)
    np.testing.assert_allclose(seen['state'] - truth['state'], read, atol=1e-6)
    off.close()
    plain.close()


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('shoulder', "'shoulder' is not JOINT=NUMBER"),
        ('shoulder=much', 'is not JOINT=NUMBER'),
        ('knee=0.1', "no joint 'knee'; choose of waist"),
        ('waist=0.3', 'from -0.2 to 0.2'),
        ('waist=nan', 'from -0.2 to 0.2'),
    ],
)
def test_zero_errors_that_cannot_be_are_refused(text, told):
    with pytest.raises(QwenVlaError, match=told):
        parse_zero_errors(text)
    assert parse_zero_errors('') == {}
    assert parse_zero_errors('waist=-0.02,shoulder=0.05') == {'waist': -0.02, 'shoulder': 0.05}
