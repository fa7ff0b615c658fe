"""Small walks in the true layouts of VLN-CE (R2R, RxR) and of StreamVLN, written by us."""

import gzip
import json
import math

import cv2
import numpy as np

ACTIONS = {'7': [2, 1, 1, 3, 3, 1, 0], '12': [1, 1, 1, 2, 2, 1, 1, 1, 1, 1, 1, 0]}
SENTENCE = 'Walk to the red door and stop.'


def way(actions, turn_deg=15.0, start=(4.0, 0.1, -2.0), heading=0.5):
    """Habitat's positions, one before each action; its -z is forward at heading 0."""
    x, y, z = start
    found = [[x, y, z]]
    for action in actions[:-1]:
        if action == 1:
            x, z = x - 0.25 * math.sin(heading), z - 0.25 * math.cos(heading)
        elif action in (2, 3):
            heading += math.radians(turn_deg) * (1 if action == 2 else -1)
        found.append([x, y, z])
    return found


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(value).encode()))


def write_pictures(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(count):
        picture = np.full((8, 8, 3), 20 * frame, np.uint8)
        cv2.imwrite(str(folder / f'{frame:03d}.png'), picture)


def episode(name, heading=0.5, start=(4.0, 0.1, -2.0)):
    half = heading / 2
    return {
        'episode_id': int(name),
        'scene_id': f'mp3d/{name}.glb',
        'start_position': list(start),
        'start_rotation': [0.0, math.sin(half), 0.0, math.cos(half)],
        'goals': [{'position': [0, 0, 0], 'radius': 3.0}],
        'instruction': {'instruction_text': f' {SENTENCE}\n', 'instruction_tokens': [1, 2]},
        'reference_path': [list(start)],
    }


def write_vln_ce(folder, name='train', turn_deg=15.0, recorded=lambda rows, actions: rows):
    """R2R's layout, or RxR's where the name ends in _guide; recorded gives the locations kept."""
    truth = {}
    for key, actions in ACTIONS.items():
        rows = way(actions, turn_deg)
        steps = recorded(rows, actions)
        truth[key] = {'locations': steps, 'forward_steps': len(steps), 'actions': actions}
        write_pictures(folder / 'frames' / key, len(actions))
    episodes = [episode(key) for key in ACTIONS]
    write_json(folder / f'{name}.json.gz', {'episodes': episodes, 'instruction_vocab': {}})
    write_json(folder / f'{name}_gt.json.gz', truth)
    return folder


def write_stream_vln(folder):
    entries = []
    for key, actions in ACTIONS.items():
        video = f'images/scene_r2r_{key}'
        write_pictures(folder / video / 'rgb', len(actions))
        told = [-1, *actions[:-1]]
        said = [SENTENCE, f'{SENTENCE} Again.']
        entries.append({'id': int(key), 'video': video, 'instructions': said, 'actions': told})
    (folder / 'annotations.json').write_text(json.dumps(entries))
    return folder
