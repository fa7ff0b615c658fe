"""
Readout: a few tokens for the decoder instead of all of the VLM's states.

The published decoder attends to every hidden state of the VLM. A model of a few million weights
that has seen a hundred thousand samples does not find 5 mm in them. Here it is told where things
are: each named point ('view/thing': what the sentence is about, the hand, ...) is the mean of its
view's tokens under an attention that training supervises (train/pointing.py), so that the decoder
works with places in pictures, of which the error of a camera's mounting cancels out between hand
and thing. From these and the robot's state it estimates named values: where the target is in the
robot's own frame, how it is turned. Training may tell both instead of finding them: all where
there are no pictures (T2A), some while finding is being learnt.

Learned queries read what no point holds, of words and pictures alike. The decoder's work no longer
grows with the number of tokens.

Shapes: B batch, T tokens, P points, V values, Q queries, S state channels, C backbone width, D
decoder width, N heads, F features of a place.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import ActionDecoderConfig

WAVES = 6  # the shortest is a 16th of a picture
VALUE_WAVES = 5  # of a value: 16 to 1
GLANCE, LAYERS = 32, 384  # widths of the estimate: what a point shows, and its layers
GEOMETRY = 2  # tokens
DRAFT, DRAFT_LAYERS = 768, 4
KEY = 64
BEFORE_IMAGE = 2  # tokens: its view's, and that an image begins
VALUE_SCALE = 4.0  # usual size of a value
HEADS = 4


@dataclass(frozen=True)
class Found:
    """
    Where the points are.

    logits_BPT1   of each token, last: not in the picture; -inf where a token is of no use
    place_BP2     (u, v) in 0..1 of the point's own picture
    seen_BP       probability that it is in the picture
    values_BV     estimates
    known_BV      logits: there is such a value
    """

    logits_BPT1: Tensor
    place_BP2: Tensor
    seen_BP: Tensor
    values_BV: Tensor | None = None
    known_BV: Tensor | None = None


class Readout(nn.Module):
    """States of the VLM -> tokens [B, P + GEOMETRY + Q, D] of the decoder's context."""

    def __init__(
        self,
        config: ActionDecoderConfig,
        views: Sequence[str],
        backbone_width: int,
    ) -> None:
        """Build it; each point's view ('view/thing') is one of the views."""
        super().__init__()
        known, points, width = list(views), config.readout_points, config.width
        for point in points:
            if point.partition('/')[0] not in known:
                raise QwenVlaError(
                    f'model config: decoder.readout_points: {point!r}: the views are {known}'
                )
        view = torch.tensor([known.index(point.partition('/')[0]) for point in points])
        self.register_buffer('view', view, persistent=False)
        count, values = len(points), len(config.readout_values)
        self.state_dim = config.state_dim if config.state_input == 'continuous' else 0
        features = 2 + 4 * WAVES
        # One word of fifty hardly moves the mean of a prompt: sight.py sets these to its spread.
        self.words_middle = nn.Parameter(torch.zeros(2 * backbone_width))
        self.words_scale = nn.Parameter(torch.ones(2 * backbone_width))
        self.ask = nn.Linear(2 * backbone_width, count * KEY)
        self.key = nn.Linear(backbone_width, KEY)
        self.places = nn.Linear(backbone_width, 3 * count)
        self.missing = nn.Linear(2 * backbone_width, count)
        self.told_by_states = nn.Linear(backbone_width, count)
        nn.init.zeros_(self.told_by_states.weight)  # sight (train/bundle) comes before it
        nn.init.zeros_(self.told_by_states.bias)
        self.where = _mlp(features, width, width)
        self.what = nn.Linear(backbone_width, width)
        nn.init.zeros_(self.what.weight)  # T2A knows the places alone; what is there comes later
        nn.init.zeros_(self.what.bias)
        self.name = nn.Parameter(torch.randn(count, width) * 0.02)
        self.absent = nn.Parameter(torch.randn(count, width) * 0.02)
        told = count * (features + 1) + self.state_dim
        self.values = values
        if values:
            self.glance = nn.Linear(backbone_width, GLANCE)
            self.estimate = _layers(told + count * GLANCE, LAYERS, 2 * values)
        told += values * (2 + 2 * VALUE_WAVES)
        self.geometry = _layers(told, 2 * width, GEOMETRY * width)
        self.rows = (config.horizon, config.action_dim) if config.readout_draft else None
        if self.rows:
            self.draft = Draft(told + 2 * backbone_width, math.prod(self.rows))
        self.queries = nn.Parameter(torch.randn(config.readout_queries, width) * 0.02)
        self.keys_values = nn.Linear(backbone_width, 2 * width)
        self.out = nn.Linear(width, width)

    def find(
        self,
        seen_BTC: Tensor,
        words_B2C: Tensor,
        state_BS: Tensor | None,
        batch: Mapping[str, Tensor],
        states_BTC: Tensor | None = None,
    ) -> tuple[Found, Tensor]:
        """
        Return where the points are with the values that follow, and the share of each token.

        seen: what went into the language model, of which only visual tokens count; words: see
        words_of(); states: what came out of it. batch: token_view, token_place.
        """
        out = self.places(seen_BTC).float().unflatten(-1, (-1, 3))
        words_B2C = (words_B2C - self.words_middle) * self.words_scale
        asked = self.ask(words_B2C).unflatten(-1, (-1, KEY))
        logits = out[..., 0].transpose(1, 2) + asked.float() @ self.key(seen_BTC).float().mT / 8
        if states_BTC is not None:
            logits = logits + self.told_by_states(states_BTC).float().transpose(1, 2)
        own_BPT = batch['token_view'][:, None] == self.view[None, :, None]
        logits = logits.masked_fill(~own_BPT, -torch.inf)
        logits = torch.cat((logits, self.missing(words_B2C).float()[..., None]), -1)
        share_BPT = logits.softmax(-1)[..., :-1]
        middle, cell = batch['token_place'].split(2, -1)
        place_BTP2 = middle[:, :, None] + out[..., 1:].tanh() * cell[:, :, None]
        seen = share_BPT.sum(-1)
        share_BPT = share_BPT / seen[..., None].clamp(min=1e-3)
        place = torch.einsum('bpt,btpc->bpc', share_BPT, place_BTP2)
        found = Found(logits, place, seen)
        if self.values:
            found = self._estimated(found, share_BPT.to(seen_BTC.dtype) @ seen_BTC, state_BS)
        return found, share_BPT

    def forward(
        self, hidden_BTC: Tensor, state_BS: Tensor | None, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Found | None, Tensor | None]:
        """
        Return the tokens, what was found (None without pictures), and a draft [B, H, K] or None.

        hidden [B, T, 2C]: the language model's states, then what went into it.

        batch: attention_mask where samples were padded; token_view and token_place of pictures
        (see find); told float32 [B, P, 2] and told_values [B, V]: what counts instead, NaN: not in
        the picture, none; inf: not told. A batch without pictures must have them.
        """
        found, told, thing = None, batch.get('told'), 0.0
        if told is not None:
            place, seen = told.nan_to_num(0.5, 0.5, 0.5), told.isfinite().all(-1).float()
        elif 'token_view' not in batch:
            raise ValueError('this decoder reads points: the batch has no picture and tells none')
        states_BTC, seen_BTC = hidden_BTC.chunk(2, -1)
        words = words_of(states_BTC, batch['text_end'])
        if 'token_view' in batch:
            found, share = self.find(seen_BTC, words, state_BS, batch, states_BTC)
            thing = self.what(share.to(states_BTC.dtype) @ states_BTC)
            if told is None:
                place, seen = found.place_BP2, found.seen_BP
            else:
                given = ~told.isinf().any(-1)
                place = torch.where(given[..., None], place, found.place_BP2)
                seen = torch.where(given, seen, found.seen_BP)
        features = place_features(place, seen)
        here = self.where(features.to(hidden_BTC.dtype)) + thing
        known = seen[..., None].to(here.dtype)
        points_BPD = known * here + (1 - known) * self.absent + self.name
        values = _values(found, batch.get('told_values')) if self.values else ()
        known_BG = self.geometry_in(features, seen, state_BS, values).to(hidden_BTC.dtype)
        geometry = self.geometry(known_BG).unflatten(-1, (GEOMETRY, -1))
        draft = None
        if self.rows:
            draft = self.draft(torch.cat((known_BG, words), -1)).unflatten(-1, self.rows)
        read = self._read(states_BTC, batch.get('attention_mask'))
        return torch.cat((points_BPD, geometry, read), dim=1), found, draft

    def geometry_in(
        self,
        features_BPF: Tensor,
        seen_BP: Tensor,
        state_BS: Tensor | None,
        values: tuple[Tensor, ...],
    ) -> Tensor:
        """Return all that is known of the scene as one row a sample."""
        parts = [features_BPF.flatten(1), seen_BP, *self._state(state_BS)]
        if values:
            parts.append(_value_features(*values))
        return torch.cat(parts, -1)

    def draft_from(
        self, told_BP2: Tensor, told_BV: Tensor, state_BS: Tensor | None, words_BC: Tensor
    ) -> Tensor:
        """Return a draft [B, H, K] of what is told (see forward) and of words_of() a prompt."""
        place, seen = told_BP2.nan_to_num(0.5, 0.5, 0.5), told_BP2.isfinite().all(-1).float()
        values = _values(None, told_BV) if self.values else ()
        known_BG = self.geometry_in(place_features(place, seen), seen, state_BS, values)
        return self.draft(torch.cat((known_BG, words_BC), -1)).unflatten(-1, self.rows)

    def _state(self, state_BS: Tensor | None) -> list[Tensor]:
        return [state_BS.float()] if self.state_dim else []

    def _estimated(self, found: Found, looked_BPC: Tensor, state_BS: Tensor | None) -> Found:
        """Return what was found with the values that follow from it."""
        features = place_features(found.place_BP2, found.seen_BP)
        glances = self.glance(looked_BPC) * found.seen_BP[..., None].to(looked_BPC.dtype)
        parts = (features.flatten(1), found.seen_BP, glances.flatten(1), *self._state(state_BS))
        out = self.estimate(torch.cat(parts, -1).to(looked_BPC.dtype)).float()
        values, known = out.chunk(2, -1)
        return replace(found, values_BV=VALUE_SCALE * values, known_BV=known)

    def _read(self, hidden_BTC: Tensor, mask_BT: Tensor | None) -> Tensor:
        """Return what the queries read of all states, [B, Q, D]."""
        keys, values = self.keys_values(hidden_BTC).chunk(2, -1)
        queries = self.queries.to(keys.dtype).expand(len(keys), -1, -1)
        mask = None if mask_BT is None else mask_BT.bool()[:, None, None]
        read = functional.scaled_dot_product_attention(
            *(_heads(x) for x in (queries, keys, values)), attn_mask=mask
        )
        return self.out(read.transpose(1, 2).flatten(2)) + queries


