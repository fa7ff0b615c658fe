"""The end of a run: the way of its losses, errors beside standing still, the next command."""

import json
from pathlib import Path

import numpy as np
import stage_lab
from PIL import Image

from qwen_vla_ros.evaluate.skill_worlds import ROBOTS
from qwen_vla_ros.train import curves
from qwen_vla_ros.train.curves import draw_log
from qwen_vla_ros.train.ending import SIMULATED, held_out_line, next_line, way_of_losses
from qwen_vla_ros.train.held_out import at_rest


def test_the_way_of_a_loss_is_from_its_first_to_its_last_tenth(tmp_path):
    log = tmp_path / 'log.jsonl'
    lines = [{'step': n + 1, 'action': float(n), 'rate': 1.0} for n in range(20)]
    log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert way_of_losses(log).endswith(': action 0.5 to 18.5')


def test_held_out_errors_stand_beside_those_of_one_who_stands_still():
    figures = {'samples': 6.0, 'error_rad': 0.1451, 'still_rad': 0.5, 'error_m': 0.002}
    told = 'held out, words, 6 samples: rad 0.1451 (standing still: 0.5000), m 0.0020'
    assert held_out_line('words', figures) == told


def test_an_arm_at_rest_keeps_its_state_and_a_base_drives_nowhere():
    arm = stage_lab.episodes('a', 'widowx', (), (16,))
    sample = arm.sample(0, 0)
    np.testing.assert_array_equal(at_rest(sample, arm.embodiment.action_groups()), sample.state)
    base = stage_lab.episodes('b', 'mobile_base', ('ego',), (8,))
    rest = at_rest(base.sample(0, 0), base.embodiment.action_groups())
    assert rest.tolist() == [0.0] * len(base.embodiment.action_names())


def test_the_next_command_is_of_the_robot_and_of_adapters():
    assert set(SIMULATED) == set(ROBOTS.values())
    told = 'next: qwen-vla eval sim --robot aloha --checkpoint out'
    assert next_line(Path('out'), ['aloha', 'trace_2d']) == told
    told = 'next: qwen-vla eval bag BAG --checkpoint base --adapters out'
    assert next_line(Path('out'), ['scara'], Path('base')) == told


def test_curves_have_a_panel_of_losses_and_one_for_each_source(tmp_path):
    sizes = []
    for sources in (0, 1, 4):
        held_out = {f'table {number}': {'error_rad': 0.1} for number in range(sources)}
        log, picture = tmp_path / 'log.jsonl', tmp_path / 'curves.png'
        log.write_text(json.dumps({'step': 1, 'success': 0.5, 'held_out': held_out}) + '\n')
        draw_log(log, picture)
        sizes.append(Image.open(picture).size)
    assert sizes == [(540, 360), (1080, 360), (1620, 720)]


def test_a_curve_is_drawn_with_its_means():
    steps, means = curves._means([(1, 1.0), (2, 3.0), (4, 5.0)], 2)
    assert (steps, means) == ([1, 2, 4], [1.0, 2.0, 4.0])
