"""The stages' loop: what is trained, with which losses and weights, and what a run leaves."""

import dataclasses
import io
import json

import av
import numpy as np
import pytest
import stage_lab
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qwen_vla_ros.cli import main
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.answer import text_loss
from qwen_vla_ros.model.checkpoint import load_checkpoint
from qwen_vla_ros.train import recipe as recipes
from qwen_vla_ros.train.curves import draw_log
from qwen_vla_ros.train.mixed_batch import collate_mixed, draw_each
from qwen_vla_ros.train.sources import DataSet, fingerprint, open_sources, weighed
from qwen_vla_ros.train.stage_loop import StageRun
from qwen_vla_ros.train.stage_step import rate


def moved(before, after):
    return {name.split('.')[0] for name in before if not torch.equal(before[name], after[name])}


def test_text_to_action_trains_the_decoder_alone_on_whole_trajectories_without_images(tmp_path):
    one = stage_lab.run(tmp_path, stage_lab.recipe('t2a', steps=2))
    before = stage_lab.weights(one)
    taken = one.taker.take(iter(one.mixture))
    assert {len(t.acting['actions']) for t in taken} > {16}
    assert all(t.answering is None for t in taken)
    assert all(not len(t.acting['image_grid_thw']) for t in taken)
    assert 'Please predict the next' in taken[0].acting['prompt']
    assert all(f'next {t.sample.actions.shape[0]} control' in t.acting['prompt'] for t in taken)
    one.train_step(taken)
    assert moved(before, stage_lab.weights(one)) == {'decoder'}
    assert one.model.config.flow.distribution == 'logit_normal'


def test_pretraining_trains_everything_on_actions_and_words_at_two_rates(tmp_path):
    one = stage_lab.run(tmp_path, stage_lab.recipe(backbone_rate=1e-4, decoder_rate=1e-3))
    before = stage_lab.weights(one)
    stream = iter(one.mixture)
    entry = one.train_step(one.taker.take(stream))
    assert entry['action'] > 0 and entry['text'] > 0
    assert moved(before, stage_lab.weights(one)) == {'backbone', 'decoder'}
    rates = {round(group['lr'] * 2, 9) for group in one.optimiser.param_groups}
    assert rates == {1e-4, 1e-3}
    names = set(one.tally.means())
    assert {'source/table', 'text/table', 'channel/widowx/waist', 'gradient/vision'} <= names


def test_a_mixed_batch_has_the_losses_of_its_halves(tmp_path):
    one = stage_lab.run(tmp_path)
    taken = one.taker.take(iter(one.mixture))
    acting = [t.acting for t in taken]
    answering = [t.answering for t in taken if t.answering]
    drawn = draw_each(one.model, acting, 2, [(0, t.draw) for t in taken])
    action, _, text, *_ = one.losses(collate_mixed(one.model, acting, answering), drawn)
    alone, channel, *_ = one.losses(collate_mixed(one.model, acting, ()), drawn)
    torch.testing.assert_close(action, alone, atol=1e-5, rtol=1e-4)
    words = collate_mixed(one.model, (), answering)
    torch.testing.assert_close(text[len(acting) :], text_loss(one.model, words), atol=1e-5, rtol=0)
    # The mean over a sample's channels is its loss: the second level of the paper's mean.
    for row, loss in zip(channel, alone, strict=True):
        assert float(row[row >= 0].mean()) == pytest.approx(loss.item(), rel=1e-4)


def test_passes_do_not_change_a_step(tmp_path):
    found = []
    for passes in (1, 4):
        one = stage_lab.run(tmp_path / str(passes), stage_lab.recipe(passes=passes, steps=1))
        one.fit()
        found.append(stage_lab.weights(one))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=2e-5, rtol=1e-3)


