"""A checkpoint folder: what is saved is what infers, and what is broken is named."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from qwen_vla_ros.data.statistics import fingerprint
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.checkpoint import (
    TrainedRobot,
    from_pretrained,
    load_checkpoint,
    save_checkpoint,
)
from qwen_vla_ros.policy import PolicyMismatch, load_policy
from qwen_vla_ros.train.supervised import TrainRun, build_model
from qwen_vla_ros.transforms import Quantiles
from qwen_vla_ros.types import Observation

WIDOWX = Embodiment.load('widowx')


def span(names: tuple[str, ...]) -> Quantiles:
    return Quantiles(tuple(names), np.full(len(names), -0.5), np.full(len(names), 0.5))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Return a tiny checkpoint with random weights and the model that was saved."""
    folder = tmp_path_factory.mktemp('checkpoints') / 'tiny'
    model, tokenizer = build_model(TrainRun('tiny', (), 0), WIDOWX)
    for parameter in model.decoder.action_out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    statistics = {'actions': span(WIDOWX.action_names()), 'state': span(WIDOWX.state_names)}
    save_checkpoint(
        folder,
        model,
        tokenizer,
        [TrainedRobot(WIDOWX, 'abs_joint', statistics)],
        {'command': 'test'},
    )
    return folder, model


@pytest.fixture
def copy(saved, tmp_path):
    """Return a private copy of the folder to break."""
    return shutil.copytree(saved[0], tmp_path / 'copy')


def observation(instruction: str = 'touch the red block') -> Observation:
    rng = np.random.default_rng(0)
    return Observation(
        images={
            camera.view: rng.integers(0, 255, (camera.height, camera.width, 3), np.uint8)
            for camera in WIDOWX.cameras
        },
        state=np.linspace(-0.2, 0.2, len(WIDOWX.state_names), dtype=np.float32),
        state_names=WIDOWX.state_names,
        instruction=instruction,
        stamp_ns=123_000_000,
        embodiment='widowx',
    )


def test_weights_come_back_unchanged(saved):
    folder, model = saved
    loaded = load_checkpoint(folder, 'cpu').model.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded[name], value, atol=0, rtol=0)


def test_policy_answers_in_robot_order_from_the_observations_stamp(saved):
    policy = load_policy(saved[0], WIDOWX, 'cpu')
    chunk = policy.infer(observation())
    assert chunk.actions.shape == (16, 7)
    assert chunk.names == WIDOWX.action_names()
    assert (chunk.start_ns, chunk.step_s) == (123_000_000, pytest.approx(0.2))
    assert np.abs(chunk.actions).max() > 0


def test_an_episode_repeats_after_reset(saved):
    policy = load_policy(saved[0], WIDOWX, 'cpu')
    moments = [replace(observation(), stamp_ns=stamp) for stamp in (1, 2)]
    first = [policy.infer(moment).actions for moment in moments]
    policy.reset()
    again = [policy.infer(moment).actions for moment in moments]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_a_call_that_was_discarded_changes_nothing_for_those_after_it(saved):
    policy = load_policy(saved[0], WIDOWX, 'cpu')
    wanted = policy.infer(observation()).actions
    policy.infer(replace(observation(), stamp_ns=1))
    np.testing.assert_array_equal(policy.infer(observation()).actions, wanted)


def test_given_prefix_comes_back_as_the_first_rows(saved):
    policy = load_policy(saved[0], WIDOWX, 'cpu')
    prefix = np.linspace(-0.3, 0.3, 14, dtype=np.float32).reshape(2, 7)
    np.testing.assert_allclose(policy.infer(observation(), prefix).actions[:2], prefix, atol=1e-6)


def test_a_batch_of_different_lengths_equals_one_by_one(saved):
    loaded = load_checkpoint(saved[0], 'cpu')
    samples = [
        loaded.robot().pipeline.forward(
            {'images': o.images, 'state': o.state, 'instruction': o.instruction}
        )
        for o in (observation(), observation('go to the very orange and rather purple can'))
    ]
    assert len({len(sample['input_ids']) for sample in samples}) == 2
    noise = torch.randn(loaded.model.noise_shape(2), generator=torch.Generator().manual_seed(0))
    together = loaded.model.sample_actions(loaded.model.collate(samples), 4, noise)
    for index, sample in enumerate(samples):
        alone = loaded.model.sample_actions(
            loaded.model.collate([sample]), 4, noise[index : index + 1]
        )
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=0)


