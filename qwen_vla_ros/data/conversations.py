"""
Conversations about pictures: LLaVA, ShareGPT and chat-message JSON, and grounding.

  LLaVA      {"image": file or list, "conversations": [{"from": "human", "value": ...}, ...]}
  messages   {"images": [...], "messages": [{"role": "user", "content": ...}, ...]}; with
             "objects": {"ref": [...], "bbox": [...]} the marks <ref-object> and <bbox> are filled
  grounding  {"img_path" or "image", "expression", "bbox": [x1, y1, x2, y2]}, boxes in pixels

A file is a JSON list or JSON lines. Boxes of "bbox" become whole numbers from 0 to 1000; boxes in
the sentences stay as they are. <image> marks where a picture belongs: pictures come before the
words, so a mark at the start goes and one within a sentence becomes the picture's name.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qwen_vla_ros.data.json_files import head_of, is_json, list_of, read_json, table_of, text_of
from qwen_vla_ros.data.spec import SetSpec
from qwen_vla_ros.data.talks import Exchange, Sizes, Talk, TalkEpisodes, thousandths
from qwen_vla_ros.errors import QwenVlaError

IMAGE, VIDEO, REF, BOX = '<image>', '<video>', '<ref-object>', '<bbox>'
ASKING, ANSWERING, SYSTEM = ('human', 'user'), ('gpt', 'assistant'), 'system'
TURNS = ('conversations', 'conversation', 'messages')
PICTURES = ('image', 'images', 'img_path')
LOCATE = 'Where is {expression}? Answer with its box.'


def open_conversations(spec: SetSpec) -> TalkEpisodes:
    """Return the entries of one file."""
    root = Path(spec.pictures) if spec.pictures else spec.path.parent
    entries = list_of(str(spec.path), read_json(spec.path))
    return TalkEpisodes(spec.path.name, entries, _count, partial(take_apart, root=root))


def lacks(path: Path) -> str:
    """Return why a file holds no conversations, or ''."""
    if not is_json(path):
        return 'no .json or .jsonl file'
    keys = (*TURNS, 'expression')
    if any(f'"{key}"' in head_of(path) for key in keys):
        return ''
    return f'its first entry has none of {", ".join(keys)}'


def take_apart(place: str, entry: Any, root: Path) -> Talk:
    """Return the pictures and exchanges of an entry; QwenVlaError names the key that is wrong."""
    table = table_of(place, entry)
    files = _files(place, table)
    names = ['image'] if len(files) == 1 else [f'image_{i + 1}' for i in range(len(files))]
    pictures = {name: root / file for name, file in zip(names, files, strict=True)}
    if not any(key in table for key in TURNS):
        return Talk(pictures, lambda sizes: [_located(place, table, sizes)])
    begin, said = _said(place, table)
    marks = [question.count(IMAGE) for question, _ in said]
    if sum(marks) not in (0, len(files)):
        raise QwenVlaError(f'{place}: {sum(marks)} marks {IMAGE} for {len(files)} pictures')
    shown = [sum(marks[: turn + 1]) if any(marks) else len(files) for turn in range(len(said))]
    fill = _filler(place, table, names)

    def exchanges(sizes: Sizes) -> list[Exchange]:
        asked = _named([question for question, _ in said], names)
        asked[0] = begin + asked[0]
        return [
            (fill(q, sizes), fill(answer, sizes))
            for q, (_, answer) in zip(asked, said, strict=True)
        ]

    return Talk(pictures, exchanges, shown)


def _count(entry: Any) -> int:
    turns = (
        next((entry[key] for key in TURNS if key in entry), ()) if isinstance(entry, dict) else ()
    )
    if not isinstance(turns, list):
        return 1
    return sum(isinstance(turn, dict) and _role(turn) in ANSWERING for turn in turns)


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get('from', turn.get('role'))


def _files(place: str, table: Mapping[str, Any]) -> list[str]:
    """Return the pictures' files; a film is refused."""
    if 'video' in table or 'videos' in table:
        raise QwenVlaError(f'{place}: video: films of conversations are not read; cut pictures')
    told = next((table[key] for key in PICTURES if table.get(key)), [])
    files = [item.get('path') if isinstance(item, dict) else item for item in _as_list(told)]
    if not all(isinstance(file, str) and file for file in files):
        raise QwenVlaError(f'{place}: image: file names are expected, not {told!r:.80}')
    return files


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _said(place: str, table: Mapping[str, Any]) -> tuple[str, list[Exchange]]:
    """Return what the system says before all else, and questions and answers in turn."""
    key = next(key for key in TURNS if key in table)
    found: list[Exchange] = []
    begin = question = ''
    for number, turn in enumerate(list_of(f'{place}: {key}', table[key])):
        where = f'{place}: {key}[{number}]'
        told = table_of(where, turn)
        text = _content(where, told)
        if _role(told) == SYSTEM and not number:
            begin = f'{text}\n'
        elif _role(told) in ASKING and not question:
            question = text
        elif _role(told) in ANSWERING and question:
            if IMAGE in text:
                raise QwenVlaError(f'{where}: an answer cannot show a picture')
            found.append((question, text))
            question = ''
        else:
            raise QwenVlaError(f'{where}: {_role(told)!r} is not whose turn it is')
    if question or not found:
        raise QwenVlaError(f'{place}: {key}: the last question has no answer')
    return begin, found


