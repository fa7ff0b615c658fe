"""
The result of a bag's evaluation as one HTML file that needs nothing else.

First a sentence for each policy, then what is wrong (the doctor's findings, events of safety), the
runs side by side, the film with the timeline (a click seeks), the plots, and every joint. What was
not measured is a dash.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen_vla_ros.evaluate.base_report import compared_lines, stop_words, waypoint_tables
from qwen_vla_ros.evaluate.report import STYLE

Rows = Sequence[tuple[str, Mapping[str, Any]]]
_SEEK = """
<script>
const film=document.querySelector('video'),line=document.getElementById('timeline');
if(film&&line){const mark=document.createElementNS('http://www.w3.org/2000/svg','rect');
const left=+line.dataset.left,scale=+line.dataset.scale,box=line.viewBox.baseVal;
mark.setAttribute('width',1.5);mark.setAttribute('height',box.height-16);line.append(mark);
const show=()=>mark.setAttribute('x',left+film.currentTime*scale);
film.addEventListener('timeupdate',show);show();
line.addEventListener('click',e=>{const r=line.getBoundingClientRect();
film.currentTime=Math.max(0,((e.clientX-r.left)*box.width/r.width-left)/scale)})}
</script>
"""


def render(result: Mapping[str, Any], svg: str, plots: Rows, film: Path | None) -> str:
    """Return the page. result: as summary.json; plots: (title, {'path': ...}); film: MP4."""
    runs: Rows = [(name, run) for name, run in result['runs'].items()]
    sections = [
        _head(result),
        *(f'<p><b>{html.escape(verdict(name, run))}</b></p>' for name, run in runs),
        _findings(result['findings']),
        _notices(result),
        _compared(runs, result.get('schedule') == 'recorded'),
        _film(film),
        f'<h2>Timeline</h2><figure>{svg}</figure>',
        _events(runs, result['first_ns']),
        *(_plot(title, Path(item['path'])) for title, item in plots),
        *(_channels(name, run, result['step_s']) for name, run in runs),
        _inputs(runs),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{html.escape(result["bag"])}</title><style>{STYLE}</style></head><body><main>'
        + ''.join(sections)
        + f'</main>{_SEEK}</body></html>\n'
    )


def verdict(name: str, run: Mapping[str, Any]) -> str:
    """Return in one sentence what a policy would have done: whether it moves, and how well."""
    chunks, refused = run['chunks'], run['refused']
    latched, skill = run['event_counts'].get('latched', 0), run['error']['skill']
    if not chunks:
        return f'{name} was never asked: no observation of this bag was whole'
    if refused == chunks:
        return f'{name} would not have moved the robot: all {chunks} chunks are refused'
    if skill is None:
        said = 'cannot be judged: the robot stood still in this bag'
    elif skill <= 0.0:
        said = 'foresees the motion no better than standing still would'
    else:
        said = f'foresees the motion with a skill of {skill:.2f} (1 is perfect, 0 standing still)'
    stopped = f', safety stops the robot {latched} times' if latched else ''
    if run['of'] == 'base':
        said += stop_words(run)
    some = f'; {refused} of {chunks} chunks are refused{stopped}' if refused or latched else ''
    return f'{name} {said}; worst is {_worst(run["error"]["rms"], run)} RMS{some}'


def _head(result: Mapping[str, Any]) -> str:
    facts = f'{result["robot"]}, {result["seconds"]:.1f} s of record, {result["speed"]:.1f} x real'
    return f'<h1>{html.escape(result["bag"])}</h1><div class="dim">{facts} time</div>'


def _findings(findings: Sequence[Mapping[str, str]]) -> str:
    bad = [item for item in findings if item['level'] != 'pass']
    if not bad:
        return '<div class="notice">The doctor finds nothing wrong with bag and policy.</div>'
    rows = ''.join(
        f'<tr><td class="{"bad" if f["level"] == "refuse" else "dim"}">{f["level"]}</td>'
        f'<td>{html.escape(f["subject"])}</td><td style="white-space:normal">'
        f'{html.escape(f["found"])}</td><td style="white-space:normal">'
        f'{html.escape(f["remedy"])}</td></tr>'
        for f in sorted(bad, key=lambda f: f['level'])
    )
    return _table('What the doctor finds', ('', 'check', 'found', 'remedy'), rows)


def _notices(result: Mapping[str, Any]) -> str:
    return ''.join(
        f'<div class="notice">{html.escape(text)}</div>' for text in result.get('notices', ())
    )


def _compared(runs: Rows, recorded: bool) -> str:
    """Return the figures of all runs side by side; recorded: latencies are that day's."""
    that_day = ', as recorded that day' if recorded else ''
    own = compared_lines(_number) if runs[0][1]['of'] == 'base' else _OF_JOINTS
    lines = (
        ('skill against standing still', lambda r: _number(r['error']['skill'])),
        ('worst, RMS', lambda r: _worst(r['error']['rms'], r)),
        ('chunks (refused)', lambda r: f'{r["chunks"]} ({r["refused"]})'),
        ('safety latched', lambda r: str(r['event_counts'].get('latched', 0))),
        ('equal to the recorded chunks', _same),
        ('worst difference to them', lambda r: _worst(r['same_as_recorded']['max'], r)),
        *own,
        (f'inference p50 / p95{that_day}', _latency),
    )
    head = ('', *(name for name, _ in runs))
    rows = ''.join(
        f'<tr><td>{told}</td>'
        + ''.join(f'<td class="n">{html.escape(show(run))}</td>' for _, run in runs)
        + '</tr>'
        for told, show in lines
    )
    return _table('Runs', head, rows)


