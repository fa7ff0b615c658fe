"""
The denoising loop with everything taken out of it that does not depend on the noise.

Equal to sampling.solve() over ActionDecoder.forward(), with a fraction of the operators: the
modulations of every denoising step and block, the rotary tables and the positions are computed
once; q and k are normalised and turned together; keys and values of the context stay where they
are and only the action rows' are written. In 'joint' mode the last block skips what nobody reads.
Weights are folded at construction: build it anew when they change.

Shapes: B batch, T context tokens, H horizon, K action channels, D width, N heads, E head size, S
denoising steps, L blocks.
"""

import torch
from torch import Tensor
from torch.nn import functional

from qwen_vla_ros.model.action_decoder import ActionDecoder, Context, straight_way
from qwen_vla_ros.model.sampling import time_grid


class DenoisingLoop:
    """Noise and context -> clean actions in a fixed number of Euler steps."""

    @torch.no_grad()
    def __init__(self, decoder: ActionDecoder, steps: int) -> None:
        """Fold the timesteps' modulations and the attention's gains."""
        self.decoder, self.steps = decoder, steps
        self.joint = decoder.config.attention == 'joint'
        weight = decoder.context_in.weight
        grid = torch.tensor([0.0, *time_grid(steps)[:-1]], device=weight.device)
        self.grid = grid
        time_SD = decoder.timestep(grid)
        shape = (len(grid), 6, decoder.config.width)
        wave = functional.silu(time_SD)
        blocks = [block.modulation(wave).view(shape) for block in decoder.blocks]
        self.modulation = torch.stack(blocks, 1)  # [S + 1, L, 6, D]; entry 0 is timestep 0
        self.modulation[:, :, [1, 4]] += 1
        out = decoder.modulation_out(wave).view(len(grid), 2, -1)
        self.modulation_out = out + out.new_tensor([0.0, 1.0])[:, None]
        self.gains = [
            torch.stack((block.query_norm.weight, block.key_norm.weight))[:, None]
            for block in decoder.blocks
        ]
        self.swap = _swapped(decoder.config.width // decoder.config.heads, decoder).to(grid.device)

    @torch.no_grad()
    def __call__(
        self,
        context: Context,
        noise_BHK: Tensor,
        mask_BHK: Tensor,
        prefix_BDK: Tensor | None = None,
        told: list[Tensor] | None = None,
    ) -> Tensor:
        """
        Return actions [B, H, K].

        context needs keys and values in 'prefix' mode. prefix_BDK: known first rows, see
        sampling.solve(). told: takes the rows after each step.
        """
        batch, horizon, _ = noise_BHK.shape
        known = 0 if prefix_BDK is None else prefix_BDK.shape[1]
        turn = self._turn(context, horizon)
        memory = None if self.joint else self._memory(context, horizon)
        mask = context.key_mask(horizon)
        rows = torch.arange(horizon, device=noise_BHK.device) >= known
        moving = (mask_BHK * rows[:, None]) / self.steps
        x_BHK = noise_BHK * mask_BHK
        if known:
            x_BHK = torch.cat((prefix_BDK, x_BHK[:, known:]), dim=1)
        for step in range(1, self.steps + 1):
            when = (rows * step).repeat(batch) if known else slice(step, step + 1)
            slope = self._velocity(x_BHK, when, step, context, turn, memory, mask)
            x_BHK = torch.addcmul(x_BHK, slope, moving, value=-1)
            if told is not None:
                told.append(x_BHK)
        return x_BHK

    def _velocity(
        self,
        x_BHK: Tensor,
        when: Tensor | slice,
        step: int,
        context: Context,
        turn: tuple[Tensor, Tensor],
        memory: list['_Memory'] | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Return the velocity [B, H, K]; inside, the tokens of all samples stand in one list."""
        decoder, (batch, horizon, _) = self.decoder, x_BHK.shape
        table = self.modulation[when]
        shift_out, scale_out = self.modulation_out[when].unbind(1)
        x_TD = decoder.rows_in(x_BHK, context).flatten(0, 1)
        if self.joint:
            tokens = context.tokens_BTD
            x_TD = torch.cat((tokens, x_TD.view(batch, horizon, -1)), dim=1).flatten(0, 1)
            table = self._with_scene(table, step, batch, tokens.shape[1])
        for index, (block, parts) in enumerate(zip(decoder.blocks, table.unbind(1), strict=True)):
            shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = parts.unbind(1)
            mixed = block.qkv(torch.addcmul(shift, _normed(x_TD), scale))
            q, k, v = self._heads(mixed.view(batch, -1, 3, block.heads, block.size), index, turn)
            if memory is not None:
                k, v = memory[index].write(k, v)
            if self.joint and index == len(decoder.blocks) - 1:
                q, x_TD, gate, shift_ffn, scale_ffn, gate_ffn = _last_rows(
                    batch, horizon, q, x_TD, gate, shift_ffn, scale_ffn, gate_ffn
                )
            attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            merged = attended.transpose(1, 2).reshape(x_TD.shape)
            x_TD = torch.addcmul(x_TD, gate, block.out(merged))
            normed = torch.addcmul(shift_ffn, _normed(x_TD), scale_ffn)
            gates, ups = block.gate_up(normed).chunk(2, dim=-1)
            x_TD = torch.addcmul(x_TD, gate_ffn, block.down(functional.silu(gates) * ups))
        found = decoder.action_out(torch.addcmul(shift_out, _normed(x_TD), scale_out))
        found = found.to(x_BHK.dtype).view_as(x_BHK)
        tau = self.grid[when]
        tau_BH1 = tau.view(batch, horizon, 1) if len(tau) > 1 else tau.view(1, 1, 1)
        straight = straight_way(x_BHK, tau_BH1, context)
        return found if straight is None else found + straight

    def _with_scene(self, table: Tensor, step: int, batch: int, tokens: int) -> Tensor:
        """Return the modulations of context and rows together; one for all when they are equal."""
        if len(table) == 1:
            return table
        scene = self.modulation[step].expand(batch, tokens, -1, -1, -1)
        rows = table.view(batch, -1, *table.shape[1:])
        return torch.cat((scene, rows), dim=1).flatten(0, 1)

    def _heads(
        self, mixed_BT3NE: Tensor, index: int, turn: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated q, k and v [B, N, T, E]; q and k go through every step together."""
        pair, v = mixed_BT3NE.split((2, 1), dim=2)
        pair = functional.rms_norm(pair, pair.shape[-1:]) * self.gains[index]
        cos, sin = turn
        pair = torch.addcmul(pair * cos, pair.index_select(-1, self.swap), sin)
        q, k = pair.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v.squeeze(2).transpose(1, 2)

    def _turn(self, context: Context, horizon: int) -> tuple[Tensor, Tensor]:
        """Return cos and signed sin [B, T, 1, 1, E] of the tokens that go through the blocks."""
        position_3BT = self.decoder.row_positions(context, horizon)
        if self.joint:
            position_3BT = torch.cat((context.position_3BT, position_3BT), dim=-1)
        cos, sin = self.decoder.table(position_3BT).transpose(2, 3)[..., None, :]
        beyond = len(self.swap) - 2 * cos.shape[-1]
        ones = functional.pad(torch.cat((cos, cos), -1), (0, beyond), value=1.0)
        signed = functional.pad(torch.cat((-sin, sin), -1), (0, beyond))
        dtype = context.tokens_BTD.dtype
        return ones.to(dtype), signed.to(dtype)

    def _memory(self, context: Context, horizon: int) -> list['_Memory']:
        """Return the context's keys and values of each block with room for the rows' own."""
        if context.keys_values is None:
            raise ValueError("the denoising loop needs a prefilled context in 'prefix' mode")
        room = (0, 0, 0, horizon)
        return [
            _Memory(functional.pad(keys, room), functional.pad(values, room), horizon)
            for keys, values in context.keys_values
        ]


class _Memory:
    """Keys and values [B, N, T + H, E] of one block; the last H are the action rows'."""

    def __init__(self, keys: Tensor, values: Tensor, horizon: int) -> None:
        self.keys, self.values = keys, values
        self.rows = keys[:, :, -horizon:], values[:, :, -horizon:]

    def write(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put the rows' own in their place; return all."""
        self.rows[0].copy_(keys)
        self.rows[1].copy_(values)
        return self.keys, self.values


def _last_rows(batch: int, horizon: int, q_BNTE: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
    """Return the action rows of queries and of flat [B * T, D] parts; one row for all stays."""
    kept = (
        part
        if len(part) == 1
        else part.view(batch, -1, part.shape[-1])[:, -horizon:].flatten(0, 1)
        for part in flat
    )
    return (q_BNTE[:, :, -horizon:], *kept)


def _normed(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _swapped(size: int, decoder: ActionDecoder) -> Tensor:
    """Return [E]: the partner of each channel in its rotation; the rest stay."""
    pairs = sum(decoder.config.rotary_sections)
    index = torch.arange(size)
    index[: 2 * pairs] = index[: 2 * pairs].roll(pairs)
    return index
