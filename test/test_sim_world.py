"""Physics, cameras and contacts of the tabletop."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.scene import COLOURS, sample_scene
from qwen_vla_ros.sim.world import VIEWS, TabletopWorld


@pytest.fixture(scope='module')
def seeing() -> Iterator[TabletopWorld]:
    world = TabletopWorld()
    yield world
    world.close()


@pytest.fixture
def blind() -> TabletopWorld:
    return TabletopWorld(render=False)


def lower_onto(world: TabletopWorld, name: str) -> None:
    """Drive the hand from above onto an object."""
    place = world.object_positions()[name]
    high, low = (arm.inverse(place + [0, 0, height]) for height in (0.10, 0.01))
    world.set_posture([*high, 0.018])
    for part in np.linspace(0, 1, 100):
        world.set_targets([*(high + part * (low - high)), 0.018])
        world.step(0.01)


@pytest.mark.parametrize('view', VIEWS)
def test_a_view_is_an_rgb_image_of_the_asked_size(seeing: TabletopWorld, view: str) -> None:
    seeing.reset(1)
    assert seeing.render(view).shape == (480, 640, 3)
    small = seeing.render(view, (96, 128))
    assert small.shape == (96, 128, 3) and small.dtype == np.uint8 and small.std() > 5


@pytest.mark.parametrize('seed', range(5))
def test_the_scene_camera_shows_each_object_in_its_colour_where_project_says(
    seeing: TabletopWorld, seed: int
) -> None:
    scene = seeing.reset(seed)
    image = seeing.render('ego').astype(float)
    tops = [place + [0, 0, 0.015] for place in seeing.object_positions().values()]
    pixels, depth = seeing.project('ego', np.array(tops))
    assert (depth > 0).all()
    for item, (u, v) in zip(scene.objects, pixels, strict=True):
        seen = image[round(v), round(u)]
        likeness = {
            colour: seen @ np.array(rgb) / np.linalg.norm(seen) / np.linalg.norm(rgb)
            for colour, rgb in COLOURS.items()
        }
        assert max(likeness, key=likeness.get) == item.colour


def test_the_whole_object_area_stays_in_the_scene_camera(blind: TabletopWorld) -> None:
    corners = np.array([(x, y, 0.03) for x in (0.18, 0.42) for y in (-0.22, 0.22)])
    for seed in range(20):
        blind.reset(seed)
        pixels, _ = blind.project('ego', corners)
        assert (pixels > 0).all() and (pixels < (640, 480)).all()


def test_the_camera_matrix_is_what_project_uses(blind: TabletopWorld) -> None:
    info = blind.camera_info('cam_right_wrist')
    point = info.position + info.rotation @ [0.01, 0.02, 0.2]
    pixels, depth = blind.project('cam_right_wrist', point[None])
    expected = info.matrix @ [0.01, 0.02, 0.2]
    assert depth[0] == pytest.approx(0.2)
    assert pixels[0] == pytest.approx(expected[:2] / expected[2])


def test_a_point_behind_the_camera_has_no_pixel(blind: TabletopWorld) -> None:
    info = blind.camera_info('ego')
    pixels, depth = blind.project('ego', (info.position - info.rotation[:, 2])[None])
    assert depth[0] < 0 and np.isnan(pixels).all()


def test_the_arm_holds_its_posture_against_gravity(blind: TabletopWorld) -> None:
    before = blind.positions()
    blind.step(1.0)
    assert np.abs(blind.positions() - before).max() < 1e-3
    assert np.abs(blind.velocities()).max() < 1e-3


def test_the_tip_follows_a_line_at_0_3_m_per_s_within_8_mm(blind: TabletopWorld) -> None:
    start, end, duration = np.array([0.3, -0.15, 0.2]), np.array([0.3, 0.15, 0.2]), 1.0
    blind.set_posture([*arm.inverse(start), 0.02])
    errors = []
    for t in np.arange(0.01, duration, 0.01):
        line = [start + (end - start) * part / duration for part in (t, t + 1e-3)]
        now, soon = (np.array([*arm.inverse(point), 0.02]) for point in line)
        blind.set_targets(now, (soon - now) / 1e-3)
        blind.step(0.01)
        errors.append(np.linalg.norm(blind.tip_position() - line[0]))
    assert max(errors[20:]) < 0.008


def test_targets_by_name_move_only_those_joints(blind: TabletopWorld) -> None:
    before = blind.positions()
    blind.set_targets({'waist': before[0] + 0.2, 'left_finger': 0.02})
    blind.step(1.0)
    after = blind.positions()
    assert after[0] == pytest.approx(before[0] + 0.2, abs=2e-3)
    assert after[6] == pytest.approx(0.02, abs=1e-3)
    assert np.abs(after[1:6] - before[1:6]).max() < 5e-3


@pytest.mark.parametrize('bad', [[0.0] * 6, [np.nan] * 7, {'hip': 0.0}])
def test_bad_targets_are_refused(blind: TabletopWorld, bad: object) -> None:
    with pytest.raises(QwenVlaError, match='simulated arm'):
        blind.set_targets(bad)


@pytest.mark.parametrize('seed', range(6))
def test_lowering_the_hand_touches_exactly_the_object_below(
    blind: TabletopWorld, seed: int
) -> None:
    scene = blind.reset(seed)
    target, other = scene.names[0], scene.names[1]
    lower_onto(blind, target)
    (touch,) = blind.touched()
    assert touch.name == blind.first_touched == target
    assert 'finger' in touch.link and 0 < touch.time_s <= blind.time
    assert blind.result(target).success and blind.result(target).done
    assert blind.result(other).done and not blind.result(other).success


def test_touching_the_target_after_another_object_is_no_success(blind: TabletopWorld) -> None:
    scene = blind.reset(0)
    other, target = scene.names[0], scene.names[2]
    lower_onto(blind, other)
    lower_onto(blind, target)
    outcome = blind.result(target)
    assert outcome.touched == (other, target) and not outcome.success


def test_nothing_touched_is_not_done_until_the_time_is_up(blind: TabletopWorld) -> None:
    target = blind.reset(0).names[0]
    blind.step(0.1)
    assert not blind.result(target).done
    late = blind.result(target, limit_s=0.05)
    assert late.done and not late.success and late.first_touched is None


def test_objects_stay_where_they_lie(blind: TabletopWorld) -> None:
    for seed in range(5):
        scene = blind.reset(seed)
        blind.step(2.0)
        for item in scene.objects:
            moved = blind.object_positions()[item.name] - item.position
            assert np.abs(moved).max() < 1e-3


def test_reset_forgets_touches_time_and_pushed_objects(blind: TabletopWorld) -> None:
    first = blind.reset(4)
    lower_onto(blind, first.names[0])
    again = blind.reset(4)
    assert again == first and blind.time == 0 and not blind.touched()
    assert blind.object_positions()[first.names[0]] == pytest.approx(first.objects[0].position)


def test_the_same_seed_and_commands_give_the_same_motion(blind: TabletopWorld) -> None:
    ends = []
    for _ in range(2):
        scene = blind.reset(9)
        lower_onto(blind, scene.names[2])
        ends.append(np.concatenate([blind.positions(), *blind.object_positions().values()]))
    assert (ends[0] == ends[1]).all()


def test_a_world_without_rendering_says_so(blind: TabletopWorld) -> None:
    with pytest.raises(QwenVlaError, match='render=False'):
        blind.render('ego')


def test_an_unknown_view_is_refused(seeing: TabletopWorld) -> None:
    with pytest.raises(QwenVlaError, match='cam_right_wrist'):
        seeing.render('left')


def test_a_scene_with_two_objects_is_refused(blind: TabletopWorld) -> None:
    scene = sample_scene(0)
    with pytest.raises(QwenVlaError, match='takes 3 objects'):
        blind.reset(0, replace(scene, objects=scene.objects[:2]))
