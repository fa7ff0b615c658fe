"""
Simple questions about pictures, each answered by what the picture shows.

Tables of the simulated WidowX, and rooms; a question whose answer hangs by a hair is not asked.
Places are 0 to 1000 from the upper left corner, as Qwen's grounding has them.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_vla_ros.sim.cameras import SIZE
from qwen_vla_ros.sim.graphics import load_mujoco
from qwen_vla_ros.sim.rooms.furniture import KINDS
from qwen_vla_ros.sim.rooms.house import House, sample_house
from qwen_vla_ros.sim.rooms.sight import Part, Seen, Sight
from qwen_vla_ros.sim.rooms.tasks import floor_of
from qwen_vla_ros.sim.rooms.world import RoomsWorld
from qwen_vla_ros.sim.scene import COLOURS, SHAPES, SceneObject
from qwen_vla_ros.sim.world import TabletopWorld
from qwen_vla_ros.train.bundle.frames import Frame, Taught
from qwen_vla_ros.train.demonstrations import DemonstrationPlan, start_posture, walk

mujoco = load_mujoco()

VIEW = 'ego'
QUESTIONS = 4  # a picture, at most
TABLE_FRAMES, HOUSE_FRAMES, HOUSES = 5, 16, 4  # of a seed; every so many-th seed is a house
POINT_WITHIN = 60.0  # thousandths of the picture's sides
# What a question begins with -> its kind.
KINDS_OF_QUESTIONS: Mapping[str, str] = {
    'What is the left-most thing': 'outermost',
    'What is the right-most thing': 'outermost',
    'Which object is nearest to the hand': 'nearest',
    'Where is': 'side',
    'Point to': 'point',
    'How many': 'count',
    'Is there': 'presence',
    'What colour': 'colour',
    'Which room do you see': 'room',
    'Which furniture is the largest': 'furniture',
    'Do you see': 'furniture presence',
}
_NOTHING = np.zeros((0, 0), np.float32)
_SIDES = (('left', 0.0, 0.37), ('middle', 0.41, 0.59), ('right', 0.63, 1.0))
_GAP = 0.05  # of the picture's width
_ARTICLE = {True: 'an', False: 'a'}
Pair = tuple[str, str]


class QuestionsMaker:
    """Pictures of tables and rooms with questions and answers; no robot, no actions."""

    embodiment, layout, views = '', '', (VIEW,)

    def __init__(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Take the sizes (h, w) of the model's pictures by view."""
        self._size = sizes[VIEW]
        self._table, self._rooms = TabletopWorld(), RoomsWorld()

    def episode(self, seed: int) -> list[Frame]:
        """Return the frames of a seed, always the same ones."""
        rng = np.random.default_rng([seed, 13])
        return self._house(seed, rng) if seed % HOUSES == 0 else self._scene(seed, rng)

    def _scene(self, seed: int, rng: np.random.Generator) -> list[Frame]:
        """Return a table from several postures of the arm."""
        world, frames = self._table, []
        scene = world.reset(seed)
        xyz = np.array([item.position for item in scene.objects])
        plan = DemonstrationPlan({}, 1, seed, TABLE_FRAMES)
        for posture in walk(rng, start_posture(rng, np.array(scene.posture)), xyz, plan):
            world.set_posture(posture)
            pairs = table_questions(world, rng)
            if pairs:
                frames.append(_frame(world.render(VIEW, self._size), pairs, rng))
        return frames

    def _house(self, seed: int, rng: np.random.Generator) -> list[Frame]:
        """Return views of a house."""
        house, frames = sample_house(seed), []
        floor, sight = floor_of(house), Sight(house)
        rows, columns = np.nonzero(floor.clearance >= 0.3)
        self._rooms.reset(house, (float(floor.x.mean()), float(floor.y.mean()), 0.0))
        for which in rng.integers(len(rows), size=HOUSE_FRAMES):
            cell = rows[which], columns[which]
            pose = float(floor.x[cell]), float(floor.y[cell]), float(rng.uniform(-np.pi, np.pi))
            pairs = room_questions(house, sight.look(pose), rng)
            if pairs:
                self._rooms.put(pose)
                frames.append(_frame(self._rooms.render(VIEW, self._size), pairs, rng))
        return frames


