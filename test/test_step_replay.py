"""Logged calls again: the same to the bit, and where a difference begins."""

import json

import numpy as np
import pytest

pytest.importorskip('torch')

import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from qwen_vla_ros.cli import main
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint
from qwen_vla_ros.evaluate.step_replay import replay, step_files
from qwen_vla_ros.model.step_log import StepLog, read_step
from qwen_vla_ros.policy import load_policy
from qwen_vla_ros.types import Observation

ROBOT = Embodiment.load('widowx')


@pytest.fixture(scope='module')
def policy():
    torch.set_num_threads(1)
    return load_policy(bundled_checkpoint(), ROBOT, 'cpu')


def observations(count):
    rng = np.random.default_rng(0)
    for number in range(count):
        images = {c.view: rng.integers(0, 255, (120, 160, 3), np.uint8) for c in ROBOT.cameras}
        state = rng.normal(0, 0.1, len(ROBOT.state_names)).astype(np.float32)
        names = ROBOT.state_names
        yield Observation(images, state, names, 'touch the red block', number * 10**9, 'widowx')


@pytest.fixture(scope='module')
def log(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp('log') / 'steps'
    policy.reset()
    policy.log_steps(folder)
    chunks = [policy.infer(seen) for seen in observations(3)]
    policy._log = None
    return folder, chunks


def changed(folder, to, **tensors):
    """Copy the log's last step with other tensors; facts of that name are replaced as well."""
    path = step_files(folder)[-1]
    kept, facts = read_step(path)
    facts |= {name: tensors.pop(name) for name in list(tensors) if name in facts}
    save_file({**kept, **tensors}, to / path.name, {'step': json.dumps(facts)})
    return step_files(to)


def test_every_step_is_the_same_to_the_bit(policy, log):
    found = list(replay(policy, step_files(log[0])))
    assert [item.difference for item in found] == [None] * 3
    assert found[0].machine == ()


def test_a_log_of_one_seed_whose_nth_call_took_the_nth_noise_is_replayed(policy, log, tmp_path):
    _, facts = read_step(step_files(log[0])[-1])
    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(policy.model.noise_shape(1), generator=generator) for _ in range(3)][-1]
    files = changed(log[0], tmp_path, noise=noise.numpy(), seed=7)
    tensors, told = read_step(files[0])
    told.pop('draw')
    save_file(tensors, files[0], {'step': json.dumps(told)})
    (found,) = replay(policy, files)
    assert (facts['call'], found.difference.stage) == (3, 'denoising step 1')


def test_the_log_holds_what_the_robot_got(log):
    tensors, facts = read_step(step_files(log[0])[1])
    np.testing.assert_array_equal(tensors['rows'].astype(np.float32), log[1][1].actions)
    assert facts['call'] == 2
    assert facts['instruction'] == 'touch the red block'
    assert tensors['images.ego'].dtype == np.uint8
    assert len(tensors['steps']) == facts['denoising_steps']


@pytest.mark.parametrize(
    ('name', 'stage'),
    [
        ('pixel_values', 'pixels'),
        ('input_ids', 'prompt ids'),
        ('noise', 'noise'),
        ('features', 'encoder output'),
        ('steps', 'denoising step 3'),
        ('actions', 'raw actions'),
        ('rows', 'inverse transforms'),
    ],
)
def test_the_first_stage_that_differs_is_named(policy, log, tmp_path, name, stage):
    tensors, _ = read_step(step_files(log[0])[-1])
    other = tensors[name].copy()
    place = (2, *(0,) * (other.ndim - 1)) if name == 'steps' else (0,) * other.ndim
    other[place] += 1
    (found,) = replay(policy, changed(log[0], tmp_path, **{name: other}))
    assert found.difference.stage == stage
    assert found.difference.most == pytest.approx(1.0)


def test_other_weights_and_another_machine_are_told(policy, log, tmp_path):
    (found,) = replay(policy, changed(log[0], tmp_path, weights='0' * 32, torch='1.0'))
    assert found.difference.stage == 'weights'
    assert found.machine == (f'torch {torch.__version__}, logged 1.0',)


def test_the_command_tells_and_its_exit_code_says_so(log, tmp_path, capsys):
    words = ['--checkpoint', str(bundled_checkpoint()), '--device', 'cpu']
    assert main(['eval', 'replay', str(log[0]), *words]) == 0
    assert '3 of 3 steps are the same to the bit' in capsys.readouterr().out
    changed(log[0], tmp_path, instruction='touch the green can')
    assert main(['eval', 'replay', str(tmp_path), *words]) == 1
    assert 'prompt ids' in capsys.readouterr().out


def test_the_oldest_steps_go_when_the_folder_is_full(policy, tmp_path):
    log = StepLog(tmp_path, policy.model, policy._engine, max_gb=3 * 4200 / 2**30)
    for _ in range(9):
        log.write({'rows': np.zeros(800, np.float32)}, {})
    names = [path.name for path in step_files(tmp_path)]
    assert names[-1] == '00000008.safetensors'
    assert 2 <= len(names) <= 3


def test_a_folder_with_steps_and_a_file_that_is_none_are_told(policy, log, tmp_path):
    with pytest.raises(QwenVlaError, match='holds steps already'):
        policy.log_steps(log[0])
    (tmp_path / '0.safetensors').write_bytes(b'no step')
    with pytest.raises(QwenVlaError, match='not a logged step'):
        list(replay(policy, step_files(tmp_path)))
    with pytest.raises(QwenVlaError, match='no logged step'):
        step_files(tmp_path / 'none')
    (tmp_path / 'above' / 'widowx').mkdir(parents=True)
    (tmp_path / 'above' / 'widowx' / '1.safetensors').touch()
    with pytest.raises(QwenVlaError, match=r'choose one of .*above/widowx'):
        step_files(tmp_path / 'above')


def test_nothing_but_numbers_is_in_a_step(log):
    with safe_open(step_files(log[0])[0], 'np') as file:
        assert set(file.metadata()) == {'step'}
