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

from qwen_vla_ros.model.action_decoder import ActionDecoder, Context
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
        time_SD = decoder.timestep(grid)
        shape = (len(grid), 6, decoder.config.width)
        blocks = [
            block.modulation(functional.silu(time_SD)).view(shape) for block in decoder.blocks
        ]
        self.modulation = torch.stack(blocks, 1)  # [S + 1, L, 6, D]; entry 0 is timestep 0
        self.modulation[:, :, [1, 4]] += 1
        out = decoder.modulation_out(functional.silu(time_SD)).view(len(grid), 2, -1)
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
    ) -> Tensor:
        """
        Return actions [B, H, K].

        context needs keys and values in 'prefix' mode. prefix_BDK: known first rows, see
        sampling.solve().
        """
        known = 0 if prefix_BDK is None else prefix_BDK.shape[1]
        turn = self._turn(context, noise_BHK.shape[1])
        memory = None if self.joint else self._memory(context, noise_BHK)
        mask = _key_mask(context, noise_BHK.shape[1])
        rows = torch.arange(noise_BHK.shape[1], device=noise_BHK.device) >= known
        moving = (mask_BHK * rows[:, None]) / self.steps
        x_BHK = noise_BHK * mask_BHK
        if known:
            x_BHK = torch.cat((prefix_BDK, x_BHK[:, known:]), dim=1)
        for step in range(1, self.steps + 1):
            when = rows * step if known else slice(step, step + 1)
            slope = self._velocity(x_BHK, when, step, context, turn, memory, mask)
            x_BHK = torch.addcmul(x_BHK, slope, moving, value=-1)
        return x_BHK

    def _velocity(
        self,
        x_BHK: Tensor,
        when: Tensor | slice,
        step: int,
        context: Context,
        turn: tuple[Tensor, Tensor],
        memory: list[Tensor] | None,
        mask: Tensor | None,
    ) -> Tensor:
        decoder, horizon = self.decoder, x_BHK.shape[1]
        table = self.modulation[when]
        shift_out, scale_out = self.modulation_out[when].unbind(1)
        x_BTD = decoder.action_in(x_BHK.to(context.tokens_BTD.dtype))
        if self.joint:
            tokens = context.tokens_BTD
            x_BTD = torch.cat((tokens, x_BTD), dim=1)
            if len(table) > 1:
                scene = self.modulation[step : step + 1].expand(tokens.shape[1], -1, -1, -1)
                table = torch.cat((scene, table))
        for index, block in enumerate(decoder.blocks):
            parts = table[:, index].unbind(1)
            last = self.joint and index == len(decoder.blocks) - 1
            normed = torch.addcmul(parts[0], _normed(x_BTD), parts[1])
            q, k, v = self._heads(block, index, normed, turn)
            if memory is not None:
                store = memory[index]
                store[0][:, :, -horizon:] = k
                store[1][:, :, -horizon:] = v
                k, v = store
            if last:
                q, x_BTD = q[:, :, -horizon:], x_BTD[:, -horizon:]
                parts = [part[-horizon:] if len(part) > 1 else part for part in parts]
            attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            merged = attended.transpose(1, 2).reshape(x_BTD.shape)
            x_BTD = torch.addcmul(x_BTD, parts[2], block.out(merged))
            normed = torch.addcmul(parts[3], _normed(x_BTD), parts[4])
            gate, up = block.gate_up(normed).chunk(2, dim=-1)
            x_BTD = torch.addcmul(x_BTD, parts[5], block.down(functional.silu(gate) * up))
        found = decoder.action_out(torch.addcmul(shift_out, _normed(x_BTD), scale_out))
        return found.to(x_BHK.dtype)

    def _heads(
        self, block: torch.nn.Module, index: int, x_BTD: Tensor, turn: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated q, k and v [B, N, T, E]; q and k go through every step together."""
        batch, tokens, _ = x_BTD.shape
        mixed = block.qkv(x_BTD).view(batch, tokens, 3, block.heads, block.size)
        pair = functional.rms_norm(mixed[:, :, :2], (block.size,)) * self.gains[index]
        cos, sin = turn
        pair = torch.addcmul(pair * cos, pair.index_select(-1, self.swap), sin)
        q, k = pair.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, mixed[:, :, 2].transpose(1, 2)

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

    def _memory(self, context: Context, noise_BHK: Tensor) -> list[Tensor]:
        """Return per block [2, B, N, T + H, E]: the context's keys and values, room for rows."""
        if context.keys_values is None:
            raise ValueError("the denoising loop needs a prefilled context in 'prefix' mode")
        room = (0, 0, 0, noise_BHK.shape[1])
        return [functional.pad(torch.stack(pair), room) for pair in context.keys_values]


def _normed(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _swapped(size: int, decoder: ActionDecoder) -> Tensor:
    """Return [E]: the partner of each channel in its rotation; the rest stay."""
    pairs = sum(decoder.config.rotary_sections)
    index = torch.arange(size)
    index[: 2 * pairs] = index[: 2 * pairs].roll(pairs)
    return index


def _key_mask(context: Context, horizon: int) -> Tensor | None:
    if context.mask_BT is None:
        return None
    return functional.pad(context.mask_BT, (0, horizon), value=True)[:, None, None]
