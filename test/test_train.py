"""Training: falling losses, exact resume after a kill, one clear message for what is broken."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from qwen_vla_ros.cli import main
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.policy import load_policy
from qwen_vla_ros.sim import arm
from qwen_vla_ros.train import runs, supervised
from qwen_vla_ros.train.demonstrations import (
    DemonstrationPlan,
    load_demonstrations,
    make_demonstrations,
)
from qwen_vla_ros.train.grounding import GroundingHead
from qwen_vla_ros.train.runs import tiny
from qwen_vla_ros.train.supervised import Trainer

RUN = dataclasses.replace(tiny(), scenes=4, held_out_scenes=2)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Return a run folder in which the demonstrations are rendered already."""
    folder = tmp_path_factory.mktemp('run')
    Trainer(RUN, folder, 'cpu', 1)
    return folder / 'data'


def trainer(data, out) -> Trainer:
    out.mkdir(exist_ok=True)
    if not (out / 'data').exists():
        (out / 'data').symlink_to(data)
    return Trainer(RUN, out, 'cpu', 1)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_demonstrations_are_the_same_for_the_same_seeds_and_start_where_the_arm_is(data, tmp_path):
    first = load_demonstrations(sorted(data.glob('scenes-1*.npz')))
    plan = DemonstrationPlan({'ego': (96, 128), 'cam_right_wrist': (48, 64)}, 4, 1_000_000)
    again = load_demonstrations(make_demonstrations(plan, tmp_path / 'again', 1))
    for key, value in first.items():
        np.testing.assert_array_equal(again[key], value)
    np.testing.assert_array_equal(first['actions'][:, 1, 0], first['state'])
    tips = arm.forward(first['actions'][..., -1, :].astype(np.float64))[0]
    assert np.linalg.norm(tips[..., :2] - first['xyz'][..., :2], axis=-1).mean() < 0.05


def test_broken_shard_is_named(data, tmp_path):
    shard = tmp_path / 'scenes-1000000.npz'
    shard.write_bytes(next(data.glob('scenes-1*.npz')).read_bytes()[:5000])
    with pytest.raises(QwenVlaError, match=r'scenes-1000000.npz: broken shard'):
        load_demonstrations([shard])


def test_a_killed_run_goes_on_to_the_same_weights(data, tmp_path):
    whole = trainer(data, tmp_path / 'whole')
    whole.fit(save_every=4)
    killed = trainer(data, tmp_path / 'killed')
    steps, real = [], killed.train_step

    def dies_at_the_ninth(phase):
        steps.append(phase.name)
        if len(steps) == 9:
            raise KeyboardInterrupt
        return real(phase)

    killed.train_step = dies_at_the_ninth
    with pytest.raises(KeyboardInterrupt):
        killed.fit(save_every=4)
    resumed = trainer(data, tmp_path / 'killed')
    resumed.load_state()
    assert (resumed.phase_index, resumed.step) == (0, 6)
    resumed.fit(save_every=4)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, atol=0, rtol=0)


def test_finished_run_writes_a_checkpoint_that_a_robot_loads(data, tmp_path):
    run = trainer(data, tmp_path / 'run')
    run.fit()
    folder = run.finish('qwen-vla train tiny')
    policy = load_policy(folder, Embodiment.load('widowx'), 'cpu')
    assert policy.metadata['horizon'] == 16
    told = json.loads((folder / 'training.json').read_text())
    assert told['command'] == 'qwen-vla train tiny'
    assert set(told['held_out']) == {'grounding', 'decoder', 'joint'}
    assert (folder / 'curves.png').stat().st_size > 1000


def test_state_of_another_run_is_refused_but_phases_to_come_may_change(data, tmp_path):
    run = trainer(data, tmp_path / 'run')
    run.step = 3
    run.save_state()
    later = dataclasses.replace(RUN, phases=RUN.phases[:2])
    run.run = later
    run.load_state()
    run.run = dataclasses.replace(RUN, seed=5)
    with pytest.raises(QwenVlaError, match='other settings'):
        run.load_state()


def test_loss_that_is_not_finite_stops_with_the_last_good_state_named(data, tmp_path):
    run = trainer(data, tmp_path / 'run')
    with torch.no_grad():
        run.model.backbone.model.language_model.norm.weight.fill_(float('nan'))
    with pytest.raises(QwenVlaError, match='not finite at phase grounding, step 0'):
        run.fit()
    assert not run.state_path.exists()


def test_frozen_backbone_gets_no_step_in_the_decoder_phase(data, tmp_path):
    run = trainer(data, tmp_path / 'run')
    before = weights(run)
    run.phase_index = 1
    run.train_step(RUN.phases[1])
    after = weights(run)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith('decoder.') for name in moved)


def test_grounding_head_learns_to_point():
    torch.manual_seed(0)
    head = GroundingHead(8)
    token = torch.tensor([0, 1, 2, 3])
    place = torch.tensor([[0.2, 0.1], [0.3, -0.2], [0.4, 0.0], [0.25, 0.2]])
    states = torch.randn(4, 4, 8) * 0.1
    states[torch.arange(4), token] += torch.randn(4, 8)
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(400):
        optimiser.zero_grad()
        head.loss(states, token, place).mean().backward()
        optimiser.step()
    assert head.error_m(states, place).max() < 0.01


def test_the_command_line_trains_and_goes_on(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'run'
    out.mkdir()
    (out / 'data').symlink_to(data)
    monkeypatch.setitem(runs.RUNS, 'tiny', lambda: RUN)
    monkeypatch.setattr('sys.argv', ['qwen-vla', 'train', 'tiny', '--out', 'run'])
    for _ in range(2):
        assert main(['train', 'tiny', '--out', str(out), '--workers', '1']) == 0
    told = capsys.readouterr().out
    assert told.count(f'checkpoint: {out}/checkpoint') == 2
    assert 'going on at phase 2, step 4' in told
    training = json.loads((out / 'checkpoint' / 'training.json').read_text())
    assert training['command'] == 'qwen-vla train tiny --out run'


def test_a_model_that_looks_back_is_not_trained_without_a_past(tmp_path, monkeypatch):
    plain = preset('tiny')
    inputs = dataclasses.replace(plain.inputs, history_frames=2)
    config = dataclasses.replace(plain, inputs=inputs)
    monkeypatch.setattr(supervised, 'preset', lambda name: config)
    with pytest.raises(QwenVlaError, match='history_frames is 2'):
        Trainer(RUN, tmp_path, 'cpu', 1)
