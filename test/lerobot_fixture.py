"""A small LeRobot data set in the true layout of v3.0 or v2.1, written by us."""

import json

import av
import numpy as np
import pyarrow as pa
from pyarrow import parquet

FPS, LENGTHS, SIZE = 10, (6, 4), 32
KEY = 'observation.images.top'
TASKS = ['lift the cup', 'open the drawer']
FEATURES = {
    KEY: {'dtype': 'video', 'shape': [SIZE, SIZE, 3], 'names': ['height', 'width', 'channels']},
    'observation.state': {'dtype': 'float32', 'shape': [2], 'names': ['waist', 'elbow']},
    'action': {'dtype': 'float32', 'shape': [2], 'names': {'motors': ['waist', 'elbow']}},
    **{
        key: {'dtype': kind, 'shape': [1], 'names': None}
        for key, kind in (
            ('timestamp', 'float32'),
            ('frame_index', 'int64'),
            ('episode_index', 'int64'),
            ('index', 'int64'),
            ('task_index', 'int64'),
        )
    },
}


def grey(episode, frame):
    return 20 + 100 * episode + 15 * frame


def rows(episode, **changed):
    """The columns of one episode; action is 10 * episode + frame and its negative."""
    count = LENGTHS[episode]
    action = [[10.0 * episode + frame, -10.0 * episode - frame] for frame in range(count)]
    found = {
        'observation.state': [[a + 0.5, b] for a, b in action],
        'action': action,
        'timestamp': [frame / FPS for frame in range(count)],
        'frame_index': list(range(count)),
        'episode_index': [episode] * count,
        'index': [sum(LENGTHS[:episode]) + frame for frame in range(count)],
        'task_index': [episode] * count,
    }
    return {**found, **changed}


def film(path, pictures, rate=FPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=rate, options={'g': '2', 'crf': '1'})
        stream.width = stream.height = SIZE
        stream.pix_fmt = 'yuv444p'
        for value in pictures:
            picture = np.full((SIZE, SIZE, 3), value, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        file.mux(stream.encode())


def save(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)


def info(folder, version, **templates):
    (folder / 'meta').mkdir(parents=True, exist_ok=True)
    text = {
        'codebase_version': version,
        'robot_type': 'stub',
        'fps': FPS,
        'total_episodes': len(LENGTHS),
        'total_frames': sum(LENGTHS),
        'chunks_size': 1000,
        'features': FEATURES,
        **templates,
    }
    (folder / 'meta' / 'info.json').write_text(json.dumps(text))


def write_v3(folder):
    info(
        folder,
        'v3.0',
        data_path='data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet',
        video_path='videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4',
    )
    save(folder / 'meta/tasks.parquet', {'task_index': [0, 1], '__index_level_0__': TASKS})
    first, second = rows(0), rows(1)
    both = {key: first[key] + second[key] for key in first}
    save(folder / 'data/chunk-000/file-000.parquet', both)
    ends = np.cumsum(LENGTHS) / FPS
    save(
        folder / 'meta/episodes/chunk-000/file-000.parquet',
        {
            'episode_index': [0, 1],
            'length': list(LENGTHS),
            'tasks': [[task] for task in TASKS],
            'data/chunk_index': [0, 0],
            'data/file_index': [0, 0],
            'dataset_from_index': [0, LENGTHS[0]],
            'dataset_to_index': np.cumsum(LENGTHS),
            f'videos/{KEY}/chunk_index': [0, 0],
            f'videos/{KEY}/file_index': [0, 0],
            f'videos/{KEY}/from_timestamp': [0.0, ends[0]],
            f'videos/{KEY}/to_timestamp': ends,
        },
    )
    greys = [grey(e, frame) for e, count in enumerate(LENGTHS) for frame in range(count)]
    film(folder / f'videos/{KEY}/chunk-000/file-000.mp4', greys)
    return folder


def write_v2(folder):
    info(
        folder,
        'v2.1',
        data_path='data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet',
        video_path='videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4',
    )
    tasks = [{'task_index': i, 'task': task} for i, task in enumerate(TASKS)]
    episodes = [
        {'episode_index': i, 'tasks': [TASKS[i]], 'length': n} for i, n in enumerate(LENGTHS)
    ]
    for name, lines in (('tasks', tasks), ('episodes', episodes)):
        text = '\n'.join(map(json.dumps, lines)) + '\n'
        (folder / 'meta' / f'{name}.jsonl').write_text(text)
    for episode, count in enumerate(LENGTHS):
        save(folder / f'data/chunk-000/episode_{episode:06d}.parquet', rows(episode))
        greys = [grey(episode, frame) for frame in range(count)]
        film(folder / f'videos/chunk-000/{KEY}/episode_{episode:06d}.mp4', greys)
    return folder