def token_places(
    is_image: np.ndarray,
    lengths: Sequence[int],
    samples: Sequence[Mapping],
    views: Sequence[str],
    merge: int,
) -> dict[str, np.ndarray]:
    """
    Return text_end int64 [B], and of samples with pictures token_view int64 [B, T], token_place.

    text_end is the last token of the prompt. token_view is the index of a token's view, -1: of
    none; token_place float32 [B, T, 4] its middle and its size (u, v, width, height) in 0..1 of
    its picture.
    """
    first = np.where(is_image.any(1), is_image.argmax(1) - BEFORE_IMAGE, lengths)
    end = {'text_end': (first - 1).astype(np.int64)}
    if not any(len(sample.get('image_views', ())) for sample in samples):
        return end
    view = np.full(is_image.shape, -1, np.int64)
    place = np.zeros((*is_image.shape, 4), np.float32)  # of words: no point attends to them
    for row, sample in enumerate(samples):
        at, names = np.flatnonzero(is_image[row]), sample.get('image_views', ())
        if not len(names):
            continue
        for name, grid in zip(names, sample['image_grid_thw'].tolist(), strict=True):
            high, wide = grid[1] // merge, grid[2] // merge
            here, at = at[: high * wide], at[high * wide :]
            if name not in views:
                continue
            v, u = np.divmod(np.arange(high * wide), wide)
            view[row, here] = list(views).index(name)
            place[row, here, 0], place[row, here, 1] = (u + 0.5) / wide, (v + 0.5) / high
            place[row, here, 2:] = 1 / wide, 1 / high
    return {**end, 'token_view': view, 'token_place': place}


