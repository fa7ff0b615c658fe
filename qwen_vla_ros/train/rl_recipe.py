"""What decides a run of reinforcement learning, and when it ends; train/rl_loop.py runs it."""

import math
from dataclasses import dataclass

from qwen_vla_ros.train.ppo import Clips
from qwen_vla_ros.train.rl_worlds import Order, ZeroErrors, order_worlds

PUBLISHED = Clips()
KEPT_WORLDS = 4


@dataclass(frozen=True)
class RLRecipe:
    """
    Everything that decides the weights.

    world, kinds       which worlds, and which tasks in those that have several; in turn
    worlds, decisions  acting at a time, and chunks of each in an iteration
    rows               of a chunk that are run before the next decision; 0: as usual in each world
    zero_errors        of the arms in `tasks`, (joint, rad or m) each; see sim/zero_errors.py
    keep               worlds in which the policy is to stay what it was, see train/rl_keep.py
    keep_weight        of a nat of that, beside the loss of PPO
    minibatch          decisions a step of the optimiser
    freeze_vlm         train the decoder alone: a decision is seen once and not in every epoch
    noise              level of the random step's noise (None: the model's)
    smooth, lasting    its correlation from row to row, and from decision to decision
    enough_kl          an iteration's further epochs are left out above this
    collapse           the run ends when the mean success of the last five iterations falls below
                       this share of the best such mean, by more than chance
    """

    world: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    iterations: int = 200
    worlds: int = 128
    decisions: int = 64
    rows: int = 0
    zero_errors: ZeroErrors = ()
    keep: tuple[str, ...] = ()
    keep_weight: float = 0.2  # at 0.05 ALOHA lost a quarter of its handovers (docs/bundled.md)
    epochs: int = 4
    minibatch: int = 256
    rate: float = 5e-6
    value_rate: float = 1e-4
    freeze_vlm: bool = False
    noise: float | None = None
    smooth: float = 0.0
    lasting: float = 0.0
    clip: float = 1.0
    enough_kl: float = 0.1
    collapse: float = 0.5
    clips: Clips = PUBLISHED
    seed: int = 0

    def orders(self) -> list[Order]:
        """Return the worlds to be made."""
        return order_worlds(self.world, self.kinds, self.rows, self.worlds, self.zero_errors)

    def kept_orders(self) -> list[Order]:
        """Return the worlds that the policy acts in before it learns, KEPT_WORLDS of each."""
        return order_worlds(self.keep, (), 0, KEPT_WORLDS * len(self.keep))


def rl_demo() -> RLRecipe:
    """Return a run of a minute: a base learns to turn as it is told."""
    return RLRecipe(
        world=('turn',),
        iterations=8,
        worlds=64,
        decisions=2,
        minibatch=64,
        rate=3e-4,
        value_rate=3e-3,
        enough_kl=1.0,
        seed=1,
    )


@dataclass(frozen=True)
class Limits:
    """When a run ends before its last iteration, and how often it saves."""

    minutes: float = math.inf
    save_every: int = 5
