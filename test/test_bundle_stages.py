"""The bundled checkpoint's stages, with families of a few grey pictures."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import (
    from_pretrained,
    load_tokenizer,
    read_robots,
    save_checkpoint,
)
from qwen_vla_ros.model.scene import Scene
from qwen_vla_ros.train.bundle import stages
from qwen_vla_ros.train.bundle.frames import POINTS, VALUES, Frame, Taught
from qwen_vla_ros.train.bundle.growth import grow
from qwen_vla_ros.train.bundle.naming import Naming, fit_naming
from qwen_vla_ros.train.bundle.sentences import read_words, sentences_of
from qwen_vla_ros.train.bundle.shards import Order, ShardEpisodes, render
from qwen_vla_ros.train.bundle.sight import fit_sight
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.train.sources import DataSet

CHECKPOINT = Path(__file__).parents[1] / 'checkpoints' / 'small'
FAMILIES = CHECKPOINT.with_name('families')
FEWER = {'readout_values': VALUES[:-2], 'readout_layers': 0}  # of an older readout
SIZES = {'ego': (96, 128), 'cam_right_wrist': (48, 64)}


class GreyMaker:
    """Grey tables: 'lift' raises the shoulder, 'lower' lowers it."""

    embodiment, layout, views = 'widowx', 'abs_joint', ('ego', 'cam_right_wrist')

    def __init__(self, sizes):
        """Take the sizes of the pictures."""
        self.sizes = {view: sizes[view] for view in self.views}

    def episode(self, seed):
        """Return two frames of two sentences."""
        rng = np.random.default_rng(seed)
        frames = []
        for _ in range(2):
            shade = int(rng.integers(60, 200))
            images = {v: np.full((*size, 3), shade, np.uint8) for v, size in self.sizes.items()}
            state = np.array([0, 0, 0, 0, 1.2, 0, 0.02], np.float32)
            taught = []
            for sign, words in ((1, 'lift the red block'), (-1, 'lower the blue can')):
                rows = np.tile(state, (16, 1))
                rows[:, 1] += sign * np.linspace(0, 0.3, 16)
                points = {'ego/target': (0.25, 0.75) if sign > 0 else None}
                taught.append(Taught(words, rows.astype(np.float32), points))
            frames.append(Frame(images, state, tuple(taught)))
        return frames


class GreyQuestionsMaker(GreyMaker):
    """The same tables and what may be asked of them."""

    embodiment, layout, views = '', '', ('ego',)

    def episode(self, seed):
        """Return a frame of one question."""
        frame = super().episode(seed)[0]
        nothing = np.zeros((0, 0), np.float32)
        return [Frame(frame.images, None, (Taught('what is it', nothing, text='grey'),))]


class PracticeGrey(GreyMaker):
    """The same tables, met by a checkpoint."""

    def __init__(self, sizes, checkpoint):
        """Take what acts; nothing does when there is no such checkpoint."""
        super().__init__(sizes)
        assert (checkpoint / 'model.safetensors').is_file()


@pytest.fixture
def grey(monkeypatch):
    """Put the families of this file where the stages look for theirs."""
    module = ModuleType('qwen_vla_ros.train.bundle.grey')
    module.GreyMaker, module.GreyQuestionsMaker = GreyMaker, GreyQuestionsMaker
    module.PracticeGrey = PracticeGrey
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_sentences_of_one_picture_belong_together(tmp_path, grey):
    order = Order('grey:GreyMaker', SIZES, 5, 3)
    paths = render(order, tmp_path, 1)
    again = [path.read_bytes() for path in render(order, tmp_path / 'again', 1)]
    assert [path.read_bytes() for path in paths] == again
    episodes = ShardEpisodes.load(order, paths)
    assert (len(episodes), episodes.frames(2)) == (3, 4)
    assert episodes.same_picture(1, 2).tolist() == [3]
    one, other = episodes.sample(1, 2), episodes.sample(1, 3)
    assert (one.images['ego'] == other.images['ego']).all()
    assert (one.instruction, other.instruction) == ('lift the red block', 'lower the blue can')
    assert (one.points, other.points) == ({'ego/target': (0.25, 0.75)}, {'ego/target': None})
    assert one.actions[-1, 1] == pytest.approx(0.3)


def test_a_shard_of_another_version_is_named(tmp_path, grey):
    order = Order('grey:GreyMaker', SIZES, 5, 3)
    path = render(order, tmp_path, 1)[0]
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays['values'] = arrays['values'][:, :-2]
    np.savez(path, **arrays)
    with pytest.raises(QwenVlaError, match=r'values, not 6 and 16: another version .*; delete it'):
        ShardEpisodes.load(order, [path])


def test_a_checkpoint_that_knows_fewer_values_is_told_those(tmp_path, grey):
    order = Order('grey:GreyMaker', SIZES, 5, 3)
    episodes = ShardEpisodes.load(order, render(order, tmp_path, 1))
    begun = stages.begin(FAMILIES, [DataSet.of('robot manipulation', episodes)], False)
    grow(begun.model, FEWER)
    encoder = Encoder(begun.model.config, begun.tokenizer, begun.robots, images=False)
    told = sentences_of(encoder, episodes, {}, 1.0).values
    np.testing.assert_array_equal(told.numpy(), episodes.arrays['values'][:, :-2])


def test_a_checkpoint_of_the_command_goes_on_with_all_that_it_knew(tmp_path, grey):
    order = Order('grey:GreyMaker', SIZES, 5, 3)
    sets = [
        DataSet.of('robot manipulation', ShardEpisodes.load(order, render(order, tmp_path, 1)))
    ]
    before = stages.begin(FAMILIES, sets, False)
    grow(before.model, FEWER)
    older = tmp_path / 'older'
    save_checkpoint(older, before.model, before.tokenizer, list(before.robots.values()), {})
    now = stages.begin(older, sets, True)
    assert len(now.tokenizer) == len(before.tokenizer) and now.answers
    one, other = before.model.decoder.readout, now.model.decoder.readout
    assert len(other.estimate[-1].bias) == 2 * len(VALUES) == len(one.estimate[-1].bias) + 4
    assert not now.model.decoder.action_out[2].weight.any()
    rng = torch.Generator().manual_seed(0)
    seen, words = torch.randn(2, 5, 160, generator=rng), torch.rand(2, 320, generator=rng)
    state = torch.rand(2, 32, generator=rng)
    batch = {
        'token_view': torch.tensor([[0, 0, 0, 1, 2]] * 2),
        'token_place': torch.rand(2, 5, 4, generator=rng),
    }
    with torch.no_grad():
        was, is_ = one.find(seen, words, state, batch)[0], other.find(seen, words, state, batch)[0]
        torch.testing.assert_close(is_.values_BV[:, :-2], was.values_BV)
        torch.testing.assert_close(is_.known_BV[:, :-2], was.known_BV)
        torch.testing.assert_close(is_.place_BP2, was.place_BP2)
        drafts = [
            part.draft_from(Scene.found(found), state, words)
            for part, found in ((one, was), (other, is_))
        ]
    torch.testing.assert_close(drafts[1], drafts[0], rtol=1e-3, atol=1e-4)
    with pytest.raises(QwenVlaError, match=r'readout\..*begin from checkpoints/small'):
        grow(before.model, {'readout_points': POINTS[:4]})


def test_what_is_named_are_the_words_of_each_half_of_a_sentence(tmp_path, grey):
    order = Order('grey:GreyMaker', SIZES, 5, 3)
    episodes = ShardEpisodes.load(order, render(order, tmp_path, 1))
    sets = [DataSet.of('robot manipulation', episodes)]
    begun = stages.begin(CHECKPOINT, sets, True)
    naming = Naming(begun, {'grey': episodes})
    assert naming.words == ['block', 'blue', 'can', 'lift', 'lower', 'red', 'the']
    lift = [text.find('lift the red block') >= 0 for text in naming.texts].index(True)
    said = naming.has[lift].reshape(2, -1).bool().tolist()
    halves = [[w for w, has in zip(naming.words, half, strict=True) if has] for half in said]
    assert halves == [['lift', 'the'], ['block', 'red']]


def test_held_prompts_stay_what_a_readout_that_goes_on_knows_them_as(tmp_path, grey):
    order = Order('grey:GreyMaker', SIZES, 5, 3)
    episodes = ShardEpisodes.load(order, render(order, tmp_path, 1))
    moved = []
    for held in ((), ('grey',)):
        begun = stages.begin(FAMILIES, [DataSet.of('robot manipulation', episodes)], True)
        texts = Naming(begun, {'grey': episodes}).texts
        before = begun.model.decoder.readout.standardised(read_words(begun, texts))
        fit_naming(begun, {'grey': episodes}, {'grey': 1.0}, 12, tmp_path / str(held), held)
        now = begun.model.decoder.readout.standardised(read_words(begun, texts))
        moved.append(float((now - before).detach().abs().mean()))
    assert 0 < moved[1] < 0.7 * moved[0]


def test_three_stages_lead_to_one_checkpoint_that_says_what_it_learnt(tmp_path, grey, monkeypatch):
    sets = {
        'robot manipulation': (('grey:GreyMaker', 22),),
        'vision-language': (('grey:GreyQuestionsMaker', 22),),
    }
    monkeypatch.setattr(stages, 'SETS', sets)
    practice = {'robot manipulation': (('grey:PracticeGrey', 22),)}
    monkeypatch.setattr(stages, 'PRACTICE', practice)
    again = {'grey': 0.6, 'practicegrey': 0.4}
    few = {
        'naming': (12, {'grey': 1.0}),
        'sight': (12, {'grey': 1.0}),
        'answers': (8, {'greyquestions': 1.0, 'grey': 0.0}),
        'draft': (30, {'grey': 1.0}),
        'sharpen': (2, again),
        'settle': (2, again),
        'redraft': (2, again),
    }
    parts = {name: (few[name][0], fit, few[name][1]) for name, (_, fit, _) in stages.PARTS.items()}
    monkeypatch.setattr(stages, 'PARTS', parts)
    short = [
        replace(recipe, steps=2, batch=6, families=dict.fromkeys(families, 1.0))
        for recipe, families in zip(
            stages.RECIPES, (('synthetic', 'real'), sets, sets), strict=True
        )
    ]
    init = CHECKPOINT
    folder = stages.train_bundled(tmp_path, init, 'test', 1, short)
    model, tokenizer = from_pretrained(folder, 'cpu', 'float32'), load_tokenizer(folder)
    assert list(model.config.inputs.image_sizes) == list(stages.SIZES)
    assert model.config.decoder.readout_points == POINTS
    assert len(tokenizer) == model.config.backbone['text_config']['vocab_size']
    assert [robot.embodiment.name for robot in read_robots(folder)] == ['widowx']
    assert (folder / 'curves-cpt.png').stat().st_size
    told = json.loads((folder / 'training.json').read_text())
    assert list(told['stages']) == ['t2a', 'cpt', 'sft'] and told['text']
    logs = [(tmp_path / stage / 'log.jsonl').read_text() for stage in ('t2a', 'cpt', 'sft')]
    named = [json.loads(line) for line in (tmp_path / 'naming' / 'log.jsonl').open()]
    assert len(named) == 12 and named[-1]['named'] < 0.2 * named[0]['named']
    drafted = [json.loads(line) for line in (tmp_path / 'draft' / 'log.jsonl').open()]
    assert len(drafted) == 30 and drafted[-1]['draft'] < 0.5 * drafted[0]['draft']
    assert 0 < drafted[-1]['held_out']['grey']['error_told'] < 0.5
    sight = [json.loads(line) for line in (tmp_path / 'sight' / 'log.jsonl').open()]
    assert len(sight) == 12 and sight[-1]['pointing'] < 0.8 * sight[0]['pointing']
    again = [json.loads(line) for line in (tmp_path / 'sharpen' / 'log.jsonl').open()]
    assert list(again[-1]['held_out']) == ['grey', 'practicegrey']
    assert again[-1]['pointing'] < sight[0]['pointing']
    answers = [json.loads(line) for line in (tmp_path / 'answers' / 'log.jsonl').open()]
    assert len(answers) == 8 and answers[-1]['text'] < answers[0]['text']
    assert answers[0]['moved'] < 0.05 and 0 <= answers[-1]['held_out']['questions']['right'] <= 1
    assert '"pointing"' not in logs[0] and '"draft"' in logs[0]
    assert '"pointing"' in logs[1] and '"text"' in logs[1] and '"action"' in logs[1]
    # What is there is not trained again.
    trained = tmp_path / 'sft' / 'checkpoint' / 'model.safetensors'
    before = trained.stat().st_mtime_ns
    assert stages.train_bundled(tmp_path, init, 'test', 1, short) == folder
    assert trained.stat().st_mtime_ns == before


def test_a_held_tower_stays_as_it_is_while_the_readout_learns(tmp_path, grey):
    order = Order('grey:GreyMaker', SIZES, 5, 22)
    episodes = ShardEpisodes.load(order, render(order, tmp_path / 'data', 1))
    sets, shares = {'grey': episodes}, {'grey': 1.0}
    begun = stages.begin(CHECKPOINT, [DataSet.of('robot manipulation', episodes)], True)
    tower = begun.model.backbone.model.visual
    before = {name: weight.clone() for name, weight in tower.state_dict().items()}
    assert fit_sight(begun, sets, shares, 12, tmp_path / 'held', held=True) > 0
    assert all(torch.equal(weight, before[name]) for name, weight in tower.state_dict().items())
    told = [json.loads(line) for line in (tmp_path / 'held' / 'log.jsonl').open()]
    assert len(told) == 12 and told[-1]['pointing'] < 0.8 * told[0]['pointing']
    assert fit_sight(begun, sets, shares, 1, tmp_path / 'free') > 0
    assert any(not torch.equal(w, before[name]) for name, w in tower.state_dict().items())
