"""Conversations, grounding and driving: what is asked, what is answered, what is refused."""

import json

import pytest
from talks_fixture import (
    llava,
    picture,
    write_drivelm,
    write_grounding,
    write_json,
    write_llava,
    write_messages,
)

from qwen_vla_ros.data.driving import spelled_out
from qwen_vla_ros.data.open import open_dataset
from qwen_vla_ros.data.sample import SampleError
from qwen_vla_ros.errors import QwenVlaError


def test_every_turn_of_llava(tmp_path):
    episodes = open_dataset(write_llava(tmp_path))
    assert [episodes.frames(e) for e in range(len(episodes))] == [2, 1, 1]
    first, second = episodes.stream(0)
    assert (first.instruction, first.text, first.earlier) == ('What is it?', 'A cup.', ())
    assert (second.instruction, second.text) == ('Which colour?', 'Red.')
    assert second.earlier == (('What is it?', 'A cup.'),)
    assert list(second.images) == ['image'] and int(second.images['image'].mean()) == 40
    assert (second.actions.shape, second.embodiment) == ((0, 0), '')
    assert episodes.sample(1, 0).images == {}
    third = episodes.sample(2, 0)
    assert list(third.images) == ['image_1', 'image_2', 'image_3']
    assert third.instruction == 'Compare image 3 and the others.'


def test_pictures_in_another_folder(tmp_path):
    path = write_llava(tmp_path / 'text')
    (tmp_path / 'text' / 'coco').rename(tmp_path / 'coco')
    assert open_dataset(path, pictures=tmp_path).sample(0, 0).images
    (tmp_path / 'set.yaml').write_text('path: text/talk.json\npictures: .')
    assert open_dataset(tmp_path / 'set.yaml').sample(0, 0).images
    with pytest.raises(SampleError, match='episode 0, frame 0: images.image: .*No such file'):
        open_dataset(path).sample(0, 0)


def test_messages_with_objects(tmp_path):
    first, second = open_dataset(write_messages(tmp_path)).stream(0)
    assert first.instruction == 'Be brief.\nFind the cup.'
    assert first.text == '[100, 100, 500, 500]'
    assert list(first.images) == ['image_1']
    assert list(second.images) == ['image_1', 'image_2']
    assert (second.instruction, second.text) == ('And here?', 'At [50, 50, 250, 250].')


def test_a_box_in_thousandths(tmp_path):
    sample = open_dataset(write_grounding(tmp_path)).sample(0, 0)
    assert sample.instruction == 'Where is the red cup? Answer with its box.'
    assert json.loads(sample.text) == [{'bbox_2d': [100, 100, 500, 500], 'label': 'the red cup'}]


def test_driving_with_cameras_and_frames(tmp_path):
    path = write_drivelm(tmp_path)
    episodes = open_dataset(path)
    assert [episodes.frames(e) for e in range(len(episodes))] == [2, 2]
    first, second = episodes.stream(1)
    cameras = 'cam_front, cam_front_left, cam_back'
    assert list(first.images) == cameras.split(', ')
    assert first.instruction == f'Pictures: {cameras}.\nWhat is seen?'
    assert first.text == 'A car, <c1,CAM_BACK,500,500>.'
    asked = 'What is <c1,CAM_BACK,500,600> going to do?'
    assert second.instruction == f'Pictures: {cameras}.\n{asked}'
    assert second.text == 'Keep going straight.'
    both = open_dataset(path, frames=2).sample(1, 1)
    titles = f'Frame 1: {cameras}. Frame 2 (now): {cameras}.'
    assert both.instruction == f'{titles}\n{asked}'
    assert list(both.images)[2:4] == ['frame_1_cam_back', 'frame_2_cam_front']
    assert int(both.images['frame_1_cam_back'].mean()) == 40
    assert int(both.images['frame_2_cam_back'].mean()) == 60


@pytest.mark.parametrize(
    ('question', 'answer', 'found'),
    [
        ('Is it? A. Yes. B. No.', 'A', ('Is it?', 'Yes.')),
        ('Is it? A) Yes B) No', 'b.', ('Is it?', 'No')),
        ('What is a VW? It has A. B. C.', 'Stop', ('What is a VW? It has A. B. C.', 'Stop')),
        ('Is it A?', 'A', ('Is it A?', 'A')),
    ],
)
def test_a_choice_becomes_words(question, answer, found):
    assert spelled_out(question, answer) == found


