"""
`qwen-vla demo`: robot, model, policy node, recorder and episodes, each a process on loopback.

This process holds no ROS and no model: it starts the others in a ROS domain of their own, reads
what the episode node tells, and after every episode renews summary.json, so that whatever ends the
run leaves what was measured until then.
"""

import argparse
import json
import os
import queue
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.choose_policy import (
    bundled_checkpoint,
    name_policy,
    policy_words,
    require_checkpoint,
)
from qwen_vla_ros.evaluate.demo_result import DemoResult
from qwen_vla_ros.evaluate.episodes import Episode, Task, parse_seeds, plan_tasks, write_tasks
from qwen_vla_ros.evaluate.processes import (
    ChildFailed,
    MemoryWatch,
    ProcessFamily,
    interrupted_by_signals,
)
from qwen_vla_ros.nodes.ros_environment import ros_environment
from qwen_vla_ros.sim.tasks.goals import TASK_LIMIT_S

SHORT_EPISODES = 8
MODEL_START_S = 120.0
EPISODE_SILENCE_S = 120.0
JUDGED = {
    'task': 'pick, place, push or stack, as the sentence says (simulated WidowX, over ROS 2)',
    'counted': 'done, as the world judges',
}
_ADDRESS = re.compile(r'ws://[\w.]+:\d+')


def run_from_arguments(args: argparse.Namespace) -> int:
    """Run the demo; 0 when episodes ended, however they ended, 1 when the pipeline failed."""
    seeds = parse_seeds(args.seeds)
    wanted = args.episodes or (SHORT_EPISODES if args.short else len(seeds))
    if wanted < 1:
        raise QwenVlaError(f'--episodes {wanted}: at least 1')
    if args.live and not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
        raise QwenVlaError('--live: there is no screen (DISPLAY is not set); run without --live')
    Embodiment.load(args.robot)  # what cannot run must not replace an earlier result
    if args.policy == 'model':
        require_checkpoint(args.checkpoint or bundled_checkpoint())
    tasks = plan_tasks(seeds[:wanted], args.swap)
    demo = Demo(args, tasks, choose_domain(args.domain_id))
    with interrupted_by_signals():
        return demo.run()


def choose_domain(wanted: int | None) -> int:
    """Return the domain that was asked for, or one of 1..100 that nobody on this machine uses."""
    if wanted is not None:
        if not 0 <= wanted <= 232:
            raise QwenVlaError(f'--domain-id {wanted}: choose one from 0 to 232')
        return wanted
    for domain in random.sample(range(1, 101), 100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('127.0.0.1', 7410 + 250 * domain))  # its first participant's port
            except OSError:
                continue
            return domain
    raise QwenVlaError('no free ROS domain in 1..100; pass --domain-id')


