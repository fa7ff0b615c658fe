"""Walks become waypoints; what does not belong together is told by file and episode."""

import gzip
import itertools
import json
import math
import shutil

import numpy as np
import pytest
from vln_fixture import (
    ACTIONS,
    SENTENCE,
    write_json,
    write_pictures,
    write_stream_vln,
    write_vln_ce,
)

from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError


def expected(actions, frame, turn_deg=15.0, rows=8):
    """Waypoints by plain bookkeeping from the frame on: x forward, y left."""
    x = y = theta = 0.0
    found = []
    for action in [*actions[frame:-1], *[0] * rows][:rows]:
        if action == 1:
            x, y = x + 0.25 * math.cos(theta), y + 0.25 * math.sin(theta)
        elif action in (2, 3):
            theta += math.radians(turn_deg) * (1 if action == 2 else -1)
        found.append([x, y, theta])
    return np.array(found)


def after_each(rows, actions):
    return [*rows[1:], rows[-1]]


def once_each(rows, actions):
    return [rows[0], *(b for a, b in itertools.pairwise(rows) if a != b)]


@pytest.mark.parametrize('recorded', [lambda r, a: r, after_each, once_each, lambda r, a: r[1:]])
@pytest.mark.parametrize(('name', 'turn_deg'), [('train', 15.0), ('train_guide', 30.0)])
def test_waypoints_of_every_frame(tmp_path, recorded, name, turn_deg):
    episodes = open_dataset(write_vln_ce(tmp_path, name, turn_deg, recorded))
    contract = Embodiment.load('mobile_base')
    assert [episodes.frames(e) for e in range(len(episodes))] == [7, 12]
    for number, actions in enumerate(ACTIONS.values()):
        for frame, sample in enumerate(episodes.stream(number)):
            np.testing.assert_allclose(
                sample.actions, expected(actions, frame, turn_deg), atol=1e-6
            )
            assert sample.mask.all()
            assert sample.action_names == contract.action_names()
            assert (sample.embodiment, sample.instruction) == ('mobile_base', SENTENCE)
            assert sample.stamp_ns == frame * 500_000_000
            assert np.all(sample.images['ego'] == 20 * frame)
        assert not sample.actions.any(), 'all waypoints at zero say stop'


def test_every_sentence_of_stream_vln(tmp_path):
    episodes = open_dataset(write_stream_vln(tmp_path), horizon=4)
    assert [episodes.frames(e) for e in range(len(episodes))] == [7, 7, 12, 12]
    assert episodes.sample(1, 0).instruction == f'{SENTENCE} Again.'
    np.testing.assert_allclose(
        episodes.sample(2, 2).actions, expected(ACTIONS['12'], 2, rows=4), atol=1e-6
    )


def test_faster_pictures_are_skipped_in_between(tmp_path):
    episodes = open_dataset(write_stream_vln(tmp_path), rate_hz=6, horizon=2)
    sample = episodes.sample(2, 1)
    wanted = expected(ACTIONS['12'], 1, rows=6)[[2, 5]]
    np.testing.assert_allclose(sample.actions, wanted, atol=1e-6)
    assert sample.stamp_ns == 166666667
    with pytest.raises(QwenVlaError, match='rate_hz: 3 is no multiple of 2.0'):
        open_dataset(tmp_path, rate_hz=3)


def test_an_end_that_is_no_stop_is_masked(tmp_path):
    folder = write_vln_ce(tmp_path)
    edit(folder, 'train_gt', lambda t: t['7'].update(actions=[2, 1, 1, 3, 3, 1]))
    sample = open_dataset(folder).sample(0, 4)
    assert sample.mask[:, 0].tolist() == [True, True, *[False] * 6]


def edit(folder, name, change):
    path = folder / f'{name}.json.gz'
    value = json.loads(gzip.decompress(path.read_bytes()))
    change(value)
    write_json(path, value)


def first(value):
    return value['episodes'][0]


NAN = float('nan')
DAMAGES = {
    'cut': (
        lambda f: (f / 'train.json.gz').write_bytes((f / 'train.json.gz').read_bytes()[:-20]),
        'train.json.gz: cannot be read',
    ),
    'no json': (
        lambda f: (f / 'train.json.gz').write_bytes(gzip.compress(b'{')),
        'train.json.gz: no JSON',
    ),
    'no truth': (
        lambda f: (f / 'train_gt.json.gz').unlink(),
        'vln: no train_gt.json.gz beside it',
    ),
    'no episodes': (lambda f: edit(f, 'train', dict.clear), 'episodes: a list with something'),
    'no sentence': (
        lambda f: edit(f, 'train', lambda v: first(v)['instruction'].update(instruction_text=' ')),
        'episode 7: instruction_text: a text is expected',
    ),
    'no way': (lambda f: edit(f, 'train_gt', lambda v: v.pop('7')), '_gt.json.gz: no episode 7'),
    'no start': (
        lambda f: edit(f, 'train', lambda v: first(v).pop('start_rotation')),
        'episode 7: start_rotation: 4 numbers are expected',
    ),
    'nan': (
        lambda f: edit(f, 'train_gt', lambda v: v['7']['locations'][2].__setitem__(0, NAN)),
        'episode 7: locations: a value is not a number',
    ),
    'action': (
        lambda f: edit(f, 'train_gt', lambda v: v['7']['actions'].__setitem__(2, 9)),
        'episode 7: action 2 is 9',
    ),
    'early stop': (
        lambda f: edit(f, 'train_gt', lambda v: v['7']['actions'].__setitem__(2, 0)),
        'episode 7: action 2 is 0',
    ),
    'other way': (
        lambda f: edit(f, 'train_gt', lambda v: v['7'].update(locations=v['12']['locations'])),
        'they do not belong together',
    ),
    'far': (
        lambda f: edit(f, 'train_gt', lambda v: v['7']['locations'][-1].__setitem__(0, 9)),
        'm long, the agent makes 0.25',
    ),
    'heading': (
        lambda f: edit(f, 'train', lambda v: first(v).update(start_rotation=[0, 1, 0, 0])),
        'degrees beside where turns of 15 degrees look',
    ),
    'no pictures': (lambda f: shutil.rmtree(f / 'frames/7'), 'frames/7: there is no such folder'),
    'a picture': (lambda f: (f / 'frames/7/003.png').unlink(), '6 pictures for 7 steps'),
    'picture cut': (
        lambda f: (f / 'frames/7/000.png').write_bytes(b'\x89PNG'),
        'frame 0: images.ego: ',
    ),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_damage_is_told_in_one_line(tmp_path, name):
    damage, words = DAMAGES[name]
    damage(write_vln_ce(tmp_path))
    with pytest.raises(QwenVlaError) as told:
        open_dataset(tmp_path).sample(0, 0)
    assert words in str(told.value)
    assert '\n' not in str(told.value)


def test_pictures_may_lie_elsewhere(tmp_path):
    folder = write_vln_ce(tmp_path)
    write_pictures(tmp_path / 'rgb' / '7', 7)
    shutil.rmtree(tmp_path / 'frames')
    sample = open_dataset(folder, views={'front': 'rgb/{episode}'}).sample(0, 2)
    assert list(sample.images) == ['front']
    with pytest.raises(QwenVlaError, match='write {episode} where'):
        open_dataset(folder, views={'front': 'rgb'})
