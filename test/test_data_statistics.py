"""Quantiles in one pass: near the exact ones, whatever the order, and told by hash."""

from dataclasses import replace

import numpy as np
import pytest

from qwen_vla_ros.data.statistics import measure
from qwen_vla_ros.errors import QwenVlaError

RNG = np.random.default_rng(0)
SCALES = np.array([1e-3, 1.0, 700.0])
EPISODES = [RNG.normal(0.3, 1.0, (400, 3)) * SCALES for _ in range(20)]
NAMES = ('dx', 'waist', 'height')


def test_quantiles_are_those_of_all_rows():
    found = measure('set', 'stub', NAMES, EPISODES)
    rows = np.concatenate(EPISODES)
    bin_width = 4 * np.abs(rows).max(0) / 2**16
    for share, values in ((0.01, found.q01), (0.99, found.q99)):
        exact = np.quantile(rows, share, axis=0, method='lower')
        assert (np.abs(np.array(values) - exact) <= bin_width).all()
    assert found.rows == 8000


def test_the_order_of_episodes_does_not_matter():
    found = measure('set', 'stub', NAMES, EPISODES)
    assert measure('set', 'stub', NAMES, EPISODES[::-1]) == found
    assert measure('set', 'stub', NAMES, [np.concatenate(EPISODES)]) == found


def test_the_hash_tells_numbers_names_and_robot_but_not_the_folder():
    found = measure('set', 'stub', NAMES, EPISODES)
    assert replace(found, source='copy').fingerprint() == found.fingerprint()
    for changed in (
        replace(found, embodiment='other'),
        replace(found, names=NAMES[::-1]),
        replace(found, q01=(0.0, 0.0, 0.0)),
    ):
        assert changed.fingerprint() != found.fingerprint()
    assert found.as_dict()['sha256'] == found.fingerprint()


def test_they_normalise_and_restore():
    quantiles = measure('set', 'stub', NAMES, EPISODES).quantiles()
    row = EPISODES[0][:1]
    np.testing.assert_allclose(quantiles.restore(quantiles.normalise(row, False)), row, rtol=1e-4)


def test_what_is_no_number_is_named():
    bad = EPISODES[1].copy()
    bad[7, 1] = np.nan
    with pytest.raises(QwenVlaError, match='set: episode 1: waist: row 7 is nan'):
        measure('set', 'stub', NAMES, [EPISODES[0], bad])
    with pytest.raises(QwenVlaError, match='no row was counted'):
        measure('set', 'stub', NAMES, [])


def test_a_channel_that_never_moves_is_refused_by_name():
    still = np.tile([0.0, 1.0, 2.0], (50, 1)) + RNG.normal(size=(50, 3)) * [1, 0, 1]
    with pytest.raises(QwenVlaError, match='waist: q01'):
        measure('set', 'stub', NAMES, [still]).quantiles()
