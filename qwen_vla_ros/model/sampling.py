"""
Velocity field -> action chunk: the ways to walk from noise (tau 1) to clean actions (tau 0).

solve            Euler or Heun steps (paper 2.5: "a few Euler steps"), with the first rows given
                 clean (trained prefix, arXiv 2512.05964)
scheduler_solve  the same walk by diffusers' FlowMatchEulerDiscreteScheduler
guided           inpainting by guidance for models that were not trained with a prefix
                 (real-time chunking, arXiv 2506.07339)
flow_sde         one noisy step with its log-probability, for reinforcement learning (paper 4.2)

Shapes: B batch, H horizon, K action channels, P rows of the former chunk.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""x [B, H, K] and tau [B, H], or [B, 1] for all rows, -> velocity [B, H, K]."""


def time_grid(steps: int) -> list[float]:
    """Return tau of each step and the end: 1, 1 - 1/steps, ..., 0."""
    if steps < 1:
        raise ValueError(f'denoising steps: {steps} is not at least 1')
    return [1 - step / steps for step in range(steps)] + [0.0]


def solve(
    velocity: Velocity,
    noise_BHK: Tensor,
    steps: int,
    mask_BHK: Tensor,
    prefix_BDK: Tensor | None = None,
    method: str = 'euler',
) -> Tensor:
    """
    Return clean actions [B, H, K] by `steps` equal steps.

    prefix_BDK are D known first rows: they stay clean at their own timestep 0 and come back
    unchanged. method 'heun' asks for the velocity twice a step and errs with the square of it.
    """
    if method not in ('euler', 'heun'):
        raise ValueError(f"sampler {method!r} is unknown; choose 'euler' or 'heun'")
    x_BHK = _with_prefix(noise_BHK * mask_BHK, prefix_BDK)
    grid = time_grid(steps)
    for tau, after in itertools.pairwise(grid):
        slope = velocity(x_BHK, _times(x_BHK, tau, prefix_BDK)) * mask_BHK
        ahead = _with_prefix(x_BHK - (tau - after) * slope, prefix_BDK)
        if method == 'heun':
            second = velocity(ahead, _times(x_BHK, after, prefix_BDK)) * mask_BHK
            ahead = _with_prefix(x_BHK - (tau - after) / 2 * (slope + second), prefix_BDK)
        x_BHK = ahead
    return x_BHK


