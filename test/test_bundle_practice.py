"""Practice: what a checkpoint meets where it acts, and what its teachers say there."""

from pathlib import Path

import numpy as np
import pytest

from qwen_vla_ros.sim.aloha.reactive import STOPPED
from qwen_vla_ros.sim.rooms.expert import StandingPolicy
from qwen_vla_ros.train.bundle import practice
from qwen_vla_ros.train.bundle.frames import POINTS, TRAINING
from qwen_vla_ros.train.bundle.practice import PracticeAloha, PracticeRooms, PracticeTabletop
from qwen_vla_ros.train.bundle.stages import SIZES

CHECKPOINT = Path(__file__).parents[1] / 'checkpoints' / 'families'


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(practice, 'DECISIONS', 6)
    monkeypatch.setattr(practice, 'ALOHA_DECISIONS', 4)
    monkeypatch.setattr(practice, 'ROOMS_DECISIONS', 12)


@pytest.mark.parametrize('maker', [PracticeTabletop, PracticeAloha, PracticeRooms])
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
    assert np.abs(first[-1].state - first[0].state).max() > 0.01  # it moves


@pytest.mark.parametrize('maker', [PracticeTabletop, PracticeAloha])
def test_rows_begin_where_the_arms_are(short, maker):
    frames = maker(SIZES, CHECKPOINT).episode(TRAINING)
    assert frames
    for frame in frames:
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


def test_a_base_that_stops_in_a_wrong_place_is_driven_on_and_every_such_place_is_kept(short):
    made = PracticeRooms(SIZES, CHECKPOINT)
    made._policy = StandingPolicy()
    frames = made.episode(TRAINING)
    # Its first STOP, then the teacher's motions, then again.
    moved = [np.abs(frame.state).max() > 0.05 for frame in frames]
    assert not moved[0] and any(moved)
    assert frames[0].taught[0].actions.any()
    guided = practice.GUIDED
    alone = 1 + (practice.ROOMS_DECISIONS - 1) // (guided + 1)
    assert len(frames) >= alone
