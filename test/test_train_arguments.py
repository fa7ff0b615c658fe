"""`qwen-vla train STAGE`: each stage has its own options; what has no meaning is refused early."""

import re

import pytest
import stage_lab

from qwen_vla_ros.cli import main
from qwen_vla_ros.model.config import PRESETS, preset
from qwen_vla_ros.train.arguments import OF_STAGE
from qwen_vla_ros.train.rl_worlds import WORLDS


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
