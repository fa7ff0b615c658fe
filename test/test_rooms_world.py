"""The rooms in MuJoCo: what collides, what the camera sees, and the episode around it."""

import gymnasium
import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.sim.rooms.environment import RoomsEnv, run_episode
from qwen_vla_ros.sim.rooms.expert import NAMES, RoomsExpert, StandingPolicy
from qwen_vla_ros.sim.rooms.house import clearance, sample_house
from qwen_vla_ros.sim.rooms.house_mjcf import RADIUS
from qwen_vla_ros.sim.rooms.tasks import sample_task
from qwen_vla_ros.sim.rooms.world import RoomsWorld
from qwen_vla_ros.types import ActionChunk

BASE = Embodiment.load('mobile_base')


@pytest.fixture(scope='module')
def world():
    world = RoomsWorld(3)
    yield world
    world.close()


@pytest.fixture
def env():
    env = RoomsEnv(images=False)
    yield env
    env.close()


def expert(env):
    where = lambda: (env.task.house, env.world.odom_on_map)  # noqa: E731
    return RoomsExpert(where, describe_policy(BASE))


def test_contacts_are_those_of_the_map():
    house = sample_house(5)
    world = RoomsWorld(5, render=False)
    rng = np.random.default_rng(0)
    points = rng.uniform((0, 0), (house.width, house.depth), (400, 2))
    gaps = clearance(house, *points.T)
    for (x, y), gap in zip(points, gaps, strict=True):
        if abs(gap - RADIUS) > 0.005:
            assert world._is_free((x, y, 0.3)) == (gap > RADIUS), (x, y, gap)


def test_a_base_that_drives_into_a_wall_stands_before_it(world):
    task = sample_task(3)
    world.reset(task.house, task.start)
    for _ in range(300):
        world.base.command(0.3, 0.0)
        world.step(0.1)
    gap = clearance(world.house, *np.array([world.base.pose[:2]]).T)[0]
    assert RADIUS - 0.005 <= gap <= RADIUS + 0.01
    assert world.bumped
    assert world.time == pytest.approx(30.0)


def test_the_camera_is_where_the_description_has_it(world):
    info = world.camera_info()
    pose = RobotLinks(BASE.description_path).poses({})[BASE.cameras[0].frame_id]
    np.testing.assert_allclose(info.position, pose[:3, 3], atol=2e-4)
    np.testing.assert_allclose(info.rotation, pose[:3, :3], atol=2e-5)
    assert (info.width, info.height) == (BASE.cameras[0].width, BASE.cameras[0].height)
    width = 2 * np.arctan(0.5 * info.width / info.matrix[0, 0])
    assert width == pytest.approx(0.994837, abs=1e-4)


def test_a_piece_is_seen_in_its_colour_where_the_camera_looks(world):
    task = sample_task(3)
    house = task.house
    piece = next(p for p in house.pieces if p.kind == 'bed')
    region = np.argwhere(task.floor.free)
    xs, ys = task.floor.x[tuple(region.T)], task.floor.y[tuple(region.T)]
    away = np.hypot(xs - piece.x, ys - piece.y)
    inside = np.array(
        [house.room(piece.room).inside.contains(x, y) for x, y in zip(xs, ys, strict=True)]
    )
    index = int(np.argmax(np.where(inside, away, 0.0)))
    yaw = float(np.arctan2(piece.y - ys[index], piece.x - xs[index]))
    world.reset(house, (float(xs[index]), float(ys[index]), yaw))
    image = world.render().astype(float)
    assert image.shape == (240, 320, 3)
    info = world.camera_info()
    seen = (
        np.array([away.max(where=inside, initial=0.0), 0.0, 0.42]) - info.position
    ) @ info.rotation
    u, v = np.rint((info.matrix @ seen)[:2] / seen[2]).astype(int)
    patch = image[v - 4 : v + 4, u - 8 : u + 8].reshape(-1, 3)
    assert patch.mean(0).argmax() == 2, (piece, patch.mean(0))  # it is blue
    assert piece.colour == 'blue'


def test_the_view_from_above_has_the_base_where_its_pixels_say(world):
    task = sample_task(3)
    size = (240, 320)
    world.reset(task.house, task.start)
    with_base = world.render_above(size).astype(int)
    far = max(task.shortest, key=lambda p: np.hypot(*(p - task.start[:2])))
    world.reset(task.house, (*far, 0.0))
    changed = np.argwhere(np.abs(world.render_above(size).astype(int) - with_base).sum(-1) > 60)
    for point in (task.start[:2], far):
        u, v = world.above_pixels(np.array([point]), size)[0]
        assert np.hypot(changed[:, 1] - u, changed[:, 0] - v).min() < 6