def words_of(hidden_BTC: Tensor, end_B: Tensor) -> Tensor:
    """Return [B, 2C]: the mean of the prompt's states, and the last of them."""
    places = torch.arange(hidden_BTC.shape[1], device=hidden_BTC.device)
    own = (places <= end_B[:, None])[..., None].to(hidden_BTC.dtype)
    last = (places == end_B[:, None])[..., None].to(hidden_BTC.dtype)
    return torch.cat(((hidden_BTC * own).sum(1) / own.sum(1), (hidden_BTC * last).sum(1)), -1)


class Draft(nn.Module):
    """Rows that know all of a scene -> a chunk, in a few layers that add to each other."""

    def __init__(self, inside: int, outside: int) -> None:
        """Build it."""
        super().__init__()
        self.first = nn.Linear(inside, DRAFT)
        self.layers = nn.ModuleList(nn.Linear(DRAFT, DRAFT) for _ in range(DRAFT_LAYERS))
        self.last = nn.Linear(DRAFT, outside)

    def forward(self, known_BG: Tensor) -> Tensor:
        """Return [B, outside]."""
        x = functional.silu(self.first(known_BG))
        for layer in self.layers:
            x = x + functional.silu(layer(functional.layer_norm(x, x.shape[-1:])))
        return self.last(functional.layer_norm(x, x.shape[-1:]))


