"""qwen-vla card and data batch: the figures are those of the data, one page needs nothing else."""

import json
import re

import numpy as np
import pytest

pytest.importorskip('pyarrow')
pytest.importorskip('av')
import lerobot_fixture as made

from qwen_vla_ros import cli
from qwen_vla_ros.data.batch import stack
from qwen_vla_ros.data.card import render
from qwen_vla_ros.data.cleaning import Thresholds
from qwen_vla_ros.data.lerobot import LeRobotEpisodes
from qwen_vla_ros.data.statistics import Counter
from qwen_vla_ros.data.survey import survey


def test_figures(tmp_path, capsys):
    made.write_v3(tmp_path / 'in')
    words = ['card', str(tmp_path / 'in'), '--out', str(tmp_path / 'card')]
    assert cli.main(words) == 0
    assert '2 episodes, 10 frames' in capsys.readouterr().out
    told = json.loads((tmp_path / 'card/card.json').read_text())
    assert (told['episodes'], told['frames'], told['rates_hz']) == (2, 10, [10.0])
    assert told['hours'] == pytest.approx(1 / 3600)
    assert told['success'] == {'known': 0, 'reached': 0}
    assert told['words'] == {'lift': 1, 'cup': 1, 'open': 1, 'drawer': 1}
    assert told['pictures'] == {'top 32x32': 2}
    kinds = [(one['kind'], one['names'], one['rows']) for one in told['statistics']]
    assert kinds == [(k, ['waist', 'elbow'], 10) for k in ('action', 'observation.state')]
    assert told['cleaning']['reasons'] == {'too short': 2}


def test_the_page_needs_nothing_else_and_shows_every_part(tmp_path):
    page = render(survey(LeRobotEpisodes(made.write_v3(tmp_path / 'in'), 2), Thresholds(5)))
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count('<svg') == 1 + 2 + 2  # lengths, actions, state
    assert page.count('data:image/jpeg') == 6 + 4
    assert 'too short</td><td class="n">1</td><td class="n">50.0%</td>' in page
    assert 'episode 1: too short: 4 frames, 5 are the least' in page
    assert '<b>–</b><span class="dim">reached their goal' in page


def test_an_episode_that_cannot_be_read_is_named(tmp_path):
    folder = made.write_v3(tmp_path / 'in')
    both = {k: made.rows(0)[k] + made.rows(1)[k] for k in made.rows(0)}
    path = folder / 'data/chunk-000/file-000.parquet'
    made.save(path, {**both, 'task_index': [0] * 6 + [9] * 4})
    found = survey(LeRobotEpisodes(folder, 2), Thresholds(1))
    assert found.frames == 6
    assert 'task_index 9 is not in' in render(found)


def test_histogram():
    counter = Counter(['a'])
    counter.add(np.array([[0.0], [0.1], [0.1], [0.9]]), 'here')
    counts, low, high = counter.histogram(0, 3)
    assert counts.tolist() == [3, 0, 1]
    assert (low, high) == pytest.approx((0.0, 0.9), abs=1e-4)


def test_a_batch_pads_and_masks(tmp_path, capsys):
    folder = made.write_v3(tmp_path / 'in')
    one = LeRobotEpisodes(folder, 2).sample(0, 5)
    two = LeRobotEpisodes(folder, 3).sample(1, 0)
    found = stack([one, two])
    assert found['images.top'].shape == (2, 32, 32, 3)
    assert found['mask'][..., 0].tolist() == [[True, False, False], [True] * 3]
    assert found['actions'][..., 0].tolist() == [[5.0, 0.0, 0.0], [10.0, 11.0, 12.0]]
    assert found['instructions'] == made.TASKS
    assert stack([one], '8x16')['images.top'].shape == (1, 8, 16, 3)
    assert cli.main(['data', 'batch', str(folder), '--count', '3', '--horizon', '2']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=1) == ['images.top', 'uint8 [3, 32, 32, 3]']
    assert lines[1].split(maxsplit=1) == ['actions', 'float32 [3, 2, 2]']
