"""Real episodes without their pictures, as chunks or whole; mixed 80 to 20 with words."""

from itertools import islice

import pytest
from lerobot_fixture import LENGTHS, write_v3

from qwen_vla_ros.data.lerobot import LeRobotEpisodes
from qwen_vla_ros.data.mixture import TEXT_TO_ACTION, Mixture, Source
from qwen_vla_ros.data.without_vision import WithoutVision
from qwen_vla_ros.errors import QwenVlaError


@pytest.fixture(scope='module')
def episodes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('set')
    write_v3(folder)
    return LeRobotEpisodes(folder, 3, embodiment='widowx')


def test_chunks_lose_their_pictures_and_nothing_else(episodes):
    blind = WithoutVision(episodes)
    assert len(blind) == 2 and blind.frames(0) == LENGTHS[0] and blind.source == episodes.source
    for ours, theirs in zip(blind.stream(1), episodes.stream(1), strict=True):
        assert theirs.images and not ours.images
        assert ours.actions.tolist() == theirs.actions.tolist()
        assert (ours.instruction, ours.stamp_ns) == (theirs.instruction, theirs.stamp_ns)


def test_a_whole_trajectory_has_every_row(episodes):
    blind = WithoutVision(episodes, whole=True)
    assert blind.frames(0) == 1
    sample = blind.sample(0, 0)
    assert sample.actions.tolist() == episodes.columns(0)['action'].tolist()
    assert sample.mask.all() and not sample.images
    assert [one.place.episode for one in blind.stream(1)] == [1]


def test_a_reader_without_columns_has_no_whole_trajectories():
    class Chunks:
        source = 'chunks'

    with pytest.raises(QwenVlaError, match='chunks: its reader cannot give whole'):
        WithoutVision(Chunks(), whole=True)


def test_words_and_real_episodes_are_mixed_twenty_to_eighty(episodes):
    sources = [
        Source(WithoutVision(episodes), 'real'),
        Source(WithoutVision(episodes, whole=True), 'synthetic'),
    ]
    drawn = list(islice(Mixture(sources, 0, TEXT_TO_ACTION), 300))
    whole = sum(len(sample.actions) > 3 for sample in drawn)
    assert whole / 300 == pytest.approx(0.2, abs=0.06)
    assert not any(sample.images for sample in drawn)
