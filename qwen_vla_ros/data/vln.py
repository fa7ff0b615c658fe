"""
Navigation by instruction: episodes of VLN-CE with their pictures -> waypoints at 2 Hz.

A sample is a picture on the way and where the base stands one, two, ... H steps of 0.5 s later:
(dx, dy, dtheta) from where it stands now, in its axes (x forward, y left), in m and rad, as the
contract mobile_base has it. Behind the end of an episode that stops there, it still stands there:
all waypoints at zero say stop. Where the end is no stop, rows behind it are masked.

  VLN-CE     <split>.json.gz of R2R or <split>_guide.json.gz of RxR, beside it ..._gt.json.gz with
             the way (locations, actions: 0 stop, 1 forward, 2 left, 3 right); pictures in name
             order in frames/<episode_id>/ (views names another folder)
  StreamVLN  annotations.json: video, instructions, actions (the first is -1); pictures in
             <video>/rgb/; the way is unrolled from the actions, 0.25 m and 15 degrees each

One picture a step of the agent, taken as rate_hz: 2 (our choice: 0.25 m in 0.5 s).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen_vla_ros.data.json_files import is_json, list_of, read_json, table_of, text_of
from qwen_vla_ros.data.pictures import picture_of
from qwen_vla_ros.data.sample import Counted, Sample
from qwen_vla_ros.data.spec import SetSpec
from qwen_vla_ros.data.vln_ways import way_of, way_of_actions
from qwen_vla_ros.errors import QwenVlaError

HORIZON, WAYPOINT_HZ = 8, 2.0
ACTIONS = ('dx', 'dy', 'dtheta')
FRAMES = 'frames/{episode}'
PICTURES = ('.jpg', '.jpeg', '.png')
TURN_DEG = {'r2r': 15.0, 'rxr': 30.0}
ANNOTATIONS = 'annotations.json'


@dataclass(frozen=True)
class Walk:
    """One episode: its way [F, 3] (x, y in m, theta in rad), and whether it stops at its end."""

    name: str
    instruction: str
    frames: Path
    way: np.ndarray
    stops: bool


class VlnEpisodes(Counted):
    """Walks of one split; ways are read at once, pictures when asked for."""

    action_names = ACTIONS

    def __init__(self, spec: SetSpec) -> None:
        """Read all ways; QwenVlaError names file and episode of what is wrong."""
        file = find(spec.path, spec.split or 'train')
        self.embodiment = spec.embodiment or 'mobile_base'
        stride = (spec.rate_hz or WAYPOINT_HZ) / WAYPOINT_HZ
        if stride < 1 or stride != round(stride):
            raise QwenVlaError(
                f'{spec.path}: rate_hz: {spec.rate_hz} is no multiple of {WAYPOINT_HZ}'
            )
        self._horizon, self._stride = spec.horizon or HORIZON, round(stride)
        self._view, folder = next(iter(spec.views.items()), ('ego', FRAMES))
        read = _stream_vln if file.name == ANNOTATIONS else _vln_ce
        self._walks = list(read(file, folder))
        source = f'{spec.path.name}/{file.name}'
        super().__init__(source, [len(walk.way) for walk in self._walks])
        self._kept: tuple[int, list[Path]] | None = None

    def sample(self, episode: int, frame: int) -> Sample:
        """Return one sample; SampleError names episode, frame and picture."""
        place, walk = self.place(episode, frame), self._walks[episode]
        try:
            image = picture_of(self._pictures(episode)[frame])
        except QwenVlaError as error:
            raise place.refuse(f'images.{self._view}', str(error)) from error
        actions, mask = self.chunk(episode, frame)
        step_ns = 1e9 / (WAYPOINT_HZ * self._stride)
        return Sample(
            place,
            {self._view: image},
            walk.instruction,
            self.embodiment,
            actions,
            mask,
            ACTIONS,
            round(frame * step_ns),
        )

    def chunk(self, episode: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return waypoints float32 [H, 3] and mask bool [H, 3] of a frame."""
        walk = self._walks[episode]
        index = frame + self._stride * np.arange(1, self._horizon + 1)
        inside = index < len(walk.way)
        ahead = walk.way[np.minimum(index, len(walk.way) - 1)] - walk.way[frame]
        cosine, sine = math.cos(walk.way[frame, 2]), math.sin(walk.way[frame, 2])
        dx = cosine * ahead[:, 0] + sine * ahead[:, 1]
        dy = cosine * ahead[:, 1] - sine * ahead[:, 0]
        turn = np.arctan2(np.sin(ahead[:, 2]), np.cos(ahead[:, 2]))
        mask = np.repeat((inside | walk.stops)[:, None], 3, 1)
        return np.stack([dx, dy, turn], 1).astype(np.float32), mask

    def _pictures(self, episode: int) -> list[Path]:
        """Return the pictures of a walk, one a frame."""
        if self._kept is None or self._kept[0] != episode:
            walk = self._walks[episode]
            if not walk.frames.is_dir():
                raise QwenVlaError(f'{walk.frames}: there is no such folder of pictures')
            found = [path for path in walk.frames.iterdir() if path.suffix.lower() in PICTURES]
            if len(found) != len(walk.way):
                raise QwenVlaError(
                    f'{walk.frames}: {len(found)} pictures for {len(walk.way)} steps; render it '
                    'again, or leave the episode out'
                )
            self._kept = episode, sorted(found)
        return self._kept[1]


