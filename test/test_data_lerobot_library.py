"""What the lerobot package writes reads as it was written, and it loads what we write."""

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

import lerobot_fixture as made  # noqa: E402

from qwen_vla_ros.data.cleaning import Thresholds  # noqa: E402
from qwen_vla_ros.data.conversion import Conversion, convert  # noqa: E402
from qwen_vla_ros.data.lerobot import LeRobotEpisodes  # noqa: E402
from qwen_vla_ros.data.lerobot_writer import LeRobotTarget  # noqa: E402
from qwen_vla_ros.data.work_list import units_of  # noqa: E402

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


@pytest.mark.parametrize('codec', ['h264', 'av1'])
def test_the_library_loads_what_we_write(tmp_path, codec, monkeypatch):
    monkeypatch.setattr(made, 'SIZE', 64)
    monkeypatch.setitem(made.FEATURES, made.KEY, {**made.FEATURES[made.KEY], 'shape': [64, 64, 3]})
    source = str(made.write_v3(tmp_path / 'in'))
    asked = Conversion(units_of([source], {}), LeRobotTarget(codec), Thresholds(min_frames=1))
    convert(asked, tmp_path / 'out')
    loaded = library.LeRobotDataset('stub/set', root=tmp_path / 'out', video_backend='pyav')
    assert loaded.num_episodes == 2
    ours = LeRobotEpisodes(tmp_path / 'out', 1)
    samples = [sample for episode in range(2) for sample in ours.stream(episode)]
    assert len(loaded) == len(samples) == sum(made.LENGTHS)
    for row, sample in zip(loaded, samples, strict=False):
        assert row['task'] == sample.instruction
        np.testing.assert_array_equal(row['action'], sample.actions[0])
        np.testing.assert_array_equal(row['observation.state'], sample.state)
        theirs = row[made.KEY].numpy().transpose(1, 2, 0) * 255
        assert np.abs(theirs - sample.images['top']).max() <= 3
    for key in ('action', 'observation.state', made.KEY):
        assert {'min', 'max', 'mean', 'std', 'count', 'q01', 'q99'} <= loaded.meta.stats[
            key
        ].keys()
    second = library.LeRobotDataset(
        'stub/set', root=tmp_path / 'out', video_backend='pyav', episodes=[1]
    )
    assert len(second) == made.LENGTHS[1]