def test_recomputed_activations_give_the_same_step(tmp_path):
    found = []
    for recompute in (False, True):
        told = stage_lab.recipe(recompute=recompute)
        one = stage_lab.run(tmp_path / str(recompute), told)
        found.append(one.train_step(one.taker.take(iter(one.mixture))))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_bfloat16_keeps_float32_weights_and_nearly_the_loss(tmp_path):
    found = []
    for dtype in ('float32', 'bfloat16'):
        one = stage_lab.run(tmp_path / dtype, stage_lab.recipe(dtype=dtype))
        stream = iter(one.mixture)
        for _ in range(3):  # a fresh decoder says zero in every dtype
            loss = one.train_step(one.taker.take(stream))['action']
            one.step += 1
        found.append(loss)
        assert {p.dtype for p in one.model.parameters()} == {torch.float32}
    assert found[0] != found[1]
    assert found[0] == pytest.approx(found[1], rel=0.02)


def test_fine_tuning_is_balanced_over_embodiments_and_pretraining_weighed_by_table_1():
    told = stage_lab.recipe('sft')
    assert (told.action_weight, told.text_weight) == (1.0, 0.1)
    sets = stage_lab.sets('sft')
    more = DataSet.of('balanced', stage_lab.episodes('other', 'widowx', stage_lab.SIZES, (16,)))
    shares = weighed([*sets, more], told)[2]
    assert shares == pytest.approx({'table': 0.25, 'other': 0.25, 'rooms': 0.5})
    table_1 = weighed(stage_lab.sets('cpt'), stage_lab.recipe('cpt'))[2]
    assert table_1 == pytest.approx({'table': 74.2 / 81.7, 'rooms': 7.5 / 81.7})


def test_chunks_of_fine_tuning_have_the_contracts_rows(tmp_path):
    one = stage_lab.run(tmp_path, stage_lab.recipe('sft', batch=8))
    taken = one.taker.take(iter(one.mixture))
    rows = {t.sample.embodiment: int(t.acting['action_mask'].any(1).sum()) for t in taken}
    assert rows == {'widowx': 16, 'mobile_base': 8}


def test_held_out_episodes_are_never_trained_on(tmp_path):
    one = stage_lab.run(tmp_path)
    stream = iter(one.mixture)
    seen = {(s.place.source, s.place.episode) for s in (next(stream) for _ in range(200))}
    held = {(d.episodes.source, n) for d in one.sets for n in d.held_out.chosen}
    assert held == {('table', 3), ('rooms', 3)}
    assert not seen & held


def test_the_rate_warms_up_and_falls_by_a_cosine():
    told = stage_lab.recipe(steps=12, warm_up=2, last_rate=0.1)
    assert [rate(told, step) for step in (0, 1, 2, 7, 12)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.55, 0.1]
    )


def test_averaged_weights_are_those_that_are_saved(tmp_path):
    one = stage_lab.run(tmp_path, stage_lab.recipe(ema=0.5, steps=1))
    name = 'decoder.action_out.2.bias'
    before = one.trained[name].detach().clone()
    one.fit()
    wanted = (before + one.trained[name].detach()) / 2
    torch.testing.assert_close(one.average[name], wanted)
    saved = load_checkpoint(one.finish('train'), 'cpu').model.state_dict()[name]
    torch.testing.assert_close(saved, wanted.to(saved.dtype))
    assert not torch.equal(before, one.trained[name])


