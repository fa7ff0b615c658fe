"""`qwen-vla eval sim --robot mobile_base`: metrics, maps, film and report; clear refusals."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from qwen_vla_ros.cli import main
from qwen_vla_ros.evaluate.rooms import score_task
from qwen_vla_ros.evaluate.rooms_pictures import MAP, STRIP
from qwen_vla_ros.sim.rooms.tasks import sample_task

WORDS = ['eval', 'sim', '--robot', 'mobile_base', '--policy']


def test_the_shortest_way_scores_best_and_none_of_it_worst():
    task = sample_task(1)
    best = score_task(task, task.shortest, stopped=True)
    assert best.success
    assert best.spl == pytest.approx(1.0, abs=1e-6)
    assert best.ndtw == pytest.approx(1.0, abs=0.02)
    assert best.error_m == 0.0
    half = score_task(task, task.shortest[: len(task.shortest) // 2], stopped=True)
    assert not half.success
    assert 0.5 < half.error_m < task.length
    assert 0.0 < half.ndtw < best.ndtw
    assert score_task(task, task.shortest[:1], stopped=True).error_m > half.error_m


def test_the_run_leaves_metrics_maps_film_and_report(tmp_path, capsys):
    words = [*WORDS, 'expert', '--seeds', '21', '--out', str(tmp_path)]
    assert main(words) == 0
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert list(summary['variants']) == ['policy', 'no_language', 'standing']
    assert summary['complete']
    (episode,) = summary['episode_list']
    assert episode['score']['success']
    assert summary['variants']['policy']['SR']['success'] == 1
    assert summary['variants']['standing']['SR']['success'] == 0
    picture = np.asarray(Image.open(tmp_path / 'maps' / 'seed_00021.png'))
    assert picture.shape == (MAP[0] + STRIP, MAP[1], 3)
    with av.open(str(tmp_path / 'video.mp4')) as film:
        frames = sum(1 for _ in film.decode(video=0))
    assert frames == pytest.approx(10 * episode['elapsed_s'] + 15, abs=2)
    report = (tmp_path / 'report.html').read_text()
    assert episode['instruction'] in report
    assert 'data:image/png;base64' in report
    told = capsys.readouterr().out
    assert 'SR 1/1' in told
    assert 'nDTW' in told


def test_bad_seeds_are_told(tmp_path, capsys):
    assert main([*WORDS, 'expert', '--seeds', 'some', '--out', str(tmp_path)]) == 2
    assert '--seeds' in capsys.readouterr().err
