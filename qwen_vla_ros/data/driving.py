"""
Questions about driving, as DriveLM has them for nuScenes: six cameras, objects marked in words.

  {scene: {"key_frames": {frame: {"image_paths": {"CAM_FRONT": file, ...},
                                  "QA": {"perception": [{"Q": ..., "A": ...}, ...], ...}}}}}

A key frame is an episode, a question a frame. The question begins with the cameras in the order of
the pictures, and with the frames where several are shown (frames: earlier key frames, this one
last). <c1,CAM_BACK,x,y> turns from pixels to 0 to 1000, a choice of letters to its words.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qwen_vla_ros.data.json_files import head_of, is_json, read_json, table_of, text_of
from qwen_vla_ros.data.spec import SetSpec
from qwen_vla_ros.data.talks import Exchange, Sizes, Talk, TalkEpisodes
from qwen_vla_ros.errors import QwenVlaError

OBJECT = re.compile(r'<(\w+),(\w+),(-?[\d.]+),(-?[\d.]+)>')
OPTION = re.compile(r'(?<!\w)([A-F])[.)] (.*?)(?=\s*(?<!\w)[B-F][.)] |$)', re.DOTALL)
CHOOSE = re.compile(r'\s*Please select[^:]*:\s*$')


@dataclass(frozen=True)
class KeyFrame:
    """One key frame with those shown before it: name and content of each, this one last."""

    name: str
    shown: tuple[Any, ...]


def open_driving(spec: SetSpec) -> TalkEpisodes:
    """Return the key frames of one file."""
    root = Path(spec.pictures) if spec.pictures else spec.path.parent
    count = spec.frames or 1
    found = []
    for scene, content in table_of(str(spec.path), read_json(spec.path)).items():
        place = f'{spec.path}: {scene}'
        frames = table_of(f'{place}: key_frames', table_of(place, content).get('key_frames'))
        names = list(frames)
        for number, name in enumerate(names):
            before = names[max(number + 1 - count, 0) : number + 1]
            found.append(KeyFrame(f'{scene} {name}', tuple(frames[key] for key in before)))
    return TalkEpisodes(spec.path.name, found, _count, partial(take_apart, root=root))


def lacks(path: Path) -> str:
    """Return why a file holds no questions about driving, or ''."""
    if not is_json(path):
        return 'no .json file'
    return (
        '' if '"key_frames"' in head_of(path) else 'it does not begin with key_frames of a scene'
    )


def take_apart(_: str, entry: KeyFrame, root: Path) -> Talk:
    """Return the pictures and exchanges of a key frame; QwenVlaError names what is wrong."""
    pictures, titles, cameras = {}, [], {}
    for number, content in enumerate(entry.shown, 1):
        place = f'{entry.name}: image_paths'
        paths = table_of(place, table_of(entry.name, content).get('image_paths'))
        single = len(entry.shown) == 1
        for camera in paths:
            view = camera.lower() if single else f'frame_{number}_{camera.lower()}'
            pictures[view] = root / text_of(place, paths, camera)
            cameras[camera] = view  # of the newest frame
        now = ' (now)' if number == len(entry.shown) else ''
        title = 'Pictures' if single else f'Frame {number}{now}'
        titles.append(f'{title}: {", ".join(camera.lower() for camera in paths)}.')
    questions = _questions(entry.shown[-1])
    if not questions:
        raise QwenVlaError(f'{entry.name}: QA: there is no question')
    begin = ' '.join(titles)

    def exchanges(sizes: Sizes) -> list[Exchange]:
        found = []
        for number, told in enumerate(questions):
            place = f'{entry.name}: question {number}'
            table = table_of(place, told)
            question, answer = spelled_out(text_of(place, table, 'Q'), text_of(place, table, 'A'))
            parts = [_scaled(place, text, cameras, sizes) for text in (question, answer)]
            found.append((f'{begin}\n{parts[0]}', parts[1]))
        return found

    return Talk(pictures, exchanges)


def spelled_out(question: str, answer: str) -> Exchange:
    """Return a question without its options, and the words of the option that was the answer."""
    letter = answer.strip().rstrip('.').upper()
    options = {match[1]: match for match in OPTION.finditer(question)}
    if len(options) < 2 or letter not in options:
        return question.strip(), answer.strip()
    asked = CHOOSE.sub('', question[: options[min(options)].start()])
    return asked.strip(), options[letter][2].strip()


def _count(entry: KeyFrame) -> int:
    return len(_questions(entry.shown[-1]))


def _questions(content: Any) -> Sequence[Any]:
    """Return the questions of a key frame, kind after kind; none where it has another form."""
    kinds = content.get('QA') if isinstance(content, dict) else None
    values = kinds.values() if isinstance(kinds, dict) else ()
    return [told for questions in values if isinstance(questions, list) for told in questions]


def _scaled(place: str, text: str, cameras: Mapping[str, str], sizes: Sizes) -> str:
    """Return words whose marked objects are placed in thousandths of their picture."""

    def one(mark: re.Match[str]) -> str:
        name, camera = mark[1], mark[2]
        if camera not in cameras:
            raise QwenVlaError(f'{place}: {mark[0]}: no picture of {camera}')
        height, width = sizes[cameras[camera]]
        try:
            x, y = float(mark[3]), float(mark[4])
        except ValueError as error:
            raise QwenVlaError(f'{place}: {mark[0]}: no place') from error
        if not (0 <= x <= width and 0 <= y <= height):
            raise QwenVlaError(f'{place}: {mark[0]}: it lies outside of {width}x{height} pixels')
        return f'<{name},{camera},{round(1000 * x / width)},{round(1000 * y / height)}>'

    return OBJECT.sub(one, text)