def scheduler_solve(velocity: Velocity, noise_BHK: Tensor, steps: int, mask_BHK: Tensor) -> Tensor:
    """
    Return what solve() returns, walked by diffusers' scheduler.

    Its own grid is not the uniform one, so the noise levels are given.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=time_grid(steps)[:-1], device=noise_BHK.device)
    x_BHK = noise_BHK * mask_BHK
    for moment, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        slope = velocity(x_BHK, _times(x_BHK, float(sigma), None)) * mask_BHK
        x_BHK = scheduler.step(slope, moment, x_BHK, return_dict=False)[0]
    return x_BHK


def prefix_weights(horizon: int, rows: int, frozen: int) -> Tensor:
    """
    Return [H]: how strongly each row is held to the former chunk (arXiv 2506.07339, soft mask).

    1 for the `frozen` rows that run while the model thinks, falling exponentially over the other
    rows that the former chunk still has, 0 beyond them.
    """
    index = torch.arange(horizon, dtype=torch.float32)
    ramp = ((rows - index) / (rows - frozen + 1)).clamp(0, 1)
    weights = ramp * torch.expm1(ramp) / (math.e - 1)
    return torch.where(index < frozen, torch.ones(horizon), weights)


def guided(
    velocity: Velocity,
    noise_BHK: Tensor,
    steps: int,
    mask_BHK: Tensor,
    former_BPK: Tensor,
    frozen: int,
    strength: float = 5.0,
) -> Tensor:
    """
    Return actions whose first rows follow a former chunk, without training for it.

    Each Euler step's estimate of the clean actions is pulled towards the former chunk's rows
    (pseudo-inverse guidance, weight clipped at `strength`; arXiv 2506.07339, algorithm 1, whose
    time runs the other way). The first `frozen` rows come out near the former ones, not equal.
    Needs a backward pass a step; not to be called in inference mode.
    """
    rows = former_BPK.shape[1]
    horizon = noise_BHK.shape[1]
    if not 0 <= frozen <= rows <= horizon:
        raise ValueError(f'guided sampling: frozen {frozen} <= rows {rows} <= {horizon} is broken')
    weights = prefix_weights(horizon, rows, frozen).to(noise_BHK)[None, :, None] * mask_BHK
    wanted = torch.nn.functional.pad(former_BPK, (0, 0, 0, horizon - rows))
    x_BHK = noise_BHK * mask_BHK
    grid = time_grid(steps)
    for tau, after in itertools.pairwise(grid):
        with torch.enable_grad():
            x_BHK = x_BHK.detach().requires_grad_()
            slope = velocity(x_BHK, _times(x_BHK, tau, None)) * mask_BHK
            clean = x_BHK - tau * slope
            pull = ((wanted - clean) * weights).detach()
            (gradient,) = torch.autograd.grad(clean, x_BHK, pull)
        done = 1 - tau
        ratio = tau / done if done else math.inf
        factor = min(strength, ratio * (done**2 + tau**2) / tau**2)
        # The clean end lies at -slope, so a pull towards the former rows lowers the slope.
        x_BHK = x_BHK.detach() - (tau - after) * (slope.detach() - factor * gradient) * mask_BHK
    return x_BHK


@dataclass(frozen=True)
class NoisyStep:
    """
    The one random step of a walk, as reinforcement learning needs it again.

    before, after  [B, H, K] points of the walk
    tau, tau_after [B] their times
    mask           [B, H, K] valid entries; of each channel rows that follow each other
    noise_level    a of the stochastic step
    smooth         correlation of the noise of neighbouring rows, 0 <= smooth < 1
    """

    before: Tensor
    after: Tensor
    tau: Tensor
    tau_after: Tensor
    mask: Tensor
    noise_level: float
    smooth: float = 0.0

    def log_prob(self, velocity: Velocity) -> Tensor:
        """Return [B]: the log-density of `after` under a velocity field, summed over the chunk."""
        mean, deviation = sde_step(
            velocity(self.before, self.tau[:, None]),
            self.before,
            self.tau,
            self.tau_after,
            self.noise_level,
        )
        scaled = (self.after - mean) / deviation
        own = math.sqrt(1 - self.smooth**2)  # share of a row's noise that is not the last one's
        follows = (self.mask[:, 1:] * self.mask[:, :-1]).bool()
        fresh = (scaled[:, 1:] - self.smooth * scaled[:, :-1]) / own
        scaled = torch.cat((scaled[:, :1], torch.where(follows, fresh, scaled[:, 1:])), 1)
        density = -0.5 * scaled.square() - deviation.log() - 0.5 * math.log(2 * math.pi)
        return (density * self.mask).sum((1, 2)) - math.log(own) * follows.sum((1, 2))


def sde_step(
    slope_BHK: Tensor, x_BHK: Tensor, tau_B: Tensor, after_B: Tensor, noise_level: float
) -> tuple[Tensor, Tensor]:
    """
    Return mean [B, H, K] and deviation [B, 1, 1] of one stochastic step from tau to after.

    The stochastic equation with the flow's marginals (flow-SDE as in RLinf; the paper's 4.2 names
    it without its noise level). noise_level 0 is the Euler step.
    """
    tau, after = tau_B[:, None, None], after_B[:, None, None]
    width = tau - after
    # At tau 1 the noise scale would be infinite; the next time stands in, as in RLinf.
    edge = torch.where(tau < 1, tau, after)
    sigma = noise_level * (tau / (1 - edge)).sqrt()
    clean = x_BHK - tau * slope_BHK
    noise = x_BHK + (1 - tau) * slope_BHK
    mean = (1 - after) * clean + (after - sigma.square() * width / (2 * tau)) * noise
    return mean, width.sqrt() * sigma


def row_noise(
    shape: Sequence[int], smooth: float, generator: torch.Generator | None = None
) -> Tensor:
    """
    Return normal noise [B, H, K], that of a row correlated with the last one's by `smooth`.

    A motion that strays, instead of one that trembles.
    """
    fresh = torch.randn(tuple(shape), generator=generator)
    for row in range(1, fresh.shape[1] if smooth else 0):
        fresh[:, row] = smooth * fresh[:, row - 1] + math.sqrt(1 - smooth**2) * fresh[:, row]
    return fresh


def flow_sde(
    velocity: Velocity,
    noise_BHK: Tensor,
    steps: int,
    mask_BHK: Tensor,
    index_B: Tensor,
    noise_level: float,
    generator: torch.Generator | None = None,
    smooth: float = 0.0,
    strays_BHK: Tensor | None = None,
) -> tuple[Tensor, NoisyStep]:
    """
    Return actions [B, H, K] of a walk with noise at one step a sample, and that step.

    index_B int64 [B] in [0, steps): which step is random; the others are Euler steps. More than
    one step is needed: from tau 1 straight to 0 there is no time left to stand in for tau 1.
    smooth: correlation of the random step's noise from row to row, see row_noise(); strays_BHK:
    that noise, where it is not to be drawn here.
    """
    if steps < 2 or not 0 <= int(index_B.min()) <= int(index_B.max()) < steps:
        raise ValueError(f'flow-SDE: indices {index_B.tolist()} for {steps} steps (at least 2)')
    if strays_BHK is None:
        strays_BHK = row_noise(noise_BHK.shape, smooth, generator)
    fresh = strays_BHK.to(noise_BHK)
    grid = torch.tensor(time_grid(steps), dtype=noise_BHK.dtype, device=noise_BHK.device)
    x_BHK = noise_BHK * mask_BHK
    before, after = torch.empty_like(x_BHK), torch.empty_like(x_BHK)
    for step in range(steps):
        tau_B, next_B = (grid[step + late].expand(len(x_BHK)) for late in (0, 1))
        slope = velocity(x_BHK, tau_B[:, None]) * mask_BHK
        chosen = (index_B == step)[:, None, None]
        mean, deviation = sde_step(slope, x_BHK, tau_B, next_B, noise_level)
        plain = x_BHK - (tau_B - next_B)[:, None, None] * slope
        ahead = torch.where(chosen, mean + deviation * fresh, plain) * mask_BHK
        before = torch.where(chosen, x_BHK, before)
        after = torch.where(chosen, ahead, after)
        x_BHK = ahead
    index_B = index_B.to(grid.device)
    tau_B, next_B = grid[index_B], grid[index_B + 1]
    return x_BHK, NoisyStep(before, after, tau_B, next_B, mask_BHK, noise_level, smooth)


def _with_prefix(x_BHK: Tensor, prefix_BDK: Tensor | None) -> Tensor:
    """Put the known rows in front."""
    if prefix_BDK is None or not prefix_BDK.shape[1]:
        return x_BHK
    return torch.cat((prefix_BDK, x_BHK[:, prefix_BDK.shape[1] :]), dim=1)


def _times(x_BHK: Tensor, tau: float, prefix_BDK: Tensor | None) -> Tensor:
    """Return tau [B, 1]; with known rows [B, H], 0 for those."""
    known = 0 if prefix_BDK is None else prefix_BDK.shape[1]
    tau_BH = torch.full((len(x_BHK), x_BHK.shape[1] if known else 1), tau, device=x_BHK.device)
    tau_BH[:, :known] = 0
    return tau_BH
