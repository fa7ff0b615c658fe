"""The vision-action set: equal files by any workers, read as LeRobot and as subtasks."""

import json

import numpy as np
import pytest

from qwen_vla_ros.data.lerobot import LeRobotEpisodes
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.synthetic import vision_action
from qwen_vla_ros.data.synthetic.runners import in_processes
from qwen_vla_ros.data.synthetic.set_files import episode_table
from qwen_vla_ros.data.synthetic.vision_action import VisionOrder, film, synthesise
from qwen_vla_ros.data.video import frame_at
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim.tasks.goals import PICK, PUSH


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('set') / 'table'
    synthesise(VisionOrder(folder, 3, 1, (PICK, PUSH)), in_processes(1))
    return folder


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_files_are_equal_whatever_was_made_before(made, tmp_path):
    again = tmp_path / 'again'
    synthesise(VisionOrder(again, 3, 1, (PICK, PUSH)), in_processes(1))
    assert contents(again) == contents(made)
    assert synthesise(VisionOrder(again, 3, 1, (PICK, PUSH)), in_processes(1))[0] == 0
    with pytest.raises(QwenVlaError, match='choose another folder'):
        synthesise(VisionOrder(again, 3, 2, (PICK, PUSH)), in_processes(1))


def test_it_is_read_as_a_lerobot_set(made):
    episodes = open_dataset(made, horizon=4)
    assert isinstance(episodes, LeRobotEpisodes) and len(episodes) == 3
    sample = episodes.sample(1, 3)
    assert sample.embodiment == 'widowx' and set(sample.images) == set(vision_action.VIEWS)
    assert sample.images['ego'].shape == (240, 320, 3)
    columns = episodes.columns(1)
    assert sample.actions.tolist() == columns['action'][3:7].tolist()
    # What was commanded for an instant is nearly reached at it.
    lag = columns['action'][:, :6] - columns['observation.state'][:, :6]
    assert np.abs(lag).max() < 0.12 and np.abs(lag).mean() < 0.01


def test_an_episode_is_cut_into_its_subtasks(made):
    whole, parts = open_dataset(made, horizon=8), open_dataset(f'subtasks:{made}', horizon=8)
    table = episode_table(made)
    texts = [text for steps in table['steps'].to_pylist() for text in steps]
    kinds = table['step_kinds'].to_pylist()
    assert kinds[0] == ['reach', 'grasp', 'lift']
    assert len(parts) == len(texts)
    assert sum(parts.frames(n) for n in range(len(parts))) == sum(map(whole.frames, range(3)))
    first = parts.sample(0, 0)
    assert first.instruction == texts[0] and first.instruction.startswith('reach for the')
    assert first.actions.tolist() == whole.sample(0, 0).actions.tolist()
    end = parts.frames(0) - 1
    last = parts.sample(0, end)
    assert last.mask[:, 0].tolist() == [True] + [False] * 7
    second = parts.sample(1, 0)
    assert second.images['ego'].tolist() == whole.sample(0, end + 1).images['ego'].tolist()
    assert len(list(parts.stream(1))) == parts.frames(1)
    with pytest.raises(QwenVlaError, match='the subtask has'):
        parts.sample(0, end + 1)


def test_scenes_where_the_teacher_fails_are_left_out_and_counted(monkeypatch):
    performed, asked = vision_action._performed, []

    def fails_first(kind, seed):
        asked.append(seed)
        return None if len(asked) < 3 else performed(kind, seed)

    monkeypatch.setattr(vision_action, '_performed', fails_first)
    found = vision_action.make_demonstration((0, 0, (PICK,)))
    assert found.recorded.told['failed'] == 2
    assert found.recorded.told['scene'] == asked[-1] == asked[0] + 2
    monkeypatch.setattr(vision_action, '_performed', lambda kind, seed: None)
    with pytest.raises(QwenVlaError, match='failed in 20 scenes'):
        vision_action.make_demonstration((0, 0, (PICK,)))


def test_meta_data_tell_the_films_and_the_order(made):
    info = json.loads((made / 'meta/info.json').read_text())
    assert info['fps'] == 5 and info['total_episodes'] == 3
    assert json.loads((made / 'meta/vision_action.json').read_text())['tasks'] == [PICK, PUSH]


def test_a_film_shows_its_pictures(tmp_path):
    path = tmp_path / 'film.mp4'
    pictures = [np.full((32, 32, 3), value, np.uint8) for value in (20, 120, 220)]
    path.write_bytes(film(pictures))
    for number, value in enumerate((20, 120, 220)):
        shown = frame_at(path, number / 5, 0.1)
        assert abs(int(shown.mean()) - value) < 6


def test_orders_are_checked(tmp_path):
    for wrong in ({'kinds': ('juggle',)}, {'episodes': 0}, {'seed': -1}):
        with pytest.raises(QwenVlaError):
            VisionOrder(**{'folder': tmp_path, 'episodes': 1, 'seed': 0, **wrong})
