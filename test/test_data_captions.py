"""Fine-grained captions: the fields that are told, the pictures of a film, and bad fields."""

import pytest

pytest.importorskip('av')
from lerobot_fixture import film
from talks_fixture import picture, write_json

from qwen_vla_ros.data.captions import DIMENSIONS, FIELDS
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.sample import SampleError

TOLD = {field: f'about {field}' for field in FIELDS} | {'failure_and_recovery': None}


def test_ten_fields_and_the_pictures_of_a_film(tmp_path):
    film(tmp_path / 'a.mp4', [20 * i for i in range(12)])
    path = write_json(tmp_path / 'captions.jsonl', [{'video': 'a.mp4', 'caption': TOLD}])
    sample = open_dataset(path, frames=4).sample(0, 0)
    assert list(sample.images) == ['frame_1', 'frame_2', 'frame_3', 'frame_4']
    greys = [image.mean() for image in sample.images.values()]
    assert greys == pytest.approx([20 * i for i in (1.5, 4.5, 7.5, 10.5)], abs=12)
    assert sample.instruction.endswith('Tell: active actor, target object, initial configuration, '
        'action sequence, contact and approach, trajectory and orientation, body motion, object '
        'interaction, final configuration.')  # fmt: skip
    lines = sample.text.split('\n')
    assert len(lines) == 9
    assert lines[0] == 'Active actor: about active_actor'


def test_dimensions_and_pictures(tmp_path):
    picture(tmp_path / 'a.png', 40)
    caption = {'action_primitive': 'grasp', 'gripper_state': 'closing', 'body_motion': None}
    path = write_json(tmp_path / 'c.json', [{'images': ['a.png'], 'caption': caption}])
    sample = open_dataset(path).sample(0, 0)
    assert sample.text == 'Action primitive: grasp\nGripper state: closing'
    assert list(sample.images) == ['frame_1']
    assert (len(FIELDS), len(DIMENSIONS)) == (10, 11)


@pytest.mark.parametrize(
    ('caption', 'words'),
    [
        ({**TOLD, 'activ_actor': 'x'}, "activ_actor: unknown field; did you mean 'active_actor'"),
        ({'active_actor': 'x'}, 'target_object: the field is missing; write null for nothing'),
        ({**TOLD, 'action_sequence': None}, 'action_sequence: it must be told'),
        ({**TOLD, 'target_object': 3}, 'target_object: a text is expected, not 3'),
        ({'trajectory': 'up'}, 'action_primitive: it must be told'),
    ],
)
def test_a_bad_field_is_named(tmp_path, caption, words):
    picture(tmp_path / 'a.png', 40)
    path = write_json(tmp_path / 'c.json', [{'images': ['a.png'], 'caption': caption}])
    with pytest.raises(SampleError, match=words):
        open_dataset(path).sample(0, 0)


def test_a_bad_film_is_named(tmp_path):
    path = write_json(tmp_path / 'c.json', [{'video': 'a.mp4', 'caption': TOLD}])
    with pytest.raises(SampleError, match='images.frame_1: .*a.mp4: the video cannot be read'):
        open_dataset(path).sample(0, 0)
    film(tmp_path / 'a.mp4', [20] * 12)
    data = (tmp_path / 'a.mp4').read_bytes()
    (tmp_path / 'a.mp4').write_bytes(data[: len(data) // 2])
    with pytest.raises(SampleError, match='images.frame_1: .*a.mp4: the video cannot be read'):
        open_dataset(path).sample(0, 0)
