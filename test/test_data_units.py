"""A data set's numbers in a contract's units, and steps summed up from a chunk's beginning."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('google_crc32c')
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.units import summed
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.rotations import euler_matrix

SHARDS = Path(__file__).parent / 'rlds_own_small_set' / '1.0.0'
TIP = ('dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw')
BRIDGE = {
    'rate_hz': 5,
    'embodiment': 'widowx',
    'horizon': 3,
    'actions': {'action': [*TIP, 'left_finger']},
}


def test_turns_are_composed_about_fixed_axes():
    steps = np.random.default_rng(0).uniform(-0.4, 0.4, (5, 6))
    found, turn = summed(steps), np.eye(3)
    for row, step in zip(found, steps, strict=True):
        turn = euler_matrix(*step[3:]) @ turn
        np.testing.assert_allclose(euler_matrix(*row[3:]), turn, atol=1e-12)
    np.testing.assert_allclose(found[:, :3], steps[:, :3].cumsum(0))
    np.testing.assert_allclose(summed(steps[:1]), steps[:1])


def test_a_public_set_has_the_channels_of_a_contract():
    raw = open_dataset(SHARDS, **BRIDGE)
    changed = open_dataset(
        SHARDS, **BRIDGE, scale={'left_finger': [0.015, 0.022]}, sum_steps=list(TIP)
    )
    assert changed.action_names == Embodiment.load('widowx').action_names('delta_eef')
    for before, after in zip(raw.stream(1), changed.stream(1), strict=True):
        kept = int(before.mask[:, 0].sum())
        wanted = summed(before.actions[:kept, :6])
        np.testing.assert_allclose(after.actions[:kept, :6], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            after.actions[:, 6], 0.015 + 0.022 * before.actions[:, 6], rtol=1e-6
        )
        np.testing.assert_array_equal(after.mask, before.mask)
    assert not hasattr(changed, 'columns'), 'sums belong to chunks, not to tables'


def test_tables_are_scaled_as_well():
    raw = open_dataset(SHARDS, **BRIDGE)
    changed = open_dataset(SHARDS, **BRIDGE, scale={'dy': [1, 2]})
    before, after = raw.columns(0)['action'], changed.columns(0)['action']
    np.testing.assert_allclose(after[:, 1], 1 + 2 * before[:, 1])
    np.testing.assert_array_equal(np.delete(after, 1, 1), np.delete(before, 1, 1))
    assert changed.sample(0, 0).actions[0, 1] == after[0, 1]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'scale': {'left_fingr': [0, 1]}}, "no channel 'left_fingr'; did you mean"),
        ({'scale': {'dx': 2}}, r'scale.dx: 2; write \[offset, factor\]'),
        ({'scale': {'dx': [0, float('inf')]}}, 'scale.dx: '),
        ({'sum_steps': ['dx', 'dy']}, 'sum_steps: 2 channels; name 6 of a tip'),
        ({'sum_steps': [*TIP[:5], 'yaw']}, "no channel 'yaw'"),
        ({'sum_steps': 'dx'}, "sum_steps: 'dx' is not a list"),
    ],
)
def test_what_does_not_fit_is_named(options, words):
    with pytest.raises(QwenVlaError, match=words):
        open_dataset(SHARDS, **BRIDGE, **options)
