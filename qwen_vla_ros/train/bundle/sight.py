"""
The first part of CPT: vision tower and readout learn where things are, without the rest.

A step of a stage spends a thirtieth of its arithmetic on the vision tower. Here visual tokens go
straight to the readout, beside the prompt's words, which are read once: points and values are
learnt from ten times as many pictures in the same time.

Shapes: B pictures, T visual tokens of a picture, C backbone width.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.readout import FINDING, token_places
from qwen_vla_ros.model.scene import Found
from qwen_vla_ros.model.vision import look, plan_images
from qwen_vla_ros.patches import patchify
from qwen_vla_ros.train.bundle.fitting import Part, fit
from qwen_vla_ros.train.bundle.frames import POINTS, VALUES
from qwen_vla_ros.train.bundle.sentences import Sentences, read_words, sentences_of
from qwen_vla_ros.train.bundle.shards import ShardEpisodes
from qwen_vla_ros.train.pointing import pointing_losses
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.train.start import Start

PICTURES, SENTENCES = 32, 3  # of a step, and of a picture
READ_RATE, TOWER_RATE, WARM_UP, LOOK, HELD_OUT, SEED = 2e-3, 6e-4, 50, 200, 20, 0
LOOKED_AT = 96  # held-out sentences of a set


class Sight:
    """What is learnt from, and one pass over some of it."""

    def __init__(self, begun: Start, sets: Mapping[str, ShardEpisodes]) -> None:
        """Read the words of all sets."""
        self.model, self.sets = begun.model, sets
        encoder = Encoder(begun.model.config, begun.tokenizer, begun.robots, images=False)
        prompts: dict[str, int] = {}
        self.sentences = {
            name: sentences_of(encoder, part, prompts, 1.0) for name, part in sets.items()
        }
        self.words = read_words(begun, list(prompts))
        self.rows = {name: _rows_of(part.frame) for name, part in self.sentences.items()}

    def drawn(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """Return rows of SENTENCES about each of PICTURES pictures of a set, training ones."""
        begin, count = self.rows[name]
        last = len(begin) - len(begin) // HELD_OUT
        pictures = rng.integers(last, size=PICTURES)
        offsets = rng.integers(1 << 30, size=(PICTURES, SENTENCES)) % count[pictures][:, None]
        return (begin[pictures][:, None] + offsets).flatten()

    def held_out(self, name: str) -> np.ndarray:
        """Return rows of pictures that are not trained on."""
        rows = len(self.sentences[name].frame)
        first = self.rows[name][0][-max(1, len(self.rows[name][0]) // HELD_OUT)]
        return np.unique(np.linspace(first, rows - 1, LOOKED_AT).astype(int))

    def run(self, name: str, rows: np.ndarray) -> tuple[Found, Sentences, dict[str, Tensor]]:
        """Return what is found for some sentences, what was told of them, and where tokens are."""
        part, own, model = self.sets[name], self.sentences[name], self.model
        pictures, which = np.unique(own.frame[rows].numpy(), return_inverse=True)
        views = [v for v in model.config.inputs.image_sizes if f'view.{v}' in part.arrays]
        tokens, grids = [], []
        for view in views:
            found, grid = look_at(model, part.arrays[f'view.{view}'][pictures])
            tokens.append(found)
            grids.append(grid)
        seen = torch.cat(tokens, 1)[torch.from_numpy(which.reshape(-1))]
        places = _places(model, views, grids, len(rows))
        chosen = Sentences(*(getattr(own, key)[rows] for key in KEPT), weight=1.0)
        words = self.words[chosen.prompt]
        found, _ = model.decoder.readout.find(seen, words, chosen.state, places)
        return found, chosen, places


KEPT = ('prompt', 'frame', 'points', 'values', 'state', 'actions')


def fit_sight(
    begun: Start,
    sets: Mapping[str, ShardEpisodes],
    shares: Mapping[str, float],
    steps: int,
    out: Path,
    share: float = 1.0,
) -> float | None:
    """
    Train vision tower and readout in place, as fit() tells.

    shares: set -> how often it is drawn; share: of the usual rates
    """
    sight = Sight(begun, sets)
    readout, tower = begun.model.decoder.readout, begun.model.backbone.model.visual
    with torch.no_grad():
        if (readout.words_scale == 1).all():  # nothing goes by them yet
            readout.words_middle.copy_(sight.words.mean(0))
            readout.words_scale.copy_(1 / sight.words.std(0).clamp(min=1e-4))
    heads = [weight for part in FINDING for weight in getattr(readout, part).parameters()]
    chance = np.array([shares[name] for name in sets]) / sum(shares[name] for name in sets)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEED, step))
        name = str(rng.choice(list(sets), p=chance))
        found, told, places = sight.run(name, sight.drawn(name, rng))
        return {'pointing': pointing_losses(found, told.points, told.values, places).mean()}

    part = Part(
        'sight',
        ((heads, share * READ_RATE), (list(tower.parameters()), share * TOWER_RATE)),
        losses,
        lambda: {name: _errors(sight, name) for name in sets},
        WARM_UP,
        LOOK,
        {'pointing': 1.0},
    )
    return fit(part, steps, out)


@torch.no_grad()
def _errors(sight: Sight, name: str) -> dict[str, float]:
    """Return the median error of each point (of the picture) and value of held-out pictures."""
    found, told, _ = sight.run(name, sight.held_out(name))
    away = (found.place_BP2 - told.points).norm(dim=-1)
    errors = {}
    for index, point in enumerate(POINTS):
        if (there := told.points[:, index].isfinite().all(-1)).any():
            errors[f'error_{point}'] = float(away[there, index].median())
    for index, value in enumerate(VALUES):
        if (there := told.values[:, index].isfinite()).any():
            off = (found.values_BV[there, index] - told.values[there, index]).abs()
            errors[f'error_{value}'] = float(off.median())
    return {key: round(value, 5) for key, value in errors.items()}


def _rows_of(frame: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return where each picture's sentences begin, and how many there are; they lie in order."""
    _, begin, count = np.unique(frame.numpy(), return_index=True, return_counts=True)
    return begin, count


def look_at(model: QwenVLA, images: np.ndarray) -> tuple[Tensor, tuple[int, int, int]]:
    """Return the visual tokens [B, T, C] of pictures of one size, and their grid of patches."""
    tower, vision = model.backbone.model.visual, model.config.backbone['vision_config']
    patch, merge = vision['patch_size'], vision['spatial_merge_size']
    grid = (1, images.shape[1] // patch, images.shape[2] // patch)
    pixels = torch.from_numpy(patchify(list(images), patch, merge))
    tokens = look(tower, pixels, plan_images(tower, (grid,) * len(images)))
    return tokens.view(len(images), grid[1] * grid[2] // merge**2, -1), grid


def _places(
    model: QwenVLA, views: list[str], grids: list[tuple[int, int, int]], count: int
) -> dict[str, Tensor]:
    """Return token_view and token_place of visual tokens that stand view after view."""
    merge = model.config.backbone['vision_config']['spatial_merge_size']
    tokens = sum(rows * columns // merge**2 for _, rows, columns in grids)
    one = {'image_views': tuple(views), 'image_grid_thw': np.array(grids)}
    known = tuple(model.config.inputs.image_sizes)
    found = token_places(np.ones((1, tokens), bool), [tokens], [one], known, merge)
    return {
        key: torch.from_numpy(found[key]).expand(count, *(-1,) * (found[key].ndim - 1))
        for key in ('token_view', 'token_place')
    }
