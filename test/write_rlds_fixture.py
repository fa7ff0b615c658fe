"""
Write rlds_own_small_set with tensorflow-datasets itself (4.9.10, tensorflow 2.21), by hand.

In an environment that has both, in this folder: python -m write_rlds_fixture FOLDER, and move what
lies in FOLDER/own_small_set to rlds_own_small_set.
"""

import sys

import numpy as np
import tensorflow_datasets as tfds

LENGTHS, SIZE = (5, 3, 4), 8
F = tfds.features
STEP = {
    'observation': {
        'image_0': F.Image(shape=(SIZE, SIZE, 3), encoding_format='jpeg'),
        'image_1': F.Image(shape=(SIZE, SIZE, 3), encoding_format='png'),
        'state': F.Tensor(shape=(7,), dtype=np.float32),
        'raw': F.Tensor(shape=(2, 2, 3), dtype=np.uint8),
    },
    'action': F.Tensor(shape=(7,), dtype=np.float32),
    'split_action': {
        'world_vector': F.Tensor(shape=(3,), dtype=np.float32),
        'open_gripper': F.Scalar(dtype=np.bool_),
        'count': F.Scalar(dtype=np.int64),
    },
    'discount': F.Scalar(dtype=np.float32),
    'reward': F.Scalar(dtype=np.float32),
    'is_first': F.Scalar(dtype=np.bool_),
    'is_last': F.Scalar(dtype=np.bool_),
    'is_terminal': F.Scalar(dtype=np.bool_),
    'language_instruction': F.Text(),
}


def step(episode, row, count):
    picture = np.full((SIZE, SIZE, 3), 40 + 60 * episode + 10 * row, np.uint8)
    numbers = np.float32(10 * episode + row + np.arange(7) / 100)
    return {
        'observation': {
            'image_0': picture,
            'image_1': picture + np.uint8(5),
            'state': numbers + np.float32(0.5),
            'raw': np.full((2, 2, 3), row, np.uint8),
        },
        'action': numbers,
        'split_action': {
            'world_vector': np.float32([episode, row, -1]),
            'open_gripper': row % 2 == 0,
            'count': -row,
        },
        'discount': 1.0,
        'reward': float(row == count - 1),
        'is_first': row == 0,
        'is_last': row == count - 1,
        'is_terminal': row == count - 1,
        'language_instruction': f'task {episode}',
    }


class OwnSmallSet(tfds.core.GeneratorBasedBuilder):
    """Three episodes, which the library shuffles into two shards."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = {'steps': F.Dataset(STEP), 'episode_metadata': {'file_path': F.Text()}}
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        for episode, count in enumerate(LENGTHS):
            steps = [step(episode, row, count) for row in range(count)]
            metadata = {'file_path': f'none/{episode}'}
            yield f'episode {episode}', {'steps': steps, 'episode_metadata': metadata}


if __name__ == '__main__':
    shards = tfds.download.DownloadConfig(num_shards=2)
    OwnSmallSet(data_dir=sys.argv[1]).download_and_prepare(download_config=shards)
