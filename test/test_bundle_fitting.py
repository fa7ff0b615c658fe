"""The loop of the bundled checkpoint's parts: a stopped part goes on as if it had not been."""

import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.bundle.drafting import counting
from qwen_vla_ros.train.bundle.fitting import Part, cosine, fit
from qwen_vla_ros.train.losses import draft_losses
from qwen_vla_ros.train.mixed_batch import generator_of

STEPS = 30


def line(stop_at: int = -1, rate: float = 0.2) -> tuple[nn.Linear, Part]:
    """Return a layer that learns to double a number, and how; it is signalled at a step."""
    torch.manual_seed(0)
    layer = nn.Linear(1, 1)

    def losses(step: int) -> dict[str, torch.Tensor]:
        x = torch.randn(16, 1, generator=generator_of((3, step)))
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {'error': (layer(x) - 2 * x).square().mean(), 'bias': layer.bias.square().sum()}

    def held_out() -> dict[str, dict[str, float]]:
        return {'ones': {'off': abs(float(layer(torch.ones(1))) - 2)}}

    weights = {'error': 1.0, 'bias': 0.1}
    part = Part('line', ((list(layer.parameters()), rate),), losses, held_out, 5, 10, weights)
    return layer, part


def told(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / 'log.jsonl').open()]


def test_a_stopped_part_goes_on_to_the_same_weights_and_log(tmp_path):
    whole, part = line()
    assert fit(part, STEPS, tmp_path / 'whole') > 0
    _, part = line(stop_at=12)
    assert fit(part, STEPS, tmp_path / 'parts') is None
    # What was logged after the last state (a SIGKILL, say) is taken again.
    with (tmp_path / 'parts' / 'log.jsonl').open('a') as log:
        log.write('{"step": 14, "error": 9.0}\n')
    again, part = line()
    assert fit(part, STEPS, tmp_path / 'parts') > 0
    assert told(tmp_path / 'parts') == told(tmp_path / 'whole')
    assert torch.equal(again.weight, whole.weight) and torch.equal(again.bias, whole.bias)
    rows = told(tmp_path / 'whole')
    assert rows[-1]['error'] < 0.3 * rows[0]['error'] and len(rows) == STEPS
    assert [row['step'] for row in rows if 'held_out' in row] == [10, 20, 30]


def test_a_state_of_other_steps_is_refused(tmp_path):
    _, part = line(stop_at=3)
    fit(part, STEPS, tmp_path)
    with pytest.raises(QwenVlaError, match='belongs to line of 30 steps; choose another --out'):
        fit(line()[1], STEPS + 1, tmp_path)


def test_a_gradient_that_is_not_finite_stops_it_and_leaves_the_state(tmp_path):
    layer, part = line()
    fit(part, STEPS, tmp_path, save=10)
    layer, part = line()
    far = torch.full((1, 1), 1e30)
    bad = replace(part, losses=lambda step: {'error': layer(far).square().sum()})
    with pytest.raises(QwenVlaError, match='step 1: the gradient is not finite'):
        fit(bad, STEPS, tmp_path / 'bad')
    assert torch.isfinite(layer.weight).all()


def test_the_rate_warms_up_and_falls_to_a_fiftieth():
    assert [cosine(step, 100, 4) for step in (0, 3)] == [0.25, 1.0]
    assert cosine(100, 100, 4) == pytest.approx(0.02) and cosine(52, 100, 4) == pytest.approx(0.51)


def test_a_draft_says_stop_of_a_base_only_where_most_of_what_looks_alike_is_rest():
    def drafted(robot: str, resting: int) -> float:
        """Return what ten sentences that look alike teach: some rest, the others go 1 m."""
        actions = np.ones((10, 8, 3), np.float32)
        actions[:resting] = 0.0
        part = SimpleNamespace(arrays={'actions': actions}, embodiment=SimpleNamespace(name=robot))
        right, mask = torch.from_numpy(actions), torch.ones(10, 8, 3, dtype=torch.bool)
        guesses = torch.linspace(0, 1, 11)
        found = [
            (draft_losses(guess.expand(10, 8, 3), right, mask) * counting(part)).mean()
            for guess in guesses
        ]
        return float(guesses[int(torch.stack(found).argmin())])

    assert [drafted('mobile_base', resting) for resting in (0, 8, 9, 10)] == [1, 1, 0, 0]
    assert [drafted('widowx', resting) for resting in (4, 6)] == [1, 0]