def _content(place: str, turn: Mapping[str, Any]) -> str:
    """Return the words of a turn; a list of parts is joined, its pictures as marks."""
    parts = turn.get('content')
    if not isinstance(parts, list):
        return text_of(place, turn, 'value' if 'value' in turn else 'content')
    found = []
    for part in parts:
        kind = part.get('type') if isinstance(part, dict) else None
        if kind not in ('text', 'image'):
            raise QwenVlaError(f'{place}: content: a part of type {kind!r}')
        found.append(IMAGE if kind == 'image' else text_of(place, part, 'text'))
    return text_of(place, {'content': '\n'.join(found)}, 'content')


def _named(questions: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return questions without marks at their start; those within become the pictures' names."""
    number, found = 0, []
    for question in questions:
        leading = re.match(rf'(?:\s*{IMAGE})*', question).group().count(IMAGE)
        number += leading
        parts = question.split(IMAGE)[leading:]
        text = parts[0]
        for part in parts[1:]:
            text += ('' if len(names) == 1 else names[number].replace('_', ' ')) + part
            number += 1
        found.append(text.strip())
    return found


def _filler(
    place: str, table: Mapping[str, Any], names: Sequence[str]
) -> Callable[[str, Sizes], str]:
    """Return what fills <ref-object> and <bbox> of the exchanges, in order."""
    objects = table_of(f'{place}: objects', table.get('objects') or {})
    told = [objects.get(key) or [] for key in ('ref', 'bbox', 'image_id')]
    numbered = isinstance(told[2], list) and all(type(n) is int and n >= 0 for n in told[2])
    if not (isinstance(told[0], list) and isinstance(told[1], list) and numbered):
        raise QwenVlaError(
            f'{place}: objects: ref, bbox and image_id are lists, the last of numbers'
        )
    refs, boxes, which = map(iter, told)

    def fill(text: str, sizes: Sizes) -> str:
        def one(mark: re.Match[str]) -> str:
            value = next(refs if mark.group() == REF else boxes, None)
            if value is None:
                raise QwenVlaError(f'{place}: objects: fewer than the marks {mark.group()}')
            if mark.group() == REF:
                return str(value)
            name = dict(enumerate(names)).get(next(which, 0))
            if name not in sizes:
                raise QwenVlaError(f'{place}: objects: a box without its picture')
            return json.dumps(thousandths(value, sizes[name], f'{place}: objects.bbox'))

        if VIDEO in text:
            raise QwenVlaError(f'{place}: {VIDEO}: films of conversations are not read')
        return re.sub(f'{REF}|{BOX}', one, text)

    return fill


def _located(place: str, table: Mapping[str, Any], sizes: Sizes) -> Exchange:
    """Return question and answer of a grounding entry; the answer is Qwen's JSON of a box."""
    expression = text_of(place, table, 'expression').strip()
    if len(sizes) != 1:
        raise QwenVlaError(f'{place}: {len(sizes)} pictures for a box')
    height, width = next(iter(sizes.values()))
    for key, real in (('width', width), ('height', height)):
        if table.get(key, real) != real:
            raise QwenVlaError(f'{place}: {key}: {table[key]!r}, but the picture has {real}')
    box = thousandths(table.get('bbox'), (height, width), f'{place}: bbox')
    answer = json.dumps([{'bbox_2d': box, 'label': expression}], ensure_ascii=False)
    return LOCATE.format(expression=expression), answer