TURN = {'from': 'human', 'value': 'What?'}
ENTRIES = {
    'no table': (7, 'a JSON object is expected, not int'),
    'no list': (llava() | {'conversations': {}}, 'conversations: a list with something'),
    'no value': (llava('a', ' '), 'conversations[1]: value: a text is expected'),
    'no answer': (llava('a', 'b', 'c'), 'the last question has no answer'),
    'turns': (llava('a', 'b') | {'conversations': [TURN, TURN]}, "[1]: 'human' is not whose turn"),
    'speaker': (llava() | {'conversations': [{'from': 'x', 'value': 'y'}]}, "'x' is not whose"),
    'marks': (llava('<image>\n<image> what?', 'b', image='a.png'), '2 marks <image> for 1 pic'),
    'shown': (llava('a', 'see <image>', image='a.png'), 'an answer cannot show a picture'),
    'film': (llava('a', 'b', video='a.mp4'), 'video: films of conversations are not read'),
    'file': (llava('a', 'b', image=[3]), 'image: file names are expected'),
    'box': ({'img_path': 'a.png', 'expression': 'it', 'bbox': [1, 2, 3]}, 'no box x1, y1, x2'),
    'outside': (
        {'img_path': 'a.png', 'expression': 'it', 'bbox': [0, 0, 300, 9]},
        'is no box in 200x100 pixels',
    ),
    'nan': (
        {'img_path': 'a.png', 'expression': 'it', 'bbox': [0, float('nan'), 3, 9]},
        'is no box in 200x100 pixels',
    ),
    'size': (
        {'img_path': 'a.png', 'expression': 'it', 'bbox': [0, 0, 3, 9], 'width': 100},
        'width: 100, but the picture has 200',
    ),
    'objects': (llava('where <ref-object>?', 'b'), 'fewer than the marks <ref-object>'),
}


@pytest.mark.parametrize('name', ENTRIES)
def test_a_bad_entry_is_told_and_others_are_read(tmp_path, name):
    entry, words = ENTRIES[name]
    picture(tmp_path / 'a.png', 40)
    path = write_json(tmp_path / 'talk.json', [llava('Hello?', 'Hello.'), entry])
    episodes = open_dataset(path)
    with pytest.raises(SampleError) as told:
        episodes.sample(1, 0)
    assert str(told.value).startswith('talk.json: episode 1, frame 0: text: ')
    assert words in str(told.value)
    assert '\n' not in str(told.value)
    assert episodes.sample(0, 0).text == 'Hello.'


FILES = {
    'cut': ('talk.json', '[{"conversations": [', 'talk.json: no JSON'),
    'line': ('talk.jsonl', '{"messages": []}\n{"mess', 'talk.jsonl: line 2: no JSON'),
    'empty': ('conversations:talk.json', '[]', 'a list with something in it is expected'),
    'other': ('talk.json', '[1]', 'conversations: its first entry has none of conversations'),
    'gzip': ('talk.json.gz', '[', 'talk.json.gz: cannot be read'),
}


@pytest.mark.parametrize('name', FILES)
def test_a_bad_file_is_told_in_one_line(tmp_path, name):
    file, text, words = FILES[name]
    kind, _, file = file.rpartition(':')
    (tmp_path / file).write_text(text)
    with pytest.raises(QwenVlaError) as told:
        open_dataset(tmp_path / file, format=kind)
    assert words in str(told.value)
    assert '\n' not in str(told.value)


def change(path, edit):
    told = json.loads(path.read_text())
    edit(told['scene0']['key_frames']['frame1'])
    path.write_text(json.dumps(told))


DRIVING = {
    'no questions': (lambda f: f.update(QA={}), 'QA: there is no question'),
    'no answer': (lambda f: f['QA']['perception'][0].update(A=None), 'question 0: A: a text is'),
    'no camera': (lambda f: f['image_paths'].pop('CAM_BACK'), 'no picture of CAM_BACK'),
    'no paths': (lambda f: f.pop('image_paths'), 'image_paths: a JSON object is expected'),
    'outside': (
        lambda f: f['QA']['perception'][0].update(A='<c1,CAM_BACK,1700.0,10.0>'),
        'it lies outside of 320x180 pixels',
    ),
}


@pytest.mark.parametrize('name', DRIVING)
def test_a_bad_key_frame_is_told_and_others_are_read(tmp_path, name):
    edit, words = DRIVING[name]
    path = write_drivelm(tmp_path)
    change(path, edit)
    episodes = open_dataset(path)
    with pytest.raises(SampleError) as told:
        episodes.sample(1, 0)
    assert words in str(told.value)
    assert '\n' not in str(told.value)
    assert episodes.sample(0, 0).text
