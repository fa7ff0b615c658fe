"""Practice: what a checkpoint meets where it acts, and what its teachers say there."""

from pathlib import Path

import numpy as np
import pytest

from qwen_vla_ros.sim.aloha.reactive import STOPPED
from qwen_vla_ros.train.bundle import practice
from qwen_vla_ros.train.bundle.frames import POINTS, TRAINING
from qwen_vla_ros.train.bundle.practice import PracticeAloha, PracticeTabletop
from qwen_vla_ros.train.bundle.stages import SIZES

CHECKPOINT = Path(__file__).parents[1] / 'checkpoints' / 'families'


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(practice, 'DECISIONS', 6)
    monkeypatch.setattr(practice, 'ALOHA_DECISIONS', 4)


@pytest.mark.parametrize('maker', [PracticeTabletop, PracticeAloha])
def test_an_episode_is_led_by_the_policy_and_is_the_same_again(short, maker):
    made = maker(SIZES, CHECKPOINT)
    first = made.episode(TRAINING)
    again = made.episode(TRAINING)
    assert first and len(first) == len(again)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.state, other.state)
        for view in maker.views:
            np.testing.assert_array_equal(one.images[view], other.images[view])
        assert [t.instruction for t in one.taught] == [t.instruction for t in other.taught]
    # It moves, and rows begin where the robot is.
    assert np.abs(first[-1].state - first[0].state).max() > 0.01
    for frame in first:
        for taught in frame.taught:
            assert set(taught.points) == set(POINTS) and 'target_x' in taught.values
            arms = np.arange(len(frame.state)) % 7 != 6
            np.testing.assert_allclose(taught.actions[0, arms], frame.state[arms], atol=1e-5)


def test_what_a_hand_holds_is_what_is_talked_of():
    made = PracticeAloha(SIZES, CHECKPOINT)
    episodes = (made.episode(TRAINING + number) for number in range(8))
    found = ([frame for frame in frames if len(frame.taught) == 1] for frames in episodes)
    held = next(frames for frames in found if frames)  # some episode's policy grips its cube
    for frame in held:
        assert frame.state[[6, 13]].min() <= STOPPED  # its fingers are around it
        assert frame.taught[0].instruction.count('cube') == 1
