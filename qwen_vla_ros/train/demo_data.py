"""
The data of `--demo`, made in seconds: motions in words, a table, a flat to drive through.

  words   WidowX: a way of 20 to 40 rows to a posture that the sentence describes; no pictures
  table   WidowX: rendered table scenes with the scripted teacher's chunk for each of their three
          objects, and a sentence that says where the object lies
  rooms   mobile base: rendered rooms with the scripted teacher's eight waypoints

Arrays lie in .npz files and are read without pickle; two runs make the same ones.
"""

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen_vla_ros.data.sample import Place, Sample
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.expert import expert_chunk
from qwen_vla_ros.train.recipe import CPT, T2A, Recipe
from qwen_vla_ros.train.sources import BALANCED, DataSet
from qwen_vla_ros.transforms import ResizeImages

FIRST_SEED = 1_500_000  # of training scenes that no other run uses
TABLES, HOUSES, MOTIONS = 30, 6, 120
POSTURES, STARTS = 3, 5  # pictures of a table and of a house
MOST_ROWS = 40
SIDES = {'left': 0.14, 'right': -0.14, 'middle': 0.0}  # m, y of base_link
REACHES = {'near': 0.2, 'far': 0.36}  # m, x
HEIGHTS = {'low': 0.06, 'high': 0.22}  # m, z


@dataclass(frozen=True)
class ArrayEpisodes:
    """
    Samples out of arrays: one row a sample.

    episode, frame int [N]; instruction, text str [N]; actions float32 [N, H, A]; rows int [N]
    valid rows; state float32 [N, S]; view.NAME uint8 [N, h, w, 3]
    """

    source: str
    embodiment: Embodiment
    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        """Return the number of episodes."""
        return int(self.arrays['episode'].max()) + 1

    def frames(self, episode: int) -> int:
        """Return the number of frames of an episode."""
        return int((self.arrays['episode'] == episode).sum())

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample."""
        row = int(np.flatnonzero(self.arrays['episode'] == episode)[frame])
        data, robot = self.arrays, self.embodiment
        rows = int(data['rows'][row])
        actions = data['actions'][row, :rows]
        return Sample(
            place=Place(self.source, episode, frame),
            images={k[5:]: v[row] for k, v in data.items() if k.startswith('view.')},
            instruction=str(data['instruction'][row]),
            embodiment=robot.name,
            actions=actions,
            mask=np.ones(actions.shape, bool),
            action_names=robot.action_names(),
            stamp_ns=frame,
            state=data['state'][row],
            state_names=robot.state_names,
            text=str(data['text'][row]),
        )

    def stream(self, episode: int) -> Iterator[Sample]:
        """Yield an episode's samples in order."""
        for frame in range(self.frames(episode)):
            yield self.sample(episode, frame)


def demo_sets(recipe: Recipe, folder: Path) -> list[DataSet]:
    """Return the data sets of a stage's demo, made where they are not there yet."""
    widowx, base = Embodiment.load('widowx'), Embodiment.load('mobile_base')
    words = ('words', widowx, make_words)
    table = ('table', widowx, make_table)
    rooms = ('rooms', base, make_rooms)
    wanted = {
        T2A: {'synthetic': words, 'real': table},
        CPT: {'robot manipulation': table, 'navigation': rooms},
    }.get(recipe.stage)
    parts = list(wanted.items()) if wanted else [(BALANCED, table), (BALANCED, rooms)]
    return [
        DataSet.of(family, ArrayEpisodes(name, robot, kept(folder / f'{name}.npz', make)))
        for family, (name, robot, make) in parts
    ]


