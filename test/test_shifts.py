"""Each shift changes its own part of a world, beyond training, and nothing else."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.episodes import task_of_seed
from qwen_vla_ros.evaluate.shifts import (
    SHIFTS,
    aloha_task,
    check_shifts,
    is_lost,
    rooms_task,
    tabletop_task,
)
from qwen_vla_ros.sim.aloha import scene as aloha
from qwen_vla_ros.sim.aloha.grading import insertion_depth
from qwen_vla_ros.sim.aloha.world import AlohaWorld
from qwen_vla_ros.sim.rooms.tasks import sample_task
from qwen_vla_ros.sim.scene import (
    AREA_LOWER,
    AREA_UPPER,
    COLOURS,
    SHAPES,
    TEMPLATES,
    sample_scene,
)
from qwen_vla_ros.sim.world import TabletopWorld

SEEDS = range(30)


def changed(shift, seed):
    """Return the names of what differs from the seed's own world."""
    task, plain, scene = tabletop_task(shift, seed), task_of_seed(seed), sample_scene(seed)
    parts = {
        'target': task.target != plain.target,
        'instruction': task.instruction != plain.instruction,
        'objects': task.scene.objects != scene.objects,
        'surroundings': task.scene.surroundings != scene.surroundings,
        'posture': task.scene.posture != scene.posture,
        'further': bool(task.further),
    }
    return {name for name, differs in parts.items() if differs}


@pytest.mark.parametrize(
    ('shift', 'part'),
    [
        ('none', set()),
        ('colour', {'objects'}),
        ('instance', {'objects'}),
        ('position', {'objects'}),
        ('background', {'surroundings'}),
        ('lighting', {'surroundings'}),
        ('camera', {'surroundings'}),
        ('instruction', {'instruction'}),
        ('moving', {'further'}),
    ],
)
def test_a_shift_changes_one_thing_and_always_the_same(shift, part):
    for seed in SEEDS:
        assert changed(shift, seed) == part
        assert tabletop_task(shift, seed) == tabletop_task(shift, seed)


def test_colours_keep_their_names_and_leave_their_shade():
    for seed in SEEDS:
        for item, plain in zip(
            tabletop_task('colour', seed).scene.objects, sample_scene(seed).objects, strict=True
        ):
            assert replace(item, rgb=None) == plain
            assert np.abs(np.array(item.rgb) - COLOURS[item.colour]).max() > 0.1
            assert min(item.rgb) >= 0 and max(item.rgb) <= 1


def test_instances_are_smaller_or_larger_and_stand_on_the_table():
    for seed in SEEDS:
        for item in tabletop_task('instance', seed).scene.objects:
            assert 0.7 <= item.scale <= 0.8 or 1.25 <= item.scale <= 1.4
            assert item.position[2] == pytest.approx(item.scale * SHAPES[item.shape] / 2)


def test_positions_lie_beyond_the_area_of_training():
    for seed in SEEDS:
        for item in tabletop_task('position', seed).scene.objects:
            assert item.position[0] <= AREA_LOWER[0] or item.position[0] >= AREA_UPPER[0]


def test_surroundings_lie_beyond_those_of_training():
    for seed in SEEDS:
        room = tabletop_task('background', seed).scene.surroundings
        assert np.ptp(room.table_rgb) > 0.15  # training: grey within 0.1
        room = tabletop_task('lighting', seed).scene.surroundings
        assert not 0.45 <= room.light <= 0.7
        room = tabletop_task('camera', seed).scene.surroundings
        assert 0.02 <= np.linalg.norm(room.camera_shift) <= 0.04
        assert np.radians(3) <= np.linalg.norm(room.camera_turn) <= np.radians(5)


def test_sentences_are_none_of_training_s_and_name_the_target():
    for seed in SEEDS:
        task = tabletop_task('instruction', seed)
        assert task.target in task.instruction
        assert task.instruction not in [t.format(name=task.target) for t in TEMPLATES]


def test_a_moving_target_glides_at_its_speed():
    world = TabletopWorld(render=False)
    task = tabletop_task('moving', 3)
    velocity = np.array(task.further['drift'])
    assert 0.02 <= np.linalg.norm(velocity) <= 0.05
    world.reset(3, task.scene)
    before = world.object_positions()
    world.drift_object(task.target, velocity)
    world.step(1.0)
    after = world.object_positions()
    np.testing.assert_allclose((after[task.target] - before[task.target])[:2], velocity, atol=2e-3)
    others = [name for name in world.scene.names if name != task.target]
    assert all(np.abs(after[name] - before[name]).max() < 1e-3 for name in others)
    world.reset(3)
    assert np.abs(world.object_positions()[task.target] - before[task.target]).max() < 1e-3
    world.step(0.5)
    assert np.abs(world.object_positions()[task.target] - before[task.target]).max() < 1e-3
    world.close()


def test_a_target_beyond_the_table_is_lost():
    assert not is_lost(np.array([0.3, 0.0, 0.02]))
    assert is_lost(np.array([0.3, 0.31, 0.02])) and is_lost(np.array([0.51, 0.0, 0.02]))


