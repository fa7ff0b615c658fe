"""Films of held-out episodes: what a frame shows, and which episodes; runs: test_train_stages."""

import dataclasses

import numpy as np
import stage_lab

from qwen_vla_ros.data.sample import Place, Sample
from qwen_vla_ros.train import held_out
from qwen_vla_ros.train.films import BANDS, GREY, ORANGE, PICTURE, STRIP, film_frames
from qwen_vla_ros.train.held_out import Prediction
from qwen_vla_ros.train.sources import DataSet


def prediction(actions, predicted, mask=None, images=None):
    rows = np.asarray(actions, np.float32)
    sample = Sample(
        Place('made', 0, 0),
        images or {},
        'go',
        'arm',
        rows,
        np.ones(rows.shape, bool) if mask is None else np.asarray(mask),
        tuple(f'joint{i}' for i in range(rows.shape[1])),
        0,
    )
    return Prediction(sample, np.asarray(predicted, np.float32))


def test_a_film_shows_pictures_what_was_demonstrated_and_what_was_predicted():
    red = np.full((96, 128, 3), (200, 0, 0), np.uint8)
    ramp = np.linspace(0, 1, 8)[:, None]
    mask = np.arange(8)[:, None] < 4
    first = prediction(ramp, 1 - ramp, mask, {'ego': red})
    frames = film_frames([first, prediction(ramp, ramp, None, {'ego': red})])
    assert (frames[0][STRIP + PICTURE[0] // 2, PICTURE[1] // 2] == (200, 0, 0)).all()
    bands = frames[0][STRIP:, PICTURE[1] :]
    assert bands.shape[1] == BANDS
    grey, orange = ((bands == colour).all(2).nonzero()[1] for colour in (GREY, ORANGE))
    # What is not demonstrated is not drawn; what is predicted goes over the whole width.
    assert grey.max() < 0.5 * BANDS < 0.9 * BANDS < orange.max()
    assert not np.array_equal(frames[0], frames[1])


def test_an_episode_that_says_nothing_of_motion_has_no_film():
    still = stage_lab.episodes('table', 'widowx', stage_lab.SIZES, (16,), frames=1)
    assert held_out.episode(DataSet.of('robot manipulation', still)) == []
    arm = DataSet.of('a', stage_lab.episodes('table', 'widowx', stage_lab.SIZES, (16,), frames=90))
    found = [sample.place.frame for sample in held_out.episode(arm)]
    assert len(found) == held_out.FILMED and found[0] == 0 and found[-1] == 89
    alone = dataclasses.replace(arm, held_out=type(arm.held_out)(arm.episodes, ()))
    assert held_out.episode(alone) == []
