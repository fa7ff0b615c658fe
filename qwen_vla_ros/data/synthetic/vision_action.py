"""
The synthetic vision-action set: the scripted teacher's successes in rendered, varied scenes.

Episode n of a set is a function of (seed, n) alone: scenes from TRAINING_SEEDS on, tasks in turn;
where the teacher fails, the next scene of the episode's own is tried and the failure counted by
its task. Rows are 0.2 s apart in the layout of LeRobot v3.0 with one film an episode and view:

  action, observation.state   float32 [7]  joints of the WidowX (rad, m): commanded, measured
  step                        int16        which subtask (reach, grasp, lift, move, release) it is
  observation.images.ego, observation.images.cam_right_wrist   H.264

A row's command is the one that was to be reached at its instant. SubtaskEpisodes reads the same
folder as subtasks: each run of rows with one step is an episode with its own sentence.
"""

import io
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from qwen_vla_ros.data.lerobot import LeRobotEpisodes
from qwen_vla_ros.data.sample import Place, Sample
from qwen_vla_ros.data.synthetic.runners import Runner
from qwen_vla_ros.data.synthetic.set_files import (
    FILES_A_CHUNK,
    Recorded,
    SetWriter,
    begun_as,
    beside_then_renamed,
    episode_table,
    finish,
    vector,
)
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.environment import EMBODIMENT, STEP_S
from qwen_vla_ros.sim.tasks.goals import KINDS

TRAINING_SEEDS = 3_000_000  # of scenes that no evaluation and no other run uses
SCENES_AN_EPISODE = 20
EPISODES_A_FILE = 8  # rows of; films have files of their own
RATE_HZ = round(1 / STEP_S)
SIZE = (240, 320)  # h, w of the films
VIEWS = {'ego': 'observation.images.ego', 'cam_right_wrist': 'observation.images.cam_right_wrist'}
SETTLE_ROWS = 6  # after the teacher's last row, for things to come to rest
MARKER = 'meta/vision_action.json'
FILM = 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'


@dataclass(frozen=True)
class Filmed:
    """An episode and its films as mp4, by view."""

    recorded: Recorded
    films: dict[str, bytes]


@dataclass(frozen=True)
class VisionOrder:
    """What to make; equal orders, equal files."""

    folder: Path
    episodes: int
    seed: int
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        """Refuse unknown tasks and sets of nothing."""
        for kind in self.kinds:
            if kind not in KINDS:
                raise QwenVlaError(f'unknown task {kind!r}; known: {", ".join(KINDS)}')
        if self.episodes < 1 or self.seed < 0:
            raise QwenVlaError('--episodes: at least 1; --seed: from 0 on')


def synthesise(order: VisionOrder, runner: Runner) -> tuple[int, float, Counter[str]]:
    """
    Make what is not there yet.

    Return how many episodes were made, in how many s, and how often the teacher failed, by task,
    in the whole set.
    """
    told = {'kind': 'vision-action', 'seed': order.seed, 'tasks': list(order.kinds)}
    begun_as(order.folder, told)
    writer = SetWriter(order.folder, order.episodes, RATE_HZ, film_columns, EPISODES_A_FILE)
    done = writer.done
    jobs = [(number, order.seed, order.kinds) for number in range(done, order.episodes)]
    began = time.monotonic()
    with tqdm(total=order.episodes, initial=done, unit='episode', desc='vision-action') as bar:
        for job, made in zip(jobs, runner(make_demonstration, jobs), strict=True):
            for view, content in made.films.items():
                path = film_path(order.folder, view, job[0])
                beside_then_renamed(path, lambda beside, c=content: beside.write_bytes(c))
            writer.add([made.recorded])
            bar.update()
    seconds = time.monotonic() - began
    finish(order.folder, EMBODIMENT, RATE_HZ, features(), MARKER, told)
    table = episode_table(order.folder, ('family', 'failed'))
    failed: Counter[str] = Counter()
    for kind, count in zip(*(table[key].to_pylist() for key in ('family', 'failed')), strict=True):
        failed[kind] += count
    return order.episodes - done, seconds, failed


def make_demonstration(job: tuple[int, int, Sequence[str]]) -> Filmed:
    """Return an episode; QwenVlaError when the teacher fails in every scene it is given."""
    number, seed, kinds = job
    kind, failed = kinds[number % len(kinds)], 0
    first = TRAINING_SEEDS + (seed * 1_000_003 + number) * SCENES_AN_EPISODE
    for scene in range(first, first + SCENES_AN_EPISODE):
        rows = _performed(kind, scene)
        if rows is not None:
            return _filmed(rows, {'family': kind, 'scene': scene, 'failed': failed})
        failed += 1
    raise QwenVlaError(f'{kind}: the teacher failed in {failed} scenes from seed {first} on')


@dataclass(frozen=True)
class _Performed:
    instruction: str
    steps: list[tuple[str, str]]  # kind and text of each row
    actions: np.ndarray
    states: np.ndarray
    images: dict[str, list[np.ndarray]]


@cache
def _environment(kind: str) -> Any:
    from qwen_vla_ros.sim.tasks.environment import TasksEnv

    return TasksEnv(size=SIZE, kind=kind)


