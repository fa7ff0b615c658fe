"""qwen-vla convert --to lerobot: nothing lost, nothing invented, whatever interrupts it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('pyarrow')
pytest.importorskip('av')
pytest.importorskip('rosbags')
import lerobot_fixture as made
import test_data_bag as bags
from pyarrow import parquet

from qwen_vla_ros import cli
from qwen_vla_ros.data import conversion, film
from qwen_vla_ros.data.cleaning import Thresholds
from qwen_vla_ros.data.conversion import Conversion, convert
from qwen_vla_ros.data.episode_notes import KEPT, EpisodeNotes
from qwen_vla_ros.data.lerobot import LeRobotEpisodes
from qwen_vla_ros.data.lerobot_writer import LeRobotTarget
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.packed_writer import PackedTarget
from qwen_vla_ros.data.work_list import units_of
from qwen_vla_ros.errors import QwenVlaError

ALL = Thresholds(min_frames=1)
ROOT = Path(__file__).parents[1]


def lerobot(folder, out, jobs=1, thresholds=ALL, **target):
    target = LeRobotTarget(**{'codec': 'h264', **target})
    return convert(Conversion(units_of([str(folder)], {}), target, thresholds), out, jobs)


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


@pytest.mark.parametrize('size_mb', [200.0, 1e-6])
def test_rows_sentences_and_pictures_are_the_same(tmp_path, size_mb):
    lerobot(made.write_v3(tmp_path / 'in'), tmp_path / 'out', video_mb=size_mb, data_mb=size_mb)
    before, after = (LeRobotEpisodes(tmp_path / name, 2) for name in ('in', 'out'))
    assert len(list((tmp_path / 'out').rglob('*.mp4'))) == (1 if size_mb > 1 else 2)
    for episode, count in enumerate(made.LENGTHS):
        streamed = list(after.stream(episode))
        assert len(streamed) == count
        for wanted, found in zip(before.stream(episode), streamed, strict=True):
            assert found.instruction == wanted.instruction
            assert found.embodiment == 'stub'
            assert found.action_names == wanted.action_names == ('waist', 'elbow')
            np.testing.assert_array_equal(found.actions, wanted.actions)
            np.testing.assert_array_equal(found.mask, wanted.mask)
            np.testing.assert_array_equal(found.state, wanted.state)
            alone = after.sample(episode, wanted.place.frame).images['top'].astype(int)
            assert np.abs(alone - wanted.images['top']).max() <= 3
            np.testing.assert_array_equal(alone, found.images['top'])


def test_what_meta_says(tmp_path):
    lerobot(made.write_v3(tmp_path / 'in'), tmp_path / 'out')
    meta = tmp_path / 'out' / 'meta'
    info = json.loads((meta / 'info.json').read_text())
    assert info['codebase_version'] == 'v3.0'
    assert (info['fps'], info['total_episodes'], info['total_frames']) == (10, 2, 10)
    assert info['features']['action']['names'] == ['waist', 'elbow']
    stats = json.loads((meta / 'stats.json').read_text())
    actions = np.array([a for e in range(2) for a in made.rows(e)['action']])
    assert stats['action']['count'] == [10]
    np.testing.assert_allclose(stats['action']['min'], actions.min(0))
    np.testing.assert_allclose(stats['action']['mean'], actions.mean(0))
    np.testing.assert_allclose(stats['action']['std'], actions.std(0))
    assert np.shape(stats['observation.images.top']['q50']) == (3, 1, 1)
    greys = [made.grey(e, f) for e, n in enumerate(made.LENGTHS) for f in range(n)]
    np.testing.assert_allclose(
        np.ravel(stats['observation.images.top']['mean']), np.mean(greys) / 255, atol=0.01
    )
    episodes = parquet.read_table(meta / 'episodes/chunk-000/file-000.parquet').to_pydict()
    assert episodes['tasks'] == [[task] for task in made.TASKS]
    assert episodes['dataset_to_index'] == [6, 10]
    assert episodes['stats/action/max'][1] == [13.0, -10.0]
    own = json.loads((meta / 'statistics.json').read_text())['action']
    assert own['names'] == ['waist', 'elbow']
    assert own['q99'] == stats['action']['q99']
    assert len(own['sha256']) == 64


def test_a_label_of_success_is_kept(tmp_path):
    folder = made.write_v3(tmp_path / 'in')
    path = folder / 'meta/episodes/chunk-000/file-000.parquet'
    made.save(path, {**parquet.read_table(path).to_pydict(), 'success': [True, None]})
    lerobot(folder, tmp_path / 'out')
    after = LeRobotEpisodes(tmp_path / 'out', 2)
    assert [after.success(0), after.success(1)] == [True, None]


def test_processes_change_nothing(tmp_path):
    folder = made.write_v3(tmp_path / 'in')
    lerobot(folder, tmp_path / 'one')
    lerobot(folder, tmp_path / 'two', jobs=2)
    assert files(tmp_path / 'one') == files(tmp_path / 'two')


class Killer(LeRobotTarget):
    """Ends its process in the second episode, as the kernel does when memory ends."""

    def part(self, folder, rate_hz):
        if folder.parent.name == '.000001':
            os.kill(os.getpid(), signal.SIGKILL)
        return super().part(folder, rate_hz)


def test_a_process_that_dies_is_told_and_what_is_done_is_kept(tmp_path):
    units = units_of([str(made.write_v3(tmp_path / 'in'))], {})
    with pytest.raises(QwenVlaError, match='the same command goes on from there'):
        convert(Conversion(units, Killer('h264'), ALL), tmp_path / 'out', 2)
    assert not (tmp_path / 'out').exists()
    assert (tmp_path / '.out.partial/plan.json').exists()


def test_av1(tmp_path, monkeypatch):
    monkeypatch.setattr(made, 'SIZE', 64)
    picture = {**made.FEATURES[made.KEY], 'shape': [64, 64, 3]}
    monkeypatch.setitem(made.FEATURES, made.KEY, picture)
    lerobot(made.write_v3(tmp_path / 'in'), tmp_path / 'out', codec='av1')
    after = LeRobotEpisodes(tmp_path / 'out', 2)
    for episode, count in enumerate(made.LENGTHS):
        for frame in range(count):
            image = after.sample(episode, frame).images['top']
            assert abs(image.mean() - made.grey(episode, frame)) <= 3


def broken(monkeypatch, folder, lost):
    """Let the frames that are lost be missing from the first episode."""
    robot = LeRobotEpisodes(folder, 2)

    def stream(episode):
        for sample in LeRobotEpisodes.stream(robot, episode):
            if episode or sample.place.frame not in lost:
                yield sample

    monkeypatch.setattr(robot, 'stream', stream, raising=False)
    monkeypatch.setattr(conversion, 'opened', lambda unit: robot)


def test_an_episode_with_a_hole_becomes_two_whose_times_do_not_lie(tmp_path, monkeypatch):
    folder = made.write_v3(tmp_path / 'in')
    broken(monkeypatch, folder, lost={0, 2})
    report = lerobot(folder, tmp_path / 'out', thresholds=Thresholds(1, max_missing_share=0.2))
    assert report.rejected == ()
    after = LeRobotEpisodes(tmp_path / 'out', 1)
    assert [after.frames(e) for e in range(3)] == [1, 3, 4]
    found = [sample.actions[0, 0] for sample in after.stream(1)]
    assert found == [3.0, 4.0, 5.0]
    assert after.sample(1, 0).stamp_ns == 0


def test_an_episode_with_too_many_holes_is_left_out(tmp_path, monkeypatch):
    folder = made.write_v3(tmp_path / 'in')
    broken(monkeypatch, folder, lost={1, 3})
    report = lerobot(folder, tmp_path / 'out')
    assert {str(item).partition(': missing')[2] for item in report.rejected} == {
        ' frames: 2 of 6 are lost'
    }
    assert len(report.rejected) == 3
    assert str(report).startswith('kept 1 of 4 unbroken pieces of 2 episodes (3 missing frames)')


def test_a_bag_gives_the_samples_that_it_gives_without_conversion(tmp_path, monkeypatch):
    monkeypatch.setitem(film.LEAST, 'h264', 2)
    contract = bags.WIDOWX.text.replace('width: 640', 'width: 8').replace(
        'height: 480', 'height: 6'
    )
    extra = [('/qwen_vla/contract', contract), ('/left/policy/instruction', 'lift it')]
    bag = bags.write(tmp_path / 'bag', extra=extra)
    EpisodeNotes(0, 'widowx', success=False, state=KEPT).save(bag)
    wanted = list(open_dataset(bag).stream(0))
    lerobot(bag, tmp_path / 'rows')
    target = PackedTarget(sizes=dict.fromkeys(wanted[0].images, (6, 8)))
    convert(Conversion(units_of([str(bag)], {}), target, ALL), tmp_path / 'cache')
    for name in ('rows', 'cache'):
        assert open_dataset(tmp_path / name).success(0) is False
    rows = list(open_dataset(tmp_path / 'rows').stream(0))
    cache = list(open_dataset(tmp_path / 'cache').stream(0))
    usable = [sample for sample in wanted if sample.mask[0].all()]
    assert len(rows) == len(usable) >= 8
    assert len(cache) == len(wanted)
    for other, sample in zip(rows, usable, strict=True):
        np.testing.assert_array_equal(other.actions[0], sample.actions[0])
        np.testing.assert_array_equal(other.state, sample.state)
        assert other.instruction == 'lift it'
    stamps = parquet.read_table(tmp_path / 'rows/data/chunk-000/file-000.parquet')['stamp_ns']
    assert stamps.to_pylist() == [sample.stamp_ns for sample in usable]
    for other, sample in zip(cache, wanted, strict=True):
        assert other.stamp_ns == sample.stamp_ns
        np.testing.assert_array_equal(other.actions, sample.actions)
        np.testing.assert_array_equal(other.mask, sample.mask)
        for view, image in sample.images.items():
            np.testing.assert_array_equal(other.images[view], image)


def test_what_rows_cannot_hold_is_refused_with_the_way_out(tmp_path, monkeypatch):
    folder = made.write_v3(tmp_path / 'in')
    robot = LeRobotEpisodes(folder, 4)

    def stream(episode):
        for sample in LeRobotEpisodes.stream(robot, episode):
            away = np.arange(4, dtype=np.float32)[:, None] * np.ones(2, np.float32)
            yield replace(sample, actions=away, mask=np.ones_like(away, bool))

    monkeypatch.setattr(robot, 'stream', stream, raising=False)
    monkeypatch.setattr(conversion, 'opened', lambda unit: robot)
    with pytest.raises(QwenVlaError, match="told from each chunk's first frame.*--to packed"):
        lerobot(folder, tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['in']


@pytest.mark.parametrize('place, drift', [(1.0, 0.0), (0.0, 4e-4)])
def test_an_arm_that_rests_is_not_taken_for_that(tmp_path, monkeypatch, place, drift):
    folder = made.write_v3(tmp_path / 'in')
    robot, rng = LeRobotEpisodes(folder, 4), np.random.default_rng(0)

    def stream(episode):
        for sample in LeRobotEpisodes.stream(robot, episode):
            noise = place + rng.normal(0, 1e-4 if place else 1e-5, (4, 2))
            noise = (noise + drift * np.arange(4)[:, None]).astype(np.float32)
            yield replace(sample, actions=noise, mask=np.ones_like(noise, bool))

    monkeypatch.setattr(robot, 'stream', stream, raising=False)
    monkeypatch.setattr(conversion, 'opened', lambda unit: robot)
    kept = Thresholds(min_frames=1, still_spread=0.0)
    assert lerobot(folder, tmp_path / 'out', thresholds=kept).rejected == ()


KILLED = """
import os, sys
from qwen_vla_ros import cli
from qwen_vla_ros.data import conversion, lerobot_writer

