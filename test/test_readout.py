"""The readout: which token is where, what a decoder is told, and that pointing can be learnt."""

import dataclasses

import numpy as np
import pytest
import torch

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.engine import Engine
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.readout import LEARNT_APART, token_places
from qwen_vla_ros.model.scene import Scene
from qwen_vla_ros.train.mixed_batch import collate_mixed, generator_of
from qwen_vla_ros.train.pointing import pointing_losses, points_of, told_of

POINTS = ('ego/target', 'ego/hand', 'cam_right_wrist/target')
VALUES = ('target_x', 'target_y')
GRIDS = np.array([[1, 8, 12], [1, 4, 4]])  # 4 x 6 and 2 x 2 tokens
IMAGE = 100


def config(**changes):
    plain = preset('tiny')
    given = {'readout_points': POINTS, 'readout_queries': 2, 'readout_values': VALUES}
    given = {**given, 'readout_draft': True, **changes}
    return dataclasses.replace(plain, decoder=dataclasses.replace(plain.decoder, **given))


def build(**changes) -> QwenVLA:
    torch.manual_seed(0)
    model = QwenVLA(config(**changes))
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def sample(seed: int = 0, words: int = 5, views=('ego', 'cam_right_wrist')) -> dict:
    """Return an encoded sample of the views; without views words alone."""
    rng = np.random.default_rng(seed)
    grids = GRIDS[: len(views)]
    images = [t for _, r, c in grids for t in (101, *[IMAGE] * (r * c // 4), 102)]
    ids = np.array([*rng.integers(1, 90, words), *images])
    mask = np.zeros((16, 32), bool)
    mask[:, :7] = True
    return {
        'input_ids': ids,
        'mm_token_type_ids': (ids == IMAGE).astype(np.int64),
        'pixel_values': rng.integers(
            0, 256, (int((grids[:, 1] * grids[:, 2]).sum()), 192), np.uint8
        ),
        'image_grid_thw': grids,
        'image_views': tuple(views),
        'state': rng.normal(size=32).astype(np.float32),
        'actions': (rng.uniform(-1, 1, (16, 32)) * mask).astype(np.float32),
        'action_mask': mask,
        'points': places(),
        'values': np.array([seed - 1.5, np.nan], np.float32),
    }


def places(first=(0.9, 0.1)) -> np.ndarray:
    return np.array([first, [np.nan, np.nan], [0.3, 0.8]], np.float32)


def test_a_token_knows_its_view_and_its_place():
    item = sample(words=3)
    is_image = item['mm_token_type_ids'].astype(bool)[None]
    found = token_places(is_image, [37], [item], ('cam_right_wrist', 'ego'), 2)
    assert found['text_end'] == [1]  # another token stands before the image
    view, place = found['token_view'][0], found['token_place'][0]
    assert (view[:4] == -1).all() and (view[4:28] == 1).all() and (view[30:34] == 0).all()
    np.testing.assert_allclose(place[4], [0.5 / 6, 0.5 / 4, 1 / 6, 1 / 4])
    np.testing.assert_allclose(place[27], [5.5 / 6, 3.5 / 4, 1 / 6, 1 / 4])
    np.testing.assert_allclose(place[31], [0.75, 0.25, 0.5, 0.5])
    plain = token_places(np.zeros((1, 4), bool), [3], [{'input_ids': item['input_ids']}], (), 2)
    assert {key: value.tolist() for key, value in plain.items()} == {'text_end': [2]}


def test_points_lie_in_their_own_view_and_a_view_that_is_not_there_shows_none():
    model = build()
    batch = model.collate([sample(0), sample(1, views=('ego',))])
    found = model.context(batch).found
    chosen = found.logits_BPT1[..., :-1] > -torch.inf
    view = batch['token_view']
    assert torch.equal(
        chosen[0, 2], view[0] == list(model.config.inputs.image_sizes).index('cam_right_wrist')
    )
    assert chosen[0, 0].sum() == 24 and chosen[0, 2].sum() == 4 and not chosen[1, 2].any()
    assert found.seen_BP[1, 2] == 0 and (found.seen_BP[0] > 0).all()
    inside = (found.place_BP2 > -0.3) & (found.place_BP2 < 1.3)
    assert inside[0].all() and found.place_BP2.isfinite().all()


def test_padding_and_company_change_nothing():
    model = build()
    items = [sample(0), sample(1, words=9), sample(2, words=2)]
    noise = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(1))
    together = model.sample_actions(model.collate(items), noise=noise)
    for index, item in enumerate(items):
        alone = model.sample_actions(model.collate([item]), noise=noise[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-4, rtol=0)


def test_the_engine_gives_what_the_model_gives():
    model = build()
    engine = Engine(model)
    noise = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(1))
    for seed in (0, 1):
        item = {**sample(seed), 'stable_tokens': 5}
        plain = model.sample_actions(model.collate([item]), noise=noise)
        torch.testing.assert_close(engine.sample_actions([item], noise), plain, atol=5e-4, rtol=0)


def test_without_pictures_the_points_are_told_and_matter():
    model = build()
    items = [
        {**sample(0, views=()), 'told': places(), 'told_values': places()[0]} for _ in range(2)
    ]
    items[1]['told'] = places([0.2, 0.1])
    batch = collate_mixed(model, items, [])
    context = model.context(batch)
    assert context.found is None and context.tokens_BTD.shape[1] == len(POINTS) + 2 + 2 + 1
    one, other = model.sample_actions(batch, noise=torch.zeros(2, 16, 32))
    assert not torch.allclose(one, other)
    del batch['told']
    with pytest.raises(ValueError, match='no picture and tells none'):
        model.context(batch)


def test_what_is_told_stands_in_for_what_is_seen_and_inf_leaves_it():
    model = build()
    plain = collate_mixed(model, [sample(0)], [])
    seen = model.context(plain).tokens_BTD
    nothing = {'told_values': torch.full((1, 2), torch.inf)}
    silent = {**plain, 'told': torch.full((1, 3, 2), torch.inf), **nothing}
    torch.testing.assert_close(model.context(silent).tokens_BTD, seen)
    told = silent['told'].clone()
    told[0, 1] = torch.tensor([0.2, 0.2])
    changed = (model.context({**silent, 'told': told}).tokens_BTD - seen).abs().amax(-1)[0] > 1e-6
    assert changed.tolist()[:5] == [False, True, False, True, True]  # that point, and the geometry


def test_where_the_blocks_add_nothing_every_noise_ends_at_the_draft():
    model = build()
    for part in (model.decoder.action_out[2].weight, model.decoder.action_out[2].bias):
        torch.nn.init.zeros_(part)
    items = [sample(0), sample(1)]
    batch = model.collate(items)
    draft = model.context(batch).drafted(16) * batch['action_mask']
    for seed in (0, 1):
        noise = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(
            model.sample_actions(batch, noise=noise), draft, atol=1e-5, rtol=0
        )
    assert draft.abs().mean() > 0.01
    # So the step that explores is the last one.
    make = torch.Generator().manual_seed(0)
    found, step = model.explore(batch, generator=make, noise_level=0.1, smooth=0.5)
    assert (step.tau_after == 0).all() and (step.noise_level, step.smooth) == (0.1, 0.5)
    away = (found - draft)[batch['action_mask']]
    assert 0.01 < away.std() < 0.1
    longer = model.context(batch).drafted(20)
    assert torch.equal(longer[:, 15:], longer[:, 15:16].expand(-1, 5, -1))


def test_what_finds_and_drafts_can_be_held_while_the_rest_learns():
    readout = build().decoder.readout
    readout.hold()
    learn = {name.partition('.')[0] for name, p in readout.named_parameters() if p.requires_grad}
    assert learn.isdisjoint(LEARNT_APART) and {'geometry', 'where', 'queries'} <= learn


def test_pointing_is_learnt_and_so_is_that_there_is_nothing():
    torch.manual_seed(0)
    model = QwenVLA(config())
    items = [sample(seed) for seed in range(4)]
    items[1]['points'] = np.array([[0.1, 0.9], [0.5, 0.5], [np.nan, np.nan]], np.float32)
    items[2]['points'] = np.array([[np.inf, np.inf], [0.2, 0.7], [np.inf, np.inf]], np.float32)
    batch = collate_mixed(model, items, [])
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(250):
        losses = pointing_losses(
            model.context(batch).found, batch['points'], batch['values'], batch
        )
        optimiser.zero_grad()
        losses.mean().backward()
        optimiser.step()
    found, told = model.context(batch).found, batch['points']
    torch.testing.assert_close(found.values_BV[:, 0], batch['values'][:, 0], atol=0.2, rtol=0)
    assert (found.known_BV[:, 0] > 1).all() and (found.known_BV[:, 1] < -1).all()
    there = told.isfinite().all(-1)
    torch.testing.assert_close(found.place_BP2[there], told[there], atol=0.03, rtol=0)
    assert (found.seen_BP[there] > 0.9).all() and (found.seen_BP[told.isnan().any(-1)] < 0.1).all()
    nobody = torch.full_like(told, torch.inf)
    assert pointing_losses(found, nobody, batch['values'], batch).tolist() == [0.0] * 4


def test_told_points_stray_by_their_seed_and_what_is_not_there_stays_away():
    told = torch.tensor(points_of({'ego/target': (0.5, 0.5), 'ego/hand': None}, POINTS))
    assert told[1].isnan().all() and told[2].isinf().all()
    values = torch.tensor([3.0, torch.nan])
    both = [told_of(told, values, 1.0, generator_of((0, draw))) for draw in range(400)]
    many = [points for points, _ in both]
    again = told_of(told, values, 1.0, generator_of((0, 7)))
    torch.testing.assert_close(again, both[7], equal_nan=True)
    guessed = torch.stack([value for _, value in both])
    assert guessed[:, 1].isnan().all() and guessed[:, 0].mean() == pytest.approx(3.0, abs=0.02)
    assert 0.03 < guessed[:, 0].std() < 0.09
    kept = torch.stack([one[0] for one in many if one[0].isfinite().all()])
    assert 0.85 < len(kept) / 400 < 0.95
    assert kept.std(0).numpy() == pytest.approx([0.012, 0.012], rel=0.2)
    assert all(one[1].isnan().all() and one[2].isinf().all() for one in many)
    some = [told_of(told, values, 0.4, generator_of((0, n)))[1].isinf().all() for n in range(400)]
    assert 0.5 < np.mean(some) < 0.7


@pytest.mark.parametrize(
    'changes, said',
    [
        ({'readout_queries': 0}, 'give both or none'),
        ({'readout_points': ('side/target',)}, r"'side/target': the views are \['ego', "),
        ({'joint_actions': 'delta'}, "decoder.joint_actions: 'delta' is not one of"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, said):
    with pytest.raises(QwenVlaError, match=said):
        build(**changes)


def test_points_need_the_words_before_the_pictures():
    plain = config()
    inputs = dataclasses.replace(plain.inputs, order='images_first')
    with pytest.raises(QwenVlaError, match="set inputs.order: 'prompt_first'"):
        dataclasses.replace(plain, inputs=inputs)


HANDS = ('target_x', 'target_z', 'left_hand_x', 'left_hand_z')


def test_where_a_hand_is_follows_from_the_joints_whatever_is_told():
    model = build(readout_values=HANDS)
    readout = model.decoder.readout
    assert readout.pairs == [(0, 2), (1, 3)] and readout.hands == [2, 3]
    batch = collate_mixed(model, [{**sample(0), 'values': np.zeros(4, np.float32)}], [])
    found = model.context(batch).found
    words = torch.randn(1, 2 * model.config.backbone['text_config']['hidden_size'])
    points, state = torch.tensor(places())[None], batch['state']

    def draft(values: tuple[float, ...], joints: torch.Tensor) -> torch.Tensor:
        return readout.draft_from(Scene.told(points, torch.tensor([values])), joints, words)

    plain = draft((1.0, 2.0, 0.0, 0.0), state)
    assert torch.equal(draft((1.0, 2.0, 9.0, torch.nan), state), plain)
    assert not torch.allclose(draft((1.5, 2.0, 0.0, 0.0), state), plain, atol=1e-4)
    assert not torch.allclose(draft((1.0, 2.0, 0.0, 0.0), state + 0.5), plain, atol=1e-4)
    assert found.values_BV.shape == (1, 4) and found.values_BV.isfinite().all()


def test_to_which_side_a_base_turns_follows_from_its_motion_and_whether_from_the_picture():
    model = build(readout_values=('target_x', 'turn'))
    item, moved = sample(0), sample(0)
    moved['state'] = moved['state'] + 0.01  # of the normalised range
    other = {**item, 'pixel_values': item['pixel_values'][::-1].copy()}
    found = model.context(model.collate([item, other, moved])).found
    side, known = found.values_BV[:, 1], found.known_BV[:, 1]
    assert model.decoder.readout.sides == [1]
    assert torch.isclose(side[0], side[1], atol=1e-4) and abs(side[2] - side[0]) > 1e-2
    assert not torch.allclose(known[0], known[1], atol=1e-4)
    assert not hasattr(build().decoder.readout, 'side')
    assert not hasattr(build(readout_values=('turn',), state_input='text').decoder.readout, 'side')


def test_words_unlike_all_that_were_met_stay_near():
    readout = build().decoder.readout
    with torch.no_grad():
        readout.words_middle.fill_(1.0)
        readout.words_scale.fill_(100.0)
    spread = readout.standardised(torch.tensor([0.99, 1.0, 1.02, 5.0])[:, None])
    assert spread[:, 0].tolist() == pytest.approx([-1.0, 0.0, 2.0, 4.0], abs=1e-3)


def looking(**changes) -> QwenVLA:
    return build(readout_layers=2, **changes)


def test_layers_over_the_pictures_tell_values_by_words_and_state():
    model = looking()
    items = [sample(0), sample(0)]
    batch = model.collate(items)
    plain = model.context(batch).found.values_BV
    # The same sums, but a row's place in the batch may change their order on some CPUs.
    torch.testing.assert_close(plain[0], plain[1], rtol=1e-5, atol=1e-5)
    pictures = model.collate(
        [sample(0), {**items[1], 'pixel_values': items[1]['pixel_values'][::-1].copy()}]
    )
    turned = model.context(pictures).found.values_BV
    torch.testing.assert_close(turned[0], plain[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(turned[1], plain[1], atol=1e-3)
    look = model.decoder.readout.look
    asked = torch.randn(1, look.asked.in_features)
    seen, place = torch.randn(1, 6, look.token.in_features), torch.rand(1, 6, 4)
    view = torch.tensor([[0, 0, 0, 1, 1, -1]])
    told = look(seen, asked, view, place)
    assert told.shape == (1, look.outside)
    other = seen.clone()
    other[:, 5] = 9.0  # a token of words does not count
    torch.testing.assert_close(look(other, asked, view, place), told)
    for changed in (
        look(seen.flip(1), asked, view, place),
        look(seen, asked + 0.5, view, place),
        look(seen, asked, view, 1 - place),
        look(seen, asked, torch.tensor([[1, 1, 1, 0, 0, -1]]), place),
    ):
        assert not torch.allclose(changed, told, atol=1e-3)


def test_layers_over_the_pictures_take_padding_company_and_pictures_that_are_not_there():
    model = looking()
    items = [sample(0), sample(1, words=9), sample(2, words=2, views=('ego',))]
    together = model.context(model.collate(items)).found
    for index, item in enumerate(items):
        alone = model.context(model.collate([item])).found
        torch.testing.assert_close(
            together.values_BV[index], alone.values_BV[0], atol=1e-4, rtol=0
        )
    assert not hasattr(build().decoder.readout, 'look')


def test_layers_over_the_pictures_give_the_same_in_training_and_are_held_with_what_finds():
    model = looking()
    batch = model.collate([sample(0), sample(1, words=9)])
    with torch.no_grad():
        quick = model.context(batch).found.values_BV
    slow = model.train().context(batch).found.values_BV
    torch.testing.assert_close(slow, quick, atol=1e-4, rtol=0)
    slow.sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.decoder.readout.look.parameters())
    model.decoder.readout.hold()
    assert not any(w.requires_grad for w in model.decoder.readout.look.parameters())
