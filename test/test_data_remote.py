"""Sets behind a URL: meta data at once, rows and films when they are read, room made again."""

import os
from pathlib import Path

import fsspec
import pytest
from lerobot_fixture import write_v3

from qwen_vla_ros.data import remote
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.errors import QwenVlaError


@pytest.fixture
def far(tmp_path, monkeypatch):
    """A LeRobot set in a remote store (here: fsspec's memory), and the folder of its original."""
    original = tmp_path / 'original'
    write_v3(original)
    system = fsspec.filesystem('memory')
    system.put(str(original), '/far/set', recursive=True)
    monkeypatch.setenv('QWEN_VLA_SETS', str(tmp_path / 'sets'))
    monkeypatch.setattr(remote, '_mirrors', {})
    yield original
    system.rm('/far', recursive=True)


def mirrored_files(tmp_path):
    folder = tmp_path / 'sets'
    return {path.name for path in folder.rglob('*') if path.is_file()}


def test_urls_are_told_from_paths():
    told = {'s3://bucket/set': True, 'memory://far/set': True, 'sets/a': False, 'C:/x': False}
    assert {source: remote.is_url(source) for source in told} == told


def test_a_remote_set_reads_the_same_and_moves_only_what_is_drawn(far, tmp_path):
    here = open_dataset(far, horizon=3)
    there = open_dataset('memory://far/set', horizon=3)
    before = mirrored_files(tmp_path)
    assert 'info.json' in before and not any(name.endswith('.mp4') for name in before)
    ours, theirs = here.sample(1, 2), there.sample(1, 2)
    assert theirs.instruction == ours.instruction
    assert theirs.actions.tolist() == ours.actions.tolist()
    assert all((theirs.images[view] == ours.images[view]).all() for view in ours.images)
    assert any(name.endswith('.mp4') for name in mirrored_files(tmp_path))


def test_a_file_is_fetched_once_and_again_when_it_changed(far, tmp_path):
    open_dataset('lerobot:memory://far/set', horizon=3).sample(0, 0)
    info = next((tmp_path / 'sets').rglob('info.json'))
    info.write_text('{}')
    assert len(open_dataset('memory://far/set', horizon=3)) == 2


def test_what_lies_at_no_address_is_told(far, monkeypatch):
    for url in ('memory://nowhere', 'nosuch://a/b'):
        with pytest.raises(QwenVlaError, match=url):
            open_dataset(url)


def test_a_file_that_went_away_is_named(far):
    episodes = open_dataset('memory://far/set', horizon=3)
    fsspec.filesystem('memory').rm('/far/set/data', recursive=True)
    with pytest.raises(QwenVlaError, match='cannot be fetched'):
        episodes.sample(0, 0)


def test_room_is_made_by_what_was_read_longest_ago(tmp_path, monkeypatch):
    folder = tmp_path / 'set'
    (folder / 'meta').mkdir(parents=True)
    for age, name in enumerate(('meta/info.json', 'a.mp4', 'b.mp4', 'c.mp4')):
        (folder / name).write_bytes(bytes(1000))
        os.utime(folder / name, (age, age))
    monkeypatch.setattr(remote, '_mirrors', {folder: (None, '')})
    monkeypatch.setenv('QWEN_VLA_SETS_GB', '3e-6')
    remote._make_room(folder / 'c.mp4')
    assert not (folder / 'a.mp4').exists()
    assert [(folder / name).exists() for name in ('meta/info.json', 'b.mp4', 'c.mp4')] == [
        True
    ] * 3


def test_paths_of_this_machine_are_left_alone():
    assert remote.here(Path('/a/b')) == Path('/a/b')
