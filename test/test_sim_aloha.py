"""ALOHA's world: the contract's arms, grasps by friction, stages that cannot be had cheaply."""

import gymnasium
import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.colour_places import places_in_view
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.sim.aloha import mjcf, vx300s
from qwen_vla_ros.sim.aloha.environment import ENVIRONMENT_IDS, AlohaEnv, run_episode
from qwen_vla_ros.sim.aloha.expert import BimanualExpert, told_by
from qwen_vla_ros.sim.aloha.grading import Contacts, insertion_depth, stage_of
from qwen_vla_ros.sim.aloha.scene import (
    INSERTION,
    TASKS,
    TRANSFER,
    instruction_for,
    sample_scene,
    target_in,
)
from qwen_vla_ros.sim.aloha.tasks import Place, insertion_rows, transfer_rows
from qwen_vla_ros.sim.aloha.vx300s import HandPose, joints_for
from qwen_vla_ros.sim.aloha.world import VIEWS, AlohaWorld

ALOHA = Embodiment.load('aloha')


@pytest.fixture(scope='module')
def env():
    """One environment with pictures, of the transfer."""
    made = AlohaEnv(TRANSFER)
    yield made
    made.close()


def test_joints_limits_views_and_rate_are_the_contracts(env):
    assert vx300s.JOINT_NAMES == ALOHA.action_names() == ALOHA.state_names
    assert tuple(camera.view for camera in ALOHA.cameras) == VIEWS
    limits = [ALOHA.limits[name] for name in vx300s.JOINT_NAMES]
    np.testing.assert_allclose([limit.lower for limit in limits], vx300s.LOWER, atol=2e-5)
    np.testing.assert_allclose([limit.upper for limit in limits], vx300s.UPPER, atol=2e-5)
    for camera in ALOHA.cameras:
        assert env.world.render(camera.view).shape == (camera.height, camera.width, 3)


def test_the_inverse_the_description_and_the_world_agree(env):
    pytest.importorskip('pinocchio')
    pose = {
        'left': HandPose((-0.05, 0.04, 0.12), 0.3, 0.9, 0.4),
        'right': HandPose((0.1, -0.06, 0.15), -0.2, 1.2, -0.5),
    }
    env.world.reset(0)
    q = [joint for side in vx300s.SIDES for joint in (*joints_for(side, pose[side]), 0.04)]
    env.world.set_posture(np.array(q))
    wanted = [pose[side].position for side in vx300s.SIDES]
    np.testing.assert_allclose(env.world.tip_positions(), wanted, atol=1e-6)
    np.testing.assert_allclose(vx300s.tips(np.array(q)), wanted, atol=1e-6)
    for side, start, place in zip(vx300s.SIDES, (0, 7), wanted, strict=True):
        arm = ArmKinematics(ALOHA.description_path, f'{side}_ee_gripper_link')
        np.testing.assert_allclose(arm.tip_position(q[start : start + 6]), place, atol=1e-6)


def test_a_seed_is_one_scene_and_its_sentence_names_what_counts():
    for task in TASKS:
        scene = sample_scene(11, task)
        assert scene == sample_scene(11, task) != sample_scene(12, task)
        assert len(set(scene.names)) == 3
        for seed in range(3):
            sentence = instruction_for(scene, scene.target, np.random.default_rng(seed))
            assert target_in(scene, sentence) == scene.target
    with pytest.raises(QwenVlaError, match=r"no task 'juggle'; choose from \['transfer'"):
        sample_scene(0, 'juggle')


def contacts(*fingers, on_table=()):
    return Contacts({'cube0': frozenset(fingers)}, frozenset(on_table))


def test_a_transfer_counts_only_when_the_taker_alone_holds_the_cube_above_the_table():
    scene = sample_scene(0)
    giver, taker = scene.giver, scene.taker
    both = [f'{giver}_left_finger', f'{giver}_right_finger']
    taken = [f'{taker}_left_finger', f'{taker}_right_finger']

    def stage(*fingers, on_table=()):
        return stage_of(scene, scene.target, contacts(*fingers, on_table=on_table), {})

    assert stage(on_table=['cube0']) == 0
    assert stage(both[0], on_table=['cube0']) == 1
    assert stage(*both, on_table=['cube0']) == 1
    assert stage(both[0]) == 1  # balanced on one finger
    assert stage(*both) == 2
    assert stage(*both, taken[0]) == stage(*both, *taken) == stage(*taken, both[0]) == 3
    assert stage(*taken) == 4
    assert stage(*taken, on_table=['cube0']) == 0