def test_stages_follow_each_other_and_a_robot_loads_the_last(tmp_path):
    one = stage_lab.run(tmp_path / 't2a', stage_lab.recipe('t2a', steps=1))
    one.fit()
    first = one.finish('qwen-vla train t2a')
    two = stage_lab.run(tmp_path / 'cpt', stage_lab.recipe('cpt', steps=1), str(first))
    torch.testing.assert_close(
        two.model.decoder.context_in.weight, one.model.decoder.context_in.weight
    )
    two.fit()
    second = two.finish('qwen-vla train cpt')
    looks = stage_lab.Every(2, 1, 2)
    told = stage_lab.recipe('sft', steps=1)
    three = stage_lab.run(tmp_path / 'sft', told, str(second), looks)
    kept = three.begun.robots['widowx', two.sets[0].episodes.embodiment.action_names()]
    measured = two.begun.robots['widowx', two.sets[0].episodes.embodiment.action_names()]
    np.testing.assert_allclose(kept.statistics['actions'].q01, measured.statistics['actions'].q01)
    three.fit()
    loaded = load_checkpoint(three.finish('qwen-vla train sft'), 'cpu')
    assert set(loaded.robots) == {'widowx', 'mobile_base'}
    told = json.loads((tmp_path / 'sft' / 'checkpoint' / 'training.json').read_text())
    assert told['stage'] == 'sft' and told['text']['weight'] == 0.1
    assert set(told['held_out']['table']) >= {'error_rad', 'error_m', 'waist_rad'}


