"""The demo: tasks, closed loop with baselines, traces, processes that end, and the whole path."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from qwen_vla_ros.cli import main
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.closed_loop import run_tasks
from qwen_vla_ros.evaluate.colour_search import ColourSearchPolicy
from qwen_vla_ros.evaluate.demo import choose_domain
from qwen_vla_ros.evaluate.episode_trace import EpisodeTrace
from qwen_vla_ros.evaluate.episodes import (
    Episode,
    parse_seeds,
    plan_tasks,
    read_tasks,
    task_of_seed,
    write_tasks,
)
from qwen_vla_ros.evaluate.processes import ChildFailed, ProcessFamily
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.environment import TabletopEnv

ROOT = Path(__file__).parents[1]

# Tasks -------------------------------------------------------------------------------------------


def test_seeds_are_ranges_and_lists() -> None:
    assert parse_seeds('3:6') == [3, 4, 5]
    assert parse_seeds('9,1:3') == [9, 1, 2]


@pytest.mark.parametrize('text', ['', 'a', '5:2', '-1', '1000000', '1.5'])
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(QwenVlaError, match='--seeds'):
        parse_seeds(text)


def test_a_seed_is_always_the_same_task() -> None:
    assert task_of_seed(7) == task_of_seed(7)
    assert task_of_seed(7).target in task_of_seed(7).instruction


def test_a_swap_names_another_object() -> None:
    task = task_of_seed(7, swap=True)
    assert task.swap.target != task.target
    assert task.final_target == task.swap.target


def test_the_plan_ends_with_one_swapped_showcase() -> None:
    tasks = plan_tasks([0, 1, 2], swap=False)
    assert [bool(task.swap) for task in tasks] == [False, False, False, True]


def test_tasks_survive_their_file(tmp_path: Path) -> None:
    tasks = plan_tasks([0, 1], swap=False)
    write_tasks(tasks, tmp_path / 'tasks.json')
    assert read_tasks(tmp_path / 'tasks.json') == tasks


def test_a_broken_task_file_is_named(tmp_path: Path) -> None:
    (tmp_path / 'tasks.json').write_text('[{"seed": 1}]')
    with pytest.raises(QwenVlaError, match=r'tasks\.json'):
        read_tasks(tmp_path / 'tasks.json')


def test_an_episode_survives_json() -> None:
    episode = Episode(1, 'touch', 'red can', True, 'red can', ('red can',), 1.0)
    assert Episode.from_json(json.loads(json.dumps(episode.to_json()))) == episode


def test_a_domain_out_of_range_is_refused() -> None:
    assert choose_domain(42) == 42
    assert 1 <= choose_domain(None) <= 100
    with pytest.raises(QwenVlaError, match='--domain-id 233'):
        choose_domain(233)


# Closed loop in gymnasium ------------------------------------------------------------------------


@pytest.fixture(scope='module')
def env() -> TabletopEnv:
    return TabletopEnv()


@pytest.fixture(scope='module')
def expert() -> ColourSearchPolicy:
    return ColourSearchPolicy(Embodiment.load('widowx'))


def test_the_expert_finds_the_named_object(expert: ColourSearchPolicy, env: TabletopEnv) -> None:
    episodes = list(run_tasks(expert, plan_tasks(range(6), False, False), env=env))
    assert sum(episode.success for episode in episodes) >= 5
    assert all(episode.inference_s for episode in episodes)


def test_without_the_sentence_the_expert_does_worse(
    expert: ColourSearchPolicy, env: TabletopEnv
) -> None:
    tasks = plan_tasks(range(9), False, False)
    episodes = list(run_tasks(expert, tasks, 'no_language', env))
    assert sum(episode.success for episode in episodes) <= 6


def test_without_the_images_the_expert_is_lost(
    expert: ColourSearchPolicy, env: TabletopEnv
) -> None:
    tasks = plan_tasks(range(2), False, False)
    assert not any(episode.success for episode in run_tasks(expert, tasks, 'no_image', env))


def test_a_swapped_sentence_changes_the_target(
    expert: ColourSearchPolicy, env: TabletopEnv
) -> None:
    episode = next(run_tasks(expert, [task_of_seed(0, swap=True)], env=env))
    assert episode.swapped
    assert episode.first_touched == task_of_seed(0, swap=True).swap.target


def test_the_expert_refuses_a_sentence_without_a_colour(
    expert: ColourSearchPolicy, env: TabletopEnv
) -> None:
    env.reset(seed=0, options={'instruction': 'dance', 'target': env.world.scene.names[0]})
    with pytest.raises(QwenVlaError, match="'dance'"):
        expert.infer(env.observation())


def test_eval_leaves_a_summary_and_a_page(tmp_path: Path) -> None:
    words = ['eval', 'sim', '--policy', 'expert', '--seeds', '0:2', '--no-baselines']
    done = qwen_vla(*words, '--out', str(tmp_path))
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert (summary['through'], summary['episodes'], summary['complete']) == ('gymnasium', 2, True)
    assert (tmp_path / 'report.html').is_file()


# Trace -------------------------------------------------------------------------------------------


def status(chunks: int, stage: str = 'RUNNING', **more: object) -> SimpleNamespace:
    facts = {'inference_s': 0.1, 'overhead_s': 0.002, 'chunk_age_s': float('nan'), 'reason': ''}
    return SimpleNamespace(**{**facts, 'stage': stage, 'chunks': chunks, 'refusals': 0, **more})


def trajectory(time_s: float, positions: list[float]) -> SimpleNamespace:
    after = SimpleNamespace(sec=0, nanosec=0)
    point = SimpleNamespace(positions=positions, time_from_start=after)
    stamp = SimpleNamespace(sec=int(time_s), nanosec=round((time_s % 1) * 1e9))
    header = SimpleNamespace(stamp=stamp)
    return SimpleNamespace(header=header, joint_names=list(arm.ARM_JOINTS), points=[point])


def test_trace_counts_each_chunk_once_and_leaves_nan_out() -> None:
    trace = EpisodeTrace(task_of_seed(0), 10.0)
    for chunks in (5, 6, 6, 7):
        trace.add_status(status(chunks), 10.0 + chunks)
    episode = trace.finish(None, (), 1.0)
    assert episode.inference_s == (0.1, 0.1)
    assert episode.chunk_age_s == ()


def test_trace_notes_a_hold_and_its_reason() -> None:
    trace = EpisodeTrace(task_of_seed(0), 10.0)
    trace.add_status(status(1), 10.5)
    trace.add_status(status(1, 'HOLDING', reason='scene camera stale', refusals=2), 11.0)
    trace.add_status(status(1, 'HOLDING', reason='scene camera stale', refusals=2), 11.1)
    episode = trace.finish(None, (), 1.0)
    assert episode.holds == ({'time_s': 1.0, 'reason': 'scene camera stale'},)
    assert episode.refusals == 2
    assert trace.running_since_s == 10.5


def test_trace_measures_rate_and_tracking() -> None:
    trace = EpisodeTrace(task_of_seed(0), 10.0)
    for step in range(11):
        time_s = 10.0 + 0.05 * step
        trace.add_command(trajectory(time_s, [0.1 * step] * 6), time_s)
        state = SimpleNamespace(
            name=['other', *arm.JOINT_NAMES], position=[9.0, *[0.1 * step - 0.02] * 7]
        )
        trace.add_joint_state(state, time_s)
    episode = trace.finish('x', ('x',), 1.0)
    assert episode.command_rate_hz == pytest.approx(20.0)
    assert episode.tracking_rms == pytest.approx(0.02, abs=1e-6)
    assert trace.arrays()['measured'].shape == (11, 7)
    assert np.isnan(trace.arrays()['commanded'][:, 6]).all()


# Processes ---------------------------------------------------------------------------------------

STUBBORN = (
    'import signal, subprocess, sys, time\n'
    'signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    'child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])\n'
    'print(child.pid, flush=True); time.sleep(60)'
)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_stubborn_child_and_its_child_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen_vla_ros.evaluate import processes

    ladder = tuple((number, 0.5) for number, _ in processes.LADDER)
    monkeypatch.setattr(processes, 'LADDER', ladder)
    with ProcessFamily(tmp_path) as family:
        child = family.start('stubborn', [sys.executable, '-c', STUBBORN], pipe_output=True)
        grandchild = int(child.stdout.readline())
        assert alive(grandchild)
        assert family.memory_mb() > 5
    assert not alive(child.pid)
    assert not alive(grandchild)


def test_a_child_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with ProcessFamily(tmp_path) as family:
        child = family.start('poor', [sys.executable, '-c', 'raise SystemExit("no camera")'])
        child.wait()
        with pytest.raises(ChildFailed, match='poor ended with code 1: no camera'):
            family.check()


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        'import sys, time\nfrom pathlib import Path\n'
        'from qwen_vla_ros.evaluate.processes import ProcessFamily\n'
        'family = ProcessFamily(Path(sys.argv[1]))\n'
        'child = family.start("c", [sys.executable, "-c", "import time; time.sleep(60)"])\n'
        'print(child.pid, flush=True); time.sleep(60)'
    )
    words = [sys.executable, '-c', program, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    assert wait_until(lambda: not alive(child), 5)


# The whole path over ROS -------------------------------------------------------------------------


def qwen_vla(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'qwen_vla_ros.cli', *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )


def wait_until(done: object, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
    return done()


def test_demo_of_two_episodes_leaves_everything(tmp_path: Path) -> None:
    pytest.importorskip('rclpy')
    words = ['demo', '--policy', 'expert', '--episodes', '2', '--no-baselines']
    done = qwen_vla(*words, '--out', str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert (summary['episodes'], summary['complete']) == (2, True)
    assert summary['instruction_swap']['episodes'] == 1
    assert summary['success'] >= 1
    assert summary['latency_ms']['p50'] is not None
    for name in ('report.html', 'video.mp4', 'tracking.png', 'latency.png', 'success.png'):
        assert (tmp_path / name).stat().st_size > 2000, name
    assert list((tmp_path / 'bag').rglob('*.mcap'))


def test_interrupt_leaves_no_process_and_a_readable_result(tmp_path: Path) -> None:
    pytest.importorskip('rclpy')
    words = ['demo', '--policy', 'expert', '--seeds', '0:20', '--out', str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, '-m', 'qwen_vla_ros.cli', *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert wait_until((tmp_path / 'summary.json').exists, 90)
        family = psutil.Process(demo.pid).children(recursive=True)
        assert len(family) >= 5
        os.kill(demo.pid, signal.SIGINT)
        output, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130, errors
    assert 'Traceback' not in errors
    assert not [process for process in family if alive(process.pid)]
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert not summary['complete']
    assert summary['episodes'] >= 1
    assert 'Partial result' in (tmp_path / 'report.html').read_text()
    assert 'partial result' in output


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--robot', 'widwx'], "did you mean 'widowx'"),
        (['--checkpoint', 'nowhere'], 'nowhere: there is no config.json'),
        (['--seeds', '1000000'], '--seeds'),
    ],
)
def test_what_cannot_run_leaves_an_earlier_result_alone(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'summary.json').write_text('earlier')
    assert main(['demo', '--out', str(tmp_path), *words]) == 2
    assert told in capsys.readouterr().err
    assert (tmp_path / 'summary.json').read_text() == 'earlier'
