"""Summary, page, plots and film from made-up episodes."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.episodes import Episode
from qwen_vla_ros.evaluate.plots import plot_latency, plot_success, plot_tracking
from qwen_vla_ros.evaluate.report import render_report, write_report
from qwen_vla_ros.evaluate.statistics import success_rate
from qwen_vla_ros.evaluate.summary import summarise, tell_partial
from qwen_vla_ros.evaluate.video import (
    HEIGHT,
    STRIP,
    WIDTH,
    Caption,
    Film,
    compose_frame,
)
from qwen_vla_ros.seeing.camera import looking
from qwen_vla_ros.seeing.picture import Lines, Picture

PNG = b'\x89PNG'
LINE = Lines(
    'predicted/arm', 'base_link', np.array([[0, -1.0, 0], [0, 1.0, 0]]), np.ones((2, 4)), 0.1
)
INTENDED = Picture(0, (LINE,)), looking([3.0, 0.0, 0.0], [0.0, 0.0, 0.0], (640, 480))


def episode(seed: int, success: bool, swapped: bool = False, **more: object) -> Episode:
    first = 'red block' if success else 'blue can'
    facts = {
        'inference_s': (0.08, 0.12),
        'overhead_s': (0.001, 0.002),
        'command_rate_hz': 20.0,
        'chunk_rate_hz': 4.0,
        **more,
    }
    return Episode(
        seed, 'touch the red block', 'red block', success, first, (first,), 1.5, swapped, **facts
    )


def fake_summary() -> dict:
    episodes = [episode(seed, seed != 3) for seed in range(4)]
    episodes[1] = episode(
        1, True, refusals=2, holds=({'time_s': 0.5, 'reason': 'scene camera <stale>'},)
    )
    episodes.append(episode(0, True, swapped=True))
    summary = summarise(
        episodes, 'touch the named object', 'ros', 5, peak_memory_mb=1234.5, policy='expert'
    )
    summary['baseline_details'] = {
        'policy': success_rate([True, True, True, False]),
        'no_language': success_rate([True, False, False, False]),
        'no_image': success_rate([False] * 4),
    }
    return summary


def test_summary_has_the_fields_of_every_closed_loop_result() -> None:
    summary = fake_summary()
    wanted = (
        'task episodes success success_rate interval95 per_instruction baselines latency_ms '
        'rate_hz safety seeds machine'
    )
    assert set(wanted.split()) <= set(summary)
    json.dumps(summary, allow_nan=False)


def test_swapped_episodes_count_on_their_own() -> None:
    summary = fake_summary()
    assert (summary['episodes'], summary['success']) == (4, 3)
    assert summary['instruction_swap']['episodes'] == 1
    assert summary['seeds'] == [0, 1, 2, 3]


def test_latencies_are_in_milliseconds_of_all_inferences() -> None:
    assert fake_summary()['latency_ms']['p50'] == pytest.approx(100.0)


def test_safety_counts_refusals_and_reasons_of_holds() -> None:
    safety = fake_summary()['safety']
    assert safety['refusals'] == 2
    assert safety['hold_reasons'] == {'scene camera <stale>': 1}


def test_partial_summary_says_so(tmp_path: Path) -> None:
    summary = summarise([episode(0, True)], 'touch', 'ros', planned=8)
    assert not summary['complete']
    assert 'Partial result: 1 of 8' in render_report(summary, tmp_path)


def test_summary_of_no_episode_renders_dashes(tmp_path: Path) -> None:
    page = render_report(summarise([], 'touch', 'ros', planned=8), tmp_path)
    assert '<b>–</b>' in page


def test_report_escapes_what_robots_say(tmp_path: Path) -> None:
    page = render_report(fake_summary(), tmp_path)
    assert 'scene camera &lt;stale&gt;' in page
    assert '<stale>' not in page


def test_report_carries_its_plots_inside(tmp_path: Path) -> None:
    draw_all(tmp_path)
    page = write_report(fake_summary(), tmp_path).read_text()
    assert page.count('data:image/png;base64,') == 3
    assert 'no_language' not in page
    assert 'baseline: images of another scene' in page
    assert 'src="http' not in page


def test_report_shows_rates_with_intervals(tmp_path: Path) -> None:
    page = render_report(fake_summary(), tmp_path)
    assert '75 %' in page
    assert '30–95 %' in page  # 3 of 4


def test_plots_without_data_are_drawn(tmp_path: Path) -> None:
    plot_latency([], [], tmp_path / 'latency.png', 'nothing')
    plot_success([('policy', success_rate([]))], tmp_path / 'success.png')
    assert (tmp_path / 'latency.png').read_bytes()[:4] == PNG
    assert (tmp_path / 'success.png').read_bytes()[:4] == PNG


def test_frame_holds_both_cameras_and_the_path() -> None:
    scene = np.full((480, 640, 3), 200, np.uint8)
    wrist = np.full((480, 640, 3), 90, np.uint8)
    caption = Caption('episode 1', 'touch the red block', 'RUNNING', ('time  1.0 s',))
    frame = compose_frame(scene, wrist, caption, INTENDED)
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert (frame[100, 700] == 90).all()
    assert (frame[64 + 400, 300] == 200).all()
    assert (frame[64 + 240, 315:326] != 200).any()


def test_film_plays_with_its_frames(tmp_path: Path) -> None:
    with Film(tmp_path / 'video.mp4') as film:
        for shade in range(12):
            scene = np.full((480, 640, 3), 20 * shade, np.uint8)
            film.add(scene, None, Caption('t', 'touch', 'RUNNING'))
    with av.open(str(tmp_path / 'video.mp4')) as file:
        assert sum(1 for _ in file.decode(video=0)) == film.frames == 12


def test_film_without_frames_is_closed_quietly(tmp_path: Path) -> None:
    with Film(tmp_path / 'video.mp4') as film:
        pass
    assert not film._thread.is_alive()


def test_film_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QwenVlaError, match='cannot write the film'):
        Film(tmp_path / 'absent' / 'video.mp4')


def draw_all(folder: Path) -> None:
    times = np.linspace(0, 2, 100)
    joints = np.sin(times[:, None] + np.arange(7))
    trace = {
        'names': np.array(
            ['waist', 'shoulder', 'elbow', 'roll', 'wrist', 'rotate', 'left_finger']
        ),
        'measured_s': times,
        'measured': joints - 0.02,
        'commanded_s': times,
        'commanded': joints,
    }
    rng = np.random.default_rng(0)
    plot_tracking(trace, folder / 'tracking.png', 'Episode 1: touch the red block')
    plot_latency(
        rng.gamma(9, 0.01, 200), rng.gamma(3, 0.001, 200), folder / 'latency.png', 'Latency'
    )
    rows = [('policy (ROS)', success_rate([True] * 9 + [False]))]
    rows += [('no language', success_rate([True] * 3 + [False] * 7))]
    plot_success(rows, folder / 'success.png')


def test_a_frame_leaves_the_callers_picture_as_it_is() -> None:
    scene = np.full((480, 640, 3), 90, np.uint8)
    caption = Caption('t', 'touch the red block', 'RUNNING', ('refused  0',), 'touched', True)
    frame = compose_frame(scene, None, caption, INTENDED)
    assert (scene == 90).all()
    assert (frame[STRIP : STRIP + 480, :640] != 90).any()


def test_a_run_that_stopped_in_a_baseline_says_that_it_is_partial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {'ended': 5, 'planned': 6}
    summary = summarise([episode(0, True), episode(1, True)], 't', 'gymnasium', 2, run=run)
    assert not summary['complete']
    page = render_report(summary, tmp_path)
    assert 'Partial result: 5 of 6 episodes ended before the run was stopped.' in page
    tell_partial(**run)
    tell_partial(6, 6)
    told = capsys.readouterr().out
    assert told == 'PARTIAL: 5 of 6 episodes ended before the run was stopped\n'