def test_an_insertion_is_a_depth_inside_the_socket_and_not_beside_it():
    peg, socket = np.eye(4), np.eye(4)
    outside = (mjcf.PEG[0] + mjcf.SOCKET_LENGTH) / 2
    for x, y, depth in ((outside + 0.01, 0, 0), (outside - 0.035, 0, 0.035), (0.05, 0.03, 0)):
        peg[:3, 3] = x, y, 0
        assert insertion_depth(peg, socket) == pytest.approx(depth)


@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('task', TASKS)
def test_the_teacher_does_both_tasks_through_gymnasium(task, seed):
    env = gymnasium.make(ENVIRONMENT_IDS[task], disable_env_checker=True, images=False).unwrapped
    facts = run_episode(BimanualExpert(told_by(env.world)), seed, env)
    assert facts['success'] and facts['stage'] == facts['best'] == 4
    assert facts['target'] in facts['touched']
    assert len(facts['touched']) == {TRANSFER: 1, INSERTION: 2}[task]
    env.close()


def test_the_named_cube_is_handed_over_and_no_other(env):
    scene = sample_scene(3)
    policy = BimanualExpert(places_in_view)
    for name in scene.names[1:]:
        facts = run_episode(policy, 3, env, target=name)
        assert facts['success'] and facts['touched'] == [name]


def test_another_cube_than_the_named_one_does_not_count(env):
    scene = sample_scene(4)
    said = instruction_for(scene, scene.names[1])
    facts = run_episode(BimanualExpert(told_by(env.world)), 4, env, scene.names[0], said)
    assert not facts['success'] and facts['best'] == 0 and facts['touched'] == [scene.names[1]]


def test_objects_are_seen_where_they_lie(env):
    for seed in range(3):
        env.reset(seed=seed)
        scene = env.world.scene
        found = places_in_view(env.observation(), scene.names)
        for item in scene.objects:
            place = found[item.name]
            assert np.hypot(place.x - item.position[0], place.y - item.position[1]) < 0.012
            turned = (place.yaw - item.yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
            assert abs(turned) < np.radians(4)


def test_every_plan_keeps_the_contracts_limits():
    limits = [ALOHA.limits[name] for name in vx300s.JOINT_NAMES]
    most = np.array([[limit.velocity, limit.acceleration, limit.jerk] for limit in limits])
    for seed in range(6):
        for task in TASKS:
            scene = sample_scene(seed, task)
            q = np.array(scene.posture)
            places = [Place(*item.position[:2], item.yaw) for item in scene.objects]
            if task == TRANSFER:
                rows = transfer_rows(q, places[0], scene.giver, 0.02)
            else:
                rows = insertion_rows(q, places[0], places[1], 0.02)
            assert ((rows >= vx300s.LOWER) & (rows <= vx300s.UPPER)).all()
            for order in (1, 2, 3):
                rates = np.abs(np.diff(rows, order, axis=0)).max(0) / 0.02**order
                assert (rates <= most[:, order - 1]).all(), (seed, task, order)


def test_after_a_hold_the_teacher_goes_on_where_the_arms_stand(env):
    env.reset(seed=5)
    policy = BimanualExpert(told_by(env.world))
    plan = policy.infer(env.observation())
    for row in plan.actions[1:40]:
        env.advance(row)
    for _ in range(60):  # something holds the robot for 1.2 s
        env.advance(plan.actions[39])
    chunk = policy.infer(env.observation())
    assert np.abs(chunk.actions[0] - env.world.positions()).max() < 0.06


def test_a_sentence_about_nothing_in_sight_holds_both_arms(env):
    env.reset(seed=5, options={'instruction': 'hand the pink cube to the left arm'})
    chunk = BimanualExpert(places_in_view).infer(env.observation())
    assert (chunk.actions == chunk.actions[0]).all() and chunk.horizon == 50
    np.testing.assert_allclose(chunk.actions[0], env.world.positions(), atol=1e-6)


def test_bad_targets_and_unknown_objects_are_refused():
    world = AlohaWorld(render=False)
    with pytest.raises(QwenVlaError, match='expected 14 finite targets'):
        world.set_targets(np.full(14, np.nan))
    with pytest.raises(QwenVlaError, match=r"no object 'pink cube'; it holds \["):
        world.aim('pink cube')
    world.reset(0, task=INSERTION)
    with pytest.raises(QwenVlaError, match='the insertion takes a peg'):
        world.aim(world.scene.objects[1].name)
