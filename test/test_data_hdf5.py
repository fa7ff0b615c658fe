"""HDF5 of ALOHA and robomimic as h5py writes them, and one clear message for each damage."""

import numpy as np
import pytest

pytest.importorskip('h5py')
import h5py
from hdf5_fixture import LENGTHS, SENTENCE, grey, pictures, rows, write_aloha, write_libero

from qwen_vla_ros.data.hdf5 import ALOHA_NAMES, OSC_NAMES
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.errors import QwenVlaError


@pytest.mark.parametrize('compress', [False, True])
def test_aloha_frame_by_frame(tmp_path, compress):
    episodes = open_dataset(
        write_aloha(tmp_path / 'set', compress), instruction='fold it', horizon=3
    )
    assert [episodes.frames(e) for e in range(len(episodes))] == list(LENGTHS)
    for episode, count in enumerate(LENGTHS):
        found = list(episodes.stream(episode))
        assert [sample.stamp_ns for sample in found] == [20_000_000 * f for f in range(count)]
        for frame, sample in enumerate(found):
            assert sample.action_names == sample.state_names == ALOHA_NAMES
            wanted = rows(episode, 14).astype(np.float32)
            np.testing.assert_array_equal(
                sample.actions[sample.mask[:, 0]], wanted[frame : frame + 3]
            )
            np.testing.assert_array_equal(
                sample.state, (rows(episode, 14) + 0.5)[frame].astype('f4')
            )
            assert (sample.embodiment, sample.instruction) == ('aloha', 'fold it')
            assert list(sample.images) == ['cam_high', 'cam_left_wrist']
            off = sample.images['cam_high'].astype(int) - pictures(episode)[frame]
            assert np.abs(off).max() <= (6 if compress else 0)


def test_libero_in_the_order_of_numbers(tmp_path):
    episodes = open_dataset(write_libero(tmp_path / 'set'), horizon=2, turn={'agentview': 180})
    assert [episodes.frames(e) for e in range(len(episodes))] == list(LENGTHS)
    sample = episodes.sample(1, 2)
    assert (sample.instruction, sample.stamp_ns) == (SENTENCE, 100_000_000)
    assert sample.action_names == OSC_NAMES
    assert sample.mask[:, 0].tolist() == [True, False]
    np.testing.assert_array_equal(sample.actions[0], rows(1, 7)[2].astype(np.float32))
    assert sample.state_names[-2:] == ('left_finger', 'right_finger')
    np.testing.assert_array_equal(sample.images['agentview'], pictures(1)[2][::-1, ::-1])
    np.testing.assert_array_equal(sample.images['eye_in_hand'], pictures(1)[2])
    assert sample.images['agentview'][0, -1, 0] == grey(1, 2) - 20
    np.testing.assert_array_equal(episodes.columns(0)['action'], rows(0, 7).astype(np.float32))


def test_what_a_description_names(tmp_path):
    episodes = open_dataset(
        write_libero(tmp_path / 'set'),
        instruction='say it',
        rate_hz=10,
        views={'ego': 'agentview_rgb'},
        actions={'actions': list('abcdefg')},
        state={'obs/gripper_states': ['l', 'r']},
    )
    sample = episodes.sample(0, 1)
    assert (sample.instruction, sample.stamp_ns) == ('say it', 100_000_000)
    assert list(sample.images) == ['ego']
    assert (sample.action_names, sample.state_names) == (tuple('abcdefg'), ('l', 'r'))


def change(folder, key, value=None):
    with h5py.File(next(iter(sorted(folder.iterdir()))), 'a') as file:
        del file[key]
        if value is not None:
            file[key] = value


def cut(folder):
    path = next(iter(sorted(folder.iterdir())))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


NAN = np.where(np.arange(14) == 3, np.nan, rows(0, 14))
QPOS = 'observations/qpos'
DAMAGES = {
    'cut': (cut, 'episode_0.hdf5: cannot be read'),
    'no action': (lambda f: change(f, 'action'), 'not a data set that can be read'),
    'no qpos': (lambda f: change(f, QPOS), 'aloha: episode_0.hdf5 has no observations/qpos'),
    'nan': (
        lambda f: change(f, 'action', NAN),
        'frame 0: actions.left_forearm_roll: row 0 is nan',
    ),
    'state nan': (lambda f: change(f, QPOS, NAN), 'frame 0: state.left_forearm_roll: is nan'),
    'huge': (lambda f: change(f, 'action', rows(0, 14) + 1e300), 'left_waist: row 0 is inf'),
    'short': (lambda f: change(f, QPOS, rows(1, 14)), f'{QPOS}: 3 rows where 5 are expected'),
    'text': (lambda f: change(f, 'action', ['a'] * 5), 'action: object [5] is no table'),
    'pictures': (
        lambda f: change(f, 'observations/images/cam_high', pictures(1)),
        'images.cam_high: 3 pictures for 5 rows',
    ),
    'no picture': (
        lambda f: change(f, 'observations/images/cam_high', np.zeros((5, 9), np.uint8)),
        'frame 0: images.cam_high: 9 bytes that are no readable JPEG',
    ),
    'grey': (
        lambda f: change(f, 'observations/images/cam_high', np.zeros((5, 9, 9, 1), np.uint8)),
        'frame 0: images.cam_high: expected uint8 [h, w, 3], got uint8 [9, 9, 1]',
    ),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_damage_is_told_in_one_line(tmp_path, name):
    damage, words = DAMAGES[name]
    folder = write_aloha(tmp_path / 'set')
    damage(folder)
    with pytest.raises(QwenVlaError) as told:
        open_dataset(folder, instruction='fold it').sample(0, 0)
    assert words in str(told.value)
    assert '\n' not in str(told.value)


def test_a_file_cut_anywhere_is_told_or_whole(tmp_path):
    folder = write_aloha(tmp_path / 'set')
    path = folder / 'episode_0.hdf5'
    whole = path.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for stop in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:stop])
        try:
            open_dataset(folder, instruction='fold it').sample(0, 0)
        except QwenVlaError as error:
            refused += 1
            assert '\n' not in str(error)
    assert refused == 40


@pytest.mark.parametrize(
    ('attribute', 'value', 'words'),
    [
        ('problem_info', '{}', 'it holds no sentence; say instruction'),
        ('problem_info', '{', 'env_args or problem_info: no JSON object'),
        ('env_args', '{}', 'data.env_args tells no control_freq; say rate_hz'),
    ],
)
def test_what_libero_does_not_tell(tmp_path, attribute, value, words):
    folder = write_libero(tmp_path / 'set')
    with h5py.File(next(iter(folder.iterdir())), 'a') as file:
        file['data'].attrs[attribute] = value
    with pytest.raises(QwenVlaError, match=words):
        open_dataset(folder)


def test_aloha_needs_a_sentence(tmp_path):
    with pytest.raises(QwenVlaError, match='ALOHA files hold no sentence; say instruction'):
        open_dataset(write_aloha(tmp_path / 'set'))
