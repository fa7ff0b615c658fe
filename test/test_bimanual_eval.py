"""qwen-vla eval sim --robot aloha: rates with intervals by task, a film, a report."""

import json

import av
import numpy as np
import pytest

from qwen_vla_ros.cli import main
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.bimanual import rates, run_trials
from qwen_vla_ros.policy import ConstantPolicy
from qwen_vla_ros.sim.aloha.motion import Motion
from qwen_vla_ros.sim.aloha.vx300s import JOINT_NAMES, HandPose


@pytest.mark.slow
def test_one_scene_of_each_task_leaves_rates_film_and_report(tmp_path, capsys):
    words = ['eval', 'sim', '--robot', 'aloha', '--policy', 'expert', '--seeds', '3']
    assert main([*words, '--no-baselines', '--out', str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert 'transfer: 1 of 1 (95 %: 21% to 100%), mean best stage 4.00 of 4' in printed
    assert 'insertion: 1 of 1 (95 %: 21% to 100%), mean best stage 4.00 of 4' in printed
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['success'] == summary['episodes'] == 2 and summary['complete']
    assert (tmp_path / 'report.html').stat().st_size > 10_000
    with av.open(str(tmp_path / 'video.mp4')) as film:
        frames = [frame.to_ndarray(format='rgb24') for frame in film.decode(video=0)]
    assert len(frames) > 250 and frames[0].shape == (544, 960, 3)
    assert frames[60].std() > 20


@pytest.mark.slow
def test_a_policy_that_holds_still_comes_nowhere():
    policy = ConstantPolicy(Embodiment.load('aloha'))
    assert tuple(policy.metadata['action_names']) == JOINT_NAMES
    trials = list(run_trials(policy, [0], baselines=False))
    found = rates(trials)
    assert {name: (row['success'], row['mean_stage']) for name, row in found.items()} == {
        'transfer': (0, 0.0),
        'insertion': (0, 0.0),
    }
    assert np.isclose(trials[0].episode.elapsed_s, 25.0, atol=0.02)


def test_swapped_sentences_are_refused(tmp_path, capsys):
    words = ['eval', 'sim', '--robot', 'aloha', '--policy', 'expert', '--swap']
    assert main([*words, '--out', str(tmp_path)]) == 2
    assert '--swap: the tasks of aloha have no swapped form' in capsys.readouterr().err


class _Lost:
    """A teacher whose plan asks for a pose out of reach, from its second inference on."""

    def __init__(self):
        self._still = ConstantPolicy(Embodiment.load('aloha'))
        self.metadata, self._calls = self._still.metadata, 0

    def infer(self, observation, prefix=None):
        self._calls += 1
        if self._calls > 1:
            Motion(np.zeros(14), 0.02).swing({'right': HandPose((-0.6, 0.0, 0.1))})
        return self._still.infer(observation, prefix)

    def reset(self):
        self._calls = 0


def test_a_pose_out_of_reach_fails_its_episode_and_no_other():
    trials = list(run_trials(_Lost(), [0, 1], baselines=False))
    assert [(t.task, t.episode.seed, t.gave_up, t.episode.success) for t in trials] == [
        (task, seed, True, False) for task in ('transfer', 'insertion') for seed in (0, 1)
    ]
    assert all(trial.episode.elapsed_s == pytest.approx(0.5) for trial in trials)
    note = 'transfer: best stage 0 of 4; gave up: the right arm does not reach (-0.600,'
    assert trials[0].episode.note.startswith(note)
    assert rates(trials)['insertion']['gave_up'] == 2


def test_without_out_each_robot_has_a_folder_of_its_own(monkeypatch):
    seen = []
    for name in ('bimanual', 'rooms'):
        place = f'qwen_vla_ros.evaluate.{name}.run_from_arguments'
        monkeypatch.setattr(place, lambda args: seen.append(str(args.out)) or 0)
    for robot in ('aloha', 'mobile_base'):
        assert main(['eval', 'sim', '--robot', robot, '--policy', 'expert']) == 0
    assert seen == ['out/eval/aloha', 'out/eval/mobile_base']
