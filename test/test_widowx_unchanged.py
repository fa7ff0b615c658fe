"""What the bundled checkpoint was trained on, by digest: the WidowX's model, scenes, teacher."""

import hashlib

import numpy as np

from qwen_vla_ros.sim import mjcf
from qwen_vla_ros.sim.expert import expert_chunk
from qwen_vla_ros.sim.scene import sample_scene


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def test_the_model_is_the_one_of_the_bundled_checkpoint():
    assert digest(mjcf.tabletop_xml(0.002).encode()) == '96a8514b7c960631'


def test_scenes_and_teacher_are_those_of_the_bundled_checkpoint():
    found = []
    for seed in (0, 7, 1_000_123):
        scene = sample_scene(seed)
        room = scene.surroundings
        rows = expert_chunk(np.array(scene.posture), np.array(scene.objects[0].position))
        found += [*scene.posture, *room.camera_shift, *room.camera_turn, *room.table_rgb]
        found += [*rows[:, :6].mean(0), *rows[-1]]
    rounded = np.round(np.array(found), 5) + 0.0  # other numpy builds differ in the last digits
    assert digest(rounded.astype('<f8').tobytes()) == 'e4fd6b26ef36b1b5'
