"""A packed cache gives the samples that went in, and says what is wrong with its files."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('pyarrow')
pytest.importorskip('av')
import lerobot_fixture as made

from qwen_vla_ros import cli
from qwen_vla_ros.data import conversion
from qwen_vla_ros.data.cleaning import Thresholds
from qwen_vla_ros.data.conversion import Conversion, convert
from qwen_vla_ros.data.lerobot import LeRobotEpisodes
from qwen_vla_ros.data.open import open_dataset, recognise
from qwen_vla_ros.data.packed import PackedEpisodes
from qwen_vla_ros.data.packed_writer import PackedTarget, parse_sizes
from qwen_vla_ros.data.sample import Place, spoken
from qwen_vla_ros.data.statistics import fingerprint
from qwen_vla_ros.data.work_list import Unit
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.transforms import ResizeImages


def packed(folder, out, *words):
    words = [str(folder), '--out', str(out), '--to', 'packed', '--jobs', '1', *words]
    assert cli.main(['convert', *words, '--min-frames', '2']) == 0
    return PackedEpisodes(out)


def same(found, wanted):
    assert found.place.frame == wanted.place.frame
    for key in ('instruction', 'embodiment', 'action_names', 'state_names', 'stamp_ns', 'text'):
        assert getattr(found, key) == getattr(wanted, key)
    assert found.earlier == wanted.earlier
    np.testing.assert_array_equal(found.actions, wanted.actions)
    np.testing.assert_array_equal(found.mask, wanted.mask)
    np.testing.assert_array_equal(found.state, wanted.state)


def test_samples_are_the_same_and_pictures_those_that_training_resizes_to(tmp_path, capsys):
    wanted = LeRobotEpisodes(made.write_v3(tmp_path / 'in'), 16)
    found = packed(tmp_path / 'in', tmp_path / 'out', '--size', 'top=8x16')
    training = ResizeImages({'top': (8, 16)}, (4, 4), 'top')
    assert [found.frames(e) for e in range(len(found))] == list(made.LENGTHS)
    for episode, count in enumerate(made.LENGTHS):
        for frame in reversed(range(count)):
            one, other = found.sample(episode, frame), wanted.sample(episode, frame)
            same(one, other)
            resized = training.forward({'images': other.images})['images']['top']
            np.testing.assert_array_equal(one.images['top'], resized)
            assert training.forward({'images': one.images})['images']['top'] is one.images['top']
    files = sum(file.stat().st_size for file in (tmp_path / 'out/group-000').iterdir())
    assert found.bytes_per_sample == files / 10
    assert f'{files / 10 / 1024:.1f} KiB a sample' in capsys.readouterr().out
    assert recognise(tmp_path / 'out') == 'packed'
    assert len(open_dataset(tmp_path / 'out')) == 2


def test_statistics_carry_their_hash(tmp_path):
    packed(made.write_v3(tmp_path / 'in'), tmp_path / 'out', '--size', '8')
    told = json.loads((tmp_path / 'out/group-000/statistics.json').read_text())['action']
    assert told['sha256'] == fingerprint('stub', told['names'], told['q01'], told['q99'])
    assert told['sha256'] != fingerprint('other', told['names'], told['q01'], told['q99'])


class Words:
    """Two dialogues, one with a picture; nothing to move."""

    source = 'words'

    def __init__(self):
        image = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
        self.all = [
            spoken(Place('words', 0, 0), {'image': image}, 'what?', 'a cup'),
            spoken(Place('words', 1, 0), {}, 'and?', 'no', (('why?', 'so'),)),
        ]

    def __len__(self):
        return 2

    def frames(self, episode):
        return 1

    def sample(self, episode, frame):
        return self.all[episode]

    def stream(self, episode):
        yield self.all[episode]


def test_text_is_kept_beside_motion(tmp_path, monkeypatch):
    words, robot = Words(), LeRobotEpisodes(made.write_v3(tmp_path / 'in'), 2)
    monkeypatch.setattr(
        conversion, 'opened', lambda unit: words if unit.source == 'words' else robot
    )
    units = [Unit('words', 0), Unit('robot', 0), Unit('words', 1)]
    convert(Conversion(units, PackedTarget((10, 10)), Thresholds(1)), tmp_path / 'out')
    found = PackedEpisodes(tmp_path / 'out')
    by_text = {found.sample(e, 0).text: found.sample(e, 0) for e in range(3)}
    same(by_text['a cup'], words.all[0])
    np.testing.assert_array_equal(by_text['a cup'].images['image'], words.all[0].images['image'])
    same(by_text['no'], words.all[1])
    assert by_text[''].instruction == made.TASKS[0]


def test_an_episode_that_loses_a_view_is_left_out(tmp_path, monkeypatch):
    robot = LeRobotEpisodes(made.write_v3(tmp_path / 'in'), 2)

    def stream(episode):
        for sample in LeRobotEpisodes.stream(robot, episode):
            lost = episode == 1 and sample.place.frame == 2
            yield replace(sample, images={}) if lost else sample

    monkeypatch.setattr(robot, 'stream', stream, raising=False)
    monkeypatch.setattr(conversion, 'opened', lambda unit: robot)
    units = [Unit('robot', 0), Unit('robot', 1)]
    report = convert(Conversion(units, PackedTarget((8, 8)), Thresholds(2)), tmp_path / 'out')
    assert report.counts() == {'unreadable': 1}
    assert 'episode 1, frame 2: views' in report.rejected[0].told


@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (lambda f: (f / 'cache.json').write_text('{}'), 'not a cache of format'),
        (lambda f: (f / 'cache.json').write_text('{'), 'cannot be read'),
        (lambda f: (f / 'group-000/group.json').write_text('{}'), "damaged .'episodes'.; pack it"),
        (lambda f: (f / 'group-000/actions.npy').unlink(), 'actions.npy: cannot be read'),
        (
            lambda f: (f / 'group-000/view-0.npy').write_bytes(
                (f / 'group-000/view-0.npy').read_bytes()[:-1]
            ),
            'view-0.npy: cannot be read',
        ),
        (
            lambda f: np.save(f / 'group-000/state.npy', np.zeros((3, 2), np.float32)),
            r'state.npy: float32 \[3, 2\], but group.json says float32 \[10, 2\]',
        ),
    ],
)
def test_damage_is_told_in_one_line(tmp_path, damage, words):
    packed(made.write_v3(tmp_path / 'in'), tmp_path / 'out', '--size', '8')
    damage(tmp_path / 'out')
    with pytest.raises(QwenVlaError, match=words):
        PackedEpisodes(tmp_path / 'out').sample(0, 0)


def test_sizes():
    assert parse_sizes('64') == ((64, 64), {})
    assert parse_sizes('ego=180x320,wrist=9') == ((224, 224), {'ego': (180, 320), 'wrist': (9, 9)})
    for bad in ('', 'ego', '1x2x3', '0', 'ego=-1'):
        with pytest.raises(QwenVlaError, match='--size'):
            parse_sizes(bad)
