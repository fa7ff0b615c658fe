"""What training costs: counted on the training pass itself, spread over GPUs."""

import dataclasses

import pytest

from qwen_vla_ros.cli import main
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.memory import Load
from qwen_vla_ros.train.plan import Volume, cost
from qwen_vla_ros.train.recipe import cpt, t2a

LOAD = Load(views=2, image=64, text=20)


def small(attention):
    plain = preset('small')
    decoder = dataclasses.replace(plain.decoder, attention=attention)
    return dataclasses.replace(plain, decoder=decoder)


def test_arithmetic_grows_with_noise_draws_as_the_decoder_does():
    counts = [
        cost(small('joint'), dataclasses.replace(cpt('small'), draws=draws), LOAD).tflop
        for draws in (1, 2, 3)
    ]
    assert counts[2] - counts[1] == pytest.approx(counts[1] - counts[0], rel=1e-6)
    model = cost(small('joint'), cpt('small'), LOAD)
    # Six operations a weight and token, of the decoder's blocks alone.
    tokens = 2 * 16 + 20 + 16
    blocks = 4 * (4 * 192**2 + 3 * 192 * 640)
    floor = 6 * blocks * tokens / 1e12
    assert floor < counts[1] - counts[0] < 1.6 * floor
    assert model.trained == model.parameters


def test_text_to_action_trains_the_decoder_alone_and_sees_no_picture():
    found = cost(small('prefix'), t2a('small'), LOAD)
    again = cost(small('prefix'), t2a('small'), dataclasses.replace(LOAD, views=3))
    assert found.tflop == again.tflop
    assert found.trained < found.parameters


def test_states_spread_over_gpus_and_recomputing_saves_activations():
    plain = cost(small('joint'), cpt('small'), LOAD)
    recomputed = cost(small('joint'), dataclasses.replace(cpt('small'), recompute=True), LOAD)
    assert recomputed.activations < plain.activations / 2
    assert plain.tflop < recomputed.tflop < 1.4 * plain.tflop
    one, eight = (plain.fixed_bytes(gpus) - plain.gathered for gpus in (1, 8))
    assert eight < one
    assert plain.hours(8, 100.0, 0.5) == pytest.approx(plain.hours(1, 100.0, 0.5) / 8)
    assert plain.at_once(1, 1e9) > plain.at_once(1, 0.8e9) >= 0


def test_data_are_hours_times_rate_times_bytes():
    assert Volume('x', 2.0, 3.0, 5.0, '').bytes == 2 * 3600 * 15


def test_the_command_prints_every_stage_and_refuses_nonsense(capsys):
    assert main(['plan', '--preset', 'tiny', '--gpus', '1', '8', '--image', '64']) == 0
    told = capsys.readouterr().out
    assert [told.count(f'\n{stage} ') for stage in ('t2a', 'cpt', 'sft')] == [2, 2, 2]
    assert main(['plan', '--mfu', '1.5']) == 2
    assert '--mfu' in capsys.readouterr().err
