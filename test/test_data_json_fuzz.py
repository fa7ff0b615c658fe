"""JSON of data sets with values exchanged at random: a sample or one clear error, nothing else."""

import copy
import gzip
import json
import random

import pytest
from talks_fixture import (
    picture,
    write_drivelm,
    write_grounding,
    write_json,
    write_llava,
    write_messages,
)
from vln_fixture import write_stream_vln, write_vln_ce

from qwen_vla_ros.data.captions import FIELDS
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.errors import QwenVlaError

ODD = [
    None,
    0,
    -1,
    2.5,
    float('nan'),
    float('inf'),
    '',
    'x',
    '<image>',
    True,
    [],
    {},
    [[]],
    [{}],
    {'a': 1},
]


def write_captions(folder):
    picture(folder / 'a.png', 40)
    entry = {'images': ['a.png'], 'caption': dict.fromkeys(FIELDS, 'text')}
    return write_json(folder / 'captions.json', [entry])


def vln_truth(folder):
    return write_vln_ce(folder) / 'train_gt.json.gz'


def vln_episodes(folder):
    return write_vln_ce(folder) / 'train.json.gz'


def stream_vln(folder):
    return write_stream_vln(folder) / 'annotations.json'


WRITERS = {
    write_llava: 'conversations',
    write_messages: 'conversations',
    write_grounding: 'conversations',
    write_drivelm: 'driving',
    write_captions: 'captions',
    vln_truth: 'vln',
    vln_episodes: 'vln',
    stream_vln: 'vln',
}


def places(value, path=()):
    """Yield the path of every value inside."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value if isinstance(value, list) else ())
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


def exchanged(value, rng):
    found = copy.deepcopy(value)
    path = rng.choice(list(places(found))[1:])
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    if isinstance(inner, dict) and rng.random() < 0.3:
        del inner[path[-1]]
    else:
        inner[path[-1]] = rng.choice(ODD)
    return found


def read(path):
    data = path.read_bytes()
    text = gzip.decompress(data).decode() if path.suffix == '.gz' else data.decode()
    return (
        [json.loads(line) for line in text.splitlines()]
        if path.suffix == '.jsonl'
        else json.loads(text)
    )


def write(path, value):
    text = '\n'.join(map(json.dumps, value)) if path.suffix == '.jsonl' else json.dumps(value)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == '.gz' else text.encode())


@pytest.mark.parametrize('writer', WRITERS, ids=lambda writer: writer.__name__)
def test_odd_values_are_told_or_harmless(tmp_path, writer):
    path, rng, refused = writer(tmp_path), random.Random(0), 0
    whole = read(path)
    source = path.with_name('train.json.gz') if writer is vln_truth else path
    for _ in range(120):
        write(path, exchanged(whole, rng))
        try:
            episodes = open_dataset(source, format=WRITERS[writer])
            for episode in range(len(episodes)):
                episodes.sample(episode, 0)
        except QwenVlaError as error:
            refused += 1
            assert '\n' not in str(error)
    assert refused > 20
