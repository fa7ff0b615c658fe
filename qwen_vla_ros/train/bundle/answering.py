"""
The language model of the bundled checkpoint learns to answer, with the vision tower as it is.

A picture's visual tokens are computed once. A step is the language model alone, on questions; what
it makes of the robots' prompts (drafting.read_words) is held where it was, so that the readout,
which asks in these terms, need not learn them anew.

Shapes: B questions, T visual tokens of a picture, C backbone width, N prompts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from qwen_vla_ros.model.answer import answer_losses, answer_places
from qwen_vla_ros.train.bundle.fitting import Part, fast, fit
from qwen_vla_ros.train.bundle.sentences import (
    prompt_sample,
    read,
    read_words,
    sentences_of,
)
from qwen_vla_ros.train.bundle.shards import ShardEpisodes
from qwen_vla_ros.train.bundle.sight import look_at
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.train.start import Start

BATCH, HELD = 64, 48  # questions and held prompts of a step
RATE, WARM_UP, LOOK, SEED = 1e-3, 30, 100, 0
HELD_OUT, LOOKED_AT, AT_ONCE = 20, 256, 64
HELD_WEIGHT = 5.0


class Questions:
    """Every question with its picture's visual tokens, and the robots' prompts."""

    def __init__(self, begun: Start, sets: Mapping[str, ShardEpisodes]) -> None:
        """Look at every picture once, and read every prompt."""
        self.model = begun.model
        encoder = Encoder(begun.model.config, begun.tokenizer, begun.robots)
        asked = next(part for part in sets.values() if part.embodiment is None)
        self.frame = asked.arrays['frame']
        self.seen = _looked(begun, asked)
        rows = [(e, f) for e in range(len(asked)) for f in range(asked.frames(e))]
        self.posed = [
            {k: v for k, v in encoder.answering(asked.sample(*row)).items() if k != 'pixel_values'}
            for row in tqdm(rows, desc='questions', unit='question')
        ]
        prompts: dict[str, int] = {}
        for part in sets.values():
            if part.embodiment is not None:
                sentences_of(encoder, part, prompts, 1.0)
        self.prompts = [prompt_sample(begun.tokenizer, text) for text in prompts]
        words = read_words(begun, list(prompts))
        self.words = begun.model.decoder.readout.standardised(words).detach()
        self.trained = int(np.searchsorted(self.frame, self.frame[-1] * (1 - 1 / HELD_OUT)))

    def losses(self, rows: Sequence[int]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the loss [B] of some questions, their batch and the hidden states."""
        posed = [self.posed[row] for row in rows]
        batch = self.model.collate(posed, pixels=False)
        batch |= answer_places(posed, batch['input_ids'])
        hidden = self.model.read(batch, self.seen[self.frame[rows]].flatten(0, 1))
        return answer_losses(self.model, hidden, batch), batch, hidden

    def moved(self, rows: Sequence[int]) -> Tensor:
        """Return how far prompts are from where they were, in spreads, small ones squared."""
        now = read(self.model, [self.prompts[row] for row in rows]).float()
        now = self.model.decoder.readout.standardised(now)
        return functional.smooth_l1_loss(now, self.words[rows])


def fit_answers(
    begun: Start,
    sets: Mapping[str, ShardEpisodes],
    shares: Mapping[str, float],
    steps: int,
    out: Path,
) -> float | None:
    """Train the language model in place, as fit() tells; a step asks of the whole set alike."""
    questions = Questions(begun, sets)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEED, step))
        rows = rng.integers(questions.trained, size=BATCH)
        held = rng.integers(len(questions.prompts), size=HELD)
        # Flash attention takes twice as long back in bfloat16 on a CPU.
        with sdpa_kernel(SDPBackend.MATH), fast():
            return {'text': questions.losses(rows)[0].mean(), 'moved': questions.moved(held)}

    part = Part(
        'answers',
        ((list(begun.model.backbone.model.language_model.parameters()), RATE),),
        losses,
        lambda: {'questions': _held_out(questions)},
        WARM_UP,
        LOOK,
        {'text': 1.0, 'moved': HELD_WEIGHT},
    )
    return fit(part, steps, out)


@torch.no_grad()
def _held_out(questions: Questions) -> dict[str, float]:
    """Return the share of held-out answers whose every token is the most likely one."""
    rows = np.linspace(questions.trained, len(questions.frame) - 1, LOOKED_AT).astype(int)
    right = []
    for some in np.array_split(rows, max(1, len(rows) // AT_ONCE)):
        _, batch, hidden = questions.losses(some)
        width = questions.words.shape[1] // 2
        states = hidden[..., :width].flatten(0, 1)[batch['answer_index']]
        same = questions.model.backbone.lm_head(states).argmax(-1) == batch['answer_ids']
        wrong = torch.zeros(len(some)).index_add(0, batch['answer_row'], (~same).float())
        right.append(wrong == 0)
    return {'right': round(float(torch.cat(right).float().mean()), 4)}


@torch.no_grad()
def _looked(begun: Start, asked: ShardEpisodes) -> Tensor:
    """Return the visual tokens [pictures, T, C] of every picture."""
    views = [key for key in asked.arrays if key.startswith('view.')]
    pictures = asked.arrays[views[0]]
    parts = range(0, len(pictures), AT_ONCE)
    return torch.cat(
        [
            look_at(begun.model, pictures[begin : begin + AT_ONCE])[0]
            for begin in tqdm(parts, desc='pictures', unit='batch')
        ]
    )