@pytest.mark.parametrize('task', aloha.TASKS)
def test_aloha_s_shifts_change_one_thing(task):
    for shift in SHIFTS['aloha']:
        found, scene = aloha_task(task, shift, 4), aloha.sample_scene(4, task)
        plain = aloha_task(task, 'none', 4)
        assert found.target == plain.target and found == aloha_task(task, shift, 4)
        differs = {
            'objects': found.scene.objects != scene.objects,
            'instruction': found.instruction != plain.instruction,
        }
        room = found.scene.surroundings != scene.surroundings
        assert room == (shift in ('background', 'lighting', 'camera'))
        assert [name for name, is_so in differs.items() if is_so] == (
            {
                **{key: ['objects'] for key in ('colour', 'instance', 'position')},
                'instruction': ['instruction'],
            }
        ).get(shift, [])
    words = aloha_task(task, 'instruction', 4).instruction
    assert plain.target in words and '{' not in words


def test_rooms_are_named_in_other_words():
    own, other = sample_task(2), rooms_task('instruction', 2)
    assert rooms_task('none', 2).instruction == own.instruction
    assert other.instruction != own.instruction and own.goal.name in other.instruction


def test_aloha_s_objects_move_beyond_those_of_training():
    for seed in SEEDS:
        for item in aloha_task(aloha.TRANSFER, 'position', seed).scene.objects:
            x, y, _ = item.position
            assert abs(y) > 0.16 or abs(x) > 0.22
        places = [o.position for o in aloha_task(aloha.TRANSFER, 'position', seed).scene.objects]
        gaps = [np.linalg.norm(np.subtract(a, b)) for a, b in combinations(places, 2)]
        assert min(gaps) > aloha.LEAST_DISTANCE
        for item in aloha_task(aloha.INSERTION, 'position', seed).scene.objects:
            assert item.shape == 'cube' or 0.16 <= abs(item.position[0]) <= 0.18


@pytest.mark.parametrize('task', aloha.TASKS)
def test_aloha_s_objects_have_another_size_and_still_fit(task):
    for seed in SEEDS:
        objects = aloha_task(task, 'instance', seed).scene.objects
        for item, plain in zip(objects, aloha.sample_scene(seed, task).objects, strict=True):
            assert 0.75 <= item.scale <= 0.85 or 1.15 <= item.scale <= 1.25
            place = (*plain.position[:2], item.scale * plain.position[2])
            assert replace(item, scale=1.0, position=plain.position) == plain
            assert item.position == pytest.approx(place)
        assert task == aloha.TRANSFER or objects[0].scale == objects[1].scale


def test_a_scaled_cube_rests_at_its_own_height_and_the_next_scene_has_the_usual_one():
    world = AlohaWorld(render=False)
    scene = aloha_task(aloha.TRANSFER, 'instance', 1).scene
    for wanted, given in ((scene, scene), (aloha.sample_scene(1), None)):
        world.reset(1, given)
        world.step(0.3)
        poses = world.object_poses()
        for item in wanted.objects:
            assert poses[item.name][2, 3] == pytest.approx(item.position[2], abs=1e-3)
    world.close()


def test_a_scaled_peg_is_as_deep_in_its_socket_as_it_is():
    socket, peg = np.eye(4), np.eye(4)
    peg[0, 3] = 0.1
    usual = insertion_depth(peg, socket)
    assert usual == pytest.approx(0.01)
    peg[0, 3] = 0.08
    assert insertion_depth(peg, socket, 0.8) == pytest.approx(0.8 * usual)


def test_furniture_has_other_sizes_and_leaves_every_way_open():
    for seed in range(6):
        plain, found = sample_task(seed), rooms_task('instance', seed).further['task']
        assert (found.goal, found.start, found.instruction) == (
            plain.goal, plain.start, plain.instruction,
        )  # fmt: skip
        assert (found.floor.free >= plain.floor.free).all()
        for piece, usual in zip(found.house.pieces, plain.house.pieces, strict=True):
            across, up = piece.scale
            assert 0.75 <= across <= 0.88
            assert 0.75 <= up <= 0.85 or 1.12 <= up <= 1.22
            assert piece.form.width == pytest.approx(across * usual.form.width)
            assert piece.form.height < 2.4
            assert replace(piece, scale=(1.0, 1.0)) == usual


def test_a_house_looks_other_and_is_the_same():
    from qwen_vla_ros.sim.rooms.environment import RoomsEnv

    env = RoomsEnv()
    plain, _ = env.reset(seed=3)
    pictures = {}
    for shift in ('none', 'background', 'lighting', 'camera'):
        task = rooms_task(shift, 3)
        found, _ = env.reset(seed=3, options=task.further)
        assert (
            env.instruction == task.instruction and env.world.house == task.further['task'].house
        )
        pictures[shift] = found['images']['ego'].astype(float)
    env.close()
    np.testing.assert_array_equal(pictures['none'], plain['images']['ego'])
    light = rooms_task('lighting', 3).further['look'].light
    assert (pictures['lighting'].mean() > pictures['none'].mean()) == (light > 1.0)
    for shift in ('background', 'lighting', 'camera'):
        assert np.abs(pictures[shift] - pictures['none']).mean() > 2.0
    assert 'look' not in rooms_task('none', 3).further


def test_shifts_are_chosen_by_name():
    assert check_shifts('mobile_base', ['all'])[-1] == 'instruction'
    assert check_shifts('widowx', ['camera']) == ['camera']
    with pytest.raises(QwenVlaError, match='mobile_base has no moving; choose from none'):
        check_shifts('mobile_base', ['moving'])
    with pytest.raises(QwenVlaError, match='no simulated franka; choose from widowx'):
        check_shifts('franka', ['all'])