def find(path: Path, split: str) -> Path:
    """Return the file of episodes of a path; QwenVlaError tells where it was looked for."""
    if is_json(path):
        return path
    names = [f'{split}.json.gz', f'{split}_guide.json.gz', f'{split}.json']
    tried = [ANNOTATIONS, *names, *(f'{split}/{name}' for name in names)]
    for name in tried:
        if (path / name).is_file():
            return path / name
    raise QwenVlaError(f'{path}: no {", no ".join(tried)}')


def lacks(path: Path) -> str:
    """Return why a path holds no walks, or ''."""
    if is_json(path):
        told = path.name == ANNOTATIONS or path.with_name(truth_of(path.name)).is_file()
        return '' if told else f'no {truth_of(path.name)} beside it'
    for split in ('train', 'val_seen', 'val_unseen'):
        try:
            return lacks(find(path, split))
        except QwenVlaError:
            continue
    return f'no {ANNOTATIONS}, no train.json.gz or train_guide.json.gz with its _gt'


def truth_of(name: str) -> str:
    """Return the name of the file that tells the ways of a file of episodes."""
    stem, dot, end = name.partition('.json')
    return f'{stem}_gt{dot}{end}'


def _vln_ce(file: Path, folder: str) -> Iterator[Walk]:
    truth_file = file.with_name(truth_of(file.name))
    if not truth_file.is_file():
        raise QwenVlaError(f'{truth_file}: it is missing; it tells the ways of {file.name}')
    episodes = list_of(f'{file}: episodes', table_of(str(file), read_json(file)).get('episodes'))
    truth = table_of(str(truth_file), read_json(truth_file))
    turn_deg = TURN_DEG['rxr' if '_guide' in file.name or '_follower' in file.name else 'r2r']
    for episode in episodes:
        table = table_of(str(file), episode)
        name = str(table.get('episode_id'))
        place = f'{file}: episode {name}'
        said = text_of(place, table_of(place, table.get('instruction')), 'instruction_text')
        if name not in truth:
            raise QwenVlaError(f'{truth_file}: no episode {name}')
        way, stops = way_of(f'{truth_file}: episode {name}', table, truth[name], turn_deg)
        yield Walk(name, said.strip(), file.parent / _filled(folder, name), way, stops)


def _stream_vln(file: Path, folder: str) -> Iterator[Walk]:
    """Yield a walk for each sentence of each video."""
    for number, entry in enumerate(list_of(str(file), read_json(file))):
        place = f'{file}: entry {number}'
        table = table_of(place, entry)
        video = text_of(place, table, 'video')
        actions = list_of(f'{place}: actions', table.get('actions'))
        frames = file.parent / (_filled(folder, video) if folder != FRAMES else f'{video}/rgb')
        way, _ = way_of_actions(f'{place}: actions', actions, TURN_DEG['r2r'])
        said = table.get('instructions')
        for sentence in list_of(f'{place}: instructions', said if said != [] else None):
            text = text_of(place, {'instructions': sentence}, 'instructions')
            yield Walk(video, text.strip(), frames, way, True)


def _filled(folder: str, episode: str) -> str:
    if '{episode}' not in folder:
        raise QwenVlaError(
            f"views: {folder!r}: write {{episode}} where the episode's name belongs"
        )
    return folder.replace('{episode}', episode)
