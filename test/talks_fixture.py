"""Small files of conversations, grounding and driving questions in their true layouts."""

import json

import cv2
import numpy as np

CAMERAS = ('CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_BACK')


def picture(path, grey, width=200, height=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), grey, np.uint8))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = '\n'.join(map(json.dumps, value)) if path.suffix == '.jsonl' else json.dumps(value)
    path.write_text(lines)
    return path


def llava(*turns, **keys):
    roles = ('human', 'gpt')
    said = [{'from': roles[i % 2], 'value': text} for i, text in enumerate(turns)]
    return {'id': '0', 'conversations': said, **keys}


def write_llava(folder):
    for number in (1, 2):
        picture(folder / 'coco' / f'{number}.png', 40 * number)
    turns = ('<image>\nWhat is it?', 'A cup.', 'Which colour?', 'Red.')
    return write_json(
        folder / 'talk.json',
        [
            llava(*turns, image='coco/1.png'),
            llava('Say hello.', 'Hello.'),
            llava(
                '<image>\n<image>\nCompare <image> and the others.',
                'Same.',
                image=['coco/1.png', 'coco/2.png', 'coco/1.png'],
            ),
        ],
    )


def write_messages(folder):
    picture(folder / 'a.png', 40)
    picture(folder / 'b.png', 80, 400, 200)
    content = [{'type': 'image'}, {'type': 'text', 'text': 'And here?'}]
    return write_json(
        folder / 'swift.jsonl',
        [
            {
                'images': ['a.png', {'path': 'b.png'}],
                'messages': [
                    {'role': 'system', 'content': 'Be brief.'},
                    {'role': 'user', 'content': '<image>Find <ref-object>.'},
                    {'role': 'assistant', 'content': '<bbox>'},
                    {'role': 'user', 'content': content},
                    {'role': 'assistant', 'content': 'At <bbox>.'},
                ],
                'objects': {
                    'ref': ['the cup'],
                    'bbox': [[20, 10, 100, 50], [20, 10, 100, 50]],
                    'image_id': [0, 1],
                },
            }
        ],
    )


def write_grounding(folder):
    picture(folder / 'a.png', 40)
    entry = {'img_path': 'a.png', 'expression': 'the red cup', 'bbox': [20, 10, 100, 50]}
    return write_json(folder / 'refs.jsonl', [{**entry, 'width': 200, 'height': 100}])


def write_drivelm(folder):
    frames = {}
    for number in range(2):
        paths = {}
        for camera in CAMERAS:
            name = f'samples/{camera}/{number}.png'
            picture(folder / 'nuscenes' / name, 40 + 20 * number, 320, 180)
            paths[camera] = f'nuscenes/{name}'
        question = (
            f'What is <c1,CAM_BACK,160.0,{90 + 18 * number}.0> going to do? Please select the '
            'correct answer from the following options: A. Turn left. B. Keep going straight. '
            'C. Stop.'
        )
        frames[f'frame{number}'] = {
            'key_object_infos': {},
            'QA': {
                'perception': [{'Q': 'What is seen?', 'A': 'A car, <c1,CAM_BACK,160.0,90.0>.'}],
                'prediction': [{'Q': question, 'A': 'B', 'C': None, 'tag': [0]}],
                'planning': [],
            },
            'image_paths': paths,
        }
    scene = {'scene_description': 'A street.', 'key_frames': frames}
    return write_json(folder / 'v1_1_train_nus.json', {'scene0': scene})
