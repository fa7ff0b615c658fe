"""The demo's folder of results: renewed after every episode, finished once, told in words."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qwen_vla_ros.evaluate.episodes import Episode, write_json
from qwen_vla_ros.evaluate.plots import plot_latency, plot_success, plot_tracking
from qwen_vla_ros.evaluate.report import write_report
from qwen_vla_ros.evaluate.summary import summarise

TASK = 'touch the named object of three (simulated WidowX, over ROS 2)'
_OWN = ('bag', 'traces', 'logs', 'baselines')
_OWN_FILES = ('summary.json', 'report.html', 'video.mp4', '*.png', 'tasks.json')


class DemoResult:
    """Collects episodes and writes summary.json, plots and report.html."""

    def __init__(self, folder: Path, planned: int, policy: str, **told: str) -> None:
        """Results of one run go into an existing folder; told: `task` and `counted`, in words."""
        self._folder, self._planned, self._policy = folder, planned, policy
        self._task, self._told = told.pop('task', TASK), told
        self._date = time.strftime('%Y-%m-%d %H:%M')
        self.episodes: list[Episode] = []
        self.durations_s: dict[str, float] = {}
        self.peak_memory_mb: float | None = None
        self.film: dict[str, int] = {}
        self.failure: str | None = None
        self._baselines: dict[str, Any] = {}
        self._begin = time.monotonic()

    def clear(self) -> None:
        """Remove what an earlier run left in the folder, and nothing else."""
        for name in _OWN:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        for pattern in _OWN_FILES:
            for path in self._folder.glob(pattern):
                path.unlink()
        (self._folder / 'traces').mkdir()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Keep how long a part of the run took."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.durations_s[part] = round(time.monotonic() - begin, 1)

    def add(self, episode: Episode) -> None:
        """Take an episode and renew summary.json."""
        self.episodes.append(episode)
        write_json(self.summary(), self._folder / 'summary.json')

    def take_baselines(self, path: Path) -> None:
        """Take the rates of the gymnasium route from its summary."""
        self._baselines = json.loads(path.read_text())['baseline_details']

    def summary(self) -> dict[str, Any]:
        """Return summary.json's content of what there is."""
        whole = round(time.monotonic() - self._begin, 1)
        summary = summarise(
            self.episodes,
            self._task,
            'ros',
            self._planned,
            policy=self._policy,
            **self._told,
            date=self._date,
            peak_memory_mb=self.peak_memory_mb,
            film=self.film,
            failure=self.failure,
            baseline_details=self._baselines,
            baselines_through='gymnasium',
            durations_s={**self.durations_s, 'whole run': whole},
        )
        summary['baselines'] = {
            name: row['success_rate'] for name, row in self._baselines.items() if name != 'policy'
        }
        return summary

    def finish(self) -> None:
        """Write summary, plots and page."""
        summary = self.summary()
        write_json(summary, self._folder / 'summary.json')
        rows = [('policy, over ROS', summary)]
        if summary['instruction_swap']['episodes']:
            rows.append(('sentence swapped, over ROS', summary['instruction_swap']))
        words = {
            'policy': 'policy',
            'no_language': 'without the sentence',
            'no_image': 'no images',
        }
        rows += [(f'{words[name]}, gymnasium', row) for name, row in self._baselines.items()]
        plot_success(rows, self._folder / 'success.png')
        times = [
            [value for episode in self.episodes for value in getattr(episode, name)]
            for name in ('inference_s', 'overhead_s')
        ]
        plot_latency(*times, self._folder / 'latency.png', 'Time of a chunk')
        self._draw_tracking()
        write_report(summary, self._folder)

    def text(self) -> str:
        """Return the result in a few lines for the terminal."""
        summary = self.summary()
        lines = ['', f'{"policy, over ROS":34}{_rate(summary)}']
        if summary['instruction_swap']['episodes']:
            lines.append(f'{"sentence swapped on the way":34}{_rate(summary["instruction_swap"])}')
        lines += [
            f'{f"{name}, gymnasium":34}{_rate(row)}' for name, row in self._baselines.items()
        ]
        lines += [
            f'{"model / node beside it, p50":34}{_ms(summary["latency_ms"]["p50"])} / '
            f'{_ms(summary["node_overhead_ms"]["p50"])}',
            f'{"peak memory, all processes":34}'
            + ('–' if self.peak_memory_mb is None else f'{self.peak_memory_mb:.0f} MB'),
            f'{"report":34}{self._folder / "report.html"}',
        ]
        if not summary['complete']:
            lines.insert(1, f'partial result: {len(self.episodes)} of {self._planned} episodes')
        return '\n'.join(lines)

    def _draw_tracking(self) -> None:
        """Draw the joints of the first success, or of the first episode."""
        successes = [index for index, episode in enumerate(self.episodes) if episode.success]
        for number in (*successes, *range(len(self.episodes))):
            path = self._folder / 'traces' / f'{number:03d}.npz'
            if path.is_file():
                episode = self.episodes[number]
                with np.load(path, allow_pickle=False) as trace:
                    title = f'Scene {episode.seed}: {episode.instruction}'
                    plot_tracking(trace, self._folder / 'tracking.png', title)
                return


def _rate(row: dict[str, Any]) -> str:
    """Return a success rate with its interval."""
    low, high = row['interval95']
    rate = '–' if row['success_rate'] is None else f'{100 * row["success_rate"]:.0f} %'
    count = f'{row["success"]} of {row["episodes"]}'
    return f'{count} = {rate} (95 %: {100 * low:.0f}–{100 * high:.0f} %)'


def _ms(value: float | None) -> str:
    """Return a time in ms."""
    return '–' if value is None else f'{value:.1f} ms'
