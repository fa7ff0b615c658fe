"""
Where a run of the bundled checkpoint begins, and each of its parts: weights, words and robots.

A model that can see alone (train/runs.py `small`) gets a readout and the families' own words; one
that an earlier run of the command made keeps its words and all that its readout knows (growth.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qwen_vla_ros.data.sample import Episodes
from qwen_vla_ros.model.action_decoder import ActionDecoder
from qwen_vla_ros.model.checkpoint import from_pretrained, load_tokenizer, read_robots
from qwen_vla_ros.model.initialise import fit_robots, with_vocabulary
from qwen_vla_ros.model.processor import train_tokenizer
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.train.bundle.frames import POINTS, VALUES
from qwen_vla_ros.train.bundle.growth import grow
from qwen_vla_ros.train.robots import Key, driven, find_robots
from qwen_vla_ros.train.sources import DataSet
from qwen_vla_ros.train.start import Start, sentences

SIZES = {'ego': (96, 128), 'cam_left_wrist': (48, 64), 'cam_right_wrist': (48, 64)}
VOCABULARY = 768
READOUT = {
    'readout_points': POINTS,
    'readout_values': VALUES,
    'readout_queries': 8,
    'readout_draft': True,
    'readout_layers': 2,
    'joint_actions': 'relative',
}


def begin(before: Path, sets: Sequence[DataSet], first: bool) -> Start:
    """
    Return where a stage starts: the weights of a checkpoint, and the robots of the sets.

    first: nothing of this run comes before. A model that can see alone gets the words, views and
    statistics of all families; one that an earlier run made keeps its own.
    """
    parts = [data.training for data in sets]
    model, tokenizer = from_pretrained(before, 'cpu', 'float32'), load_tokenizer(before)
    ours = bool(model.config.decoder.readout_points)
    robots = find_robots(parts, () if first and not ours else read_robots(before), relative=True)
    if first:
        if ours:
            grow(model, READOUT)
        else:
            tokenizer = _with_words(model, tokenizer, parts, robots)
        for part in (model.decoder.action_out[2].weight, model.decoder.action_out[2].bias):
            torch.nn.init.zeros_(part)  # what it adds to the draft
    return Start(model.train(), tokenizer, robots, before, ours)


def _with_words(
    model: QwenVLA, tokenizer: Any, parts: Sequence[Episodes], robots: Mapping[Key, Any]
) -> Any:
    """
    Give a model the views, the horizon, a readout and a tokenizer of the families' own words.

    A token that the former tokenizer had keeps its embedding; a new one begins as the mean of
    what the former made of it. Return the tokenizer.
    """
    config = fit_robots(model.config, driven(robots))
    inputs = replace(config.inputs, image_sizes=dict(SIZES))
    decoder = replace(config.decoder, **READOUT)
    words = train_tokenizer(sentences(parts, robots), VOCABULARY, inputs.views)
    old, known = (
        model.backbone.get_input_embeddings().weight.detach().clone(),
        tokenizer.get_vocab(),
    )
    torch.manual_seed(0)
    model.backbone.resize_token_embeddings(len(words), mean_resizing=False)
    weight = model.backbone.get_input_embeddings().weight
    with torch.no_grad():
        for token, row in words.get_vocab().items():
            if token in known:
                weight[row] = old[known[token]]
            else:
                text = words.convert_tokens_to_string([token])
                pieces = tokenizer(text, add_special_tokens=False)['input_ids']
                weight[row] = old[pieces].mean(0)
    backbone = with_vocabulary(config.backbone, words, len(words))
    model.config = replace(config, inputs=inputs, backbone=backbone, decoder=decoder)
    former = model.decoder.state_dict()
    model.decoder = ActionDecoder(decoder, old.shape[1], tuple(SIZES))
    model.decoder.load_state_dict(former, strict=False)  # the readout is new
    return words