def _channels(name: str, run: Mapping[str, Any], step_s: float) -> str:
    """Return the tables of every joint, or of a base's waypoints."""
    if run['of'] == 'joints':
        return _joints(name, run)
    return ''.join(_table(*table) for table in waypoint_tables(name, run, step_s, _number))


def _joints(name: str, run: Mapping[str, Any]) -> str:
    units = run['units']
    rows = ''.join(
        f'<tr><td>{html.escape(joint)}</td><td>{units[joint]}</td>'
        + ''.join(
            f'<td class="n">{_number(table.get(joint))}</td>'
            for table in (
                run['error']['rms'],
                run['error']['mean'],
                run['error']['max'],
                run['error']['still_rms'],
                run['first_row']['rms'],
                run['agreement'],
                run['seams']['max'],
                run['commanded']['jerk_rms'],
                run['commanded']['path'],
                run['measured']['path'],
            )
        )
        + '</tr>'
        for joint in units
    )
    head = ('joint', 'unit', 'RMS', 'mean', 'most', 'standing still', 'first row', 'direction')
    return _table(f'{name}: joints', (*head, 'seam', 'jerk', 'path', 'path in the bag'), rows)


def _inputs(runs: Rows) -> str:
    rows = ''.join(
        f'<tr><td>{html.escape(name)}</td><td>{html.escape(source)}</td>'
        f'<td class="n">{counts["received"]}</td><td class="n">{counts["refused"]}</td>'
        f'<td class="n">{_milliseconds(counts["age_s"])}</td>'
        f'<td class="n">{_milliseconds(counts["skew_s"])}</td></tr>'
        for name, run in runs[:1]
        for source, counts in run['inputs']['sources'].items()
    )
    head = ('run', 'source', 'messages', 'refused', 'age p50/p95/p99', 'skew p50/p95/p99')
    return _table('Inputs', head, rows)


def _events(runs: Rows, first_ns: int) -> str:
    rows = ''.join(
        f'<tr><td class="n">{(event["time_ns"] - first_ns) * 1e-9:.2f} s</td>'
        f'<td>{html.escape(name)}</td><td>{event["kind"]}</td>'
        f'<td style="white-space:normal">{html.escape(event["text"])}</td></tr>'
        for name, run in runs
        for event in [e for e in run['events'] if e['kind'] in ('latched', 'refused')][:40]
    )
    if not rows:
        return '<p class="dim">Safety would not have stepped in.</p>'
    return _table('Safety would have stepped in', ('time', 'run', 'what', 'why'), rows)


def _film(path: Path | None) -> str:
    if path is None or not path.is_file():
        return ''
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        '<h2>What was seen, predicted and done</h2><figure><video controls muted '
        f'src="data:video/mp4;base64,{data}"></video></figure>'
    )


def _plot(title: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<h2>{html.escape(title)}</h2><figure><img alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{data}"></figure>'
    )


def _table(title: str, head: Sequence[str], rows: str) -> str:
    cells = ''.join(f'<th>{html.escape(text)}</th>' for text in head)
    return (
        f'<h2>{html.escape(title)}</h2><div class="scroll"><table><tr>{cells}</tr>{rows}'
        '</table></div>'
    )


def _number(value: float | None) -> str:
    return '–' if value is None else f'{value:.3g}'


def _worst(table: Mapping[str, float], run: Mapping[str, Any], per: str = '') -> str:
    """Return the largest value of a unit, its joint named: rad before m."""
    told = []
    for unit in ('rad', 'm'):
        found = {n: v for n, v in table.items() if run['units'][n] == unit}
        if found:
            name = max(found, key=found.__getitem__)
            told.append(f'{found[name]:.3g} {unit}{per} ({name})')
    return ', '.join(told) or '–'


def _same(run: Mapping[str, Any]) -> str:
    same = run['same_as_recorded']
    return f'{same["equal"]} of {same["matched"]}' if same['matched'] else '–'


def _sparc(run: Mapping[str, Any]) -> str:
    return f'{_number(run["commanded"]["sparc"])} / {_number(run["measured"]["sparc"])}'


def _path(run: Mapping[str, Any]) -> str:
    return ' / '.join(
        f'{sum(v for n, v in run[key]["path"].items() if run["units"][n] == "rad"):.2f} rad'
        for key in ('commanded', 'measured')
    )


def _flips(run: Mapping[str, Any]) -> str:
    told = (sum(run[key]['gripper_flips'].values()) for key in ('commanded', 'measured'))
    return ' / '.join(map(str, told))


def _latency(run: Mapping[str, Any]) -> str:
    found = run['latency_s']
    return f'{1e3 * found["p50"]:.0f} / {1e3 * found["p95"]:.0f} ms' if found else '–'


def _milliseconds(values: Sequence[float] | None) -> str:
    return ' / '.join(f'{1e3 * v:.1f}' for v in values) + ' ms' if values else '–'


_OF_JOINTS = (
    ('commands against recorded, RMS', lambda r: _worst(r['commands']['rms'], r)),
    ('seam, p95', lambda r: _worst(r['seams']['p95'], r)),
    ('seam, most', lambda r: _worst(r['seams']['max'], r)),
    ('jerk of the commands, RMS', lambda r: _worst(r['commanded']['jerk_rms'], r, '/s³')),
    ('SPARC of commands / measured', _sparc),
    ('path of commands / measured', _path),
    ('gripper flips, commands / measured', _flips),
)
