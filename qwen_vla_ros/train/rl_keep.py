"""
What reinforcement learning is to leave as it is: what the policy does in other worlds.

One decoder moves all robots, and what a reward teaches of one of them moves the others too. So
the policy acts in the worlds to be kept before it learns, and every step of the optimiser also
pays for how far it has gone from what it did there: the KL divergence of the random denoising
step, in nats a chunk.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from qwen_vla_ros.model.sampling import NoisyStep, sde_step
from qwen_vla_ros.train.ppo import ActorCritic, Clips, rows_of
from qwen_vla_ros.train.rl_actors import Worlds
from qwen_vla_ros.train.rollout import Noise, roll_out
from qwen_vla_ros.transforms import Pipeline

DECISIONS, A_STEP = 48, 16  # of each world, and looked at in a step of the optimiser
STRAYS = Noise(0.15, 0.8)
PLACE = 1_000_000_000  # a number that no iteration has


class Kept:
    """Decisions of the policy before it learnt, and how far it is from them now."""

    def __init__(
        self,
        policy: ActorCritic,
        pipelines: Sequence[Pipeline],
        worlds: Worlds,
        seed: int,
        frozen: bool,
    ) -> None:
        """Act in the worlds; frozen: the VLM does not train, so its states are kept."""
        met = roll_out(
            policy, pipelines, worlds, DECISIONS, (seed, PLACE), Clips(), frozen, STRAYS
        )
        self._policy, self._frozen = policy, frozen
        self._samples, self._hidden, self._step = met.samples, met.hidden, met.step
        whole = np.array_split(np.arange(len(self)), -(-len(self) // A_STEP))
        with torch.no_grad():
            self._mean = torch.cat([self._look(index)[0] for index in whole])

    def __len__(self) -> int:
        """Return how many decisions there are."""
        return len(self._samples)

    def drift(self, rng: np.random.Generator) -> Tensor:
        """Return the mean KL in nats a chunk, of some of them, with gradients."""
        index = rng.permutation(len(self))[:A_STEP]
        mean, deviation, step = self._look(index)
        far = (mean - self._mean[torch.from_numpy(index)]) / deviation
        return (0.5 * far.square() * step.mask).sum((1, 2)).mean()

    def _look(self, index: np.ndarray) -> tuple[Tensor, Tensor, NoisyStep]:
        """Return mean [B, H, K] and deviation [B, 1, 1] of some random steps, and those."""
        model, step = self._policy.model, rows_of(self._step, torch.from_numpy(index))
        batch = model.collate([self._samples[i] for i in index], pixels=not self._frozen)
        if self._frozen:
            hidden = pad_sequence([self._hidden[i] for i in index], batch_first=True)
        else:
            hidden = model.encode(batch)
        slope = model.velocity(model.condition(hidden, batch))(step.before, step.tau[:, None])
        mean, deviation = sde_step(slope, step.before, step.tau, step.tau_after, step.noise_level)
        return mean, deviation, step