@dataclass(frozen=True)
class Accuracy:
    """Right answers of a kind of question, and of those who always say the most frequent one."""

    right: int
    asked: int
    chance: float


def kind_of(question: str) -> str:
    """Return the kind of a question; '' for none of ours."""
    return next((k for begin, k in KINDS_OF_QUESTIONS.items() if question.startswith(begin)), '')


def score(question: str, answer: str, given: str) -> bool:
    """Return whether a given answer is right: the same words, or a point near enough."""
    if kind_of(question) != 'point':
        return ' '.join(given.lower().split()) == answer.lower()
    said = _point_said(given)
    return said is not None and bool(np.hypot(*(said - _point_said(answer))) <= POINT_WITHIN)


def accuracy(told: Iterable[tuple[str, str, str]]) -> dict[str, Accuracy]:
    """Return how (question, answer, given) fare, by kind; a point has no most frequent answer."""
    by_kind: dict[str, list[tuple[str, str, str]]] = {}
    for row in told:
        by_kind.setdefault(kind_of(row[0]), []).append(row)
    found = {}
    for kind, rows in sorted(by_kind.items()):
        most = Counter(answer for _, answer, _ in rows).most_common(1)[0][1]
        right = sum(score(*row) for row in rows)
        found[kind] = Accuracy(right, len(rows), most / len(rows))
    return found


def table_questions(world: TabletopWorld, rng: np.random.Generator) -> list[Pair]:
    """Return questions about a table, and what is right."""
    things = world.scene.objects
    shown = [_share_shown(world, index) for index in range(len(things))]
    places = _thousandths(world, np.array([item.position for item in things]))
    inside = ((places > 30) & (places < 970)).all(1)
    clear = [bool(share >= 0.6 and there) for share, there in zip(shown, inside, strict=True)]
    pairs = []
    for item, (u, v), seen in zip(things, places, clear, strict=True):
        if seen:
            pairs += _side(item.name, u / 1000)
            pairs.append((f'Point to the {item.name}.', _point(u, v)))
    if all(clear):
        pairs += [*_outermost(things, places), *_nearest(world, things)]
        pairs += [*_counted(things, rng), *_presence(things, rng), *_coloured(things)]
    return pairs


def room_questions(house: House, seen: Seen, rng: np.random.Generator) -> list[Pair]:
    """Return questions about what a base sees in a house, and what is right."""
    pairs = []
    rooms = sorted(seen.rooms.items(), key=lambda item: -item[1].share)
    if rooms and rooms[0][1].share >= 0.4:
        pairs.append(('Which room do you see?', rooms[0][0]))
    pieces = sorted(seen.pieces.items(), key=lambda item: -item[1].share)
    if pieces and pieces[0][1].share >= max(0.05, 2 * _second(pieces)):
        pairs.append(('Which furniture is the largest?', pieces[0][0]))
    for name, part in pieces:
        if part.share >= 0.02:
            pairs += _side(name, part.point[0])
    kinds = {house.piece(name).kind: part.share for name, part in reversed(pieces)}
    known = [kind for kind, share in kinds.items() if share >= 0.02]
    absent = [kind for kind in KINDS if kind not in kinds]
    said = known if known and rng.random() < 0.5 else absent
    kind = str(rng.choice(said))
    answer = 'yes' if kind in known else 'no'
    pairs.append((f'Do you see {_ARTICLE[kind[0] in "aeiou"]} {kind}?', answer))
    return pairs


def _frame(image: np.ndarray, pairs: list[Pair], rng: np.random.Generator) -> Frame:
    """Return a picture with some of its questions, of as many kinds as there are."""
    mixed = [pairs[index] for index in rng.permutation(len(pairs))]
    first: dict[str, Pair] = {}
    for pair in mixed:
        first.setdefault(kind_of(pair[0]), pair)
    chosen = [*first.values(), *(pair for pair in mixed if pair not in first.values())]
    taught = tuple(Taught(question, _NOTHING, text=answer) for question, answer in chosen)
    return Frame({VIEW: image}, None, taught[:QUESTIONS])


