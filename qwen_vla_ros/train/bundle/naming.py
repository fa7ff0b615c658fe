"""
The first part: what a prompt ends in tells which words its sentence has.

The readout asks for things in terms of words_of() a prompt, by a linear layer. A small language
model that nobody taught keeps there what it needed so far, and of a word that it has just got
little: sight then looks in vain for a wardrobe that it would know, for it is not told of one. Here
a linear layer that is thrown away names the words from words_of() alone, apart those of the
sentence's first half and of its second (what is put, and where), and the language model learns for
it. No pictures.

Shapes: N prompts, B of a step, W words, C backbone width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from qwen_vla_ros.train.bundle.fitting import Part, fast, fit
from qwen_vla_ros.train.bundle.sentences import prompt_sample, prompts_of, read, read_words
from qwen_vla_ros.train.bundle.shards import ShardEpisodes
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.train.start import Start

BATCH, RATE, HEAD_RATE, WARM_UP, LOOK, SEED = 48, 5e-4, 5e-3, 30, 100, 0
HELD_WEIGHT = 20.0
LOOKED_AT = 192  # held-out prompts of a set
HELD_OUT = 20  # one prompt in so many


class Naming:
    """Every prompt of some sets, and which words its sentence has."""

    def __init__(self, begun: Start, sets: Mapping[str, ShardEpisodes]) -> None:
        """Collect the prompts; a twentieth of each set is held out."""
        self.model = begun.model
        encoder = Encoder(begun.model.config, begun.tokenizer, begun.robots, images=False)
        said = {name: prompts_of(encoder, part) for name, part in sets.items()}
        texts = list(dict.fromkeys(text for own in said.values() for text in own))
        self.samples = [prompt_sample(begun.tokenizer, text) for text in texts]
        index = {text: row for row, text in enumerate(texts)}
        rng = np.random.default_rng(SEED)
        self.rows = {
            name: rng.permutation([index[text] for text in own]) for name, own in said.items()
        }
        sentence = {text: words for own in said.values() for text, words in own.items()}
        halves = [_halves(sentence[text]) for text in texts]
        self.words = sorted({word for pair in halves for half in pair for word in half})
        self.has = torch.tensor(
            [[float(word in half) for half in pair for word in self.words] for pair in halves]
        )
        self.texts = texts

    def trained(self, name: str) -> np.ndarray:
        """Return the prompts of a set that are trained on."""
        return self.rows[name][_held(self.rows[name]) :]

    def held_out(self, name: str) -> np.ndarray:
        """Return some of the others."""
        return self.rows[name][: _held(self.rows[name])][:LOOKED_AT]

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return words_of() some prompts by their spread, [B, 2C]."""
        words = read(self.model, [self.samples[row] for row in rows]).float()
        return self.model.decoder.readout.standardised(words)


def fit_naming(
    begun: Start,
    sets: Mapping[str, ShardEpisodes],
    shares: Mapping[str, float],
    steps: int,
    out: Path,
    held: Sequence[str] = (),
) -> float | None:
    """
    Train the language model in place, as fit() tells.

    shares: set -> how often it is drawn; held: those of the sets whose prompts stay what a
    readout that goes on knows them as
    """
    naming, readout = Naming(begun, sets), begun.model.decoder.readout
    new = bool((readout.words_scale == 1).all())  # nothing goes by them yet
    if new:
        _take_spread(begun, naming.texts)
    torch.manual_seed(SEED)
    head = nn.Linear(len(readout.words_middle), naming.has.shape[1])
    chance = np.array([shares[name] for name in sets]) / sum(shares[name] for name in sets)
    stays = torch.zeros(len(naming.texts), dtype=torch.bool)
    for name in naming.rows.keys() & held:
        stays[naming.rows[name]] = not new
    before = readout.standardised(read_words(begun, naming.texts)).detach()

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEED, step))
        drawn = rng.choice(len(sets), size=BATCH, p=chance)
        rows: list[int] = []
        for which, name in enumerate(sets):
            rows += rng.choice(naming.trained(name), size=int((drawn == which).sum())).tolist()
        with sdpa_kernel(SDPBackend.MATH), fast():
            words = naming.read(rows)
            told = head(words).float()
        wrong = functional.binary_cross_entropy_with_logits(told, naming.has[rows])
        moved = functional.smooth_l1_loss(words, before[rows], reduction='none').mean(-1)
        return {'named': len(naming.words) * wrong, 'moved': (moved * stays[rows]).mean()}

    model = begun.model.backbone.model.language_model
    part = Part(
        'naming',
        ((list(head.parameters()), HEAD_RATE), (list(model.parameters()), RATE)),
        losses,
        lambda: {name: _held_out(naming, head, name) for name in sets},
        WARM_UP,
        LOOK,
        {'named': 1.0, 'moved': HELD_WEIGHT},
    )
    seconds = fit(part, steps, out)
    if new and seconds is not None:
        _take_spread(begun, naming.texts)
    return seconds


@torch.no_grad()
def _take_spread(begun: Start, texts: Sequence[str]) -> None:
    """Set the readout's mean and spread of words to those of prompts."""
    words, readout = read_words(begun, texts), begun.model.decoder.readout
    readout.words_middle.copy_(words.mean(0))
    readout.words_scale.copy_(1 / words.std(0).clamp(min=1e-4))


def _held(rows: np.ndarray) -> int:
    """Return how many prompts are not trained on; none of a set of one."""
    return max(len(rows) // HELD_OUT, int(len(rows) > 1))


def _halves(sentence: str) -> tuple[set[str], set[str]]:
    """Return the words of the first and of the second half of a sentence."""
    words = sentence.split()
    middle = (len(words) + 1) // 2
    return set(words[:middle]), set(words[middle:])


@torch.no_grad()
def _held_out(naming: Naming, head: nn.Module, name: str) -> dict[str, float]:
    """Return the share of held-out sentences of which every word is named right."""
    rows = naming.held_out(name)
    right = (head(naming.read(rows)) > 0) == naming.has[rows].bool()
    return {'right': round(float(right.all(-1).float().mean()), 4)}