def test_no_picture_without_a_renderer_and_no_second_camera(world):
    with pytest.raises(QwenVlaError, match='render=False'):
        RoomsWorld(0, render=False).render()
    with pytest.raises(QwenVlaError, match="no view 'wrist'"):
        world.render('wrist')


@pytest.mark.parametrize('seed', [0, 2, 5])
def test_the_expert_goes_there_and_stops(env, seed):
    facts = run_episode(expert(env), seed, env=env)
    assert facts['success'], facts
    assert facts['distance_m'] == 0.0
    assert facts['bumped'] == []
    assert facts['refused'] == 0
    own = np.linalg.norm(np.diff(facts['track'], axis=0), axis=1).sum()
    assert facts['shortest_m'] - 0.2 <= own <= 1.4 * facts['shortest_m']


def test_the_expert_finds_its_way_although_odometry_drifts():
    env = RoomsEnv(images=False, drift=0.05)
    facts = run_episode(expert(env), 2, env=env)
    assert facts['success']
    start = np.array(env.task.start)
    assert np.abs(np.subtract(env.world.odom_on_map, start))[:2].max() > 0.01


def test_an_instruction_of_ones_own_is_followed(env):
    house = sample_house(2)
    room = house.rooms[-1].name
    facts = run_episode(expert(env), 2, f'please go to the {room}', env=env)
    assert facts['success']
    assert facts['goal'] == room
    assert facts['instruction'] == f'please go to the {room}'


def test_stop_at_the_start_is_the_end_without_success(env):
    facts = run_episode(StandingPolicy(), 0, env=env)
    assert (facts['success'], facts['stopped'], facts['inferences']) == (False, True, 1)
    assert facts['distance_m'] > 1.5


def test_a_base_that_is_driven_against_something_gets_off_it_by_itself(env):
    class Onwards(StandingPolicy):
        def infer(self, observation, prefix=None):
            rows = 0.15 * np.arange(1, 9)[:, None] * np.array([[1.0, 0.0, 0.0]])
            return ActionChunk(rows.astype(np.float32), NAMES, observation.stamp_ns, 0.5)

    facts = run_episode(Onwards(), 0, env=env)
    once = np.flatnonzero(np.linalg.norm(np.diff(facts['track'], axis=0), axis=1) < 1e-6)[0]
    assert facts['bumped'] and facts['recoveries'] >= 2
    assert np.ptp(facts['track'][once:], axis=0).max() > 1.0
    _, facts = env.reset(seed=0)
    assert facts['recoveries'] == 0


def test_a_chunk_that_moves_the_base_sideways_is_refused_and_it_stands(env):
    env.reset(seed=0)
    rows = np.zeros((8, 3))
    rows[:, 1] = np.linspace(0.1, 0.8, 8)
    _, _, terminated, _, facts = env.step(rows)
    assert (facts['refused'], terminated) == (1, False)
    assert env.world.base.linear == 0.0


def test_the_base_drives_as_the_waypoints_say(env):
    env.reset(seed=0)
    rows = np.zeros((8, 3))
    rows[:, 0] = 0.1 * np.arange(1, 9)
    before = env.world.base.odometry
    for _ in range(3):
        env.step(rows)
    way = env.world.base.odometry[0] - before[0]
    assert 0.2 < way <= 0.3 + 1e-6
    assert abs(env.world.base.odometry[1]) < 1e-9


def test_bad_chunks_are_told(env):
    env.reset(seed=0)
    with pytest.raises(QwenVlaError, match='finite waypoints'):
        env.step(np.full((8, 3), np.nan))

    class Wrong(StandingPolicy):
        def infer(self, observation, prefix=None):
            return ActionChunk(np.zeros((8, 1), np.float32), ('waist',), 0, 0.5)

    with pytest.raises(QwenVlaError, match='needs waypoints'):
        run_episode(Wrong(), 0, env=env)


def test_it_is_a_gymnasium_environment():
    env = gymnasium.make('qwen_vla_ros/Rooms-v0', disable_env_checker=True)
    try:
        observation, facts = env.reset(seed=1)
        assert env.observation_space.contains(observation)
        assert facts['seed'] == 1
        assert env.unwrapped.observation().state_names == BASE.state_names
    finally:
        env.close()


def test_the_view_from_above_reaches_the_floor_of_the_largest_houses():
    size = (240, 320)
    world = RoomsWorld(0)  # 11.6 m wide
    try:
        image = world.render_above(size, base=False).astype(int)
        doors = np.array([[doorway.x, doorway.y] for doorway in world.house.doorways])
        for u, v in np.rint(world.above_pixels(doors, size)).astype(int):
            assert np.abs(image[v, u] - image[0, 0]).sum() > 60, 'sky where the floor should be'
    finally:
        world.close()
