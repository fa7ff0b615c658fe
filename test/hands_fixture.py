"""Small recordings of hands in the true layout of EgoDex, and in ours, from known motions."""

import cv2
import h5py
import numpy as np
from lerobot_fixture import film

COUNT, SIDES = 12, ('left', 'right')
FINGERS = ('IndexFinger', 'MiddleFinger', 'LittleFinger', 'RingFinger', 'Thumb')
JOINTS = ('Knuckle', 'IntermediateBase', 'IntermediateTip')
SENTENCE, BACK = 'open the box', 'close the box'


def turn(vector):
    return cv2.Rodrigues(np.asarray(vector, float))[0]


def pose_of(rotation, position):
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = rotation, position
    return found


def motion(seed=0, count=COUNT):
    """Camera [N, 4, 4], wrists side -> [N, 4, 4], joint angles side -> [N, 45], all known."""
    rng = np.random.default_rng(seed)
    camera = np.stack([pose_of(turn([0.1 * i, 0.3, 0]), [0.01 * i, 1, 0]) for i in range(count)])
    wrist, pose = {}, {}
    for number, side in enumerate(SIDES):
        wrist[side] = np.stack(
            [
                pose_of(turn([0, 0.2 * i, 0.5 * number]), [0.02 * i, number, -0.01 * i])
                for i in range(count)
            ]
        )
        pose[side] = rng.normal(size=(count, 4)) @ rng.normal(size=(4, 45)) * 0.2
    return camera, wrist, pose


def write_egodex(folder, name='0', seed=0, count=COUNT, hidden=(), confidences=True):
    """One recording; hidden are (side, frame) whose confidence is low."""
    folder.mkdir(parents=True, exist_ok=True)
    camera, wrist, pose = motion(seed, count)
    with h5py.File(folder / f'{name}.hdf5', 'w') as file:
        file.attrs['llm_type'], file.attrs['which_llm_description'] = 'reversible', '2'
        file.attrs['llm_description'], file.attrs['llm_description2'] = BACK, SENTENCE
        file['camera/intrinsic'] = np.eye(3, dtype=np.float32)
        file['transforms/camera'] = camera
        for side in SIDES:
            file[f'transforms/{side}Hand'] = wrist[side]
            joints = pose[side].reshape(count, 5, 3, 3)
            for f, finger in enumerate(FINGERS):
                before = wrist[side]
                for j, joint in enumerate(JOINTS):
                    step = [pose_of(turn(vector), [0.03, 0, 0]) for vector in joints[:, f, j]]
                    before = before @ np.stack(step)
                    file[f'transforms/{side}{finger}{joint}'] = before
            if confidences:
                sure = np.ones(count, np.float32)
                sure[[frame for where, frame in hidden if where == side]] = 0.1
                file[f'confidences/{side}Hand'] = sure
    film(folder / f'{name}.mp4', [20 * i for i in range(count)], 30)
    return folder


def write_mano(folder, name='a'):
    folder.mkdir(parents=True, exist_ok=True)
    camera, wrist, pose = motion(7)
    with h5py.File(folder / f'{name}.hdf5', 'w') as file:
        file.attrs['instruction'], file.attrs['rate_hz'] = SENTENCE, 15.0
        file['camera'] = camera
        for side in SIDES:
            file[f'{side}/wrist'], file[f'{side}/pose'] = wrist[side], pose[side]
            file[f'{side}/seen'] = np.arange(COUNT) % 5 > 0
    film(folder / f'{name}.mp4', [20 * i for i in range(COUNT)], 15)
    return folder
