"""Training straight from bags, as the recorder leaves them."""

import json

import pytest

pytest.importorskip('rosbags')
import test_data_bag as bags

from qwen_vla_ros.cli import main

SMALL = bags.WIDOWX.text.replace('width: 640', 'width: 8').replace('height: 480', 'height: 6')
TOPIC = '/left/policy/instruction'


def recorded(folder, said=((TOPIC, 'lift it'),), contract=SMALL):
    """Write a bag whose first frames were heard before any picture."""
    return bags.write(folder, extra=[('/qwen_vla/contract', contract), *said])


def train(data, out):
    line = 'train sft --preset tiny --steps 2 --batch 4 --threads 1 --look-every 0'
    return main([*line.split(), '--data', str(data), '--out', str(out)])


def test_frames_without_an_observation_are_left_out_and_told(tmp_path, capsys):
    for name in 'abc':
        recorded(tmp_path / 'bags' / name)
    assert train(tmp_path / 'bags', tmp_path / 'out') == 0
    told = capsys.readouterr().out
    assert 'bags: 2 of 20 frames measured are left out' in told
    for number, name in enumerate('ab'):  # c is held out
        assert f'left out: {name}: episode {number}: 1 frame: ' in told
    assert 'never received' in told
    lines = (tmp_path / 'out' / 'log.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [1, 2]


def test_a_bag_whose_sentence_changes_is_trained_on(tmp_path, capsys):
    changes = [(TOPIC, 'lift it', 0.2), (TOPIC, '', 1.0), (TOPIC, 'drop it', 1.2)]
    recorded(tmp_path / 'bag', changes)
    assert train(tmp_path / 'bag', tmp_path / 'out') == 0
    told = json.loads((tmp_path / 'out' / 'run.json').read_text())
    assert told['held_out_episodes'] == {'bag': 1}


def test_a_set_of_which_nothing_is_left_is_refused_with_the_reason(tmp_path, capsys):
    recorded(tmp_path / 'bag', contract=bags.WIDOWX.text)
    assert train(tmp_path / 'bag', tmp_path / 'out') == 2
    told = capsys.readouterr().err
    assert 'bag: no frame of it gives a sample; the first: bag: episode 0, frame 0: ' in told


def test_a_bag_without_a_sentence_is_refused_with_what_training_takes(tmp_path, capsys):
    recorded(tmp_path / 'bag', said=())
    assert train(tmp_path / 'bag', tmp_path / 'out') == 2
    assert '`instruction:` into a YAML file' in capsys.readouterr().err
    (tmp_path / 'set.yaml').write_text('path: bag\ninstruction: lift it\n')
    assert train(tmp_path / 'set.yaml', tmp_path / 'out') == 0
