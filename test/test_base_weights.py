"""Released Qwen3.5 weights: a release of our own goes in unchanged and comes out again."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    Qwen3_5Config,
    Qwen3_5ForCausalLM,
    Qwen3_5ForConditionalGeneration,
)

from qwen_vla_ros import cli
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.ask import require_text
from qwen_vla_ros.model.base_weights import (
    EMBEDDING,
    backbone_name,
    export_backbone,
    grow_rows,
    refuse_other_architecture,
)
from qwen_vla_ros.model.checkpoint import from_pretrained
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.initialise import initialise, load_decoder, save_decoder
from qwen_vla_ros.model.processor import Processor, train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.weights import CheckpointError
from qwen_vla_ros.policy import load_policy

VIEWS = list(preset('tiny').inputs.image_sizes)


def release(folder, rows=512, kind=Qwen3_5ForConditionalGeneration):
    """Write a tiny release as transformers does; its tokenizer has no view tokens."""
    torch.manual_seed(1)
    tokenizer = train_tokenizer(['touch the red block', 'go to the can'], 300, [])
    backbone = preset('tiny').to_dict()['backbone']
    backbone['text_config']['vocab_size'] = rows
    config = Qwen3_5Config(**backbone)
    model = kind(config if kind is Qwen3_5ForConditionalGeneration else config.text_config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp('release')
    model, tokenizer = release(folder)
    return folder, model, tokenizer


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize(
    ('released_name', 'ours'),
    [
        ('model.language_model.layers.0.mlp.up_proj.weight',) * 2,
        ('model.visual.blocks.0.attn.qkv.weight',) * 2,
        ('lm_head.weight',) * 2,
        ('model.layers.3.mlp.up_proj.weight', 'model.language_model.layers.3.mlp.up_proj.weight'),
        ('model.embed_tokens.weight', EMBEDDING),
        ('model.norm.weight', 'model.language_model.norm.weight'),
        ('mtp.layers.0.input_layernorm.weight', None),
        ('model.mtp.norm.weight', None),
    ],
)
def test_key_map(released_name, ours):
    assert backbone_name(released_name) == ours


def test_a_release_goes_in_unchanged(released):
    folder, theirs, tokenizer = released
    made = initialise('tiny', folder, 'cpu')
    ids, known = torch.tensor([[5, 40, 7, 99, 200]]), len(tokenizer)
    assert made.report.complete
    own = logits(made.model.backbone, ids)
    torch.testing.assert_close(own[..., :known], logits(theirs, ids)[..., :known])
    for name, value in theirs.model.visual.state_dict().items():
        own = made.model.backbone.model.visual.state_dict()[name]
        torch.testing.assert_close(own, value, atol=0, rtol=0)


def test_our_backbone_comes_out_as_a_release(released, tmp_path):
    made = initialise('tiny', released[0], 'cpu')
    export_backbone(made.model, tmp_path, made.tokenizer)
    theirs = Qwen3_5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[5, 40, 7, 99, 200]])
    torch.testing.assert_close(logits(theirs, ids), logits(made.model.backbone, ids))
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == made.tokenizer.get_vocab()


def test_view_tokens_take_spare_rows_with_the_mean_of_the_used(released):
    folder, theirs, tokenizer = released
    made = initialise('tiny', folder, 'cpu')
    known = len(tokenizer)
    new = made.tokenizer.convert_tokens_to_ids([f'<|{VIEWS[0]}_start|>', f'<|{VIEWS[0]}_end|>'])
    assert new == [known, known + 1]
    old = theirs.get_input_embeddings().weight
    own = made.model.backbone.get_input_embeddings().weight
    assert own.shape == old.shape
    torch.testing.assert_close(own[known], old[:known].mean(0))
    torch.testing.assert_close(own[:known], old[:known], atol=0, rtol=0)
    assert '4 new words, 4 in spare rows' in made.report.resized[EMBEDDING]
    assert '4 new words' in made.report.table()


def test_past_frames_have_tokens_of_their_own(released):
    config = preset('tiny')
    inputs = replace(config.inputs, history_frames=2)
    made = initialise(replace(config, inputs=inputs), released[0], 'cpu')
    vocabulary = made.tokenizer.get_vocab()
    assert {'<|history_start|>', '<|history_end|>'} < set(vocabulary)
    assert '6 new words' in made.report.resized[EMBEDDING]
    Processor(made.tokenizer, made.model.config)


def test_a_full_table_grows(tmp_path):
    _, tokenizer = release(tmp_path / 'first')
    theirs, _ = release(tmp_path / 'full', rows=len(tokenizer) + 1)
    made = initialise('tiny', tmp_path / 'full', 'cpu')
    own = made.model.backbone.get_input_embeddings().weight
    known = len(tokenizer)
    assert own.shape[0] == known + 4
    assert made.model.config.backbone['text_config']['vocab_size'] == known + 4
    assert made.model.backbone.lm_head.weight is own
    mean = theirs.get_input_embeddings().weight[:known].mean(0)
    torch.testing.assert_close(own[known:], mean.expand(4, -1))
    assert '4 new words, 1 in spare rows' in made.report.resized[EMBEDDING]


def test_grown_rows_by_hand():
    old = torch.tensor([[1.0], [3.0], [50.0]])
    grown = grow_rows(old, 5, [2, 3], known=2)
    assert grown.flatten().tolist() == [1.0, 3.0, 2.0, 2.0, 2.0]


def test_multi_token_prediction_is_left_out_by_name(released, tmp_path):
    folder, _, tokenizer = released
    weights = load_file(folder / 'model.safetensors')
    save_file({**weights, 'mtp.norm.weight': torch.ones(32)}, tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text((folder / 'config.json').read_text())
    tokenizer.save_pretrained(tmp_path)
    report = initialise('tiny', tmp_path, 'cpu').report
    assert report.left_out == ['mtp.norm.weight']
    assert report.complete


def test_a_text_only_release_is_partial(tmp_path):
    theirs, tokenizer = release(tmp_path, kind=Qwen3_5ForCausalLM)
    with pytest.raises(CheckpointError, match='tensors missing, first .model.visual'):
        initialise('tiny', tmp_path, 'cpu')
    made = initialise('tiny', tmp_path, 'cpu', allow_partial=True)
    assert all(name.startswith('model.visual.') for name in made.report.missing)
    ids, known = torch.tensor([[5, 40, 7]]), len(tokenizer)
    own = logits(made.model.backbone, ids)
    torch.testing.assert_close(own[..., :known], logits(theirs, ids)[..., :known])
    assert all(torch.isfinite(value).all() for value in made.model.parameters())
    half = initialise('tiny', tmp_path, 'cpu', 'bfloat16', allow_partial=True).model
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in half.buffers()} == {torch.float32}


def test_another_architecture_is_refused_by_name(released, tmp_path):
    folder, _, _ = released
    data = json.loads((folder / 'config.json').read_text())
    data['text_config']['rope_parameters']['rope_theta'] = 5e5
    data['vision_config']['depth'] = 3
    (tmp_path / 'config.json').write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match='rope_parameters.*vision.depth: the preset has 1,'):
        initialise('tiny', tmp_path, 'cpu')


def test_the_4b_preset_is_the_released_configuration(tmp_path):
    """What config.json of the 4B release says, as far as it decides the computation."""
    rope = {'mrope_interleaved': True, 'mrope_section': [11, 11, 10], 'rope_type': 'default'}
    text = {
        'model_type': 'qwen3_5_text',
        'hidden_size': 2560,
        'intermediate_size': 9216,
        'num_hidden_layers': 32,
        'full_attention_interval': 4,
        'num_attention_heads': 16,
        'num_key_value_heads': 4,
        'head_dim': 256,
        'hidden_act': 'silu',
        'rms_norm_eps': 1e-06,
        'linear_num_key_heads': 16,
        'linear_num_value_heads': 32,
        'linear_key_head_dim': 128,
        'linear_value_head_dim': 128,
        'linear_conv_kernel_dim': 4,
        'mtp_num_hidden_layers': 1,
        'tie_word_embeddings': True,
        'vocab_size': 248320,
        'rope_parameters': {**rope, 'partial_rotary_factor': 0.25, 'rope_theta': 10000000},
    }
    vision = {
        'model_type': 'qwen3_5',
        'deepstack_visual_indexes': [],
        'depth': 24,
        'hidden_size': 1024,
        'intermediate_size': 4096,
        'num_heads': 16,
        'num_position_embeddings': 2304,
        'out_hidden_size': 2560,
        'patch_size': 16,
        'temporal_patch_size': 2,
        'spatial_merge_size': 2,
        'in_channels': 3,
    }
    config = {
        'architectures': ['Qwen3_5ForConditionalGeneration'],
        'model_type': 'qwen3_5',
        'text_config': text,
        'vision_config': vision,
        'tie_word_embeddings': True,
    }
    (tmp_path / 'config.json').write_text(json.dumps(config))
    refuse_other_architecture(preset('4b').backbone, tmp_path)
    with pytest.raises(CheckpointError, match='text.hidden_size: the preset has 2048, .* 2560'):
        refuse_other_architecture(preset('2b').backbone, tmp_path)


def test_the_decoder_is_fresh_and_the_seed_decides(released):
    one, same, other = (
        initialise('tiny', released[0], 'cpu', seed=seed).model.decoder.context_in.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.fixture
def decoders(tmp_path):
    """Return two tiny models and the file with the second one's decoder."""
    torch.manual_seed(3)
    models = QwenVLA(preset('tiny')), QwenVLA(preset('tiny'))
    save_decoder(models[1], tmp_path / 'decoder.safetensors')
    return *models, tmp_path / 'decoder.safetensors'


