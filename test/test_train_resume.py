"""Killed at any time: the curve goes on bit by bit, and the last good state is never lost."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import stage_lab
import torch

from qwen_vla_ros.cli import main
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.run_folder import begin_anew
from qwen_vla_ros.train.run_state import facts_of_same, last_state

ROOT = Path(__file__).parents[1]
TIMES = ('speed',)


def curve(out):
    """Return the log without what the clock decides."""
    lines = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def assert_equal(one, other):
    for name, value in stage_lab.weights(one).items():
        torch.testing.assert_close(stage_lab.weights(other)[name], value, atol=0, rtol=0)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    one = stage_lab.run(tmp_path_factory.mktemp('whole'), stage_lab.recipe(ema=0.9))
    assert one.fit()
    return one


def test_a_killed_run_goes_on_to_the_same_bits(whole, tmp_path):
    killed = stage_lab.run(tmp_path, whole.recipe)
    real = killed.train_step

    def dies_at_the_sixth(taken):
        if killed.step == 5:
            raise KeyboardInterrupt
        return real(taken)

    killed.train_step = dies_at_the_sixth
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    resumed = stage_lab.run(tmp_path, whole.recipe)
    assert resumed.step == 4
    assert resumed.fit()
    assert_equal(whole, resumed)
    assert curve(tmp_path) == curve(whole.out)
    torch.testing.assert_close(
        resumed.average['decoder.context_in.weight'],
        whole.average['decoder.context_in.weight'],
        atol=0,
        rtol=0,
    )


@pytest.mark.parametrize(
    'number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_after_its_step_and_nothing_is_lost(whole, tmp_path, number):
    stopped = stage_lab.run(tmp_path, whole.recipe)
    real = stopped.train_step

    def is_told_to_stop(taken):
        if stopped.step == 2:
            os.kill(os.getpid(), number)
        return real(taken)

    stopped.train_step = is_told_to_stop
    before = signal.getsignal(number)
    assert not stopped.fit()
    assert signal.getsignal(number) is before
    resumed = stage_lab.run(tmp_path, whole.recipe)
    assert resumed.step == 3
    assert resumed.fit()
    assert_equal(whole, resumed)
    assert curve(tmp_path) == curve(whole.out)


def test_a_full_disk_stops_the_run_and_leaves_the_state_before(whole, tmp_path):
    one = stage_lab.run(tmp_path, whole.recipe)
    real, limits = one.train_step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills_the_disk(taken):
        if one.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        return real(taken)

    one.train_step = fills_the_disk
    try:
        with pytest.raises(QwenVlaError, match=r'cannot write .* saved before is intact'):
            one.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / 'state').iterdir()] == ['step-00000002']
    resumed = stage_lab.run(tmp_path, whole.recipe)
    assert resumed.step == 2 and resumed.fit()
    assert_equal(whole, resumed)


def test_a_loss_that_is_no_number_stops_before_it_changes_anything(tmp_path):
    one = stage_lab.run(tmp_path)
    real = one.train_step

    def breaks(taken):
        if one.step == 3:
            with torch.no_grad():
                one.model.decoder.context_in.bias[0] = float('nan')
        return real(taken)

    one.train_step = breaks
    with pytest.raises(QwenVlaError, match=r'step 4: loss or gradient is not finite .*00000002'):
        one.fit()
    state = last_state(tmp_path / 'state')
    assert state.name == 'step-00000002'
    resumed = stage_lab.run(tmp_path)
    assert all(torch.isfinite(p).all() for p in resumed.trained.values())


def test_a_state_of_other_settings_is_refused(whole):
    with pytest.raises(QwenVlaError, match=r'other settings \(seed 1, was 0\)'):
        stage_lab.run(whole.out, stage_lab.recipe(ema=0.9, seed=1))


def test_every_setting_that_differs_is_told(whole):
    with pytest.raises(QwenVlaError, match=r'\(batch 2, was 4; draws 1, was 2\)'):
        stage_lab.run(whole.out, stage_lab.recipe(ema=0.9, batch=2, draws=1))
    told = dataclasses.replace(whole.recipe, families={'navigation': 1.0})
    other = {**whole.identity, 'recipe': dataclasses.asdict(told)}
    with pytest.raises(QwenVlaError, match=r'families.navigation 1.0, was '):
        facts_of_same(last_state(whole.out / 'state'), other)


def test_a_state_that_began_with_another_checkpoint_is_refused(whole, tmp_path):
    told = stage_lab.recipe('t2a', steps=1)
    inits = []
    for seed in (0, 1):
        one = stage_lab.run(tmp_path / str(seed), dataclasses.replace(told, seed=seed))
        one.fit()
        inits.append(str(one.finish('train')))
    stage_lab.run(tmp_path / 'next', told, inits[0]).save()
    stage_lab.run(tmp_path / 'next', told, inits[0])
    with pytest.raises(QwenVlaError, match=r'other settings \(other init\)'):
        stage_lab.run(tmp_path / 'next', told, inits[1])


def test_a_broken_state_is_named(whole, tmp_path):
    one = stage_lab.run(tmp_path)
    one.save()
    state = last_state(tmp_path / 'state')
    (part,) = state.glob('rank-*')
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(QwenVlaError, match=r'step-00000000: broken .* delete it'):
        stage_lab.run(tmp_path)


def test_a_log_without_a_state_is_told_and_dropped(tmp_path, capsys):
    log = tmp_path / 'log.jsonl'
    begin_anew(tmp_path)
    assert capsys.readouterr().out == ''
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "act')
    begin_anew(tmp_path)
    told = f'no state in {tmp_path}: beginning anew; 2 steps of the log are dropped\n'
    assert capsys.readouterr().out == told
    assert not log.exists()


def test_a_line_that_was_cut_short_is_dropped_from_the_log(whole, tmp_path):
    one = stage_lab.run(tmp_path, stage_lab.recipe(steps=2))
    one.fit()
    with (tmp_path / 'log.jsonl').open('a') as file:
        file.write('{"step": 3, "act')
    again = stage_lab.run(tmp_path, stage_lab.recipe(steps=2))
    assert again.fit()
    assert [line['step'] for line in curve(tmp_path)] == [1, 2]


@pytest.mark.slow
def test_two_processes_train_the_adapters_of_one(tmp_path):
    data, base = tmp_path / 'set', tmp_path / 'base'
    made = ['--episodes', '8', '--arms', 'ur5e', '--workers', '1', '--no-report']
    assert main(['synthesise', 'text-action', '--out', str(data), *made]) == 0
    words = ['t2a', '--data', f'synthetic={data}/ur5e', '--batch', '2', '--draws', '1']
    assert main(['train', *words, '--steps', '1', '--out', str(base)]) == 0
    words += ['--steps', '4', '--lora', '2', '--init', str(base / 'checkpoint')]
    assert main(['train', *words, '--out', str(tmp_path / 'one')]) == 0
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    command = [*launcher, '-m', 'qwen_vla_ros.cli', 'train', *words, '--threads', '1']
    finished(spawn(*command, '--out', str(tmp_path / 'two')))
    for key in ('action', 'gradient_norm'):
        one, two = ([line[key] for line in curve(tmp_path / name)] for name in ('one', 'two'))
        np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.slow
def test_a_demo_killed_before_its_end_goes_on(tmp_path):
    words = ['train', 't2a', '--preset', 'tiny', '--demo', '--threads', '1', '--out']
    process = spawn('-m', 'qwen_vla_ros.cli', *words, str(tmp_path))
    while last_state(tmp_path / 'state') is None and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    reached = int(last_state(tmp_path / 'state').name[5:])
    assert reached % 20 == 0 and reached < 150
    told = finished(spawn('-m', 'qwen_vla_ros.cli', *words, str(tmp_path)))
    assert f'going on at step {reached}' in told
    assert [line['step'] for line in curve(tmp_path)] == list(range(1, 151))


SCRIPT = """
import sys
sys.path.insert(0, 'test')
from pathlib import Path
import stage_lab
from qwen_vla_ros.train.ranks import open_ranks
with open_ranks() as ranks:
    told = stage_lab.recipe(steps=int(sys.argv[2]), ema=0.9)
    one = stage_lab.run(Path(sys.argv[1]), told, ranks=ranks)
    if len(sys.argv) > 3:
        one.every = stage_lab.Every(2, 0, 2)
        real = one.train_step
        def stops(taken):
            one.stopping = one.step == int(sys.argv[3]) - 1 and 15
            return real(taken)
        one.train_step = stops
    done = one.fit()
    if done:
        one.finish('test')
    print('done', done)
