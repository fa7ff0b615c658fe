"""Safetensors in shards: what is written comes back, and what is broken is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qwen_vla_ros.model.weights import (
    INDEX,
    CheckpointError,
    StoredWeights,
    load_weights,
    own_tensors,
    save_weights,
)

CPU = (torch.device('cpu'), torch.float32)


class Tied(nn.Module):
    """An embedding, a linear layer, and a head that is the embedding."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(10, 4)
        self.middle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer('count', torch.tensor([seed], dtype=torch.int64))


@pytest.fixture
def sharded(tmp_path):
    """Return a folder with the tensors of Tied(1), 100 bytes a shard."""
    save_weights(own_tensors(Tied(1)), tmp_path, torch.float32, 100)
    return tmp_path


def break_index(folder, **changes):
    index = json.loads((folder / INDEX).read_text())
    index['weight_map'].update(changes)
    (folder / INDEX).write_text(json.dumps(index))


def test_shards_have_the_layout_of_hugging_face(sharded):
    index = json.loads((sharded / INDEX).read_text())
    assert index['weight_map'] == {
        'count': 'model-00001-of-00003.safetensors',
        'embedding.weight': 'model-00002-of-00003.safetensors',
        'middle.bias': 'model-00003-of-00003.safetensors',
        'middle.weight': 'model-00003-of-00003.safetensors',
    }
    assert index['metadata'] == {'total_size': 160 + 64 + 16 + 8}
    assert set(load_file(sharded / 'model-00002-of-00003.safetensors')) == {'embedding.weight'}


def test_shards_come_back_and_stay_tied(sharded):
    model = Tied(2)
    report = load_weights(model, sharded)
    for name, value in Tied(1).state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=0, rtol=0)
    assert model.head.weight is model.embedding.weight
    assert report.complete
    assert sorted(report.loaded) == ['count', 'embedding.weight', 'middle.bias', 'middle.weight']


def test_a_model_without_memory_gets_new_tensors_of_the_asked_dtype(sharded):
    with torch.device('meta'):
        model = Tied(2)
    load_weights(model, sharded, place=(torch.device('cpu'), torch.bfloat16))
    assert model.middle.weight.dtype == torch.bfloat16
    assert model.count.dtype == torch.int64
    assert model.head.weight is model.embedding.weight
    assert not any(value.is_meta for value in model.state_dict().values())


def test_a_loaded_model_does_not_depend_on_its_files(sharded):
    with torch.device('meta'):
        model = Tied(2)
    load_weights(model, sharded, place=CPU)
    before = model.embedding.weight.detach().clone()
    for shard in sharded.glob('*.safetensors'):
        with shard.open('r+b') as file:
            file.write(b'\xff' * shard.stat().st_size)
    assert torch.equal(model.embedding.weight, before)


def test_what_fits_one_shard_is_one_file(tmp_path):
    save_weights(own_tensors(Tied(1)), tmp_path, torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ['model.safetensors']
    assert load_file(tmp_path / 'model.safetensors')['middle.weight'].dtype == torch.float16


def test_a_lost_shard_is_named(sharded):
    (sharded / 'model-00002-of-00003.safetensors').unlink()
    with pytest.raises(CheckpointError, match='model-00002-of-00003.safetensors: the file is mis'):
        load_weights(Tied(2), sharded)


def test_a_truncated_shard_is_named(sharded):
    shard = sharded / 'model-00001-of-00003.safetensors'
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match='model-00001-of-00003.safetensors: truncated'):
        load_weights(Tied(2), sharded)


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'middle.bias': 'model-00001-of-00003.safetensors'}, "'middle.bias' is in model-00001"),
        ({'absent': 'model-00001-of-00003.safetensors'}, "'absent' is not in it"),
        ({'middle.bias': '../model.safetensors'}, 'is not a file name'),
    ],
)
def test_an_index_that_lies_is_refused(sharded, changes, says):
    break_index(sharded, **changes)
    with pytest.raises(CheckpointError, match=says):
        StoredWeights(sharded)


def test_an_index_without_a_map_is_refused(sharded):
    (sharded / INDEX).write_text('{"weight_map": [1]}')
    with pytest.raises(CheckpointError, match='not an index of shards'):
        StoredWeights(sharded)


@pytest.mark.parametrize('wrong', [float('nan'), float('inf')])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, wrong):
    model = Tied(1)
    model.middle.bias.data[2] = wrong
    save_weights(own_tensors(model), tmp_path, torch.float32)
    with pytest.raises(CheckpointError, match=r"'middle.bias' holds numbers that are not finite"):
        load_weights(Tied(2), tmp_path)


def partial(tmp_path):
    path = tmp_path / 'partial.safetensors'
    tensors = {
        'embedding.weight': torch.ones(10, 4),
        'middle.weight': torch.ones(5, 4),
        'foreign': torch.ones(1),
        'count': torch.tensor([7]),
    }
    save_file(tensors, path)
    return path


def test_a_partial_file_is_refused_before_anything_changes(tmp_path):
    model = Tied(2)
    with pytest.raises(CheckpointError, match=r"1 tensors missing, first 'middle.bias'"):
        load_weights(model, partial(tmp_path))
    for name, value in Tied(2).state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=0, rtol=0)


def test_a_partial_load_that_is_allowed_is_told_by_name(tmp_path):
    model = Tied(2)
    report = load_weights(model, partial(tmp_path), allow_partial=True)
    assert report.loaded == ['count', 'embedding.weight']
    assert report.missing == ['middle.bias']
    assert report.unknown == ['foreign']
    assert report.other_size == {'middle.weight': '[5, 4], here [4, 4]'}
    assert model.count.item() == 7
    torch.testing.assert_close(model.middle.weight, Tied(2).middle.weight, atol=0, rtol=0)
    lines = report.table().splitlines()
    assert lines[1].split() == ['loaded', '2', 'count,', 'embedding.weight']
    assert lines[3].split(maxsplit=3) == [
        'other',
        'size',
        '1',
        'middle.weight ([5, 4], here [4, 4])',
    ]
