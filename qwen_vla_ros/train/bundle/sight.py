"""
The first part of CPT: vision tower and readout learn where things are, without the rest.

A step of a stage spends a thirtieth of its arithmetic on the vision tower. Here visual tokens go
straight to the readout, beside the prompt's words, which are read once: points and values are
learnt from ten times as many pictures in the same time.

Shapes: B pictures, T visual tokens of a picture, C backbone width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qwen_vla_ros.model.qwen_vla import QwenVLA
from qwen_vla_ros.model.readout import FINDING, token_places
from qwen_vla_ros.model.scene import Found
from qwen_vla_ros.model.vision import look, plan_images
from qwen_vla_ros.patches import patchify
from qwen_vla_ros.train.bundle.fitting import Part, fit
from qwen_vla_ros.train.bundle.frames import POINTS
from qwen_vla_ros.train.bundle.sentences import Sentences, read_words, sentences_of
from qwen_vla_ros.train.bundle.shards import ShardEpisodes
from qwen_vla_ros.train.bundle.shown import Shown
from qwen_vla_ros.train.pointing import pointing_losses
from qwen_vla_ros.train.robots import Encoder
from qwen_vla_ros.train.start import Start

PICTURES, SENTENCES = 32, 3  # of a step, and of a picture
HELD_PICTURES = 85  # of a step where the tower is held
READ_RATE, TOWER_RATE, WARM_UP, LOOK, HELD_OUT, SEED = 2e-3, 6e-4, 50, 200, 20, 0
LOOKED_AT = 384  # held-out sentences of a set


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
        self._kept: dict[tuple[str, str], tuple[Tensor, tuple[int, int, int]]] = {}

    @torch.no_grad()
    def hold(self) -> None:
        """Look at every picture once, for good: the tower is trained no more."""
        for name, part in self.sets.items():
            for view in self._views(name):
                images = part.arrays[f'view.{view}']
                parts = np.array_split(images, -(-len(images) // PICTURES))
                bar = tqdm(parts, desc=f'{name}: {view}', unit='batch')
                seen = [look_at(self.model, some) for some in bar]
                self._kept[name, view] = (
                    torch.cat([tokens.half() for tokens, _ in seen]),
                    seen[0][1],
                )

    def drawn(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """Return rows of SENTENCES about each of some pictures of a set, training ones."""
        begin, count = self.rows[name]
        last = len(begin) - len(begin) // HELD_OUT
        pictures = rng.integers(last, size=HELD_PICTURES if self._kept else PICTURES)
        offsets = rng.integers(1 << 30, size=(len(pictures), SENTENCES)) % count[pictures][:, None]
        return (begin[pictures][:, None] + offsets).flatten()

    def held_out(self, name: str) -> np.ndarray:
        """Return rows of pictures that are not trained on."""
        rows = len(self.sentences[name].frame)
        first = self.rows[name][0][-max(1, len(self.rows[name][0]) // HELD_OUT)]
        return np.unique(np.linspace(first, rows - 1, LOOKED_AT).astype(int))

    def run(self, name: str, rows: np.ndarray) -> 'Looked':
        """Look at the pictures of some sentences, and find."""
        own, model = self.sentences[name], self.model
        pictures, which = np.unique(own.frame[rows].numpy(), return_inverse=True)
        views = self._views(name)
        tokens, grids = [], []
        for view in views:
            found, grid = self._tokens(name, view, pictures)
            tokens.append(found)
            grids.append(grid)
        seen = torch.cat(tokens, 1)[torch.from_numpy(which.reshape(-1))]
        places = _places(model, views, grids, len(rows))
        chosen = Sentences(*(getattr(own, key)[rows] for key in KEPT), weight=1.0)
        words = self.words[chosen.prompt]
        found, _ = model.decoder.readout.find(seen, words, chosen.state, places)
        return Looked(found, chosen, places, tokens[0], pictures)

    def _views(self, name: str) -> list[str]:
        sizes, arrays = self.model.config.inputs.image_sizes, self.sets[name].arrays
        return [view for view in sizes if f'view.{view}' in arrays]

    def _tokens(
        self, name: str, view: str, pictures: np.ndarray
    ) -> tuple[Tensor, tuple[int, int, int]]:
        """Return the visual tokens of some pictures, and the grid of one's patches."""
        if (name, view) in self._kept:
            tokens, grid = self._kept[name, view]
            return tokens[pictures].float(), grid
        return look_at(self.model, self.sets[name].arrays[f'view.{view}'][pictures])