"""


def start(*words, world=1):
    launcher = ['-c', SCRIPT]
    if world > 1:
        script = Path(words[0]).parent / 'script.py'
        script.write_text(SCRIPT)
        launcher = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={world}']
        launcher += [str(script)]
    return spawn(*launcher, *map(str, words))


def spawn(*words):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process):
    told, _ = process.communicate(timeout=200)
    assert process.returncode == 0, told
    return told


@pytest.mark.slow
def test_killed_at_random_moments_the_curve_is_the_same(tmp_path):
    steps, rng = 14, np.random.default_rng()
    finished(start(tmp_path / 'whole', steps))
    killed = 0
    while killed < 3:
        process = start(tmp_path / 'killed', steps)
        log = tmp_path / 'killed' / 'log.jsonl'
        known = log.stat().st_size if log.exists() else 0
        while process.poll() is None and (not log.exists() or log.stat().st_size <= known):
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.8)))
        process.send_signal(signal.SIGKILL if killed % 2 else signal.SIGTERM)
        process.communicate(timeout=60)
        killed += 1
    finished(start(tmp_path / 'killed', steps))
    assert curve(tmp_path / 'killed') == curve(tmp_path / 'whole')
    one, other = (
        next((tmp_path / name / 'state').glob('step-*/rank*')).read_bytes()
        for name in ('whole', 'killed')
    )
    assert one == other


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one_and_either_goes_on_with_the_other(tmp_path):
    finished(start(tmp_path / 'one', 6))
    told = finished(start(tmp_path / 'two', 6, world=2))
    assert told.count('done True') == 2
    finished(start(tmp_path / 'both', 6, 3, world=2))  # two processes stop after three steps
    finished(start(tmp_path / 'both', 6))  # one goes on
    finished(start(tmp_path / 'again', 6, 3))  # one stops
    finished(start(tmp_path / 'again', 6, world=2))  # two go on
    wanted = [line['action'] for line in curve(tmp_path / 'one')]
    for name in ('two', 'both', 'again'):
        found = [line['action'] for line in curve(tmp_path / name)]
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    files = sorted(path.name for path in (tmp_path / 'two' / 'state').glob('step-*/*'))
    assert files == [
        'rank-00000-of-00002.safetensors',
        'rank-00001-of-00002.safetensors',
        'state.json',
    ]
    from qwen_vla_ros.model.checkpoint import load_checkpoint

    models = [
        load_checkpoint(tmp_path / name / 'checkpoint', 'cpu').model for name in ('one', 'two')
    ]
    for mine, its in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(its, mine, atol=2e-4, rtol=1e-2)