def test_arms_without_a_contract_are_trained_on_and_never_driven(tmp_path):
    out = str(tmp_path / 'set')
    arms = ['--arms', 'ur5e', 'xarm7', '--workers', '1', '--no-report']
    assert main(['synthesise', 'text-action', '--out', out, '--episodes', '4', *arms]) == 0
    told = [f'synthetic={out}/{arm}' for arm in ('ur5e', 'xarm7')]
    recipe = stage_lab.recipe('t2a', steps=1, batch=2)
    data = open_sources(told, recipe)
    one = StageRun(recipe, data, stage_lab.start(recipe, data, None, 'cpu'), tmp_path / 'run')
    prompts = {t.acting['prompt'].split('.')[0] for t in one.taker.take(iter(one.mixture))}
    assert prompts <= {'The robot is UR5e with single arm', 'The robot is xArm7 with single arm'}
    one.fit()
    draw_log(tmp_path / 'run' / 'log.jsonl', tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').stat().st_size > 1000
    folder = one.finish('train')
    assert not list((folder / 'embodiments').iterdir())
    assert one.model.config.decoder.horizon == 16
    sft = stage_lab.run(tmp_path / 'sft', stage_lab.recipe('sft', steps=1), str(folder))
    assert {name for name, _ in sft.begun.robots} == {'widowx', 'mobile_base'}


def test_earlier_words_of_a_dialogue_stand_before_the_question(tmp_path):
    one = stage_lab.run(tmp_path)
    sample = one.sets[0].episodes.sample(0, 0)
    talk = dataclasses.replace(sample, earlier=(('What?', 'A table.'),))
    told = [one.encoder.answering(s) for s in (sample, talk)]
    words = [one.encoder.tokenizer.decode(t['input_ids']) for t in told]
    turn = 'What?<|im_end|>\n<|im_start|>assistant\nA table.<|im_end|>\n<|im_start|>user\n'
    at = words[0].index(sample.instruction)
    assert words[1] == words[0][:at] + turn + words[0][at:]
    assert told[0]['answer_mask'].sum() == told[1]['answer_mask'].sum()


def test_new_views_get_their_tokens_when_training_goes_on(tmp_path):
    words = stage_lab.run(tmp_path / 'one', stage_lab.recipe(steps=1))
    words.fit()
    before = words.finish('train')
    rows = words.model.config.backbone['text_config']['vocab_size']
    aloha = stage_lab.episodes('two arms', 'aloha', (), (16,))
    contract = aloha.embodiment
    count = len(aloha.arrays['episode'])
    for camera in contract.cameras:
        picture = np.zeros((count, 96, 128, 3), np.uint8)
        aloha.arrays[f'view.{camera.view}'] = picture
    data = [DataSet.of('robot manipulation', aloha)]
    begun = stage_lab.start(stage_lab.recipe(), data, str(before), 'cpu')
    new = {camera.view for camera in contract.cameras} - set(stage_lab.SIZES)
    config = begun.model.config
    assert new <= set(config.inputs.image_sizes)
    assert config.backbone['text_config']['vocab_size'] == rows + 2 * len(new)
    embedded = begun.model.backbone.get_input_embeddings().weight
    assert len(embedded) == rows + 2 * len(new)
    assert begun.model.backbone.lm_head.weight is embedded


def test_adapters_are_trained_on_8_bit_weights_and_saved_alone(tmp_path):
    one = stage_lab.run(tmp_path / 'whole', stage_lab.recipe(steps=1))
    one.fit()
    base = one.finish('train')
    told = stage_lab.recipe('sft', adapters=2, quantise='int8', steps=2)
    two = stage_lab.run(tmp_path / 'lora', told, str(base))
    assert all('.lora_' in name for name in two.trained)
    two.fit()
    folder = two.finish('train')
    plain = load_checkpoint(base, 'cpu').model.state_dict()
    adapted = load_checkpoint(base, 'cpu', adapters=folder).model.state_dict()
    changed = [n for n in plain if not torch.equal(plain[n], adapted[n])]
    assert any('language_model' in n for n in changed) and any('decoder' in n for n in changed)


def test_a_run_says_everything(tmp_path):
    one = stage_lab.run(tmp_path, stage_lab.recipe(steps=2), every=stage_lab.Every(2, 2, 1))
    one.fit()
    told = json.loads((tmp_path / 'run.json').read_text())
    assert told['recipe'] == json.loads(json.dumps(dataclasses.asdict(one.recipe)))
    assert told['data'] == {d.episodes.source: fingerprint(d.episodes) for d in one.sets}
    assert told['parameters']['trained'] == told['parameters']['all']
    assert {'command', 'git', 'machine', 'shares', 'processes'} <= set(told)
    lines = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [1, 2]
    assert lines[1]['speed']['tflops'] > 0 and lines[1]['speed']['memory_gb'] > 0
    assert lines[1]['held_out']['rooms']['error_m'] > 0
    assert sorted(path.name for path in (tmp_path / 'pictures').iterdir()) == [
        'step-00000002-rooms.png',
        'step-00000002-table.png',
    ]
    names = ['step-00000002-rooms.mp4', 'step-00000002-table.mp4']
    assert sorted(path.name for path in (tmp_path / 'films').iterdir()) == names
    for name in names:
        with av.open(str(tmp_path / 'films' / name)) as film:
            frames = [frame.to_ndarray(format='rgb24') for frame in film.decode(video=0)]
        assert [frame.shape for frame in frames] == [(384, 720, 3)] * 3
    board = EventAccumulator(str(tmp_path / 'tensorboard'), {'images': 0}).Reload()
    (shown,) = board.Images('held_out_film/rooms')
    assert shown.step == 2 and shown.width == 720
    assert Image.open(io.BytesIO(shown.encoded_image_string)).n_frames == 3


def test_other_data_have_another_fingerprint():
    one, again = (stage_lab.episodes('a', 'widowx', stage_lab.SIZES, (16,)) for _ in range(2))
    assert fingerprint(one) == fingerprint(again)
    again.arrays['actions'][0, 0, 0] += 1
    assert fingerprint(one) != fingerprint(again)


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['t2a'], 'give --data or --demo'),
        (['cpt', '--data', 'toys=x'], "unknown family 'toys'"),
        (['cpt', '--data', 'navigation=/nowhere'], 'no such file'),
        (['cpt', '--demo', '--quantise', 'int8'], 'add adapters'),
        (['sft', '--demo', '--batch', '0'], 'at least 1'),
    ],
)
def test_what_cannot_be_trained_is_refused(arguments, told, tmp_path, capsys):
    assert main(['train', *arguments, '--out', str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


def test_released_presets_need_something_to_start_from(tmp_path):
    with pytest.raises(QwenVlaError, match=r'give --init.*Qwen3.5-0.8B'):
        stage_lab.run(tmp_path, dataclasses.replace(recipes.cpt('0.8b'), batch=4))
