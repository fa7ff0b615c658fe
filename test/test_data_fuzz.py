"""Damaged data through the command line: exit code 2, one line that names it, nothing lost."""

import json

import pytest

pytest.importorskip('pyarrow')
pytest.importorskip('av')
pytest.importorskip('rosbags')
import lerobot_fixture as made
import test_data_bag as bags

from qwen_vla_ros import cli
from qwen_vla_ros.data.lerobot import LeRobotEpisodes

ROWS, FILM = 'data/chunk-000/file-000.parquet', f'videos/{made.KEY}/chunk-000/file-000.mp4'


def cut(name, share=0.5):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return damage


def info(**changed):
    def damage(folder):
        path = folder / 'meta/info.json'
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return damage


def columns(**changed):
    def damage(folder):
        both = {key: made.rows(0)[key] + made.rows(1)[key] for key in made.rows(0)} | changed
        made.save(folder / ROWS, {key: value for key, value in both.items() if value})

    return damage


def nothing_in_it(folder):
    for path in sorted(folder.rglob('*'), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


DAMAGES = {
    'rows cut': (cut(ROWS), f'{ROWS}: cannot be read'),
    'film cut': (cut(FILM), f'{FILM}: the video cannot be read'),
    'film emptied': (cut(FILM, 0), f'{FILM}: the video cannot be read'),
    'older version': (info(codebase_version='v1.6'), "codebase_version 'v1.6'; v3.0 and v2.1"),
    'newer version': (info(codebase_version='v4.0'), "codebase_version 'v4.0'; v3.0 and v2.1"),
    'wrong fps': (info(fps=25), '0.1000 s after the frame before, but meta/info.json says 25 fps'),
    'no column': (columns(action=[]), "no column 'action'"),
    'no numbers': (columns(action=[[float('nan'), 0.0]] * 10), 'actions.waist: row 0 is nan'),
    'no info': (lambda folder: (folder / 'meta/info.json').unlink(), 'not a data set'),
    'empty folder': (nothing_in_it, 'not a data set'),
}
COMMANDS = {
    'lerobot': ('convert', '--codec', 'h264', '--jobs', '1', '--min-frames', '2'),
    'packed': ('convert', '--to', 'packed', '--size', '8', '--jobs', '1', '--min-frames', '2'),
    'card': ('card',),
    'batch': ('data', 'batch'),
}


def refused(capsys, command, folder, out, *more):
    """Run a command; return the one line that it says."""
    place = () if command == 'batch' else ('--out', str(out))
    assert cli.main([*COMMANDS[command], str(folder), *place, *more]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith('qwen-vla: ')]
    assert len(said) == 1
    assert not any('Traceback' in line for line in lines)
    return said[0]


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('name', DAMAGES)
def test_a_damaged_lerobot_set(tmp_path, capsys, name, command):
    damage, words = DAMAGES[name]
    folder = made.write_v3(tmp_path / 'in')
    damage(folder)
    assert words in refused(capsys, command, folder, tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['in']


@pytest.mark.parametrize('command', COMMANDS)
def test_a_cut_bag(tmp_path, capsys, command):
    folder = bags.write(tmp_path / 'bag')
    bags.cut(folder)
    said = refused(capsys, command, folder, tmp_path / 'out', '--instruction', 'touch it')
    assert 'cut off' in said
    assert "mend it by 'qwen-vla record --mend" in said
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


@pytest.mark.parametrize('command', ['lerobot', 'packed', 'card'])
def test_a_folder_that_has_something_is_left_as_it_is(tmp_path, capsys, command):
    folder = made.write_v3(tmp_path / 'in')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/notes.txt').write_text('mine')
    said = refused(capsys, command, folder, tmp_path / 'out')
    assert 'there is something already' in said
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['notes.txt']
    assert (tmp_path / 'out/notes.txt').read_text() == 'mine'


def test_one_damaged_set_among_others_is_named_and_the_others_are_kept(tmp_path, capsys):
    good, bad = made.write_v3(tmp_path / 'good'), made.write_v3(tmp_path / 'bad')
    cut(ROWS)(bad)
    words = ['convert', str(good), str(bad), '--out', str(tmp_path / 'out'), '--codec', 'h264']
    assert cli.main([*words, '--jobs', '1', '--min-frames', '2']) == 0
    told = capsys.readouterr().out
    assert 'kept 2 of 4 episodes (2 unreadable)' in told
    assert f'{bad}: episode 1: unreadable: {bad}/{ROWS}: cannot be read' in told
    assert len(LeRobotEpisodes(tmp_path / 'out', 2)) == 2


def test_a_number_that_is_none_costs_its_episode_alone(tmp_path, capsys):
    folder = made.write_v3(tmp_path / 'in')
    action = made.rows(0)['action'] + made.rows(1)['action']
    columns(action=[*action[:-1], [float('inf'), 0.0]])(folder)
    words = ['convert', str(folder), '--out', str(tmp_path / 'out'), '--codec', 'h264']
    assert cli.main([*words, '--jobs', '1', '--min-frames', '2']) == 0
    told = capsys.readouterr().out
    assert 'kept 1 of 2 episodes (1 unreadable)' in told
    assert 'actions.waist: row 3 is inf, not a number' in told


def test_a_cut_bag_among_others_is_named(tmp_path, capsys):
    extra = [('/qwen_vla/contract', bags.WIDOWX.text.replace('640', '8').replace('480', '6'))]
    for name in ('a', 'b'):
        bags.write(tmp_path / 'bags' / name, extra=extra)
    bags.cut(tmp_path / 'bags' / 'b')
    words = ['--instruction', 'touch it', '--out']
    for command in ('packed', 'card'):
        asked = [*COMMANDS[command], str(tmp_path / 'bags'), *words]
        assert cli.main([*asked, str(tmp_path / command)]) == 0
        if command == 'packed':
            told = capsys.readouterr().out
            assert 'kept 1 of 2 episodes (1 unreadable)' in told
            assert f'{tmp_path}/bags/b: episode 0: unreadable: ' in told
    told = json.loads((tmp_path / 'card/card.json').read_text())['cleaning']
    assert told['reasons'] == {'unreadable': 1}
    assert told['rejected'][0]['source'] == str(tmp_path / 'bags/b')
    batch = ['data', 'batch', str(tmp_path / 'bags'), '--instruction', 'touch it']
    assert cli.main([*batch, '--count', '2']) == 0
    assert f'left out: {tmp_path}/bags/b: ' in capsys.readouterr().out
