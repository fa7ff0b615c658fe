"""Questions: what is asked of a picture, and what counts as right."""

import numpy as np
import pytest

from qwen_vla_ros.sim.rooms.house import sample_house
from qwen_vla_ros.sim.rooms.sight import Part, Seen
from qwen_vla_ros.sim.scene import Scene, SceneObject, Surroundings
from qwen_vla_ros.sim.world import TabletopWorld
from qwen_vla_ros.train.bundle.frames import HELD_OUT
from qwen_vla_ros.train.bundle.questions import (
    HOUSES,
    QuestionsMaker,
    accuracy,
    kind_of,
    room_questions,
    score,
    table_questions,
)


@pytest.fixture(scope='module')
def world():
    made = TabletopWorld(render=False)
    yield made
    made.close()


def _asked(world, objects):
    posture = world.reset(0).posture
    world.reset(0, Scene(0, objects, Surroundings(), posture))
    return [
        pair for seed in range(40) for pair in table_questions(world, np.random.default_rng(seed))
    ]


def test_the_answers_are_what_lies_on_the_table(world):
    things = (
        SceneObject('red', 'block', (0.38, 0.15, 0.0225), 0.0),
        SceneObject('green', 'ball', (0.38, 0.0, 0.0225), 0.0),
        SceneObject('blue', 'block', (0.38, -0.15, 0.0225), 0.0),
    )
    asked = dict(_asked(world, things))
    # The camera looks at the robot: y to the left of base_link is on the right of the picture.
    assert asked['What is the left-most thing?'] == 'blue block'
    assert asked['What is the right-most thing?'] == 'red block'
    assert asked['Where is the blue block?'] == 'left'
    assert asked['Where is the green ball?'] == 'middle'
    assert asked['Where is the red block?'] == 'right'
    assert asked['What colour is the ball?'] == 'green'
    assert 'What colour is the block?' not in asked
    counts = {'block': '2', 'ball': '1', 'can': '0'}
    for shape, count in counts.items():
        assert asked[f'How many {shape}s are there?'] == count
    names = {item.name for item in things}
    for question, answer in asked.items():
        if question.startswith('Is there'):
            name = question.removesuffix('?').split(' ', 3)[3]
            assert answer == ('yes' if name in names else 'no')


def test_a_point_is_where_the_thing_is_drawn(world):
    things = tuple(
        SceneObject(colour, 'ball', (0.35, y, 0.0225), 0.0)
        for colour, y in (('red', 0.15), ('green', 0.0), ('blue', -0.15))
    )
    asked = dict(_asked(world, things))
    pixel = world.project('ego', np.array([[0.35, 0.15, 0.0225]]), (480, 640))[0][0]
    u, v = np.round(1000 * pixel / (640, 480)).astype(int)
    assert asked['Point to the red ball.'] == f'{{"point_2d": [{u}, {v}]}}'


def test_a_thing_behind_another_is_not_asked_for(world):
    things = (
        SceneObject('red', 'ball', (0.20, 0.0, 0.0225), 0.0),
        SceneObject('green', 'can', (0.24, 0.0, 0.025), 0.0, scale=2.0),
        SceneObject('blue', 'can', (0.30, 0.15, 0.025), 0.0),
    )
    asked = dict(_asked(world, things))
    assert 'Where is the red ball?' not in asked
    assert not any(question.startswith('How many') for question in asked)
    assert 'Point to the blue can.' in asked


def test_rooms_and_furniture_are_asked_by_what_is_seen():
    house = sample_house(5)
    piece, other = house.pieces[0], house.pieces[-1]
    seen = Seen(
        {piece.name: Part(0.3, (0.2, 0.5)), other.name: Part(0.01, (0.9, 0.5))},
        {piece.room: Part(0.6, (0.5, 0.8))},
    )
    asked = dict(
        pair
        for seed in range(9)
        for pair in room_questions(house, seen, np.random.default_rng(seed))
    )
    assert asked['Which room do you see?'] == piece.room
    assert asked['Which furniture is the largest?'] == piece.name
    assert asked[f'Where is the {piece.name}?'] == 'left'
    assert f'Where is the {other.name}?' not in asked
    presence = {q: a for q, a in asked.items() if q.startswith('Do you see')}
    assert set(presence.values()) == {'yes', 'no'}
    assert all((a == 'yes') == q.endswith(f' {piece.kind}?') for q, a in presence.items())


def test_an_episode_is_the_same_again_and_every_question_has_a_kind():
    maker = QuestionsMaker({'ego': (96, 128)})
    table, again = maker.episode(HELD_OUT + 1), maker.episode(HELD_OUT + 1)
    assert HELD_OUT % HOUSES == 0
    for one, other in zip(table, again, strict=True):
        np.testing.assert_array_equal(one.images['ego'], other.images['ego'])
        assert [t.instruction for t in one.taught] == [t.instruction for t in other.taught]
        assert all(kind_of(t.instruction) and t.text for t in one.taught)
        assert one.images['ego'].shape == (96, 128, 3)
        assert {t.actions.shape for t in one.taught} == {(0, 0)}


@pytest.mark.parametrize(
    ('question', 'answer', 'given', 'right'),
    [
        ('Is there a red ball?', 'yes', ' Yes', True),
        ('Is there a red ball?', 'yes', 'yes, there is', False),
        ('Point to the red ball.', '{"point_2d": [500, 300]}', '{"point_2d": [530, 340]}', True),
        ('Point to the red ball.', '{"point_2d": [500, 300]}', '{"point_2d": [500, 370]}', False),
        ('Point to the red ball.', '{"point_2d": [500, 300]}', '[500, 300', False),
        ('Point to the red ball.', '{"point_2d": [500, 300]}', '{"point_2d": [500]}', False),
    ],
)
def test_what_counts_as_right(question, answer, given, right):
    assert score(question, answer, given) is right


def test_accuracy_stands_beside_the_most_frequent_answer():
    question = 'Is there a red ball?'
    rows = [(question, 'yes', 'yes'), (question, 'yes', 'no'), (question, 'no', 'no')]
    found = accuracy([*rows, ('Where is the can?', 'left', 'left')])
    assert (found['presence'].right, found['presence'].asked) == (2, 3)
    assert found['presence'].chance == pytest.approx(2 / 3)
    assert found['side'].right == 1
