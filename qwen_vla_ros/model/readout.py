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
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.config import ActionDecoderConfig
from qwen_vla_ros.model.layers import Draft, layers, mlp
from qwen_vla_ros.model.look import Look
from qwen_vla_ros.model.scene import (
    VALUE_SCALE,
    VALUE_WAVES,
    WAVES,
    Found,
    Scene,
    place_features,
    same_axis,
    value_features,
    values_that_count,
    waves,
    with_ways,
)

STATE_WAVES = 3  # of a channel of the state: what a picture's hand sees turns with its joints
SIDE = 'turn'  # which of the values motion alone tells, by shorter waves: a round ends at a yaw
SIDE_WAVES = 6
GLANCE, LAYERS = 64, 512  # widths of the estimate: what a point shows, and its layers
GEOMETRY = 2  # tokens
MOST_SPREAD = 4.0  # of words, in standard deviations
KEY = 64
BEFORE_IMAGE = 2  # tokens: its view's, and that an image begins
HEADS = 4
# What finds, estimates and drafts; train/bundle fits these before the stages.
FINDING = ('ask', 'key', 'places', 'missing', 'glance', 'estimate', 'look', 'side')
DRAFTING = ('reach', 'draft')
LEARNT_APART = (*FINDING, *DRAFTING)


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
        # One word of fifty hardly moves the mean of a prompt: naming.py sets these to its spread.
        self.words_middle = nn.Parameter(torch.zeros(2 * backbone_width))
        self.words_scale = nn.Parameter(torch.ones(2 * backbone_width))
        self.ask = nn.Linear(2 * backbone_width, count * KEY)
        self.key = nn.Linear(backbone_width, KEY)
        self.places = nn.Linear(backbone_width, 3 * count)
        self.missing = nn.Linear(2 * backbone_width, count)
        self.told_by_states = nn.Linear(backbone_width, count)
        nn.init.zeros_(self.told_by_states.weight)  # sight (train/bundle) comes before it
        nn.init.zeros_(self.told_by_states.bias)
        self.where = mlp(features, width, width)
        self.what = nn.Linear(backbone_width, width)
        nn.init.zeros_(self.what.weight)  # T2A knows the places alone; what is there comes later
        nn.init.zeros_(self.what.bias)
        self.name = nn.Parameter(torch.randn(count, width) * 0.02)
        self.absent = nn.Parameter(torch.randn(count, width) * 0.02)
        told = count * (features + 1) + self.state_dim
        self.values = values
        self.pairs = same_axis(config.readout_values)
        self.hands = [i for i, name in enumerate(config.readout_values) if 'hand' in name]
        named = enumerate(config.readout_values)
        self.sides = [i for i, name in named if name == SIDE and self.state_dim]
        if values:
            self.glance = nn.Linear(backbone_width, GLANCE)
            seen = told + 2 * STATE_WAVES * self.state_dim + count * GLANCE
            if config.readout_layers:
                asked = 2 * backbone_width + (1 + 2 * STATE_WAVES) * self.state_dim
                self.look = Look(config.readout_layers, len(known), backbone_width, asked)
                seen += self.look.outside
            self.estimate = layers(seen, LAYERS, 2 * values)
        told += (values + len(self.pairs)) * (2 + 2 * VALUE_WAVES)
        moving = (1 + 2 * STATE_WAVES) * self.state_dim + 2 * backbone_width
        if self.hands:
            self.reach = layers(moving, LAYERS, 2 * len(self.hands))
        if self.sides:
            self.side = layers((1 + 2 * SIDE_WAVES) * self.state_dim, LAYERS, len(self.sides))
        self.geometry = layers(told, 2 * width, GEOMETRY * width)
        self.rows = (config.horizon, config.action_dim) if config.readout_draft else None
        if self.rows:
            known = told + 2 * STATE_WAVES * self.state_dim + 2 * backbone_width
            self.draft = Draft(known, math.prod(self.rows))
        self.queries = nn.Parameter(torch.randn(config.readout_queries, width) * 0.02)
        self.keys_values = nn.Linear(backbone_width, 2 * width)
        self.out = nn.Linear(width, width)

    def hold(self) -> None:
        """
        Train no more what finds and drafts.

        A reward's gradient reaches what finds, but not the draft, which goes by it too.
        """
        for weight in self.weights_of(LEARNT_APART):
            weight.requires_grad_(False)

    def weights_of(self, parts: Sequence[str]) -> list[nn.Parameter]:
        """Return the weights of those parts that there are."""
        there = [getattr(self, part) for part in parts if hasattr(self, part)]
        return [weight for part in there for weight in part.parameters()]

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
        spread_B2C = self.standardised(words_B2C)
        asked = self.ask(spread_B2C).unflatten(-1, (-1, KEY))
        logits = out[..., 0].transpose(1, 2) + asked.float() @ self.key(seen_BTC).float().mT / 8
        if states_BTC is not None:
            logits = logits + self.told_by_states(states_BTC).float().transpose(1, 2)
        own_BPT = batch['token_view'][:, None] == self.view[None, :, None]
        logits = logits.masked_fill(~own_BPT, -torch.inf)
        logits = torch.cat((logits, self.missing(spread_B2C).float()[..., None]), -1)
        share_BPT = logits.softmax(-1)[..., :-1]
        middle, cell = batch['token_place'].split(2, -1)
        place_BTP2 = middle[:, :, None] + out[..., 1:].tanh() * cell[:, :, None]
        seen = share_BPT.sum(-1)
        share_BPT = share_BPT / seen[..., None].clamp(min=1e-3)
        place = torch.einsum('bpt,btpc->bpc', share_BPT, place_BTP2)
        found = Found(logits, place, seen)
        if self.values:
            looked = share_BPT.to(seen_BTC.dtype) @ seen_BTC
            around = self._around(seen_BTC, spread_B2C, state_BS, batch)
            found = self._estimated(found, looked, around, state_BS, words_B2C)
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
        values: tuple[Tensor, ...] = ()
        if self.values:
            values = values_that_count(found, batch.get('told_values'))
            values = self._with_hands(*values, state_BS, words)
        known_BG = self.geometry_in(features, seen, state_BS, values).to(hidden_BTC.dtype)
        geometry = self.geometry(known_BG).unflatten(-1, (GEOMETRY, -1))
        draft = None
        if self.rows:
            draft = self._drafted(known_BG, state_BS, words)
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
            parts.append(value_features(*with_ways(*values, self.pairs)))
        return torch.cat(parts, -1)

    def draft_from(self, scene: Scene, state_BS: Tensor | None, words_B2C: Tensor) -> Tensor:
        """Return a draft [B, H, K] of a scene and of words_of() a prompt."""
        values = self._with_hands(scene.values_BV, scene.known_BV, state_BS, words_B2C)
        features = place_features(scene.place_BP2, scene.seen_BP)
        known_BG = self.geometry_in(features, scene.seen_BP, state_BS, values)
        return self._drafted(known_BG, state_BS, words_B2C)

    def _drafted(self, known_BG: Tensor, state_BS: Tensor | None, words_B2C: Tensor) -> Tensor:
        moving = self._state_waves(state_BS)
        told = torch.cat((known_BG, *moving, self.standardised(words_B2C)), -1)
        return self.draft(told.to(words_B2C.dtype)).unflatten(-1, self.rows)

    def standardised(self, words_B2C: Tensor) -> Tensor:
        """Return words_of() prompts by their spread; words unlike all that were met stay near."""
        spread = (words_B2C - self.words_middle) * self.words_scale
        return spread.clamp(-MOST_SPREAD, MOST_SPREAD)

    def _state(self, state_BS: Tensor | None) -> list[Tensor]:
        return [state_BS.float()] if self.state_dim else []

    def _state_waves(self, state_BS: Tensor | None, count: int = STATE_WAVES) -> list[Tensor]:
        rates = math.pi / 2 * 2.0 ** torch.arange(count)
        return [waves(state, rates) for state in self._state(state_BS)]

    def reached(self, state_BS: Tensor | None, words_B2C: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the hands are, and logits that there are such: the robot's joints tell."""
        parts = (
            *self._state(state_BS),
            *self._state_waves(state_BS),
            self.standardised(words_B2C),
        )
        places, known = self.reach(torch.cat(parts, -1).to(words_B2C.dtype)).float().chunk(2, -1)
        return VALUE_SCALE * places, known

    def _with_hands(
        self, values_BV: Tensor, known_BV: Tensor, state_BS: Tensor | None, words_B2C: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return values and how surely they are known, the hands' as the joints tell."""
        if not self.hands:
            return values_BV, known_BV
        places, sure = (x.detach() for x in self.reached(state_BS, words_B2C))
        values, known = values_BV.clone(), known_BV.clone()
        values[:, self.hands] = places.to(values.dtype)
        known[:, self.hands] = sure.sigmoid().to(known.dtype)
        return values, known

    def _around(
        self,
        seen_BTC: Tensor,
        spread_B2C: Tensor,
        state_BS: Tensor | None,
        batch: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Return what the pictures as a whole say to the words and the state, if it is asked."""
        if not hasattr(self, 'look'):
            return ()
        asked = torch.cat((spread_B2C, *self._state(state_BS), *self._state_waves(state_BS)), -1)
        asked = asked.to(seen_BTC.dtype)
        return (self.look(seen_BTC, asked, batch['token_view'], batch['token_place']),)

    def _estimated(
        self,
        found: Found,
        looked_BPC: Tensor,
        around: tuple[Tensor, ...],
        state_BS: Tensor | None,
        words_B2C: Tensor,
    ) -> Found:
        """Return what was found with the values that follow from it; around: see _around()."""
        features = place_features(found.place_BP2, found.seen_BP)
        glances = self.glance(looked_BPC) * found.seen_BP[..., None].to(looked_BPC.dtype)
        states = (*self._state(state_BS), *self._state_waves(state_BS))
        parts = (features.flatten(1), found.seen_BP, glances.flatten(1), *states, *around)
        out = self.estimate(torch.cat(parts, -1).to(looked_BPC.dtype)).float()
        values, known = (x.clone() for x in out.chunk(2, -1))
        values = VALUE_SCALE * values
        if self.hands:
            values[:, self.hands], known[:, self.hands] = self.reached(state_BS, words_B2C)
        if self.sides:
            moving = (*self._state(state_BS), *self._state_waves(state_BS, SIDE_WAVES))
            side = self.side(torch.cat(moving, -1).to(looked_BPC.dtype)).float()
            values[:, self.sides] = VALUE_SCALE * side
        return replace(found, values_BV=values, known_BV=known)

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
    place = np.zeros((*is_image.shape, 4), np.float32)  # words have none, and are masked
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


def _heads(x_BTD: Tensor) -> Tensor:
    return x_BTD.unflatten(-1, (HEADS, -1)).transpose(1, 2)
