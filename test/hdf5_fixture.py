"""Small HDF5 files in the true layouts of ALOHA/ACT and of robomimic/LIBERO, written by us."""

import json

import cv2
import h5py
import numpy as np

LENGTHS, SIZE = (5, 3), 16
SENTENCE = 'put the bowl on the plate'


def grey(episode, row):
    return 40 + 100 * episode + 20 * row


def pictures(episode):
    """Left half dark by 20, so that a turned or mirrored picture is seen."""
    found = np.stack([np.full((SIZE, SIZE, 3), grey(episode, r)) for r in range(LENGTHS[episode])])
    found[:, :, : SIZE // 2, 0] -= 20
    return found.astype(np.uint8)


def rows(episode, width):
    return 10.0 * episode + np.arange(LENGTHS[episode])[:, None] + np.arange(width) / 100


def padded_jpegs(frames):
    data = [
        cv2.imencode('.jpg', frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
        for frame in frames
    ]
    found = np.zeros((len(data), max(map(len, data)) + 7), np.uint8)
    for row, one in zip(found, data, strict=True):
        row[: len(one)] = one
    return found


def write_aloha(folder, compress=False):
    folder.mkdir()
    for episode in range(len(LENGTHS)):
        with h5py.File(folder / f'episode_{episode}.hdf5', 'w') as file:
            file.attrs['sim'] = False
            file.attrs['compress'] = compress
            file['action'] = rows(episode, 14)
            for key in ('qpos', 'qvel', 'effort'):
                file[f'observations/{key}'] = rows(episode, 14) + 0.5
            for key in ('cam_high', 'cam_left_wrist'):
                found = pictures(episode)
                file[f'observations/images/{key}'] = padded_jpegs(found) if compress else found
    return folder


def write_libero(folder):
    folder.mkdir()
    with h5py.File(folder / 'put_the_bowl_on_the_plate_demo.hdf5', 'w') as file:
        data = file.create_group('data')
        data.attrs['env_args'] = json.dumps({'type': 1, 'env_kwargs': {'control_freq': 20}})
        data.attrs['problem_info'] = json.dumps({'language_instruction': SENTENCE})
        data.attrs['num_demos'] = len(LENGTHS)
        for episode, name in enumerate(('demo_2', 'demo_10')):
            demo = data.create_group(name)
            demo.attrs['num_samples'] = LENGTHS[episode]
            demo['actions'] = rows(episode, 7)
            demo['obs/agentview_rgb'] = pictures(episode)
            demo['obs/eye_in_hand_rgb'] = pictures(episode)
            demo['obs/ee_states'] = rows(episode, 6)
            demo['obs/gripper_states'] = rows(episode, 2)
    return folder