def _share_shown(world: TabletopWorld, index: int) -> float:
    """Return the share of a few points of an object that nothing hides from the camera."""
    geom = world.model.geom(f'object{index}').id
    info, middle = world.camera_info(VIEW), world.data.geom_xpos[geom]
    half = 0.3 * world.width
    offsets = ((0, 0), (half, 0), (-half, 0), (0, half), (0, -half))
    hit, found = np.full(1, -1, np.int32), 0
    for right, down in offsets:
        ray = middle + right * info.rotation[:, 0] + down * info.rotation[:, 1] - info.position
        mujoco.mj_ray(world.model, world.data, info.position, ray, None, True, -1, hit)
        found += int(hit[0] == geom)
    return found / len(offsets)


def _thousandths(world: TabletopWorld, points: np.ndarray) -> np.ndarray:
    """Return places [N, 2] in the picture of points [N, 3] in base_link."""
    return 1000 * world.project(VIEW, points)[0] / (SIZE[1], SIZE[0])


def _side(name: str, u: float) -> list[Pair]:
    """Return where a thing at u (0..1) is, unless it is between two of the sides."""
    return [(f'Where is the {name}?', side) for side, low, high in _SIDES if low <= u <= high]


def _point(u: float, v: float) -> str:
    """Return a point in thousandths as Qwen's JSON."""
    return json.dumps({'point_2d': [round(float(u)), round(float(v))]})


def _point_said(text: str) -> np.ndarray | None:
    """Return the point [2] of an answer; None where it has none."""
    try:
        said: Any = json.loads(text)
        point = np.array(said['point_2d'], np.float64)
    except (ValueError, TypeError, KeyError):
        return None
    return point if point.shape == (2,) and np.isfinite(point).all() else None


def _outermost(things: tuple[SceneObject, ...], places: np.ndarray) -> list[Pair]:
    order = np.argsort(places[:, 0])
    u, pairs = places[order, 0] / 1000, []
    if u[1] - u[0] >= _GAP:
        pairs.append(('What is the left-most thing?', things[order[0]].name))
    if u[-1] - u[-2] >= _GAP:
        pairs.append(('What is the right-most thing?', things[order[-1]].name))
    return pairs


def _nearest(world: TabletopWorld, things: tuple[SceneObject, ...]) -> list[Pair]:
    """Return which thing the hand is nearest to, in space and in the picture."""
    xyz, tip = np.array([item.position for item in things]), world.tip_position()
    away = np.linalg.norm(xyz - tip, axis=1)
    seen = _thousandths(world, np.vstack([tip, xyz]))
    apart = np.linalg.norm(seen[1:] - seen[0], axis=1)
    best = int(away.argmin())
    clear = all(np.sort(d)[0] <= 0.7 * np.sort(d)[1] for d in (away, apart))
    if not clear or best != int(apart.argmin()):
        return []
    return [('Which object is nearest to the hand?', things[best].name)]


def _counted(things: tuple[SceneObject, ...], rng: np.random.Generator) -> list[Pair]:
    shape = str(rng.choice(list(SHAPES)))
    return [(f'How many {shape}s are there?', str(sum(i.shape == shape for i in things)))]


def _presence(things: tuple[SceneObject, ...], rng: np.random.Generator) -> list[Pair]:
    names, item = [i.name for i in things], things[int(rng.integers(len(things)))]
    name = item.name
    if rng.random() < 0.5:
        other = f'{rng.choice(list(COLOURS))} {item.shape}'
        swapped = f'{item.colour} {rng.choice(list(SHAPES))}'
        absent = [n for n in (other, swapped) if n not in names]
        name = absent[0] if absent else name
    answer = 'yes' if name in names else 'no'
    return [(f'Is there {_ARTICLE[name[0] in "aeiou"]} {name}?', answer)]


def _coloured(things: tuple[SceneObject, ...]) -> list[Pair]:
    alone = [item for item in things if sum(i.shape == item.shape for i in things) == 1]
    return [(f'What colour is the {item.shape}?', item.colour) for item in alone]


def _second(pieces: list[tuple[str, Part]]) -> float:
    return pieces[1][1].share if len(pieces) > 1 else 0.0
