"""A data set that the lerobot package wrote itself reads as it was written."""

import os

import numpy as np
import pytest

pytest.importorskip('pyarrow')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
library = pytest.importorskip(
    'lerobot.datasets.lerobot_dataset',
    reason='the lerobot package is not installed (it conflicts with transformers 5)',
    exc_type=ImportError,
)

from qwen_vla_ros.data.lerobot import LeRobotEpisodes  # noqa: E402

VECTOR = {'dtype': 'float32', 'shape': (2,), 'names': ['waist', 'elbow']}
PICTURE = {'dtype': 'video', 'shape': (64, 64, 3), 'names': ['height', 'width', 'channels']}
LENGTHS, TASKS = (8, 6), ('lift it', 'open it')


def test_rows_sentences_and_pictures(tmp_path):
    features = {'observation.images.top': PICTURE, 'observation.state': VECTOR, 'action': VECTOR}
    folder = tmp_path / 'set'
    written = library.LeRobotDataset.create(
        'stub/set', fps=10, features=features, root=folder, robot_type='stub'
    )
    for episode, count in enumerate(LENGTHS):
        for frame in range(count):
            written.add_frame(
                {
                    'observation.images.top': np.full((64, 64, 3), grey(episode, frame), np.uint8),
                    'observation.state': np.float32([episode, frame]),
                    'action': np.float32([10 * episode + frame, -frame]),
                    'task': TASKS[episode],
                }
            )
        written.save_episode()
    written.finalize()
    read = LeRobotEpisodes(folder, 2)
    assert [read.frames(episode) for episode in range(len(read))] == list(LENGTHS)
    for episode, count in enumerate(LENGTHS):
        for sample in read.stream(episode):
            frame = sample.place.frame
            assert sample.instruction == TASKS[episode]
            assert sample.state.tolist() == [episode, frame]
            assert sample.actions[0].tolist() == [10 * episode + frame, -frame]
            assert sample.mask[:, 0].tolist() == [True, frame + 1 < count]
            assert abs(sample.images['top'].mean() - grey(episode, frame)) <= 2


def grey(episode, frame):
    return 20 + 100 * episode + 10 * frame