class Demo:
    """One run; results go into args.out."""

    def __init__(self, args: argparse.Namespace, tasks: list[Task], domain_id: int) -> None:
        """
        Make the folder; what an earlier run left there is replaced.

        Tasks are all to touch something, or all of a kind of the world `tasks`; those are judged
        there, and neither recorded nor run without sentence or images. args.pace, if there is
        one: seconds of the robot's clock a second.
        """
        self._pace: float = getattr(args, 'pace', 1.0)
        self.args, self.tasks, self.domain_id = args, tasks, domain_id
        self._judged = any(task.kind for task in tasks)
        self.out: Path = args.out.resolve()
        try:
            (self.out / 'traces').mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise QwenVlaError(f'--out {self.out}: cannot be written ({error})') from error
        self.words = policy_words(self.args)
        words = JUDGED if self._judged else {}
        self.result = DemoResult(self.out, len(self.tasks), name_policy(self.args), **words)
        self.result.clear()
        write_tasks(self.tasks, self.out / 'tasks.json')

    def run(self) -> int:
        """Run episodes, then baselines; write the report whatever happens on the way."""
        environment = ros_environment(self.domain_id)
        print(f'results: {self.out}   (ROS domain {self.domain_id}, this machine only)')
        try:
            with ProcessFamily(self.out / 'logs', environment) as family:
                watch = MemoryWatch(family)
                try:
                    self._start(family)
                    self._follow(family)
                    self._stop_ros(family)
                    if self.args.baselines:
                        self._run_baselines(family)
                finally:
                    watch.stop()
                    self.result.peak_memory_mb = watch.peak_mb
        except ChildFailed as error:
            print(f'qwen-vla demo: {error}', file=sys.stderr)
            self.result.failure = str(error)
        except KeyboardInterrupt:
            self.result.failure = 'interrupted'
            raise
        finally:
            self.result.finish()
            print(self.result.text())
        return 0 if self.result.episodes and self.result.failure is None else 1

    def _start(self, family: ProcessFamily) -> None:
        """Start the model, then robot, recorder (of the demo) and policy node."""
        robot = self.args.robot
        with self.result.timed('start'):
            family.start(
                'model', [*_python('qwen_vla_ros.cli'), 'serve', '--port', '0', *self.words]
            )
            world: dict[str, Any] = {'world': 'tasks'} if self._judged else {}
            if off := getattr(self.args, 'zero_errors', ''):
                world['zero_errors'] = off
            if self._pace != 1.0:
                world |= {'use_clock': True, 'pace': self._pace}
            family.start('robot', self._node('robot_sim_node', robot=robot, **world))
            address = self._model_address(family)
            if not self._judged:
                family.start(
                    'recorder', self._node('recorder_node', output=self.out / 'bag', robot=robot)
                )
            family.start(
                'policy', self._node('policy_node', address=address, autostart=True, robot=robot)
            )

    def _node(self, name: str, **parameters: Any) -> list[str]:
        """Return the command that starts a node of ours with parameters."""
        words = [*_python(f'qwen_vla_ros.nodes.{name}'), '--ros-args', '--log-level', 'warn']
        if self._pace != 1.0 and name != 'robot_sim_node':  # who makes the clock has none
            parameters['use_sim_time'] = True
        for key, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += ['-p', f'{key}:={text}']
        return words

    def _model_address(self, family: ProcessFamily) -> str:
        """Wait until the model serves and return its address."""
        log, end = self.out / 'logs' / 'model.log', time.monotonic() + MODEL_START_S
        while time.monotonic() < end:
            found = _ADDRESS.search(log.read_text(errors='replace'))
            if found:
                return found.group()
            family.check()
            time.sleep(0.05)
        raise ChildFailed(f'the model did not start within {MODEL_START_S:.0f} s; see {log}')

    def _follow(self, family: ProcessFamily) -> None:
        """Start the episode node and take what it tells, until its end."""
        limit = {'limit_s': TASK_LIMIT_S} if self._judged else {}
        node = self._node(
            'episode_node',
            tasks=self.out / 'tasks.json',
            out=self.out,
            live=bool(self.args.live),
            **limit,
        )
        child = family.start('episodes', node, pipe_output=True)
        with (
            self.result.timed('episodes'),
            tqdm(total=len(self.tasks), unit='episode', disable=None) as bar,
        ):
            for event in _events(child, family, EPISODE_SILENCE_S / self._pace):
                if event['event'] == 'ready':
                    self.result.durations_s['until ready'] = round(event['after_s'], 1)
                elif event['event'] == 'started':
                    bar.set_description(event['task']['instruction'])
                elif event['event'] == 'episode':
                    episode = Episode.from_json(event['episode'])
                    self.result.add(episode)
                    bar.write(_line(len(self.result.episodes), episode))
                    bar.update()
                elif event['event'] == 'film':
                    self.result.film = {key: event[key] for key in ('frames', 'skipped')}
        if child.wait() != 0:
            raise ChildFailed(family.failure('episodes'))

    def _stop_ros(self, family: ProcessFamily) -> None:
        """End the ROS processes, the recorder last, before the baselines take the processor."""
        with self.result.timed('stop'):
            recorder = () if self._judged else ('recorder',)
            for name in ('episodes', 'policy', 'robot', *recorder, 'model'):
                family.finish(name)

    def _run_baselines(self, family: ProcessFamily) -> None:
        """Run the policy and its baselines in the gymnasium world on the same seeds."""
        seeds = ','.join(str(task.seed) for task in self.tasks if not task.swap)
        if not seeds:
            seeds = ','.join(str(task.seed) for task in self.tasks)
        folder = self.out / 'baselines'
        words = ['eval', 'sim', '--seeds', seeds, '--out', str(folder), *self.words]
        print('baselines: the same scenes without the sentence, without the images …')
        with self.result.timed('baselines'):
            child = family.start('baselines', [*_python('qwen_vla_ros.cli'), *words])
            if child.wait() != 0:
                raise ChildFailed(family.failure('baselines'))
        family.finish('baselines')
        self.result.take_baselines(folder / 'summary.json')


def _python(module: str) -> list[str]:
    """Return the words that run a module of ours with this interpreter."""
    return [sys.executable, '-m', module]


def _events(
    child: subprocess.Popen[str], family: ProcessFamily, silence_s: float
) -> Iterator[dict[str, Any]]:
    """Yield the child's events until it ends; ChildFailed when another process ends meanwhile."""
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(child, lines), daemon=True).start()
    heard = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            family.check(besides='episodes')
            if time.monotonic() - heard > silence_s:
                raise ChildFailed(f'no episode ended for {silence_s:.0f} s') from None
            continue
        if line is None:
            return
        heard = time.monotonic()
        if line.startswith('{'):
            yield json.loads(line)


def _read_lines(child: subprocess.Popen[str], lines: 'queue.Queue[str | None]') -> None:
    """Pass the child's lines on, and None at the end."""
    try:
        for line in child.stdout or ():
            lines.put(line)
    except ValueError:
        pass  # closed while the family was being stopped
    lines.put(None)


def _line(number: int, episode: Episode) -> str:
    """Return one line of progress."""
    mark = 'yes' if episode.success else 'NO '
    swapped = ' (swapped)' if episode.swapped else ''
    touched = episode.first_touched or 'nothing'
    return (
        f'{number:3d}  {mark}  scene {episode.seed:<5d} "{episode.instruction}"{swapped}: '
        f'touched {touched} after {episode.elapsed_s:.1f} s {episode.note}'
    ).rstrip()