@dataclass(frozen=True)
class Looked:
    """What is found for some sentences, what was told of them, and where tokens are."""

    found: Found
    told: Sentences
    places: dict[str, Tensor]
    tokens: Tensor  # [B, T, C] of the pictures' first view
    pictures: np.ndarray  # their numbers


KEPT = ('prompt', 'frame', 'points', 'values', 'state', 'actions')


def fit_sight(
    begun: Start,
    sets: Mapping[str, ShardEpisodes],
    shares: Mapping[str, float],
    steps: int,
    out: Path,
    share: float = 1.0,
    held: bool = False,
) -> float | None:
    """
    Train vision tower and readout in place, as fit() tells.

    shares: set -> how often it is drawn; share: of the usual rates; held: the readout alone, from
    what the tower makes of each picture now: three times as many sentences in the same time
    """
    sight = Sight(begun, sets)
    readout, tower = begun.model.decoder.readout, begun.model.backbone.model.visual
    if held:
        sight.hold()
    shown = {
        name: Shown(part.arrays['rays'], _tokens_of(begun.model, part), sight.words.shape[1] // 2)
        for name, part in sets.items()
        if 'rays' in part.arrays and not held
    }
    heads = readout.weights_of(FINDING)
    telling = [weight for part in shown.values() for weight in part.parameters()]
    chance = np.array([shares[name] for name in sets]) / sum(shares[name] for name in sets)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEED, step))
        name = str(rng.choice(list(sets), p=chance))
        seen = sight.run(name, sight.drawn(name, rng))
        told = seen.told
        found = {
            'pointing': pointing_losses(seen.found, told.points, told.values, seen.places).mean()
        }
        if name in shown:
            found['shown'] = shown[name].loss(seen.tokens, seen.pictures)
        return found

    groups = [(heads + telling, share * READ_RATE)]
    if not held:
        groups.append((list(tower.parameters()), share * TOWER_RATE))
    part = Part(
        'sight',
        groups,
        losses,
        lambda: {name: _errors(sight, name) for name in sets},
        WARM_UP,
        LOOK,
        {'pointing': 1.0, 'shown': 1.0},
    )
    return fit(part, steps, out)


@torch.no_grad()
def _errors(sight: Sight, name: str) -> dict[str, float]:
    """
    Return the median error of each point (of the picture) and value of held-out pictures.

    known_VALUE: how often it is rightly told whether there is one
    """
    seen = sight.run(name, sight.held_out(name))
    found, told = seen.found, seen.told
    away = (found.place_BP2 - told.points).norm(dim=-1)
    values = sight.model.config.decoder.readout_values
    errors = {}
    for index, point in enumerate(POINTS):
        if (there := told.points[:, index].isfinite().all(-1)).any():
            errors[f'error_{point}'] = float(away[there, index].median())
    for index, value in enumerate(values):
        if (there := told.values[:, index].isfinite()).any():
            off = (found.values_BV[there, index] - told.values[there, index]).abs()
            errors[f'error_{value}'] = float(off.median())
    known, there = found.known_BV > 0, told.values.isfinite()
    for index, value in enumerate(values):
        if 0.0 < there[:, index].float().mean() < 1.0:
            errors[f'known_{value}'] = float((known == there)[:, index].float().mean())
    return {key: round(value, 5) for key, value in errors.items()}


def _tokens_of(model: QwenVLA, part: ShardEpisodes) -> tuple[int, int]:
    """Return rows and columns of the visual tokens of a set's first view."""
    vision = model.config.backbone['vision_config']
    cell = vision['patch_size'] * vision['spatial_merge_size']
    first = next(v for v in model.config.inputs.image_sizes if f'view.{v}' in part.arrays)
    rows, columns = part.arrays[f'view.{first}'].shape[1:3]
    return rows // cell, columns // cell


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
