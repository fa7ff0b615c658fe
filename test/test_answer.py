"""The vision-language head: answers, their loss, and an action path that does not notice."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from qwen_vla_ros import cli
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model import answer as answers
from qwen_vla_ros.model.answer import (
    STOP,
    answer,
    answer_all,
    collate_text,
    generate,
    pose,
    text_loss,
)
from qwen_vla_ros.model.ask import near_size, read_image
from qwen_vla_ros.model.checkpoint import TrainedRobot, from_pretrained, save_checkpoint
from qwen_vla_ros.model.config import FlowConfig, InputConfig, preset
from qwen_vla_ros.model.positions import mrope_positions
from qwen_vla_ros.model.processor import Processor, train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA

COLOURS = {'red': (210, 30, 30), 'green': (30, 180, 40), 'blue': (30, 50, 220)}
SIDES = ('left', 'right')
QUESTION = 'Which colour is {}?'
WIDOWX = Embodiment.load('widowx')


def picture(left: str, right: str, height: int = 32, width: int = 48) -> np.ndarray:
    """Return an image of two coloured halves."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = COLOURS[left], COLOURS[right]
    return image


def lessons() -> list[tuple[list[np.ndarray], str, str]]:
    """Return six (images, question, answer): the same three pictures, asked about each side."""
    pairs = [('red', 'green'), ('green', 'blue'), ('blue', 'red')]
    return [
        ([picture(*pair, 16, 32)], QUESTION.format(side), pair[index])
        for pair in pairs
        for index, side in enumerate(SIDES)
    ]


def build() -> tuple[QwenVLA, Processor]:
    """Return a tiny model with random weights, and its processor."""
    config = preset('tiny')
    texts = [f'user assistant {question} {reply}' for _, question, reply in lessons()]
    tokenizer = train_tokenizer(texts, 330, config.inputs.views)
    ids, backbone = tokenizer.get_vocab(), config.to_dict()['backbone']
    for kind in ('image', 'video'):
        backbone[f'{kind}_token_id'] = ids[f'<|{kind}_pad|>']
    for side in ('start', 'end'):
        backbone[f'vision_{side}_token_id'] = ids[f'<|vision_{side}|>']
    backbone['text_config']['vocab_size'] = len(tokenizer)
    parts = {
        'backbone': backbone,
        'decoder': dataclasses.replace(config.decoder, state_input='none'),
        'flow': FlowConfig('uniform'),
        'inputs': InputConfig({'ego': (32, 48), 'cam_right_wrist': (32, 32)}),
    }
    config = dataclasses.replace(config, **parts)
    torch.manual_seed(0)
    return QwenVLA(config), Processor(tokenizer, config)


@pytest.fixture(scope='module')
def random():
    """Return a model that never learnt anything; nobody changes it."""
    model, processor = build()
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval(), processor


def posed(processor: Processor) -> list[dict]:
    return [pose(processor, *lesson) for lesson in lessons()]


def action_samples(processor: Processor) -> list[dict]:
    """Return two samples of a robot: other images, a sentence, a chunk of 7 channels."""
    mask = np.zeros((16, 32), bool)
    mask[:, :7] = True
    found = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        images = {
            view: rng.integers(0, 256, (*size, 3), np.uint8)
            for view, size in processor.config.inputs.image_sizes.items()
        }
        actions = (rng.uniform(-1, 1, mask.shape) * mask).astype(np.float32)
        sample = processor(images, f'touch the {list(COLOURS)[seed]} block')
        found.append({**sample, 'actions': actions, 'action_mask': mask})
    return found


def act(model: QwenVLA, processor: Processor) -> torch.Tensor:
    noise = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1))
    return model.sample_actions(model.collate(action_samples(processor)), 3, noise)


def stops(processor: Processor) -> list[int]:
    return processor.tokenizer.convert_tokens_to_ids(list(STOP))


# Tokens of a question and its answer


def test_a_posed_question_is_the_chat_template_around_images_then_words(random):
    processor = random[1]
    images = [picture('red', 'blue'), picture('green', 'red', 16, 32)]
    sample = pose(processor, images, '  Which colour is left? ', ' It is red.\n')
    shown = (
        f'<|vision_start|>{"<|image_pad|>" * 6}<|vision_end|>'
        f'<|vision_start|>{"<|image_pad|>" * 2}<|vision_end|>'
    )
    text = processor.tokenizer.apply_chat_template(
        [
            {'role': 'user', 'content': shown + 'Which colour is left?'},
            {'role': 'assistant', 'content': 'It is red.'},
        ],
        tokenize=False,
    ).rstrip('\n')
    wanted = processor.tokenizer(text)['input_ids']
    assert sample['input_ids'].tolist() == wanted
    marked = processor.tokenizer.decode(sample['input_ids'][sample['answer_mask']])
    assert marked == 'It is red.<|im_end|>'
    assert sample['image_grid_thw'].tolist() == [[1, 4, 6], [1, 2, 4]]
    assert sample['pixel_values'].shape == (24 + 8, 192)
    assert sample['mm_token_type_ids'].sum() == 8