def test_half_precision_on_disk_is_stated_and_loads(saved, tmp_path):
    _, model = saved
    loaded = load_checkpoint(saved[0], 'cpu')
    tokenizer = loaded.robot().pipeline.steps[-1].processor.tokenizer
    statistics = {'actions': span(WIDOWX.action_names()), 'state': span(WIDOWX.state_names)}
    folder = tmp_path / 'half'
    save_checkpoint(
        folder,
        model,
        tokenizer,
        [TrainedRobot(WIDOWX, 'abs_joint', statistics)],
        {},
        torch.float16,
    )
    again = load_checkpoint(folder, 'cpu').model.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again[name], value, atol=1e-3, rtol=1e-3)
    size = (folder / 'model.safetensors').stat().st_size
    assert size < 0.6 * (saved[0] / 'model.safetensors').stat().st_size


def test_truncated_weights_are_named(copy):
    weights = copy / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(QwenVlaError, match='model.safetensors.*truncated'):
        load_policy(copy, WIDOWX, 'cpu')


@pytest.mark.parametrize('name', ['config.json', 'statistics.json', 'model.safetensors'])
def test_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(QwenVlaError, match=name):
        load_policy(copy, WIDOWX, 'cpu')


@pytest.mark.parametrize('broken', [False, True])
def test_a_tokenizer_that_is_not_there_is_named(copy, broken):
    (copy / 'tokenizer.json').unlink()
    if broken:
        (copy / 'tokenizer.json').write_text('{"version": "1.0", "model": 3}')
    with pytest.raises(QwenVlaError, match='tokenizer.json: ' + ('not a' if broken else 'the fi')):
        load_policy(copy, WIDOWX, 'cpu')


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(QwenVlaError, match='no such folder'):
        load_policy(tmp_path / 'nowhere', WIDOWX, 'cpu')


def test_unknown_config_key_is_named(copy):
    data = json.loads((copy / 'config.json').read_text())
    data['decoder']['widht'] = 3
    (copy / 'config.json').write_text(json.dumps(data))
    with pytest.raises(QwenVlaError, match='widht'):
        load_policy(copy, WIDOWX, 'cpu')


def test_nan_in_statistics_is_named(copy):
    path = copy / 'statistics.json'
    data = json.loads(path.read_text())
    data['widowx']['abs_joint']['actions']['elbow'][1] = float('nan')
    path.write_text(json.dumps(data))
    with pytest.raises(QwenVlaError, match='statistics: elbow'):
        load_policy(copy, WIDOWX, 'cpu')


def test_it_says_which_statistics_it_was_trained_with_and_refuses_others(copy):
    path = copy / 'statistics.json'
    told = json.loads((copy / 'training.json').read_text())['statistics_sha256']['widowx']
    table = json.loads(path.read_text())
    for key, quantiles in table['widowx']['abs_joint'].items():
        low, high = zip(*quantiles.values(), strict=True)
        assert told[key] == fingerprint('widowx', list(quantiles), low, high)
    table['widowx']['abs_joint']['state']['waist'][1] += 1e-9
    path.write_text(json.dumps(table))
    with pytest.raises(QwenVlaError, match='widowx: not the statistics that it was trained'):
        load_policy(copy, WIDOWX, 'cpu')


def test_statistics_in_another_order_are_refused(copy):
    path = copy / 'statistics.json'
    data = json.loads(path.read_text())
    table = data['widowx']['abs_joint']['actions']
    data['widowx']['abs_joint']['actions'] = dict(reversed(table.items()))
    path.write_text(json.dumps(data))
    with pytest.raises(QwenVlaError, match='names'):
        load_policy(copy, WIDOWX, 'cpu')


