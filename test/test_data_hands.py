"""Hands: 32 channels from known motions, per-hand masks, and one clear message for each damage."""

import numpy as np
import pytest

pytest.importorskip('h5py')
pytest.importorskip('av')
import cv2
import h5py
from hands_fixture import COUNT, SENTENCE, motion, turn, write_egodex, write_mano

from qwen_vla_ros.cli import main
from qwen_vla_ros.data.hand_pca import KEPT, SIDES, fit, load
from qwen_vla_ros.data.hand_tracks import read_track
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.sample import SampleError
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.rotations import rotation_vectors


@pytest.fixture(scope='module')
def pca(tmp_path_factory):
    folder = tmp_path_factory.mktemp('fit')
    for seed in range(3):
        write_egodex(folder / 'part1' / 'task', str(seed), seed)
    path = folder / 'hands.safetensors'
    assert main(['fit-hands', str(folder), '--out', str(path)]) == 0
    return path


def test_rotation_vectors_of_every_angle():
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(60, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = np.concatenate([np.linspace(0, np.pi - 1e-4, 50), np.pi - np.logspace(-12, -3, 10)])
    vectors = axes * angles[:, None]
    found = rotation_vectors(np.stack([turn(vector) for vector in vectors]).reshape(6, 10, 3, 3))
    np.testing.assert_allclose(found.reshape(60, 3), vectors, atol=1e-6)
    np.testing.assert_array_equal(rotation_vectors(np.eye(3)), [0, 0, 0])


def test_the_angles_of_a_skeleton_are_found_again(tmp_path):
    track = read_track(write_egodex(tmp_path) / '0.hdf5')
    for side in SIDES:
        np.testing.assert_allclose(track.pose[side], motion()[2][side], atol=1e-6)
    assert (track.kind, track.instruction, track.rate_hz) == ('arkit', SENTENCE, 30)


def test_components_rebuild_what_they_were_fitted_on(pca):
    found = load(pca)
    assert found.kind == 'arkit'
    for side in SIDES:
        np.testing.assert_allclose(
            found.components[side] @ found.components[side].T, np.eye(KEPT), atol=1e-9
        )
        rows = np.concatenate([motion(seed)[2][side] for seed in range(3)])
        values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
        assert found.share[side] == pytest.approx(values[:KEPT].sum() / values.sum(), abs=1e-6)
    poses = {side: motion(0)[2][side] for side in SIDES}
    four = fit([poses], 'mano')  # 4 directions: ten components lose nothing
    np.testing.assert_allclose(
        four.poses('left', four.coefficients('left', poses['left'])), poses['left'], atol=1e-9
    )
    np.testing.assert_array_equal(fit([poses], 'mano').components['left'], four.components['left'])


def test_channels_of_a_chunk(tmp_path, pca):
    episodes = open_dataset(write_egodex(tmp_path / 'set'), pca=pca, horizon=4)
    contract = Embodiment.load('human_hands')
    sample = episodes.sample(0, 3)
    assert sample.action_names == contract.action_names()
    assert sample.state_names == contract.state_names
    assert (sample.instruction, sample.stamp_ns) == (SENTENCE, 100_000_000)
    assert abs(sample.images['ego'].mean() - 60) <= 2
    assert sample.mask.all()
    camera, wrist, pose = motion()
    seen = np.linalg.inv(camera[3])
    for number, side in enumerate(SIDES):
        for row in range(4):
            found = sample.actions[row, 16 * number : 16 * number + 16]
            now, then = seen @ wrist[side][3], seen @ wrist[side][3 + row]
            np.testing.assert_allclose(found[:3], then[:3, 3] - now[:3, 3], atol=1e-6)
            np.testing.assert_allclose(turn(found[3:6]) @ now[:3, :3], then[:3, :3], atol=1e-6)
            wanted = load(pca).coefficients(side, pose[side][3 + row])
            np.testing.assert_allclose(found[6:], wanted, atol=1e-6)
        state = sample.state[16 * number : 16 * number + 16]
        np.testing.assert_allclose(state[:3], now[:3, 3], atol=1e-6)
        np.testing.assert_allclose(state[3:6], cv2.Rodrigues(now[:3, :3])[0][:, 0], atol=1e-6)


def test_a_hand_out_of_sight_is_masked_alone(tmp_path, pca):
    hidden = [('left', 2), ('left', 5), *(('right', f) for f in (5, 7))]
    write_egodex(tmp_path / 'set', hidden=hidden)
    episodes = open_dataset(tmp_path / 'set', pca=pca, horizon=3)
    left, right = episodes.sample(0, 2).mask[:, 0], episodes.sample(0, 2).mask[:, 16]
    assert (left.any(), right.tolist()) == (False, [True] * 3)
    assert episodes.sample(0, 2).state is None
    assert episodes.sample(0, 6).mask[:, 16].tolist() == [True, False, True]
    assert episodes.sample(0, COUNT - 1).mask[:, 0].tolist() == [True, False, False]
    with pytest.raises(SampleError, match='frame 5: mask: no action is valid'):
        episodes.sample(0, 5)
    found = [sample.place.frame for sample in episodes.stream(0)]
    assert found == [frame for frame in range(COUNT) if frame != 5]
    assert list(episodes.skipped.values()) == [1]


def test_poses_of_mano(tmp_path, capsys):
    folder = write_mano(tmp_path / 'set')
    with h5py.File(folder / 'a.hdf5', 'a') as file:
        file['left/seen'][...] = file['right/seen'][...] = True
    assert main(['fit-hands', str(folder), '--out', str(tmp_path / 'pca')]) == 0
    assert 'left 100.0 %, right 100.0 % of the variance (1 files)' in capsys.readouterr().out
    sample = open_dataset(folder, pca=tmp_path / 'pca').sample(0, 2)
    assert (sample.actions.shape, sample.stamp_ns) == ((32, 32), 133333333)


def change(folder, key, value=None):
    with h5py.File(folder / '0.hdf5', 'a') as file:
        if key in file.attrs:
            del file.attrs[key]
            return
        del file[key]
        if value is not None:
            file[key] = value


CAMERA, WRIST = 'transforms/camera', 'transforms/leftHand'
TIP = 'transforms/leftThumbIntermediateTip'
DAMAGES = {
    'cut': (lambda f: (f / '0.hdf5').write_bytes(b'\x89HDF'), '0.hdf5: cannot be read'),
    'no wrist': (lambda f: change(f, WRIST), 'has neither transforms/leftHand nor left/wrist'),
    'no joint': (lambda f: change(f, TIP), f'no {TIP!r}; it has'),
    'short': (lambda f: change(f, TIP, np.zeros((3, 4, 4))), f'{TIP}: 3 frames where 12 are'),
    'shape': (lambda f: change(f, WRIST, np.zeros((12, 7))), f'{WRIST}: [12, 7] is no [N, 4, 4]'),
    'camera': (
        lambda f: change(f, CAMERA, np.full((12, 4, 4), np.nan)),
        'frame 0: camera: is not a number',
    ),
    'nan': (
        lambda f: [
            change(f, w, np.full((12, 4, 4), np.nan))
            for w in (WRIST, WRIST.replace('left', 'right'))
        ],
        'frame 0: mask: no action is valid',
    ),
    'sentence': (lambda f: change(f, 'llm_description2'), 'llm_description2: the attribute is'),
    'film': (lambda f: (f / '0.mp4').unlink(), '0.mp4: the video cannot be read'),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_damage_is_told_in_one_line(tmp_path, pca, name):
    damage, words = DAMAGES[name]
    damage(write_egodex(tmp_path / 'set'))
    with pytest.raises(QwenVlaError) as told:
        open_dataset(tmp_path / 'set', pca=pca).sample(0, 0)
    assert words in str(told.value)
    assert '\n' not in str(told.value)


def test_components_that_do_not_fit_are_refused(tmp_path, pca, capsys):
    with pytest.raises(QwenVlaError, match="make them by 'qwen-vla fit-hands'"):
        open_dataset(write_egodex(tmp_path / 'set'))
    mano = write_mano(tmp_path / 'mano')
    with pytest.raises(QwenVlaError, match="kind 'mano', but .* was fitted on 'arkit'"):
        open_dataset(mano, pca=pca).sample(0, 1)
    (tmp_path / 'cut').write_bytes(pca.read_bytes()[:100])
    with pytest.raises(QwenVlaError, match='no file of hand components'):
        open_dataset(mano, pca=tmp_path / 'cut')
    words = [str(mano), str(tmp_path / 'set'), '--out', str(tmp_path / 'out')]
    assert main(['fit-hands', *words]) == 2
    assert "angles of kind 'arkit', but those of" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_frame_without_hands_does_not_stop_training(tmp_path, pca):
    from qwen_vla_ros.train.robots import spread

    hidden = [(side, frame) for side in SIDES for frame in (0, 5)]
    episodes = open_dataset(write_egodex(tmp_path / 'set', hidden=hidden), pca=pca)
    found = [sample.place.frame for sample in spread(episodes, 100)]
    assert found == [frame for frame in range(COUNT) if frame not in (0, 5)]