def test_a_question_alone_ends_where_the_assistant_begins(random):
    processor = random[1]
    sample = pose(processor, [], 'Which colour is left?')
    assert processor.tokenizer.decode(sample['input_ids']).endswith('<|im_start|>assistant\n')
    assert not sample['answer_mask'].any()


@pytest.mark.parametrize(
    ('images', 'question', 'reply', 'says'),
    [
        ([picture('red', 'blue', 30, 48)], 'Which?', None, 'image 0: 30x48 is not a multiple'),
        ([np.zeros((32, 32, 3), np.float32)], 'Which?', None, 'image 0: float32'),
        ([], ' ', None, 'question: it is empty'),
        ([], 'Which?', '', 'answer: it is empty'),
        ([], 'Which <|image_pad|>?', None, r'question: it holds the special token <\|image_pad'),
    ],
)
def test_what_cannot_be_posed_is_named(random, images, question, reply, says):
    with pytest.raises(QwenVlaError, match=says):
        pose(random[1], images, question, reply)


def test_a_batch_with_an_unanswered_question_is_refused(random):
    model, processor = random
    samples = [*posed(processor)[:1], pose(processor, [], 'Which?')]
    with pytest.raises(QwenVlaError, match='sample 1 has no answer'):
        collate_text(model, samples)


# The loss


