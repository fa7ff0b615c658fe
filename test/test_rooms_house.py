"""Houses by seed: whole, passable, named, and the same every time; the free floor and its ways."""

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.rooms.free_floor import CELL, GAP, FreeFloor, resampled
from qwen_vla_ros.sim.rooms.furniture import COLOURS, KINDS
from qwen_vla_ros.sim.rooms.house import (
    ROOMS,
    Box,
    House,
    Piece,
    Room,
    clearance,
    sample_house,
)
from qwen_vla_ros.sim.rooms.tasks import (
    NEAR,
    Goal,
    Task,
    goal_region,
    parse_goal,
    sample_task,
)

HOUSES = [sample_house(seed) for seed in range(12)]
EMPTY = House(0, 4.0, 3.0, (Room('office', Box(0, 0, 4.0, 3.0)),), (), ())


def test_a_seed_gives_the_same_house_and_another_seed_another():
    assert sample_house(4) == sample_house(4)
    assert len({house.pieces for house in HOUSES}) == len(HOUSES)
    with pytest.raises(QwenVlaError, match='seed -1'):
        sample_house(-1)


@pytest.mark.parametrize('house', HOUSES, ids=lambda house: str(house.seed))
def test_rooms_and_pieces_have_names_of_their_own_and_stand_apart(house):
    assert len(house.rooms) in (4, 6)
    assert len({room.name for room in house.rooms}) == len(house.rooms)
    assert len({piece.name for piece in house.pieces}) == len(house.pieces)
    boxes = [piece.box for piece in house.pieces]
    for index, (piece, box) in enumerate(zip(house.pieces, boxes, strict=True)):
        inside = house.room(piece.room).inside
        assert inside.contains(box.x0, box.y0)
        assert inside.contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in boxes[:index])
        assert not any(box.overlaps(doorway.box) for doorway in house.doorways)


@pytest.mark.parametrize('house', HOUSES, ids=lambda house: str(house.seed))
def test_every_room_and_every_piece_can_be_reached(house):
    floor = FreeFloor(house)
    start = goal_region(floor, Goal(house.rooms[0].name))
    distances = floor.distances(start)
    for goal in [Goal(room.name) for room in house.rooms]:
        assert np.isfinite(distances[goal_region(floor, goal)]).any(), goal
    for piece in house.pieces:
        assert np.isfinite(distances[goal_region(floor, Goal(piece.room, piece.name))]).any()


def test_furniture_stays_in_its_box_and_has_known_colours():
    for name, kind in KINDS.items():
        assert set(kind.colours) <= set(COLOURS), name
        for shape, size, place, _ in kind.parts:
            half = {
                'box': size,
                'egg': size,
                'ball': size * 3,
                'cylinder': (size[0], size[0], size[-1]),
            }[shape]
            reach = np.abs(place)[:2] + half[:2]
            assert (reach <= np.array([kind.width, kind.depth]) / 2 + 0.011).all(), (name, place)
            assert place[2] + half[2] <= kind.height + 0.011, (name, place)
            assert place[2] - half[2] >= -1e-9, (name, place)
    assert {kind for must, may in ROOMS.values() for kind in (*must, *may)} == set(KINDS)


def test_clearance_is_the_distance_to_walls_and_pieces():
    piece = Piece('stool', 'red', 2.0, 1.5, 0.0, 'office')
    house = House(0, 4.0, 3.0, EMPTY.rooms, (), (piece,))
    points = np.array([[0.56, 1.5], [3.0, 1.5], [2.0, 1.5], [2.18 + 0.3, 1.68 + 0.4]])
    np.testing.assert_allclose(clearance(house, *points.T), [0.5, 0.82, 0.0, 0.5])


def test_the_distance_in_an_empty_room_is_the_straight_one():
    floor = FreeFloor(EMPTY)
    region = np.zeros_like(floor.free)
    region[15, 10] = True
    distances = floor.distances(region)
    straight = np.hypot(floor.x - floor.x[15, 10], floor.y - floor.y[15, 10])
    inside = floor.free
    assert (distances[inside] >= straight[inside] - 1e-9).all()
    assert (distances[inside] <= 1.028 * straight[inside] + 1e-9).all()
    assert np.isinf(distances[~inside]).all()
    assert floor.at(distances, -5.0, 1.0) == np.inf