def kept(path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of a file, written first where it is absent."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f'.{path.name}.{os.getpid()}')
        with beside.open('wb') as file:
            np.savez(file, **make())
        beside.rename(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise QwenVlaError(f'{path}: broken ({error}); delete it and run again') from error


def _stacked(rows: list[dict[str, object]]) -> dict[str, np.ndarray]:
    found = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in found.items()}


def make_words() -> dict[str, np.ndarray]:
    """Return ways of the WidowX's joints, each with a sentence that says where it ends."""
    rng, rows = np.random.default_rng(FIRST_SEED), []
    while len(rows) < MOTIONS:
        side, reach, height = (rng.choice(list(which)) for which in (SIDES, REACHES, HEIGHTS))
        end = np.array([REACHES[reach], SIDES[side], HEIGHTS[height]])
        start = rng.uniform((0.16, -0.2, 0.06), (0.38, 0.2, 0.25))
        if not (arm.reachable(start) and arm.reachable(end)):
            continue
        count = int(rng.integers(20, MOST_ROWS + 1))
        tau = np.linspace(0, 1, count)
        smooth = (tau**3 * (10 - 15 * tau + 6 * tau**2))[:, None]
        finger = np.full((count, 1), arm.UPPER[6] - 0.002)
        tips = start + smooth * (end - start)
        joints = arm.inverse(tips, np.full(count, arm.STRAIGHT_DOWN))
        way = np.concatenate([joints, finger], 1)
        padded = np.repeat(way[-1:], MOST_ROWS, 0)
        padded[:count] = way
        rows.append(
            {
                'episode': len(rows),
                'instruction': f'move the hand {height} over the {reach} {side} of the table',
                'text': '',
                'actions': padded.astype(np.float32),
                'rows': count,
                'state': way[0],
            }
        )
    return _stacked(rows)


def make_table() -> dict[str, np.ndarray]:
    """Return rendered tables with the teacher's chunk for each object."""
    from qwen_vla_ros.model.config import preset
    from qwen_vla_ros.sim.world import TabletopWorld

    sizes = preset('tiny').inputs.image_sizes
    world, resize, rows = TabletopWorld(), ResizeImages(sizes), []
    for number in range(TABLES):
        rng = np.random.default_rng((FIRST_SEED, number))
        scene = world.reset(FIRST_SEED + number)
        for _ in range(POSTURES):
            posture = _posture(rng)
            world.set_posture(posture)
            images = {view: world.render(view) for view in sizes}
            seen = resize.forward({'images': images})['images']
            for item in scene.objects:
                chunk = expert_chunk(posture, np.array(item.position))
                rows.append(
                    {
                        'episode': number,
                        'instruction': f'touch the {item.name}',
                        'text': _where(item.name, item.position),
                        'actions': chunk.astype(np.float32),
                        'rows': len(chunk),
                        'state': posture,
                        **{f'view.{view}': image for view, image in seen.items()},
                    }
                )
    world.close()
    return _stacked(rows)


def _posture(rng: np.random.Generator) -> np.ndarray:
    while True:
        tip = rng.uniform((0.14, -0.2, 0.08), (0.4, 0.2, 0.27))
        if arm.reachable(tip):
            return np.array([*arm.inverse(tip, arm.STRAIGHT_DOWN), arm.UPPER[6] - 0.002])


def _where(name: str, position: tuple[float, float, float]) -> str:
    side = 'left' if position[1] > 0 else 'right'
    return f'The {name} is on the {side}.'


def make_rooms() -> dict[str, np.ndarray]:
    """Return what the base sees on its way to a goal, with the teacher's waypoints."""
    from qwen_vla_ros.model.config import preset
    from qwen_vla_ros.sim.rooms.drive import inverted, joined
    from qwen_vla_ros.sim.rooms.expert import RoomsExpert
    from qwen_vla_ros.sim.rooms.tasks import sample_task
    from qwen_vla_ros.sim.rooms.world import RoomsWorld
    from qwen_vla_ros.types import Observation

    height, width = preset('tiny').inputs.image_sizes['ego']
    world, rows, robot = RoomsWorld(), [], Embodiment.load('mobile_base')
    for number in range(HOUSES):
        task = sample_task(FIRST_SEED + number)
        # The frame odom lies where the base started; it is standing still.
        expert = RoomsExpert(lambda task=task: (task.house, task.start))
        pose = task.start
        for frame in range(STARTS):
            world.reset(task.house, pose)
            image = world.render('ego', (height, width))
            state = np.array([*joined(inverted(task.start), pose), 0.0, 0.0], np.float32)
            names = robot.state_names
            seen = Observation({'ego': image}, state, names, task.instruction, frame, robot.name)
            chunk = expert.infer(seen).actions
            rows.append(
                {
                    'episode': number,
                    'instruction': task.instruction,
                    'text': '',
                    'actions': chunk,
                    'rows': len(chunk),
                    'state': state,
                    'view.ego': image,
                }
            )
            pose = joined(pose, tuple(chunk[3]))
    world.close()
    return _stacked(rows)