def test_checkpoint_of_another_robot_is_refused_by_name(saved, tmp_path):
    text = WIDOWX.text.replace('rate_hz: 5.0', 'rate_hz: 10.0', 1)
    path = tmp_path / 'other.yaml'
    path.write_text(text)
    other = Embodiment.load(path)
    assert other.rate_hz == 10.0
    with pytest.raises(PolicyMismatch, match='rate_hz: the policy has 5.0, the robot 10.0'):
        load_policy(saved[0], other, 'cpu')


def test_saving_over_a_checkpoint_replaces_it_whole(saved, copy):
    loaded = load_checkpoint(copy, 'cpu')
    (copy / 'stale.txt').write_text('old')
    tokenizer = loaded.robot().pipeline.steps[-1].processor.tokenizer
    statistics = {'actions': span(WIDOWX.action_names()), 'state': span(WIDOWX.state_names)}
    save_checkpoint(
        copy,
        saved[1],
        tokenizer,
        [TrainedRobot(WIDOWX, 'abs_joint', statistics)],
        {'command': 'b'},
    )
    told = json.loads((copy / 'training.json').read_text())
    assert told.keys() == {'command', 'statistics_sha256'}
    assert told['command'] == 'b'
    assert not (copy / 'stale.txt').exists()
    assert [path.name for path in copy.parent.iterdir()] == ['copy']


def test_shards_run_as_one_file_does(saved, tmp_path):
    folder, model = saved
    tokenizer = load_checkpoint(folder, 'cpu').robot().pipeline.steps[-1].processor.tokenizer
    statistics = {'actions': span(WIDOWX.action_names()), 'state': span(WIDOWX.state_names)}
    shards = tmp_path / 'shards'
    save_checkpoint(
        shards,
        model,
        tokenizer,
        [TrainedRobot(WIDOWX, 'abs_joint', statistics)],
        {},
        shard_bytes=300_000,
    )
    assert len(list(shards.glob('model-*.safetensors'))) > 3
    one, many = (load_policy(f, WIDOWX, 'cpu').infer(observation()) for f in (folder, shards))
    np.testing.assert_array_equal(one.actions, many.actions)


def test_without_statistics_the_weights_load_and_no_robot_moves(saved, tmp_path):
    folder, model = saved
    tokenizer = load_checkpoint(folder, 'cpu').robot().pipeline.steps[-1].processor.tokenizer
    fresh = tmp_path / 'fresh'
    save_checkpoint(fresh, model, tokenizer, [TrainedRobot(WIDOWX, 'abs_joint', None)], {})
    again = from_pretrained(fresh, 'cpu').state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again[name], value, atol=0, rtol=0)
    with pytest.raises(QwenVlaError, match='statistics.json.*cannot turn numbers into motion'):
        load_policy(fresh, WIDOWX, 'cpu')


def test_the_class_loads_itself(saved):
    model = type(saved[1]).from_pretrained(saved[0], device='cpu', dtype='bfloat16')
    assert model.decoder.context_in.weight.dtype == torch.bfloat16
    assert not model.training


def test_a_config_that_asks_for_the_other_attention_is_refused_unless_told(copy):
    data = json.loads((copy / 'config.json').read_text())
    data['decoder']['attention'] = 'joint'
    (copy / 'config.json').write_text(json.dumps(data))
    with pytest.raises(QwenVlaError, match="trained with 'prefix' attention.*asks for 'joint'"):
        load_policy(copy, WIDOWX, 'cpu')
    policy = load_policy(copy, WIDOWX, 'cpu', attention='joint')
    assert policy.metadata['attention'] == 'joint'


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_infers_nearly_the_same(saved, dtype):
    exact = load_policy(saved[0], WIDOWX, 'cpu').infer(observation()).actions
    policy = load_policy(saved[0], WIDOWX, 'cpu', dtype=dtype)
    half = policy.infer(observation()).actions
    assert 0 < np.abs(half - exact).max() < 0.02


def test_another_attention_is_used_only_when_named(saved):
    own = load_checkpoint(saved[0], 'cpu')
    assert own.model.config.decoder.attention == own.robot().metadata['attention'] == 'prefix'
    assert 'trained_attention' not in own.robot().metadata
    told = load_checkpoint(saved[0], 'cpu', attention='joint')
    assert told.model.config.decoder.attention == told.robot().metadata['attention'] == 'joint'
    assert told.robot().metadata['trained_attention'] == 'prefix'