def kill(*args):
    os.kill(os.getpid(), 9)

def after(owner, name, calls):
    real, left = getattr(owner, name), [calls]
    def counted(*args):
        left[0] -= 1
        return kill() if left[0] < 0 else real(*args)
    setattr(owner, name, counted)

after(*eval(sys.argv.pop(1)))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    'moment',
    [
        "(lerobot_writer.LeRobotPart, 'add', 8)",  # in the second episode
        "(conversion, 'judge', 0)",
        "(lerobot_writer._Joined, '_write_info', 0)",
    ],
)
def test_killed_at_any_moment_it_resumes_to_the_same_data_set(tmp_path, moment):
    folder = made.write_v3(tmp_path / 'in')
    lerobot(folder, tmp_path / 'whole', thresholds=Thresholds(min_frames=2))
    words = ['convert', str(folder), '--out', str(tmp_path / 'out'), '--codec', 'h264']
    words += ['--jobs', '1', '--min-frames', '2']
    child = subprocess.run(
        [sys.executable, '-c', KILLED, moment, *words],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / 'out').exists()
    begun = {path: path.stat().st_mtime_ns for path in tmp_path.glob('.out.partial/0*/*')}
    assert begun
    made_anew = []
    real = os.mkdir

    def mkdir(path, *args):
        made_anew.append(str(path))
        return real(path, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'mkdir', mkdir)
        assert cli.main(words) == 0
    assert not any(path.endswith('.partial/.000000') for path in made_anew)
    assert files(tmp_path / 'out') == files(tmp_path / 'whole')
    assert not (tmp_path / '.out.partial').exists()


