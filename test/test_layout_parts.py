"""The parts of a layout, and the one chunk that tells what they execute."""

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.nodes.layout_parts import whole_chunk
from qwen_vla_ros.types import ActionChunk

(BASE,) = Embodiment.load('mobile_base').action_groups()


def made(names, value):
    rows = np.full((3, len(names)), value, np.float32)
    return ActionChunk(rows, tuple(names), 5, 0.1)


def test_an_arm_and_a_base_are_told_in_one_chunk():
    chunk = made(('waist', 'dx', 'dy', 'dtheta'), 1.0)
    chunk.actions[:, 2] = 7.0
    whole = whole_chunk(made(('waist',), 2.0), chunk, (BASE,))
    assert whole.names == ('waist', 'dx', 'dy', 'dtheta')
    np.testing.assert_array_equal(whole.actions[0], [2.0, 1.0, 7.0, 1.0])
    assert (whole.start_ns, whole.step_s) == (5, 0.1)


def test_one_part_alone_is_told_as_it_is():
    joints, chunk = made(('waist',), 2.0), made(('waist',), 1.0)
    assert whole_chunk(joints, chunk, ()) is joints
    assert whole_chunk(None, chunk, (BASE,)) is chunk
