"""A data set is recognised by what lies in it, or described; what is neither is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('pyarrow')
pytest.importorskip('av')
from lerobot_fixture import KEY, LENGTHS, write_v2, write_v3

from qwen_vla_ros.data.bag import BagEpisodes
from qwen_vla_ros.data.lerobot import LeRobotEpisodes
from qwen_vla_ros.data.open import FORMATS, SetSpec, open_dataset, recognise
from qwen_vla_ros.errors import QwenVlaError


def test_a_folder_is_recognised(tmp_path):
    for write in (write_v2, write_v3):
        found = open_dataset(write(tmp_path / write.__name__))
        assert isinstance(found, LeRobotEpisodes)
        assert [found.frames(episode) for episode in range(len(found))] == list(LENGTHS)
        assert found.sample(0, 0).actions.shape == (16, 2)


def test_the_ways_to_say_which(tmp_path):
    folder = write_v2(tmp_path / 'set')
    text = f'path: set\nhorizon: 3\nembodiment: widowx\nviews: {{ego: {KEY}}}\n'
    (tmp_path / 'set.yaml').write_text(text)
    spec = SetSpec(folder, horizon=3, embodiment='widowx', views={'ego': KEY})
    told = {'path': folder, 'horizon': 3, 'embodiment': 'widowx', 'views': {'ego': KEY}}
    for source in (tmp_path / 'set.yaml', str(tmp_path / 'set.yaml'), spec, told):
        sample = open_dataset(source).sample(0, 1)
        assert (sample.embodiment, list(sample.images)) == ('widowx', ['ego'])
        assert sample.actions.shape == (3, 2)
    assert open_dataset(f'lerobot:{folder}', horizon=5).sample(0, 1).actions.shape == (5, 2)
    assert open_dataset(spec, horizon=4).sample(0, 1).actions.shape == (4, 2)


def test_what_is_no_data_set_is_told_with_all_that_was_tried(tmp_path):
    with pytest.raises(QwenVlaError) as told:
        open_dataset(tmp_path)
    assert str(told.value).startswith(f'{tmp_path}: not a data set that can be read (')
    assert all(f'{name}: ' in str(told.value) for name in FORMATS)
    with pytest.raises(
        QwenVlaError, match='no such file or folder; give a bag, .*a YAML description'
    ):
        open_dataset(tmp_path / 'absent')


def test_two_formats_in_one_folder_are_told(tmp_path):
    folder = write_v2(tmp_path / 'set')
    (folder / 'metadata.yaml').touch()
    with pytest.raises(QwenVlaError, match=f'lerobot or bag; say which: lerobot:{folder}'):
        recognise(folder)
    assert isinstance(open_dataset(f'lerobot:{folder}'), LeRobotEpisodes)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('horizon: 3', 'path: the key is missing'),
        ('path: [1]', 'path: the key is missing'),
        ('path: set\nhorizn: 3', "horizn: unknown key; did you mean 'horizon'"),
        ('path: set\nhorizon: many', "horizon: 'many' is not a positive number"),
        ('path: set\nviews: top', "views: 'top' is not a table"),
        ('path: set\nactions: {a: b}', 'actions.a: write a list of names'),
        ('path: set\nformat: lerobt', "unknown format 'lerobt'; did you mean 'lerobot'"),
        ('path: set\nlayout: x', 'layout: the format lerobot has no use for it'),
        ('path: set\npath: set', "the key 'path' stands twice"),
        ('path: {', 'cannot be read'),
    ],
)
def test_a_wrong_description_is_told_in_one_line(tmp_path, text, words):
    write_v2(tmp_path / 'set')
    (tmp_path / 'set.yaml').write_text(text)
    with pytest.raises(QwenVlaError) as told:
        open_dataset(tmp_path / 'set.yaml')
    assert words in str(told.value)
    assert '\n' not in str(told.value)


def test_bags_of_a_folder_in_order(tmp_path, monkeypatch):
    for name in ('b', 'a'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'metadata.yaml').touch()
    asked = []
    monkeypatch.setattr(BagEpisodes, '__init__', lambda _, *told: asked.append(told))
    open_dataset(tmp_path, embodiment='widowx', horizon=4, instruction='lift', layout='x')
    bags, contract, words, layout, flawed = asked[0]
    assert not flawed
    assert bags == [tmp_path / 'a', tmp_path / 'b']
    assert (contract.name, contract.horizon, words, layout) == ('widowx', 4, 'lift', 'x')
    assert isinstance(open_dataset(Path(f'{tmp_path}/a')), BagEpisodes)


def test_what_loader_workers_take_with_them(tmp_path):
    """Every reader crosses to another process by pickle, before and after it has read."""
    pytest.importorskip('h5py')
    pytest.importorskip('google_crc32c')
    from hands_fixture import write_egodex
    from hdf5_fixture import write_aloha, write_libero
    from talks_fixture import write_drivelm, write_llava
    from test_data_json_fuzz import write_captions
    from vln_fixture import write_vln_ce

    from qwen_vla_ros.data.hand_pca import fit, save
    from qwen_vla_ros.data.hand_tracks import read_track

    track = read_track(write_egodex(tmp_path / 'hands') / '0.hdf5')
    save(fit([track.pose], track.kind), tmp_path / 'pca', ['hands'])
    shards = Path(__file__).parent / 'rlds_own_small_set' / '1.0.0'
    opened = [
        open_dataset(write_aloha(tmp_path / 'aloha'), instruction='fold it'),
        open_dataset(write_libero(tmp_path / 'libero')),
        open_dataset(shards, rate_hz=5, embodiment='widowx'),
        open_dataset(tmp_path / 'hands', pca=tmp_path / 'pca'),
        open_dataset(write_vln_ce(tmp_path / 'vln')),
        open_dataset(write_llava(tmp_path / 'llava')),
        open_dataset(write_drivelm(tmp_path / 'driving')),
        open_dataset(write_captions(tmp_path / 'captions')),
    ]
    for episodes in opened:
        early = pickle.loads(pickle.dumps(episodes))
        here = episodes.sample(0, 0)
        for there in (early, pickle.loads(pickle.dumps(episodes))):
            found = there.sample(0, 0)
            assert (found.place, found.text) == (here.place, here.text)
            np.testing.assert_array_equal(found.actions, here.actions)
            assert found.images.keys() == here.images.keys()
