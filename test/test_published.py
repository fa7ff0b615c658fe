"""The page of published figures is the data, and the data is whole."""

from pathlib import Path

import pytest
import yaml

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.published import (
    OURS,
    figures_markdown,
    load_figures,
    main,
    write_into,
)

PAGE = Path(__file__).parents[1] / 'docs' / 'benchmarks.md'


def test_the_page_says_what_the_data_says():
    page = PAGE.read_text()
    assert write_into(page) == page


def test_what_was_not_run_is_an_empty_cell():
    text = figures_markdown(load_figures())
    assert f'| {OURS} |  |  |  |  |  |' in text
    assert '| Being-H0.5 | 97.6 | 53.3 |  |  |  |' in text
    assert '| Qwen-VLA-Instruct | 97.9 | 56.7 | 73.7 | 86.1 | 87.2 |' in text


def test_averages_are_those_of_their_rows():
    # The paper's averages over tasks, of rows whose tasks it prints; ALOHA's in-domain average
    # weighs categories by their trials, the others do not.
    for table in load_figures()['tables']:
        if table['columns'][-1] != 'Average' or 'in-domain' in table['title']:
            continue
        for values in table['rows'].values():
            assert sum(values[:-1]) / (len(values) - 1) == pytest.approx(values[-1], abs=0.11)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'rows': {'pi0': [1.0]}}, 'pi0: 1 values for 2 columns'),
        ({'ours': {'SR': {'value': 3}}}, 'ours.SR: a column with value, command'),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path, change, words):
    table = {'title': 't', 'source': 's', 'columns': ['SR', 'MS'], 'rows': {}, 'ours': {}}
    path = tmp_path / 'figures.yaml'
    path.write_text(yaml.safe_dump({'paper': 'p', 'tables': [{**table, **change}]}))
    with pytest.raises(QwenVlaError, match=words):
        load_figures(path)


def test_our_own_runs_stand_beside_with_their_command(tmp_path):
    run = {'value': 3, 'command': 'c', 'checkpoint': 'k', 'machine': 'm', 'date': 'd'}
    table = {'title': 't', 'source': 's', 'columns': ['SR'], 'rows': {'a': [1]}}
    text = figures_markdown({'paper': 'p', 'tables': [{**table, 'ours': {'SR': run}}]})
    assert f'| {OURS} | 3 |' in text and f'{OURS}, SR: `c`, k, m, d.' in text


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('no marks')
    with pytest.raises(QwenVlaError, match='needs the marks'):
        main([str(page)])
