"""`qwen-vla train STAGE`: each stage has its own options; what has no meaning is refused early."""

import argparse
import re
import shutil
from pathlib import Path

import pytest
import stage_lab

from qwen_vla_ros.cli import main
from qwen_vla_ros.model.config import PRESETS, preset
from qwen_vla_ros.train.arguments import OF_STAGE, cli_arguments
from qwen_vla_ros.train.rl_worlds import WORLDS
from qwen_vla_ros.train.run_folder import claim
from qwen_vla_ros.train.stage_command import recipe_of


def refused(capsys, *words):
    """Return what is told of a command that is refused."""
    try:
        assert main([*words]) == 2
    except SystemExit as end:  # argparse's own way
        assert end.code == 2
    told = capsys.readouterr().err
    assert told.startswith('qwen-vla') and told.count('\n') == 1
    return told


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Return a checkpoint of the preset tiny."""
    one = stage_lab.run(tmp_path_factory.mktemp('t2a'), stage_lab.recipe('t2a', steps=1))
    one.fit()
    return one.finish('train')


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (('bundled', '--demo'), 'argument --demo: not of this stage, but of t2a, cpt, sft, rl'),
        (('small', '--preset', 'tiny'), '--preset: not of this stage, but of t2a, cpt, sft, rl'),
        (('tiny', '--init', 'x'), '--init: not of this stage, but of t2a, cpt, sft, rl, bundled'),
        (('t2a', '--demo', '--kinds', 'pick'), '--kinds: not of this stage, but of rl'),
        (('rl', '--save-every', '5'), '--save-every: not of this stage, but of t2a, cpt, sft'),
        (('t2a', '--demo', '--resume'), 'unknown: --resume; see qwen-vla train t2a --help'),
        (('sft', '--demo', '--readers', '2'), '--demo lies in memory'),
        (('rl', '--demo', '--world', 'tasks'), 'its world is turn'),
        (('rl', '--demo', '--init', 'x'), 'it begins from nothing'),
        (('rl', '--preset', 'tiny'), '--init tells the size'),
    ],
)
def test_an_option_without_a_meaning_is_refused(words, told, tmp_path, capsys):
    assert told in refused(capsys, 'train', *words, '--out', str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('stage', OF_STAGE)
def test_the_help_of_a_stage_shows_its_own_options_and_that_it_goes_on(stage, capsys):
    with pytest.raises(SystemExit, match='0'):
        main(['train', stage, '--help'])
    told = capsys.readouterr().out
    assert set(re.findall(r'^  (--[a-z-]+)', told, re.M)) == set(OF_STAGE[stage])
    assert 'The same command goes on' in ' '.join(told.split())


@pytest.mark.parametrize('stage', OF_STAGE)
def test_a_run_without_a_folder_goes_to_that_of_its_stage(stage):
    parser = argparse.ArgumentParser()
    cli_arguments(parser)
    assert parser.parse_args([stage]).out == Path('out') / stage
    assert parser.parse_args([stage, '--out', 'mine']).out == Path('mine')


def test_the_help_names_every_world():
    told = OF_STAGE['rl']['--world']['help']
    assert set(told.partition(';')[0].split(', ')) == set(WORLDS)


def test_an_unknown_preset_is_refused_with_the_known_ones(checkpoint, tmp_path, capsys):
    for more in ((), ('--init', str(checkpoint))):
        words = ('t2a', '--preset', 'huge', '--demo', *more, '--out', str(tmp_path / 'run'))
        told = refused(capsys, 'train', *words)
        assert "'huge'" in told and all(name in told for name in PRESETS)
    assert all(preset(name).backbone for name in PRESETS)


def test_a_preset_of_other_sizes_than_the_checkpoint_is_refused(checkpoint, tmp_path, capsys):
    words = ('cpt', '--demo', '--init', str(checkpoint), '--out', str(tmp_path / 'run'))
    told = refused(capsys, 'train', *words, '--preset', 'small')
    assert f'--init {checkpoint} has the sizes of tiny' in told
    assert not (tmp_path / 'run').exists()


def leaves_broken(folder, what):
    """Break a checkpoint in a way."""
    if what == 'config':
        (folder / 'config.json').write_text('{"backbone": ')
    elif what == 'weights':
        path = folder / 'model.safetensors'
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        (folder / 'tokenizer.json').unlink()


@pytest.mark.parametrize('stage', [('cpt', '--demo'), ('rl', '--world', 'tasks'), ('bundled',)])
@pytest.mark.parametrize(
    ('what', 'told'),
    [('config', 'config.json'), ('weights', 'truncated'), ('tokens', 'tokenizer')],
)
def test_a_broken_checkpoint_is_refused_before_anything_is_made(
    stage, what, told, checkpoint, tmp_path, capsys
):
    broken = tmp_path / 'broken'
    shutil.copytree(checkpoint, broken)
    leaves_broken(broken, what)
    words = (*stage, '--init', str(broken), '--out', str(tmp_path / 'run'))
    assert told in refused(capsys, 'train', *words)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'stage', [('t2a', '--demo'), ('rl', '--demo'), ('small',), ('tiny',), ('bundled',)]
)
def test_out_that_is_no_folder_of_a_run_is_refused_and_left_as_it_is(stage, tmp_path, capsys):
    (tmp_path / 'file').touch()
    for out in ('file', 'file/below'):
        told = refused(capsys, 'train', *stage, '--out', str(tmp_path / out))
        assert f'{tmp_path}/file is a file' in told
    report = tmp_path / 'eval'
    report.mkdir()
    (report / 'report.html').touch()
    told = refused(capsys, 'train', *stage, '--out', str(report))
    assert 'holds report.html, and no run' in told
    assert [path.name for path in report.iterdir()] == ['report.html']


@pytest.mark.parametrize('stage', [('sft', '--demo'), ('rl', '--demo'), ('tiny',), ('bundled',)])
def test_the_folder_of_another_stage_is_refused_and_left_as_it_is(
    stage, checkpoint, tmp_path, capsys
):
    out = tmp_path / 't2a'
    shutil.copytree(checkpoint.parent, out)
    before = sorted(out.rglob('*'))
    assert 'holds a run of t2a' in refused(capsys, 'train', *stage, '--out', str(out))
    assert sorted(out.rglob('*')) == before


def test_other_settings_are_refused_before_data_are_made(checkpoint, capsys):
    out = checkpoint.parent
    told = refused(capsys, 'train', 't2a', '--demo', '--steps', '7', '--out', str(out))
    assert 'steps 7, was 1' in told and 'batch 16, was 4' in told
    assert not (out / 'data').exists()


def test_a_folder_with_data_and_a_shell_s_log_is_free(tmp_path):
    for name in ('data', 'tensorboard', '.hidden'):
        (tmp_path / name).mkdir()
    (tmp_path / 'words.log').touch()
    before = sorted(tmp_path.iterdir())
    claim(tmp_path, 't2a')
    claim(tmp_path / 'not' / 'yet', 't2a')
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ('words', 'warm_up'),
    [
        (('sft', '--preset', '4b', '--data', 'x'), 1800),
        (('sft', '--preset', '4b', '--data', 'x', '--steps', '200'), 6),
        (('sft', '--preset', '4b', '--data', 'x', '--steps', '200', '--warm-up', '50'), 50),
        (('cpt', '--preset', 'small', '--data', 'x'), 120),
    ],
)
def test_the_warm_up_keeps_its_share_of_the_steps(words, warm_up):
    parser = argparse.ArgumentParser()
    cli_arguments(parser)
    args = parser.parse_args([*words, '--out', 'y'])
    assert recipe_of(args, None).warm_up == warm_up
