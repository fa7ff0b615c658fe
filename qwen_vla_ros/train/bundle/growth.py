"""
A checkpoint of this command as the beginning of another run of it, though its readout was smaller.

What both readouts know by name (a point's place, a value, a channel of the state) keeps its
weights. What is new begins unheard: its columns are zero, so the draft and what is found are those
of the checkpoint until something is learnt.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from torch import Tensor

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.action_decoder import ActionDecoder
from qwen_vla_ros.model.config import ActionDecoderConfig
from qwen_vla_ros.model.look import Look
from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.readout import GLANCE, STATE_WAVES
from qwen_vla_ros.model.scene import VALUE_WAVES, WAVES, same_axis

Labels = Sequence[Hashable]


def grow(model: QwenVLA, readout: Mapping[str, Any]) -> None:
    """
    Give a model's decoder other readout fields of its config; what it knew, it keeps.

    QwenVlaError for a readout of which more differs than values and layers (other points).
    """
    former = model.config.decoder
    decoder = replace(former, **readout)
    width = model.backbone.get_input_embeddings().weight.shape[1]
    views = tuple(model.config.inputs.image_sizes)
    grown = ActionDecoder(decoder, width, views)
    before, now = model.decoder.state_dict(), grown.state_dict()
    one, other = (_labels(config, width) for config in (former, decoder))
    for name, weight in now.items():
        if name not in before:
            continue
        inside, outside = name in other[0], other[1].get(name)
        if inside:
            weight.zero_()
            _copy(before[name].T, weight.T, one[0][name], other[0][name])
        elif outside:
            _copy(before[name], weight, one[1][name], outside)
        elif before[name].shape == weight.shape:
            weight.copy_(before[name])
        else:
            raise QwenVlaError(
                f'{name}: {tuple(before[name].shape)} in the checkpoint to go on from, '
                f'{tuple(weight.shape)} now: another version made it; begin from checkpoints/small'
            )
    model.decoder, model.config = grown, replace(model.config, decoder=decoder)


def _copy(before: Tensor, now: Tensor, one: Labels, other: Labels) -> None:
    """Copy the rows that both have."""
    rows = {label: row for row, label in enumerate(one)}
    both = [(rows[label], row) for row, label in enumerate(other) if label in rows]
    old, new = (list(side) for side in zip(*both, strict=True))
    now[new] = before[old]


def _labels(
    config: ActionDecoderConfig, width: int
) -> tuple[dict[str, Labels], dict[str, Labels]]:
    """Return what the columns of some weights stand for, and the rows of others."""
    points, values = config.readout_points, config.readout_values
    state = config.state_dim if config.state_input == 'continuous' else 0
    places = [*product(['place'], points, range(2 + 4 * WAVES)), *product(['seen'], points)]
    joints = list(product(['state'], range(state)))
    waves = list(product(['wave'], range(2 * STATE_WAVES * state)))
    ways = [(values[a], values[b]) for a, b in same_axis(values)]
    told = [*values, *ways]
    scene = [*places, *joints, *product(['value', 'sure'], told)]
    scene += product(['sine', 'cosine'], told, range(VALUE_WAVES))
    words = list(product(['word'], range(2 * width)))
    seen = [*places, *product(['glance'], points, range(GLANCE)), *joints, *waves]
    if config.readout_layers:
        seen += product(['around'], range(Look.asking * Look.width))
    columns = {
        'readout.geometry.0.weight': scene,
        'readout.draft.first.weight': [*scene, *waves, *words],
        'readout.estimate.0.weight': seen,
    }
    estimated = list(product(['value', 'known'], values))
    rows = dict.fromkeys(('readout.estimate.4.weight', 'readout.estimate.4.bias'), estimated)
    return columns, rows