@torch.no_grad()
def test_loss_is_the_mean_over_answer_tokens_of_each_sample(random):
    model, processor = random
    samples = [*posed(processor)[:2], pose(processor, [], QUESTION.format('left'), 'None')]
    found = text_loss(model, collate_text(model, samples))
    for sample, value in zip(samples, found, strict=True):
        logits = model.backbone.lm_head(model.encode(model.collate([sample])))[0]
        ids = torch.from_numpy(sample['input_ids'])
        first = int(sample['answer_mask'].argmax())
        chances = logits.log_softmax(-1)[first - 1 : -1]
        wanted = -chances.gather(1, ids[first:, None]).mean()
        torch.testing.assert_close(value, wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize('rows', [1024, 5])
def test_logits_are_made_at_answers_only_and_in_parts(random, monkeypatch, rows):
    model, processor = random
    batch = collate_text(model, posed(processor))
    whole = text_loss(model, batch)
    whole.sum().backward()
    gradient = model.backbone.lm_head.weight.grad.clone()
    model.zero_grad()
    seen = []
    monkeypatch.setattr(answers, 'LOGIT_ROWS', rows)
    hook = model.backbone.lm_head.register_forward_hook(
        lambda module, inputs, output: seen.append(len(output))
    )
    parts = text_loss(model, batch)
    hook.remove()
    assert sum(seen) == len(batch['answer_ids'])
    assert max(seen) <= rows
    torch.testing.assert_close(parts, whole)
    parts.sum().backward()
    torch.testing.assert_close(model.backbone.lm_head.weight.grad, gradient)
    model.zero_grad()


def test_both_losses_send_gradients_into_the_backbone(random):
    model, processor = random
    text = collate_text(model, posed(processor)[:2])
    robot = model.collate(action_samples(processor))
    make = torch.Generator().manual_seed(0)
    for loss, decoder in ((text_loss(model, text), False), (model.loss(robot, make), True)):
        loss.mean().backward()
        for part in (model.backbone.model.visual, model.backbone.model.language_model):
            assert sum(p.grad.abs().sum() for p in part.parameters()) > 0
        assert any(p.grad is not None for p in model.decoder.parameters()) == decoder
        model.zero_grad()


# Generating


def steps_of(model: QwenVLA, call) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the logits [B, vocabulary] of every generated token, and the tokens."""
    seen: list[torch.Tensor] = []
    hook = model.backbone.lm_head.register_forward_hook(
        lambda module, inputs, output: seen.append(output[:, -1].clone())
    )
    tokens = call()
    hook.remove()
    return seen, tokens


@torch.no_grad()
def test_every_step_equals_a_full_pass_with_positions_after_the_largest_one(random):
    model, processor = random
    sample = pose(processor, [picture('red', 'blue', 32, 96)], QUESTION.format('left'))
    seen, tokens = steps_of(model, lambda: generate(model, [sample], 6, [0]))
    assert len(seen) == tokens.shape[1] == 6
    ids = np.concatenate([sample['input_ids'], tokens[0].numpy()])
    is_image = ids == processor.image_id
    batch = model.collate(
        [{**sample, 'input_ids': ids, 'mm_token_type_ids': is_image.astype(int)}]
    )
    position = mrope_positions(is_image, sample['image_grid_thw'].tolist(), 2)
    np.testing.assert_array_equal(batch['position_ids'][:, 0], position)
    assert position.max() + 1 < len(ids)
    logits = model.backbone.lm_head(model.encode(batch))[0]
    torch.testing.assert_close(torch.cat(seen), logits[-7:-1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_generated_tokens_equal_transformers_own_from_pixels_and_ids(random):
    model, processor = random
    sample = pose(
        processor, [picture('red', 'blue'), picture('blue', 'green', 32, 96)], 'Which colour?'
    )
    seen, tokens = steps_of(model, lambda: generate(model, [sample], 8, [0]))
    pixels = torch.from_numpy(sample['pixel_values']).float().view(-1, 3, 1, 64) / 127.5 - 1
    settings = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=0, pad_token_id=0)
    ids = torch.from_numpy(sample['input_ids'])[None]
    theirs, full = steps_of(
        model,
        lambda: model.backbone.generate(
            input_ids=ids,
            pixel_values=pixels.expand(-1, 3, 2, 64).flatten(1),
            image_grid_thw=torch.from_numpy(sample['image_grid_thw']),
            mm_token_type_ids=torch.from_numpy(sample['mm_token_type_ids'])[None],
            generation_config=settings,
        ),
    )
    model.backbone.model.rope_deltas = None  # theirs stay behind
    assert tokens[0].tolist() == full[0, ids.shape[1] :].tolist()
    torch.testing.assert_close(torch.stack(seen), torch.stack(theirs), atol=1e-4, rtol=0)


def test_a_batch_of_questions_equals_one_by_one(random):
    model, processor = random
    asked = [
        ([], 'Which?'),
        ([picture('red', 'blue')], QUESTION.format('left')),
        ([picture('green', 'red'), picture('red', 'blue', 48, 80)], QUESTION.format('right')),
    ]
    samples = [pose(processor, *one) for one in asked]
    together, _ = steps_of(model, lambda: generate(model, samples, 5, [0]))
    for row, sample in enumerate(samples):
        alone, _ = steps_of(model, lambda sample=sample: generate(model, [sample], 5, [0]))
        for all_rows, one in zip(together, alone, strict=True):
            torch.testing.assert_close(all_rows[row], one[0], atol=1e-5, rtol=0)


def test_the_action_path_does_not_notice_and_training_goes_on(random):
    model, processor = random
    before = act(model, processor)
    robot = model.collate(action_samples(processor))
    loss = model.loss(robot, torch.Generator().manual_seed(0))
    model.train()
    model.decoder.eval()
    model.backbone.activation_checkpointing_enable()
    samples = posed(processor)[:1]
    first, _ = steps_of(model, lambda: generate(model, samples, 4, [0]))
    assert model.training and model.backbone.training and not model.decoder.training
    model.backbone.activation_checkpointing_disable()
    model.eval()
    again, _ = steps_of(model, lambda: generate(model, samples, 4, [0]))
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert model.backbone.model.rope_deltas is None
    assert torch.equal(act(model, processor), before)
    assert torch.equal(model.loss(robot, torch.Generator().manual_seed(0)), loss)
    text_loss(model, collate_text(model, posed(processor)[:1])).sum().backward()
    model.zero_grad()


def test_no_tokens_are_refused(random):
    with pytest.raises(QwenVlaError, match='max_tokens 0'):
        answer(*random, [], 'Which colour?', 0)


# Co-training: six questions and two chunks, weights as published


@pytest.fixture(scope='module')
def trained():
    """Return a co-trained model, its processor, and the action loss before and after."""
    model, processor = build()
    text = collate_text(model, posed(processor))
    robot = model.collate(action_samples(processor))

    def action_loss() -> torch.Tensor:
        return model.loss(robot, torch.Generator().manual_seed(0)).mean()

    start = action_loss().item()
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3, (0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, (140 - i) / 50))
    for _ in range(140):
        loss = 1.0 * action_loss() + 0.1 * text_loss(model, text).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval(), processor, start, action_loss().item()


@pytest.fixture(scope='module')
def folder(trained, tmp_path_factory):
    """Return the co-trained model as a checkpoint without statistics."""
    model, processor = trained[:2]
    place = tmp_path_factory.mktemp('answers') / 'checkpoint'
    facts = {'command': 'test', 'text': {'weight': 0.1, 'samples': 6}}
    save_checkpoint(
        place, model, processor.tokenizer, [TrainedRobot(WIDOWX, 'abs_joint', None)], facts
    )
    return place


def test_co_training_answers_every_question_and_learns_the_actions_beside(trained):
    model, processor, start, end = trained
    asked = [(images, question) for images, question, _ in lessons()]
    assert answer_all(model, processor, asked, 12) == [reply for *_, reply in lessons()]
    assert end < 0.2 * start


def test_tied_embeddings_stay_tied(trained, folder):
    for model in (trained[0], from_pretrained(folder, 'cpu')):
        assert model.backbone.lm_head.weight is model.backbone.get_input_embeddings().weight


# qwen-vla ask


@pytest.fixture
def files(tmp_path):
    """Return a PNG and a JPEG of one lesson, a little larger than whole units."""
    places = [tmp_path / 'scene.png', tmp_path / 'scene.jpg']
    image = cv2.cvtColor(picture('green', 'blue', 18, 30), cv2.COLOR_RGB2BGR)
    for place in places:
        cv2.imwrite(str(place), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return [str(place) for place in places]


def ask(*words: str) -> int:
    return cli.main(['ask', *words, '--device', 'cpu', '--max-tokens', '12'])


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line with which the command ends in code 2."""
    assert ask(*words) == 2
    message = capsys.readouterr().err
    assert message.startswith('qwen-vla: ')
    assert message.count('\n') == 1
    return message


@pytest.mark.parametrize('index', [0, 1])
def test_ask_answers_about_a_file(folder, files, capsys, index):
    checkpoint = ['--checkpoint', str(folder), '--image', files[index]]
    for side, colour in zip(SIDES, ('green', 'blue'), strict=True):
        assert ask(QUESTION.format(side), *checkpoint) == 0
        assert capsys.readouterr().out == f'{colour}\n'


def test_ask_refuses_a_checkpoint_that_never_learnt_to_answer(folder, files, tmp_path, capsys):
    other = shutil.copytree(folder, tmp_path / 'other')
    (other / 'training.json').write_text(json.dumps({'command': 'actions alone'}))
    words = ['Which colour is left?', '--checkpoint', str(other), '--image', files[0]]
    message = refused(capsys, *words)
    assert 'no key "text"' in message
    assert '--untrained' in message
    assert ask(*words, '--untrained') == 0
    assert capsys.readouterr().out == 'green\n'


def test_ask_says_which_template_it_takes_for_an_untrained_one(folder, files, tmp_path, capsys):
    other = shutil.copytree(folder, tmp_path / 'other')
    (other / 'chat_template.jinja').unlink()
    words = ['Which colour is left?', '--checkpoint', str(other), '--image', files[0]]
    assert 'no chat template' in refused(capsys, *words)
    assert ask(*words, '--untrained') == 0
    told = capsys.readouterr()
    assert 'no chat template' in told.err
    assert told.out == 'green\n'


def test_ask_names_a_bad_image_view_and_checkpoint(folder, files, tmp_path, capsys):
    question, good = 'Which colour is left?', ['--image', files[0], '--checkpoint', str(folder)]
    broken, empty = tmp_path / 'broken.png', tmp_path / 'empty.png'
    broken.write_bytes(b'no picture')
    empty.write_bytes(b'')
    for path, says in (
        (broken, 'not an image'),
        (empty, 'not an image'),
        (tmp_path / 'absent.png', 'No such file'),
    ):
        message = refused(capsys, question, '--image', str(path), '--checkpoint', str(folder))
        assert str(path) in message
        assert says in message
    assert '--view rear' in refused(capsys, question, *good, '--view', 'rear')
    assert 'question: it is empty' in refused(capsys, ' ', *good)
    assert '--visual-tokens 0' in refused(capsys, question, *good, '--visual-tokens', '0')
    absent = [question, '--image', files[0], '--checkpoint']
    assert '/absent/folder' in refused(capsys, *absent, '/absent/folder')
    (tmp_path / 'bare').mkdir()
    assert 'config.json' in refused(capsys, *absent, str(tmp_path / 'bare'))


def test_ask_names_missing_special_tokens(folder, files, tmp_path, capsys):
    other = shutil.copytree(folder, tmp_path / 'other')
    for path in (other / 'tokenizer.json', other / 'tokenizer_config.json'):
        path.write_text(path.read_text().replace('<|im_end|>', '<|other|>'))
    words = ['Which?', '--checkpoint', str(other), '--image', files[0]]
    assert "['<|im_end|>'] are missing" in refused(capsys, *words)


@pytest.mark.parametrize(
    ('size', 'most', 'wanted'),
    [
        ((34, 46), 256, (32, 48)),
        ((3, 5), 256, (16, 16)),
        ((480, 640), 300, (240, 320)),
        ((1080, 1920), 256, (192, 336)),
        ((10, 100000), 64, (16, 1024)),
        ((100000, 10), 64, (1024, 16)),
    ],
)
def test_an_image_keeps_its_shape_within_its_tokens(size, most, wanted):
    found = near_size(*size, 16, most)
    assert found == wanted
    assert found[0] * found[1] <= most * 16 * 16


def test_files_are_read_as_rgb(files):
    assert read_image(Path(files[0]))[0, 0].tolist() == list(COLOURS['green'])
