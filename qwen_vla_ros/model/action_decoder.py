"""
The DiT action decoder: joint self-attention over [VLM hidden states; noisy actions].

Paper 2.2: single stream, AdaLN-Zero timestep conditioning, SwiGLU, multi-section RoPE aligned
with the backbone. In `joint` mode one pass takes both parts. In `prefix` mode the context part is
computed once (`prefill`) at timestep 0 and its keys and values serve every denoising step.

Shapes: B batch, T context tokens, H horizon, K action channels, S state channels, C backbone
width, D decoder width, N heads, E head size, R rotary pairs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from qwen_vla_ros.model.config import ActionDecoderConfig
from qwen_vla_ros.model.readout import Readout
from qwen_vla_ros.model.scene import Found

SURE = 0.25  # timestep: below it rows tell more of where they end than a draft does


def rotary_table(position_3BT: Tensor, sections: tuple[int, ...], theta: float) -> Tensor:
    """
    Return cos and sin stacked, [2, B, 1, T, R], of interleaved multi-section RoPE.

    Channel pair j turns with the temporal, height or width position by the backbone's own
    interleaving (Qwen3.5: t h w t h w ..., sections counted in pairs).
    """
    pairs = sum(sections)
    exponent = torch.arange(pairs, device=position_3BT.device, dtype=torch.float32) / pairs
    angle_3BTR = position_3BT[..., None].float() * theta**-exponent
    angle_BTR = angle_3BTR[0].clone()
    for axis in (1, 2):
        taken = slice(axis, sections[axis] * 3, 3)
        angle_BTR[..., taken] = angle_3BTR[axis][..., taken]
    return torch.stack((angle_BTR.cos(), angle_BTR.sin()))[:, :, None]


def rotate(x_BNTE: Tensor, table: Tensor) -> Tensor:
    """Turn the first 2R channels of each head; the rest pass."""
    pairs = table.shape[-1]
    first, second = x_BNTE[..., :pairs], x_BNTE[..., pairs : 2 * pairs]
    cos, sin = table.to(x_BNTE.dtype)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat((*turned, x_BNTE[..., 2 * pairs :]), dim=-1)


class TimestepEmbedding(nn.Module):
    """tau in [0, 1] -> D: a sinusoid of 256 channels and a two-layer MLP."""

    def __init__(self, config: ActionDecoderConfig) -> None:
        """Build the MLP; the sinusoid has no parameters."""
        super().__init__()
        self.channels = config.timestep_channels
        self.mlp = _mlp(config.timestep_channels, config.width, config.width)

    def forward(self, tau: Tensor) -> Tensor:
        """Return [..., D] for tau [...]."""
        half = self.channels // 2
        rate = torch.arange(half, device=tau.device, dtype=torch.float32) / half
        angle = tau.float()[..., None] * 1000.0 * torch.exp(-math.log(10000.0) * rate)
        wave = torch.cat((angle.cos(), angle.sin()), dim=-1)
        return self.mlp(wave.to(self.mlp[0].weight.dtype))


def _mlp(inside: int, hidden: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, hidden), nn.SiLU(), nn.Linear(hidden, outside))


def _modulate(x_BTD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(x_BTD, x_BTD.shape[-1:]) * (1 + scale) + shift


class Block(nn.Module):
    """One DiT block: AdaLN-Zero, attention with QK-norm, SwiGLU."""

    def __init__(self, config: ActionDecoderConfig) -> None:
        """Build the projections; modulation starts at zero, so the block starts as identity."""
        super().__init__()
        width = config.width
        self.heads, self.size = config.heads, width // config.heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm, self.key_norm = nn.RMSNorm(self.size), nn.RMSNorm(self.size)
        self.out = nn.Linear(width, width)
        self.gate_up = nn.Linear(width, 2 * config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, width, bias=False)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def condition(self, time_BTD: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale, gate of attention and of the feed-forward part."""
        return self.modulation(functional.silu(time_BTD)).chunk(6, dim=-1)

    def queries_keys_values(
        self, x_BTD: Tensor, modulation: tuple[Tensor, ...], table: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated q, k and v, each [B, N, T, E]."""
        batch, tokens, _ = x_BTD.shape
        mixed = self.qkv(_modulate(x_BTD, modulation[0], modulation[1]))
        q, k, v = mixed.view(batch, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        return rotate(self.query_norm(q), table), rotate(self.key_norm(k), table), v

    def finish(
        self, x_BTD: Tensor, attended_BNTE: Tensor, modulation: tuple[Tensor, ...]
    ) -> Tensor:
        """Add the attention's and the feed-forward part's gated results."""
        merged = attended_BNTE.transpose(1, 2).reshape(x_BTD.shape)
        x_BTD = x_BTD + modulation[2] * self.out(merged)
        gate, up = self.gate_up(_modulate(x_BTD, modulation[3], modulation[4])).chunk(2, dim=-1)
        return x_BTD + modulation[5] * self.down(functional.silu(gate) * up)


@dataclass
class Context:
    """
    What the decoder conditions on.

    tokens_BTD     projected VLM hidden states, then the state token when there is one
    position_3BT   (t, h, w) positions, the backbone's own for its tokens
    mask_BT        True where a token is real; None: all are
    rows_BH        True where an action row belongs to the robot's own horizon; None: all do
    keys_values    per block (k, v) [B, N, T, E]: the prefix mode's cache, else None
    found          where a readout found its points, else None
    draft_BHK      what a readout drafts, else None
    """

    tokens_BTD: Tensor
    position_3BT: Tensor
    mask_BT: Tensor | None = None
    rows_BH: Tensor | None = None
    keys_values: list[tuple[Tensor, Tensor]] | None = None
    found: Found | None = None
    draft_BHK: Tensor | None = None

    def key_mask(self, horizon: int) -> Tensor | None:
        """Return bool [B, 1, 1, T + H]: which keys the action rows may see; None: all."""
        if self.mask_BT is None and self.rows_BH is None:
            return None
        tokens = self.tokens_BTD.shape[:2]
        mask = self.tokens_BTD.new_ones(tokens, dtype=torch.bool)
        mask = mask if self.mask_BT is None else self.mask_BT
        rows = mask.new_ones(len(mask), horizon) if self.rows_BH is None else self.rows_BH
        return torch.cat((mask, rows), dim=1)[:, None, None]

    def drafted(self, horizon: int) -> Tensor:
        """Return the draft's rows, without gradient; the last one stands for all beyond it."""
        draft = self.draft_BHK.detach()
        rows = torch.arange(horizon, device=draft.device).clamp(max=draft.shape[1] - 1)
        return draft[:, rows]

    def repeat(self, times: int) -> 'Context':
        """Return each sample `times` times in a row: several noise draws share one context."""
        if times == 1:
            return self
        cache = self.keys_values and [
            (k.repeat_interleave(times, 0), v.repeat_interleave(times, 0))
            for k, v in self.keys_values
        ]
        masks = (
            None if mask is None else mask.repeat_interleave(times, 0)
            for mask in (self.mask_BT, self.rows_BH)
        )
        draft = self.draft_BHK
        return Context(
            self.tokens_BTD.repeat_interleave(times, 0),
            self.position_3BT.repeat_interleave(times, 1),
            *masks,
            cache,
            draft_BHK=None if draft is None else draft.repeat_interleave(times, 0),
        )


class ActionDecoder(nn.Module):
    """Noisy actions and context -> velocity."""

    def __init__(
        self, config: ActionDecoderConfig, backbone_width: int, views: Sequence[str] = ()
    ) -> None:
        """Build the parts whose sizes the paper's budget lists; views: those of readout points."""
        super().__init__()
        self.config = config
        self.recompute = False  # activation checkpointing, block by block
        self.context_in = nn.Linear(backbone_width, config.width)
        self.action_in = _mlp(config.action_dim, config.width, config.width)
        self.timestep = TimestepEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.modulation_out = nn.Linear(config.width, 2 * config.width)
        self.action_out = _mlp(config.width, config.width, config.action_dim)
        if config.state_input == 'continuous':
            self.state_in = _mlp(config.state_dim, config.width, config.width)
        if config.readout_points:
            self.readout = Readout(config, views, backbone_width)
        if config.readout_draft:
            self.draft_in = nn.Linear(config.action_dim, config.width)
        for layer in (self.modulation_out, self.action_out[2]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def context(
        self,
        hidden_BTC: Tensor,
        position_3BT: Tensor,
        mask_BT: Tensor | None = None,
        state_BS: Tensor | None = None,
        rows_BH: Tensor | None = None,
        read: Mapping[str, Tensor] | None = None,
    ) -> Context:
        """
        Project the VLM's hidden states, or read them out, and append the state token.

        read: what a readout takes beside the states, see Readout.forward()
        """
        mask, found, draft = None if mask_BT is None else mask_BT.bool(), None, None
        if self.config.readout_points:
            tokens, found, draft = self.readout(hidden_BTC, state_BS, read or {})
            places = torch.arange(tokens.shape[1], device=tokens.device)
            position_3BT, mask = places.expand(3, len(tokens), -1), None
        else:
            tokens = self.context_in(hidden_BTC)
        if self.config.state_input == 'continuous':
            if state_BS is None:
                raise ValueError('this decoder takes the state; the batch has none')
            tokens = torch.cat((tokens, self.state_in(state_BS.to(tokens.dtype))[:, None]), dim=1)
            after = next_position(position_3BT, mask).expand(3, -1)[..., None]
            position_3BT = torch.cat((position_3BT, after), dim=-1)
            mask = None if mask is None else functional.pad(mask, (0, 1), value=True)
        return Context(tokens, position_3BT, mask, rows_BH, found=found, draft_BHK=draft)

    def prefill(self, context: Context) -> Context:
        """Prefix mode: run the context through all blocks at timestep 0, keep keys and values."""
        table = self.table(context.position_3BT)
        time = self.timestep(torch.zeros(1, 1, device=context.tokens_BTD.device))
        x_BTD, mask = context.tokens_BTD, context.mask_BT
        mask = None if mask is None else mask[:, None, None]
        cache = []
        for index, block in enumerate(self.blocks):
            modulation = block.condition(time)
            q, k, v = block.queries_keys_values(x_BTD, modulation, table)
            cache.append((k, v))
            if index < len(self.blocks) - 1:
                attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
                x_BTD = block.finish(x_BTD, attended, modulation)
        return replace(context, keys_values=cache)

    def forward(self, noisy_BHK: Tensor, tau_BH: Tensor, context: Context) -> Tensor:
        """
        Return the velocity [B, H, K], in the actions' dtype.

        tau [B, H] gives each row its own timestep, [B, 1] one for all. In 'joint' mode the
        context takes the largest of them.
        """
        horizon, joint = noisy_BHK.shape[1], self.config.attention == 'joint'
        straight = straight_way(noisy_BHK, tau_BH[..., None], context)
        x_BTD = self.rows_in(noisy_BHK, context)
        position_3BT = self.row_positions(context, horizon)
        mask = context.key_mask(horizon)
        tokens = 0
        if joint:
            tokens = context.tokens_BTD.shape[1]
            x_BTD = torch.cat((context.tokens_BTD, x_BTD), dim=1)
            position_3BT = torch.cat((context.position_3BT, position_3BT), dim=-1)
            if tau_BH.shape[1] > 1:
                tau_BH = torch.cat((tau_BH.amax(1, keepdim=True), tau_BH), dim=1)
            cache = [None] * len(self.blocks)
        else:
            cache = context.keys_values or self.prefill(context).keys_values
        time_BTD, table = self.timestep(tau_BH), self.table(position_3BT)
        for block, known in zip(self.blocks, cache, strict=True):
            given = (block, x_BTD, time_BTD, table, known, mask, tokens)
            if self.recompute and torch.is_grad_enabled():
                x_BTD = checkpoint(_advance, *given, use_reentrant=False)
            else:
                x_BTD = _advance(*given)
        shift, scale = self.modulation_out(functional.silu(time_BTD[:, -horizon:])).chunk(2, -1)
        found = self.action_out(_modulate(x_BTD[:, -horizon:], shift, scale))
        found = found.to(noisy_BHK.dtype)
        return found if straight is None else found + straight

    def rows_in(self, noisy_BHK: Tensor, context: Context) -> Tensor:
        """Return the action rows [B, H, D] as they go into the blocks."""
        x_BHD = self.action_in(noisy_BHK.to(context.tokens_BTD.dtype))
        if context.draft_BHK is None:
            return x_BHD
        return x_BHD + self.draft_in(context.drafted(x_BHD.shape[1]).to(x_BHD.dtype))

    def row_positions(self, context: Context, horizon: int) -> Tensor:
        """Return [3, B, H]: the action rows stand behind everything in the context."""
        start_B = next_position(context.position_3BT, context.mask_BT)
        rows = torch.arange(horizon, device=start_B.device)
        return (start_B[:, None] + rows).expand(3, -1, -1)

    def table(self, position_3BT: Tensor) -> Tensor:
        """Return the rotary table of positions, see rotary_table()."""
        return rotary_table(position_3BT, self.config.rotary_sections, self.config.rotary_theta)


def straight_way(noisy_BHK: Tensor, tau_BH1: Tensor, context: Context) -> Tensor | None:
    """
    Return the velocity [B, H, K] that leads from noisy rows to the context's draft; None without.

    The blocks add what the draft gets wrong, so the last Euler step before SURE ends at the draft
    itself where they add nothing (a skip, as EDM's preconditioning, arXiv 2206.00364).
    """
    if context.draft_BHK is None:
        return None
    draft = context.drafted(noisy_BHK.shape[1]).to(noisy_BHK)
    return (noisy_BHK - draft) / tau_BH1.clamp(min=SURE).to(noisy_BHK)


def _advance(
    block: Block,
    x_BTD: Tensor,
    time_BTD: Tensor,
    table: Tensor,
    known: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
    tokens: int,
) -> Tensor:
    """Return what one block makes of action rows and, in 'joint' mode, `tokens` of context."""
    modulation = _spread(block.condition(time_BTD), tokens)
    q, k, v = block.queries_keys_values(x_BTD, modulation, table)
    if known is not None:
        k, v = torch.cat((known[0], k), dim=2), torch.cat((known[1], v), dim=2)
    attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return block.finish(x_BTD, attended, modulation)


def _spread(modulation: tuple[Tensor, ...], tokens: int) -> tuple[Tensor, ...]:
    """Repeat the first entry for `tokens` context tokens; one entry for all stays as it is."""
    if not tokens or modulation[0].shape[1] == 1:
        return modulation
    return tuple(
        torch.cat((part[:, :1].expand(-1, tokens, -1), part[:, 1:]), dim=1) for part in modulation
    )


def next_position(position_3BT: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return [B]: one past the largest position of a real token."""
    position_BT = position_3BT.amax(0)
    if mask_BT is not None:
        position_BT = position_BT.masked_fill(~mask_BT.bool(), 0)
    return position_BT.amax(1) + 1