def test_parts_of_another_conversion_are_not_mixed_in(tmp_path):
    folder = made.write_v3(tmp_path / 'in')
    left = tmp_path / '.out.partial'
    left.mkdir()
    (left / 'plan.json').write_text('{}')
    with pytest.raises(QwenVlaError, match='of other data or with other options'):
        lerobot(folder, tmp_path / 'out')


def test_the_cli_prints_what_was_left_out(tmp_path, capsys):
    folder = made.write_v3(tmp_path / 'in')
    words = ['convert', str(folder), '--out', str(tmp_path / 'out'), '--codec', 'h264']
    assert cli.main([*words, '--jobs', '1', '--min-frames', '5']) == 0
    told = capsys.readouterr().out
    assert 'kept 1 of 2 episodes (1 too short)' in told
    assert 'episode 1: too short: 4 frames, 5 are the least' in told
    report = json.loads((tmp_path / 'out' / 'cleaning.json').read_text())
    assert report['reasons'] == {'too short': 1}
    assert report['rejected'][0]['episode'] == 1
    assert len(LeRobotEpisodes(tmp_path / 'out', 2)) == 1


def test_the_cli_prints_every_reason_when_nothing_is_left(tmp_path, capsys):
    folder = made.write_v3(tmp_path / 'in')
    words = ['convert', str(folder), '--out', str(tmp_path / 'out'), '--codec', 'h264']
    assert cli.main([*words, '--jobs', '1', '--min-frames', '50']) == 2
    told = capsys.readouterr()
    assert 'kept 0 of 2 episodes (2 too short)' in told.out
    for episode, count in enumerate(made.LENGTHS):
        assert f'episode {episode}: too short: {count} frames, 50 are the least' in told.out
    assert 'no episode is left of 2; the first: ' in told.err
    assert not (tmp_path / 'out').exists()
