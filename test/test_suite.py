"""`qwen-vla eval suite`: goes on where it was, compares in pairs, films what failed."""

import json

import pytest

from qwen_vla_ros.cli import main
from qwen_vla_ros.evaluate.suite import EPISODES, read_episodes, summarise_suite


def suite(out, *words):
    return main(
        ['eval', 'suite', '--robot', 'widowx', '--policy', 'expert', '--out', str(out), *words]
    )


def lines(out):
    return (out / EPISODES).read_text().splitlines()


def test_a_suite_goes_on_where_it_was(tmp_path, capsys):
    out = tmp_path / 'a'
    assert suite(out, '--shifts', 'none,moving', '--seeds', '0:1') == 0
    first = lines(out)
    assert [json.loads(line)['shift'] for line in first] == ['none', 'moving']
    with (out / EPISODES).open('a') as file:
        file.write('{"task": "touch", "sh')  # it was killed while it wrote
    assert suite(out, '--shifts', 'none,moving', '--seeds', '0:2') == 0
    again = lines(out)
    assert again[:2] == first and len(again) == 4
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['complete'] and summary['planned_episodes'] == 4
    moving = summary['groups']['touch, moving']
    assert moving['episodes'] == 2 and 0 <= moving['manipulation']['MS']['mean'] <= 100
    assert 'touch, none' in (out / 'report.html').read_text()
    told = capsys.readouterr().out
    assert 'touch, moving' in told and 'MS' in told


def test_another_policy_s_folder_is_refused(tmp_path, capsys):
    out = tmp_path / 'a'
    suite(out, '--shifts', 'none', '--seeds', '0:1')
    words = ['eval', 'suite', '--robot', 'widowx', '--policy', 'constant', '--out', str(out)]
    assert main([*words, '--seeds', '0:1']) == 2
    assert 'holds the suite of expert on widowx' in capsys.readouterr().err


def test_weights_that_were_trained_further_are_refused(tmp_path, capsys):
    out = tmp_path / 'a'
    suite(out, '--shifts', 'none', '--seeds', '0:1')
    facts = json.loads((out / 'suite.json').read_text())
    (out / 'suite.json').write_text(json.dumps({**facts, 'weights': 'of yesterday'}))
    assert suite(out, '--shifts', 'none', '--seeds', '0:1') == 2
    assert 'the suite of expert with other weights on widowx' in capsys.readouterr().err


def test_two_policies_are_compared_and_failures_filmed(tmp_path, capsys):
    good, still = tmp_path / 'good', tmp_path / 'still'
    suite(good, '--shifts', 'none', '--seeds', '0:1')
    words = ['eval', 'suite', '--robot', 'widowx', '--policy', 'constant', '--out', str(still)]
    words += ['--shifts', 'none', '--seeds', '0:1', '--against', str(good)]
    assert main(words) == 0
    summary = json.loads((still / 'summary.json').read_text())
    found = summary['comparison']['all']
    assert summary['against'] == 'expert'
    assert (found['worlds'], found['only_first'], found['only_second']) == (1, 0, 1)
    assert (found['difference'], found['p']) == (-1.0, 1.0)
    films = [json.loads(line)['film'] for line in lines(still)]
    assert films == ['failures/touch_none_00000.mp4']
    assert all((still / film).stat().st_size > 1000 for film in films)
    page = (still / 'report.html').read_text()
    assert 'Against expert' in page and films[0] in page


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (('--shifts', 'colours'), 'widowx has no colours; choose from none, colour'),
        (('--workers', '0'), '--workers 0: at least 1'),
        (('--against', '/nowhere'), 'no suite, there is no episodes.jsonl'),
        (('--seeds', '1000000'), 'all in 0..99999'),
    ],
)
def test_what_cannot_be_is_told(tmp_path, capsys, words, told):
    assert suite(tmp_path / 'a', *words) == 2
    assert told in capsys.readouterr().err


def test_a_line_that_is_no_episode_is_named(tmp_path, capsys):
    (tmp_path / EPISODES).write_text('{"task": "touch"}\n')
    assert suite(tmp_path, '--shifts', 'none', '--seeds', '0:1') == 2
    assert 'line 1: no episode' in capsys.readouterr().err


def test_rates_are_by_task_and_shift():
    rows = [
        {'task': 't', 'shift': s, 'seed': k, 'policy': 'p', 'success': k < n, 'elapsed_s': 1.0}
        for s, n in (('none', 3), ('camera', 1))
        for k in range(4)
    ]
    found = summarise_suite({'policy': 'p', 'robot': 'r'}, rows, 9)
    rates = {name: row['success_rate'] for name, row in found['groups'].items()}
    assert rates == {'t, none': 0.75, 't, camera': 0.25}
    assert not found['complete']


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    for out, count in ((one, '1'), (two, '2')):
        assert suite(out, '--shifts', 'none,camera', '--seeds', '0:2', '--workers', count) == 0
    plain = [{**row, 'film': ''} for row in read_episodes(one).values()]
    other = [{**row, 'film': ''} for row in read_episodes(two).values()]
    key = lambda row: (row['shift'], row['seed'])  # noqa: E731
    assert sorted(plain, key=key) == sorted(other, key=key)


@pytest.mark.slow
@pytest.mark.parametrize(('robot', 'groups'), [('aloha', 4), ('mobile_base', 2)])
def test_the_other_robots_have_suites(tmp_path, robot, groups):
    words = ['eval', 'suite', '--robot', robot, '--policy', 'expert', '--seeds', '0:1']
    assert main([*words, '--shifts', 'none,instruction', '--out', str(tmp_path)]) == 0
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert len(summary['groups']) == groups
    assert all(row['success'] == 1 for row in summary['groups'].values())
