"""LeRobot data sets of both layouts, and one clear message for each damage."""

import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

pytest.importorskip('pyarrow')
pytest.importorskip('av')
from lerobot_fixture import FPS, KEY, LENGTHS, TASKS, grey, rows, save, write_v2, write_v3

from qwen_vla_ros.data.lerobot import LeRobotEpisodes
from qwen_vla_ros.data.lerobot_meta import read_table
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.errors import QwenVlaError

DATA = 'data/chunk-000/episode_000001.parquet'


@pytest.fixture(params=[write_v3, write_v2], ids=['v3.0', 'v2.1'])
def folder(request, tmp_path):
    return request.param(tmp_path / 'set')


def test_every_frame_of_every_episode(folder):
    episodes = LeRobotEpisodes(folder, 3)
    assert [episodes.frames(e) for e in range(len(episodes))] == list(LENGTHS)
    for episode, count in enumerate(LENGTHS):
        streamed = list(episodes.stream(episode))
        assert len(streamed) == count
        for frame in reversed(range(count)):
            found = episodes.sample(episode, frame)
            np.testing.assert_array_equal(found.images['top'], streamed[frame].images['top'])
            assert abs(int(found.images['top'].mean()) - grey(episode, frame)) <= 2
            assert found.instruction == TASKS[episode]
            assert found.action_names == found.state_names == ('waist', 'elbow')
            assert found.state.tolist() == [10 * episode + frame + 0.5, -10 * episode - frame]
            wanted = [10.0 * episode + f for f in range(frame, min(frame + 3, count))]
            assert found.actions[found.mask[:, 0], 0].tolist() == wanted
            assert found.stamp_ns == round(frame / FPS * 1e9)


def test_a_view_is_bound_by_name(folder):
    found = LeRobotEpisodes(folder, 3, {'ego': KEY}).sample(0, 0)
    assert list(found.images) == ['ego']
    with pytest.raises(QwenVlaError, match=f"view ego: no video 'top'; it has {KEY}"):
        LeRobotEpisodes(folder, 3, {'ego': 'top'})


def edit(folder, **changed):
    path = folder / 'meta' / 'info.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def without(key):
    columns = rows(1)
    del columns[key]
    return columns


def shorten(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


NAN = [[0.0, 0.0], [0.0, float('nan')], [0.0, 0.0], [0.0, 0.0]]
HOLE = [None, *rows(1)['action'][1:]]
FILM = f'videos/chunk-000/{KEY}/episode_000001.mp4'
DAMAGES = {
    'version': (lambda f: edit(f, codebase_version='v1.6'), "codebase_version 'v1.6'; v3.0 and"),
    'no info': (lambda f: (f / 'meta/info.json').unlink(), 'info.json: No such file'),
    'info cut': (lambda f: shorten(f / 'meta/info.json'), 'no JSON object with a codebase'),
    'wrong fps': (lambda f: edit(f, fps=30), 'episode 1, frame 1: timestamp: 0.1000 s after'),
    'fps zero': (lambda f: edit(f, fps=0), 'fps must be positive'),
    'no tasks': (lambda f: (f / 'meta/tasks.jsonl').unlink(), 'tasks.jsonl: No such file'),
    'tasks cut': (lambda f: shorten(f / 'meta/tasks.jsonl'), 'meta: incomplete or damaged'),
    'column': (lambda f: save(f / DATA, without('action')), "no column 'action'; it has"),
    'hole': (lambda f: save(f / DATA, rows(1, action=HOLE)), "column 'action' has 1 empty"),
    'nan': (lambda f: save(f / DATA, rows(1, action=NAN)), 'actions.elbow: row 1 is nan'),
    'task': (lambda f: save(f / DATA, rows(1, task_index=[7] * 4)), 'task_index 7 is not in'),
    'rows': (
        lambda f: save(f / DATA, {k: v[:2] for k, v in rows(1).items()}),
        '2 rows, its meta data say 4',
    ),
    'parquet cut': (lambda f: shorten(f / DATA), 'episode_000001.parquet: cannot be read'),
    'no video': (lambda f: (f / FILM).unlink(), 'mp4: the video cannot be read'),
    'video cut': (lambda f: shorten(f / FILM), 'mp4: the video cannot be read'),
}


OF_THE_SET = ('version', 'no info', 'info cut', 'wrong fps', 'fps zero', 'no tasks', 'tasks cut')


@pytest.mark.parametrize('name', DAMAGES)
def test_damage_is_told_in_one_line_and_other_episodes_are_read(tmp_path, name):
    damage, words = DAMAGES[name]
    folder = write_v2(tmp_path / 'set')
    damage(folder)
    with pytest.raises(QwenVlaError) as told:
        LeRobotEpisodes(folder, 3).sample(1, 0)
    assert words in str(told.value)
    assert '\n' not in str(told.value)
    if name not in OF_THE_SET:
        assert len(list(LeRobotEpisodes(folder, 3).stream(0))) == LENGTHS[0]


def test_an_episode_that_is_not_there(folder):
    with pytest.raises(QwenVlaError, match='episode 2: there are 2'):
        LeRobotEpisodes(folder, 3).sample(2, 0)
    with pytest.raises(QwenVlaError, match='episode 0, frame 6: frame: the episode has 6'):
        LeRobotEpisodes(folder, 3).sample(0, 6)


def without_actions(folder):
    """Take the actions away."""
    path = folder / 'meta/info.json'
    told = json.loads(path.read_text())
    del told['features']['action']
    path.write_text(json.dumps(told))
    return folder


def test_steps_of_the_state_stand_for_actions_when_asked(tmp_path):
    folder = without_actions(write_v3(tmp_path / 'set'))
    episodes = open_dataset(folder, horizon=3, pseudo_actions=True)
    assert [episodes.frames(0), episodes.frames(1)] == [LENGTHS[0] - 1, LENGTHS[1] - 1]
    found = list(episodes.stream(0))
    assert len(found) == 5
    assert found[0].action_names == ('dwaist', 'delbow')
    for sample in (found[-1], episodes.sample(0, 4)):
        assert sample.actions[0].tolist() == [1.0, -1.0]
        assert sample.mask[:, 0].tolist() == [True, False, False]
        assert sample.state.tolist() == [4.5, -4.0]
    with pytest.raises(QwenVlaError, match='frame 5: frame: the episode has 5'):
        episodes.sample(0, 5)


def test_they_are_never_made_up_unasked_nor_in_place_of_others(tmp_path):
    folder = write_v3(tmp_path / 'set')
    with pytest.raises(QwenVlaError, match='pseudo_actions: it has actions'):
        open_dataset(folder, pseudo_actions=True)
    without_actions(folder)
    with pytest.raises(QwenVlaError, match=r'features hold no action; .*--pseudo-actions'):
        open_dataset(folder)


def test_only_the_row_groups_that_may_hold_an_episode_are_read(tmp_path):
    rows = pyarrow.table({'episode_index': [0, 0, 1, 1, 2, 2], 'value': range(6)})
    told, silent, other = (tmp_path / f'{name}.parquet' for name in ('told', 'silent', 'other'))
    parquet.write_table(rows, told, row_group_size=2)
    parquet.write_table(rows, silent, row_group_size=2, write_statistics=False)
    parquet.write_table(rows.drop_columns(['episode_index']), other, row_group_size=2)
    assert read_table(told, 1)['value'].to_pylist() == [2, 3]
    assert read_table(told, 7).num_rows == 0
    assert read_table(told).num_rows == 6
    assert read_table(silent, 1).num_rows == 6
    assert read_table(other, 1).num_rows == 6
