"""
`qwen-vla card`: a data set -> card.html, one file that needs nothing else, and card.json.

What is not known is shown as a dash, never as zero. Histograms go from the smallest to the largest
bin that holds something; q01 and q99 are marked.
"""

import argparse
import base64
import html
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from qwen_vla_ros.data.cleaning import Thresholds
from qwen_vla_ros.data.conversion import refuse_used
from qwen_vla_ros.data.convert_command import source_arguments, source_options
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.survey import Channels, Survey, survey
from qwen_vla_ros.errors import QwenVlaError

BARS, WIDTH, HEIGHT = 48, 300, 74  # of a histogram
STRIP_PIXELS, WORDS, SENTENCES, NAMED = 150, 40, 12, 50
_CSS = """
:root { --ink:#1a202c; --dim:#5f6b7a; --line:#e2e8f0; --soft:#f7fafc }
* { box-sizing:border-box }
body { margin:0; background:var(--soft); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif }
main { max-width:1060px; margin:0 auto; padding:28px 20px 60px }
h1 { font-size:26px; margin:0 0 4px; overflow-wrap:anywhere }
h2 { font-size:18px; margin:32px 0 10px }
.dim { color:var(--dim); font-size:13px } .hash { font-family:monospace; overflow-wrap:anywhere }
.row { display:flex; flex-wrap:wrap; gap:12px }
.box { background:#fff; border:1px solid var(--line); border-radius:10px; padding:12px 14px }
.fact { flex:1 1 130px } .fact b { display:block; font-size:24px; line-height:1.2 }
.chart b,.chart span { display:block; font-size:13px; max-width:300px; overflow-wrap:anywhere }
svg { display:block } .word { padding:1px 8px; background:#edf2f7; border-radius:9px }
table { border-collapse:collapse; font-size:14px } td,th { text-align:left; padding:4px 12px 4px 0;
  vertical-align:top } td.n { text-align:right; font-variant-numeric:tabular-nums }
.strip { display:flex; gap:3px; overflow-x:auto; margin:4px 0 12px } .strip img { display:block;
  border-radius:4px }
"""


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla card`."""
    source_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, help='new folder of the card')


def run_from_arguments(args: argparse.Namespace) -> int:
    """Write the card; of several data sets one each, under their names."""
    refuse_used(args.out)
    options, several = source_options(args), len(args.sources) > 1
    cards = {}
    for source in args.sources:
        episodes = open_dataset(source, **options)
        name = f'{len(cards):02d}-{episodes.source}'.replace('/', '_') if several else ''
        cards[name] = survey(episodes, Thresholds())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f'.{args.out.name}.', dir=args.out.parent))
    for name, found in cards.items():
        write_card(found, beside / name)
        print(f'{args.out / name}/card.html: {_line(found)}')
    beside.chmod(0o755)
    beside.rename(args.out)
    return 0


def write_card(found: Survey, folder: Path) -> None:
    """Write card.html and card.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'card.html').write_text(render(found), encoding='utf-8')
    (folder / 'card.json').write_text(json.dumps(figures(found), indent=1) + '\n', 'utf-8')


def figures(found: Survey) -> dict[str, Any]:
    """Return every figure of the card."""
    rates = sorted({round(f.rate_hz, 3) for f in found.facts if f.rate_hz > 0})
    known = [f.success for f in found.facts if f.success is not None]
    return {
        'source': found.source,
        'episodes': len(found.facts),
        'frames': found.frames,
        'hours': found.hours,
        'rates_hz': rates,
        'embodiments': dict(found.embodiments),
        'pictures': dict(found.sizes),
        'success': {'known': len(known), 'reached': sum(known)},
        'instructions': len(found.sentences),
        'words': dict(found.words().most_common(WORDS)),
        'statistics': [
            {'kind': kind, **channels.statistics(found.source, robot).as_dict()}
            for (kind, robot, _), channels in found.channels.items()
        ],
        'cleaning': found.report.as_dict(),
    }


def _line(found: Survey) -> str:
    rejected = len(found.report.rejected)
    return (
        f'{len(found.facts)} episodes, {found.frames} frames, {found.hours:.3g} h; '
        f'{rejected} would be left out'
    )


def render(found: Survey) -> str:
    """Return the page."""
    name = html.escape(found.source)
    sections = (_head, _cleaning, _lengths, _channels, _language, _strips)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{name}</title><style>{_CSS}</style></head><body><main>'
        + ''.join(section(found) for section in sections)
        + '</main></body></html>\n'
    )


def _head(found: Survey) -> str:
    told = figures(found)
    reached = told['success']
    success = f'{reached["reached"]} of {reached["known"]}' if reached['known'] else '–'
    rates = ', '.join(f'{rate:g}' for rate in told['rates_hz']) or '–'
    hours = f'{found.hours:.3g}' if found.hours else '–'
    facts = (
        ('episodes', told['episodes']),
        ('frames', told['frames']),
        ('hours', hours),
        ('frames a second', rates),
        ('instructions', told['instructions']),
        ('reached their goal', success),
    )
    boxes = ''.join(
        f'<div class="box fact"><b>{value}</b><span class="dim">{what}</span></div>'
        for what, value in facts
    )
    robots = _listed(told['embodiments']) or '–'
    sizes = _listed(told['pictures']) or 'none'
    return (
        f'<h1>{html.escape(found.source)}</h1><p class="dim">robot: {robots} &middot; '
        f'pictures: {sizes}</p><div class="row">{boxes}</div>'
    )


def _listed(counts: dict[str, int]) -> str:
    return ', '.join(f'{html.escape(name)} ({count})' for name, count in counts.items())


def _cleaning(found: Survey) -> str:
    total, report = len(found.facts), found.report
    if not report.rejected:
        return '<h2>Cleaning</h2><p>Every episode passes.</p>'
    shares = ''.join(
        f'<tr><td>{reason}</td><td class="n">{count}</td>'
        f'<td class="n">{count / total:.1%}</td></tr>'
        for reason, count in sorted(report.counts().items())
    )
    lines = ''.join(f'<li>{html.escape(str(item))}</li>' for item in report.rejected[:NAMED])
    more = len(report.rejected) - NAMED
    rest = f'<p class="dim">and {more} more: card.json</p>' if more > 0 else ''
    return (
        f'<h2>Cleaning: {len(report.rejected)} of {total} would be left out</h2>'
        f'<div class="box"><table>{shares}</table><ul class="dim">{lines}</ul>{rest}</div>'
    )


def _lengths(found: Survey) -> str:
    lengths = [facts.frames for facts in found.facts if facts.frames]
    counts, edges = np.histogram(lengths, bins=min(BARS, max(len(set(lengths)), 1)))
    chart = _bars(counts, float(edges[0]), float(edges[-1]))
    return f'<h2>Length of episodes, in frames</h2><div class="box chart">{chart}</div>'


def _channels(found: Survey) -> str:
    parts = []
    for (kind, robot, _), channels in found.channels.items():
        told = channels.statistics(found.source, robot)
        charts = ''.join(
            f'<div class="box chart"><b>{html.escape(name)}</b>{_histogram(channels, i)}</div>'
            for i, name in enumerate(channels.names)
        )
        title = f'{kind}, {html.escape(robot)}'
        parts.append(
            f'<h2>{title}</h2><p class="dim">{told.rows} rows; statistics '
            f'<span class="hash">{told.fingerprint()}</span></p><div class="row">{charts}</div>'
        )
    return ''.join(parts)


def _histogram(channels: Channels, channel: int) -> str:
    """Return the chart of one channel, its quantiles marked."""
    q01, q99 = (channels.bins.quantile(share)[channel] for share in (0.01, 0.99))
    counts, low, high = channels.bins.histogram(channel, BARS)
    return _bars(counts, low, high, (q01, q99))


def _bars(
    counts: Sequence[int] | np.ndarray, low: float, high: float, marks: Iterable[float] = ()
) -> str:
    """Return a histogram as SVG with its range below it."""
    step, most = WIDTH / len(counts), max(int(np.max(counts)), 1)
    bars = ''.join(
        f'<rect x="{i * step:.1f}" y="{HEIGHT * (1 - count / most):.1f}" '
        f'width="{max(step - 1, 1):.1f}" height="{HEIGHT * count / most:.1f}" fill="#4a7fb5"/>'
        for i, count in enumerate(counts)
        if count
    )
    span = high - low
    lines = ''.join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}" stroke="#be3636"/>'
        for x in ((mark - low) / span * WIDTH for mark in marks if span > 0)
    )
    marked = ', '.join(f'{mark:.4g}' for mark in marks)
    below = f'{low:.4g} to {high:.4g}' + (f'; q01, q99: {marked}' if marked else '')
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{below}">{bars}{lines}</svg><span class="dim">{below}</span>'
    )


def _language(found: Survey) -> str:
    words = ' '.join(
        f'<span class="word">{html.escape(word)} <span class="dim">{count}</span></span>'
        for word, count in found.words().most_common(WORDS)
    )
    lines = ''.join(
        f'<tr><td class="n">{count}</td><td>{html.escape(sentence)}</td></tr>'
        for sentence, count in found.sentences.most_common(SENTENCES)
    )
    return (
        f'<h2>Words of the instructions</h2><div class="box row">{words}</div>'
        f'<h2>The most frequent of {len(found.sentences)} instructions</h2>'
        f'<div class="box"><table>{lines}</table></div>'
    )


def _strips(found: Survey) -> str:
    if not found.strips:
        return ''
    parts = [
        f'<span class="dim">episode {episode}, {html.escape(view)}</span>'
        f'<div class="strip">{"".join(map(_picture, images))}</div>'
        for episode, view, images in found.strips
    ]
    return f'<h2>Samples</h2>{"".join(parts)}'


def _picture(image: np.ndarray) -> str:
    """Return an img tag with a small JPEG inside."""
    height = STRIP_PIXELS * image.shape[0] // image.shape[1] or 1
    small = cv2.resize(image, (STRIP_PIXELS, height), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode('.jpg', small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not done:
        raise QwenVlaError('card: a picture could not be written')
    text = base64.b64encode(data.tobytes()).decode()
    size = f'width="{STRIP_PIXELS}" height="{height}"'
    return f'<img {size} alt="" src="data:image/jpeg;base64,{text}">'
