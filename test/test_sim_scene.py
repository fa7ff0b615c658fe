"""Seeded scenes and their sentences."""

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm, scene


def test_a_seed_always_gives_the_same_scene() -> None:
    assert scene.sample_scene(17) == scene.sample_scene(17)
    assert scene.sample_scene(17) != scene.sample_scene(18)


@pytest.mark.parametrize('seed', range(0, 2_000, 97))
def test_objects_keep_the_rules_of_the_table(seed: int) -> None:
    objects = scene.sample_scene(seed).objects
    places = np.array([item.position for item in objects])
    assert len({item.colour for item in objects}) == 3
    assert (places[:, :2] >= scene.AREA_LOWER).all() and (places[:, :2] <= scene.AREA_UPPER).all()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(places[i] - places[j]) >= scene.LEAST_DISTANCE
    assert [item.position[2] for item in objects] == [scene.SHAPES[o.shape] / 2 for o in objects]


def test_the_first_posture_is_inside_the_joint_limits_and_clear_of_the_objects() -> None:
    for seed in range(100):
        posture = np.array(scene.sample_scene(seed).posture)
        assert (posture >= arm.LOWER).all() and (posture <= arm.UPPER).all()
        assert arm.forward(posture)[0][2] > 0.15


def test_every_template_names_the_object_and_is_read_back() -> None:
    names = ('red block', 'green ball', 'blue can')
    rng = np.random.default_rng(0)
    said = {scene.instruction_for('green ball', rng) for _ in range(100)}
    assert len(said) == len(scene.TEMPLATES)
    assert {scene.parse_target(sentence, names) for sentence in said} == {'green ball'}


@pytest.mark.parametrize(
    ('sentence', 'target'),
    [
        ('Please, tap the RED BLOCK!', 'red block'),
        ('touch the blue thing', 'blue can'),
        ('touch the red block or the green ball', None),
        ('hold still', None),
        ('touch the reddish block', None),
    ],
)
def test_only_a_sentence_about_one_object_has_a_target(sentence: str, target: str | None) -> None:
    assert scene.parse_target(sentence, ('red block', 'green ball', 'blue can')) == target


def test_an_unknown_name_is_answered_with_the_names_there_are() -> None:
    table = scene.sample_scene(3)
    with pytest.raises(QwenVlaError, match=table.names[0]):
        table.named('pink cube')


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(QwenVlaError, match='seed -1'):
        scene.sample_scene(-1)