def _performed(kind: str, seed: int) -> _Performed | None:
    """Return what was seen and done in a scene, or None where the teacher failed."""
    env = _environment(kind)
    seen, _ = env.reset(seed=seed)
    posture = np.array(env.world.scene.posture)
    frames, commands, steps = [seen], [posture], []
    ended = False
    for row in _with_rest(env.expert()):
        seen, _, terminated, truncated, facts = env.step(row.joints)
        steps.append((row.step, row.text))
        frames.append(seen)
        commands.append(row.joints)
        ended = terminated or truncated
        if ended:
            break
    if not ended or not facts['success']:
        return None
    steps.append(steps[-1])
    return _Performed(
        env.instruction,
        steps,
        np.array(commands, np.float32),
        np.array([frame['state'] for frame in frames], np.float32),
        {view: [frame['images'][view] for frame in frames] for view in VIEWS},
    )


def _with_rest(rows: Any) -> Iterator[Any]:
    """Yield the teacher's rows, then the last one again while things come to rest."""
    row = None
    for row in rows:
        yield row
    for _ in range(SETTLE_ROWS):
        yield row


def _filmed(made: _Performed, told: dict[str, Any]) -> Filmed:
    """Return the episode with its rows numbered by subtask, and its films."""
    changed = [True, *(a != b for a, b in zip(made.steps[1:], made.steps[:-1], strict=True))]
    columns = {
        'action': made.actions,
        'observation.state': made.states,
        'step': (np.cumsum(changed) - 1).astype(np.int16),
    }
    runs = [step for step, new in zip(made.steps, changed, strict=True) if new]
    told = {**told, 'step_kinds': [kind for kind, _ in runs]}
    recorded = Recorded(columns, made.instruction, tuple(text for _, text in runs), told)
    return Filmed(recorded, {view: film(images) for view, images in made.images.items()})


def film(images: Sequence[np.ndarray]) -> bytes:
    """Return pictures uint8 [h, w, 3] as an H.264 mp4 at RATE_HZ."""
    try:
        import av
    except ImportError as error:
        raise QwenVlaError(f"films: {error}; pip install 'qwen_vla_ros[data]'") from error
    file = io.BytesIO()
    # One thread and one algorithm for all processors: equal pictures, equal bytes.
    options = {'crf': '18', 'preset': 'veryfast', 'g': '5', 'threads': '1'}
    options['x264-params'] = 'cpu-independent=1'
    with av.open(file, 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=RATE_HZ, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = 'yuv420p'
        for image in images:
            # Not libswscale: what it rounds depends on where in memory a picture lies.
            planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format='yuv420p')))
        container.mux(stream.encode())
    return file.getvalue()


def film_path(folder: Path, view: str, episode: int) -> Path:
    """Return where the film of an episode lies."""
    chunk, file = divmod(episode, FILES_A_CHUNK)
    return folder / FILM.format(video_key=VIEWS[view], chunk_index=chunk, file_index=file)


def film_columns(lengths: Sequence[int], first: int) -> dict[str, list[Any]]:
    """Return the columns of meta/episodes that tell where the films of episodes lie."""
    found: dict[str, list[Any]] = {}
    numbers = range(first, first + len(lengths))
    for key in VIEWS.values():
        found[f'videos/{key}/chunk_index'] = [n // FILES_A_CHUNK for n in numbers]
        found[f'videos/{key}/file_index'] = [n % FILES_A_CHUNK for n in numbers]
        found[f'videos/{key}/from_timestamp'] = [0.0] * len(lengths)
        found[f'videos/{key}/to_timestamp'] = [length / RATE_HZ for length in lengths]
    return found


def features() -> dict[str, Any]:
    """Return the features of the set for meta/info.json."""
    pictures = {
        'dtype': 'video',
        'shape': [*SIZE, 3],
        'names': ['height', 'width', 'channels'],
        'info': {'video.fps': RATE_HZ, 'video.codec': 'h264', 'video.pix_fmt': 'yuv420p'},
    }
    joints = vector(arm.JOINT_NAMES)
    return {
        'action': joints,
        'observation.state': joints,
        **dict.fromkeys(VIEWS.values(), pictures),
    }


class SubtaskEpisodes:
    """A vision-action set cut into its subtasks, each an episode with its own sentence."""

    def __init__(self, folder: Path, horizon: int) -> None:
        """Find the subtasks of every episode."""
        self._base = LeRobotEpisodes(folder, horizon, embodiment=EMBODIMENT)
        self.source = f'{self._base.source} subtasks'
        table = episode_table(folder, ('steps', 'step_starts', 'length'))
        self._spans: list[tuple[int, int, int, str]] = []  # episode, first row, end, sentence
        for episode, (texts, starts, length) in enumerate(
            zip(
                *(table[key].to_pylist() for key in ('steps', 'step_starts', 'length')),
                strict=True,
            )
        ):
            ends = [*starts[1:], length]
            for text, first, end in zip(texts, starts, ends, strict=True):
                self._spans.append((episode, first, end, text))

    def __len__(self) -> int:
        """Return the number of subtasks."""
        return len(self._spans)

    def frames(self, episode: int) -> int:
        """Return the number of frames of a subtask."""
        _, first, end, _ = self._spans[episode]
        return end - first

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; what lies beyond the subtask's end is masked."""
        of, first, end, text = self._spans[episode]
        place = Place(self.source, episode, frame)
        if not 0 <= frame < end - first:
            raise place.refuse('frame', f'the subtask has {end - first}')
        sample = self._base.sample(of, first + frame)
        mask = sample.mask.copy()
        mask[end - first - frame :] = False
        return replace(sample, place=place, instruction=text, mask=mask)

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield a subtask's samples in order."""
        for frame in range(self.frames(episode)):
            yield self.sample(episode, frame)