def place_features(place_BP2: Tensor, seen_BP: Tensor) -> Tensor:
    """Return places as waves, [B, P, F]; nothing of what is not seen."""
    rate = math.pi * 2.0 ** torch.arange(WAVES, device=place_BP2.device)
    angle = (place_BP2[..., None] * rate).flatten(-2)
    return torch.cat((2 * place_BP2 - 1, angle.sin(), angle.cos()), -1) * seen_BP[..., None]


def _values(found: Found | None, told_BV: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the values that count and how surely there are such, each [B, V]."""
    if found is not None:  # what they are is taught by their own loss alone
        guess, sure = found.values_BV.detach(), found.known_BV.detach().sigmoid()
    if told_BV is None:
        return guess, sure
    values, known = told_BV.nan_to_num(0.0, 0.0, 0.0), told_BV.isfinite().float()
    if found is None:
        return values, known
    given = ~told_BV.isinf()
    return torch.where(given, values, guess), torch.where(given, known, sure)


def _value_features(values_BV: Tensor, known_BV: Tensor) -> Tensor:
    """Return values as waves, [B, V * (2 + 2 VALUE_WAVES)]; nothing of what is not known."""
    rate = math.pi * 2.0 ** torch.arange(-3, VALUE_WAVES - 3, device=values_BV.device)
    angle = (values_BV[..., None] * rate).flatten(1)
    known = known_BV.repeat_interleave(VALUE_WAVES, 1)
    parts = (
        values_BV / VALUE_SCALE * known_BV,
        known_BV,
        angle.sin() * known,
        angle.cos() * known,
    )
    return torch.cat(parts, -1)


def _heads(x_BTD: Tensor) -> Tensor:
    return x_BTD.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _layers(inside: int, hidden: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inside, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outside),
    )


def _mlp(inside: int, hidden: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, hidden), nn.SiLU(), nn.Linear(hidden, outside))