def test_a_way_goes_round_a_wall_and_is_pulled_straight():
    wall = Piece('sofa', 'red', 2.0, 0.9, np.pi / 2, 'office')  # 0.84 x 1.8 in the middle
    house = House(0, 4.0, 3.0, EMPTY.rooms, (), (wall,))
    floor = FreeFloor(house)
    region = np.zeros_like(floor.free)
    region[5, 34] = True
    distances = floor.distances(region)
    path = floor.path(distances, 0.55, 0.55)
    pulled = floor.pulled(path)
    assert len(pulled) < len(path)
    corner = [(2.0 - 0.42 - GAP * 0.7, 1.8 + GAP * 0.7), (2.0 + 0.42 + GAP * 0.7, 1.8 + GAP * 0.7)]
    ideal = resampled([(0.55, 0.55), *corner, (3.45, 0.55)])
    length = np.linalg.norm(np.diff(pulled, axis=0), axis=1).sum()
    wanted = np.linalg.norm(np.diff(ideal, axis=0), axis=1).sum()
    assert length == pytest.approx(wanted, abs=0.12)
    assert distances[5, 5] == pytest.approx(wanted, rel=0.05)


def test_resampled_points_lie_so_far_apart():
    points = resampled([(0, 0), (1, 0), (1, 0.6)], 0.5)
    np.testing.assert_allclose(points, [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 0.6]])
    np.testing.assert_allclose(resampled([(1, 2), (1, 2)]), [[1, 2]])


def test_sentences_name_one_goal_or_none():
    pieces = (
        Piece('chair', 'red', 1.0, 1.0, 0.0, 'office'),
        Piece('chair', 'blue', 2.0, 1.0, 0.0, 'office'),
        Piece('desk', 'white', 3.0, 1.0, 0.0, 'office'),
    )
    house = House(0, 4.0, 3.0, EMPTY.rooms, (), pieces)
    assert parse_goal('Go to the red chair!', house) == Goal('office', 'red chair')
    assert parse_goal('go to the office and stop at the desk', house) == Goal(
        'office', 'white desk'
    )
    assert parse_goal('go to the office', house) == Goal('office')
    assert parse_goal('go to the chair', house) is None  # two of them
    assert parse_goal('go to the green chair', house) is None  # none is green
    assert parse_goal('go to the kitchen', house) is None
    assert parse_goal('sing a song', house) is None


@pytest.mark.parametrize('seed', range(12))
def test_a_task_says_what_it_means_and_can_be_done(seed):
    task = sample_task(seed)
    assert task.instruction == sample_task(seed).instruction
    assert parse_goal(task.instruction, task.house) == task.goal
    assert 2.0 <= task.length <= 14.0
    assert task.reached(*task.shortest[-1])
    assert not task.reached(*task.start[:2])
    assert task.length <= task.distance(*task.start[:2]) + 0.15
    np.testing.assert_allclose(task.shortest[0], task.start[:2])


def test_beside_a_piece_is_within_the_radius_and_in_its_room():
    house = next(house for house in HOUSES if house.pieces)
    piece = house.pieces[0]
    start = next(
        (float(x), float(y), 0.0)
        for x, y in zip(
            FreeFloor(house).x[FreeFloor(house).free],
            FreeFloor(house).y[FreeFloor(house).free],
            strict=True,
        )
    )
    task = Task(house, Goal(piece.room, piece.name), start, 'go')
    region = np.argwhere(task.region)
    floor = task.floor
    for j, i in region[:: max(1, len(region) // 20)]:
        x, y = float(floor.x[j, i]), float(floor.y[j, i])
        assert task.reached(x, y)
        assert task.distance(x, y) == 0.0
    box = piece.box
    assert not task.reached(box.x1 + NEAR + CELL, box.y0)


def test_a_goal_that_the_house_lacks_is_refused_with_those_it_has():
    with pytest.raises(QwenVlaError, match=r"'golden throne' names no goal; there are .*kitchen"):
        sample_task(0, 'golden throne')
    with pytest.raises(QwenVlaError, match='no room'):
        HOUSES[0].room('cellar')
    with pytest.raises(QwenVlaError, match='no '):
        HOUSES[0].piece('golden throne')