def test_a_decoder_loads_alone(decoders):
    first, second, path = decoders
    before = first.backbone.get_input_embeddings().weight.clone()
    assert load_decoder(first, path).complete
    for name, value in second.decoder.state_dict().items():
        torch.testing.assert_close(first.decoder.state_dict()[name], value, atol=0, rtol=0)
    assert torch.equal(first.backbone.get_input_embeddings().weight, before)


def test_a_decoder_of_the_other_attention_is_refused_unless_told(decoders):
    _, second, path = decoders
    config = preset('tiny').to_dict()
    config['decoder']['attention'] = 'joint'
    model = QwenVLA(type(second.config).from_dict(config))
    with pytest.raises(CheckpointError, match="trained with 'prefix'.*the model runs 'joint'"):
        load_decoder(model, path)
    with pytest.raises(CheckpointError, match='trained with'):
        load_decoder(model, path, attention='prefix')
    assert load_decoder(model, path, attention='joint').complete


def test_a_partial_decoder_is_told_by_name(decoders):
    first, _, path = decoders
    tensors = load_file(path)
    del tensors['decoder.blocks.1.qkv.weight']
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="missing, first 'blocks.1.qkv.weight'"):
        load_decoder(first, path)
    report = load_decoder(first, path, allow_partial=True)
    assert report.missing == ['blocks.1.qkv.weight']


def test_init_writes_a_checkpoint_that_waits_for_training(released, tmp_path, capsys):
    out = tmp_path / 'made'
    words = ['init', '--preset', 'tiny', '--base', str(released[0]), '--out', str(out)]
    assert cli.main([*words, '--dtype', 'float32']) == 0
    told = capsys.readouterr().out
    assert 'new words' in told
    assert 'no robot runs it' in told
    model = from_pretrained(out, 'cpu')
    made = initialise('tiny', released[0], 'cpu')
    for name, value in made.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=0, rtol=0)
    assert '<|ego_start|>' in AutoTokenizer.from_pretrained(out).get_vocab()
    assert require_text(out) is None  # a release answers, and still does
    with pytest.raises(QwenVlaError, match='statistics.json'):
        load_policy(out, Embodiment.load('widowx'), 'cpu')
