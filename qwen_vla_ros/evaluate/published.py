"""
The published figures beside ours, and what makes each benchmark, as tables of docs/benchmarks.md.

python -m qwen_vla_ros.evaluate.published docs/benchmarks.md writes config/published_figures.yaml
and config/benchmarks/ between the page's marks; a test holds page and data equal.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qwen_vla_ros.embodiment import config_folder
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.protocols.field_benchmarks import FieldBenchmark, known_benchmarks

FIGURES, BENCHMARKS = 'published figures', 'benchmarks'
OURS = 'this package'
RUN = ('value', 'command', 'checkpoint', 'machine', 'date')


def load_figures(path: Path | None = None) -> Mapping[str, Any]:
    """Return the data; QwenVlaError names a table whose rows do not fit its columns."""
    path = path or config_folder() / 'published_figures.yaml'
    data = yaml.safe_load(path.read_text(encoding='utf-8'))
    for table in data['tables']:
        for name, values in table['rows'].items():
            if len(values) != len(table['columns']):
                raise QwenVlaError(
                    f'{path.name}: {table["title"]}: {name}: {len(values)} values for '
                    f'{len(table["columns"])} columns'
                )
        for column, run in table['ours'].items():
            if column not in table['columns'] or sorted(run) != sorted(RUN):
                raise QwenVlaError(
                    f'{path.name}: {table["title"]}: ours.{column}: a column with '
                    f'{", ".join(RUN)} is wanted'
                )
    return data


def figures_markdown(data: Mapping[str, Any]) -> str:
    """Return all tables; what nobody published and what we did not run are empty cells."""
    return '\n\n'.join(_table(data['paper'], table) for table in data['tables']) + '\n'


def benchmarks_markdown() -> str:
    """Return what makes each benchmark: robot, views, rate, rows, episodes, metrics."""
    head = (
        'name',
        'contract, layout',
        'views',
        'Hz',
        'rows asked, executed',
        'episodes',
        'metrics',
    )
    lines = [_row('benchmark', head), '|---' * (len(head) + 1) + '|']
    for name in known_benchmarks():
        found = FieldBenchmark.load(name)
        cells = (
            f'`{name}`',
            f'{found.robot}, {found.layout}',
            ', '.join(found.client().views),
            f'{found.rate_hz:g}',
            f'{found.horizon}, {found.execute}',
            found.episodes,
            ', '.join(found.metrics),
        )
        lines.append(_row(found.title, cells))
    return '\n'.join(lines) + '\n'


def write_into(page: str) -> str:
    """Return a page with all tables between their marks; QwenVlaError when it has none."""
    page = _between(page, BENCHMARKS, benchmarks_markdown())
    return _between(page, FIGURES, figures_markdown(load_figures()))


def _between(page: str, what: str, text: str) -> str:
    begin, end = f'<!-- {what} -->', f'<!-- end of {what} -->'
    if page.count(begin) != 1 or page.count(end) != 1:
        raise QwenVlaError(f'the page needs the marks {begin} and {end}, once each')
    before, _, rest = page.partition(begin)
    return f'{before}{begin}\n\n{text}\n{end}{rest.partition(end)[2]}'


def _table(paper: str, table: Mapping[str, Any]) -> str:
    known = known_benchmarks()
    titles = [FieldBenchmark.load(c).title if c in known else c for c in table['columns']]
    ours = [table['ours'].get(column, {}).get('value') for column in table['columns']]
    lines = [
        f'### {table["title"]}\n',
        _row('', titles),
        '|---' * (len(titles) + 1) + '|',
        *(_row(name, values) for name, values in table['rows'].items()),
        _row(OURS, ours),
        f'\n{paper}, {table["source"]}',
        *table.get('notes', ()),
        *(
            f'{OURS}, {column}: `{run["command"]}`, {run["checkpoint"]}, {run["machine"]}, '
            f'{run["date"]}.'
            for column, run in table['ours'].items()
        ),
    ]
    return '\n'.join(lines)


def _row(name: str, values: Sequence[Any]) -> str:
    return f'| {name} | ' + ' | '.join('' if v is None else str(v) for v in values) + ' |'


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables into the page that is named, or print them."""
    paths = list(sys.argv[1:] if arguments is None else arguments)
    if not paths:
        print(benchmarks_markdown(), figures_markdown(load_figures()), sep='\n')
        return 0
    page = Path(paths[0])
    beside = page.with_suffix('.new')
    beside.write_text(write_into(page.read_text(encoding='utf-8')), encoding='utf-8')
    beside.replace(page)
    return 0


if __name__ == '__main__':
    sys.exit(main())
