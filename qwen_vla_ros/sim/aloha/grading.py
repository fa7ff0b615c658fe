"""
How far a task of both arms has come: stage 0 to 4, from contacts and places alone.

The stages are gym-aloha's rewards (github.com/huggingface/gym-aloha, gym_aloha/tasks/sim.py), made
stricter: lifted means held between both fingers of a hand, an insertion is measured as a depth,
and the last stage has to last HOLD_S, so that a throw or a slip past it does not count.

    transfer   1 the giver touches the target   2 it holds it above the table
               3 the taker touches it there     4 the taker alone holds it there
    insertion  1 right touches the peg, left the socket   2 both are held above the table
               3 the peg's end is in the socket           4 it is in by DEPTH
"""

from dataclasses import dataclass

import numpy as np

from qwen_vla_ros.sim.aloha import mjcf
from qwen_vla_ros.sim.aloha.scene import INSERTION, AlohaScene

STAGES = 4
HOLD_S = 0.5
DEPTH = 0.03  # m


@dataclass(frozen=True)
class Contacts:
    """Which fingers ('left_left_finger', ...) touch each body, and what touches the table."""

    fingers: dict[str, frozenset[str]]
    on_table: frozenset[str]

    def touches(self, side: str, body: str) -> bool:
        """Return whether a side's fingers touch a body."""
        return any(name.startswith(f'{side}_') for name in self.fingers.get(body, ()))

    def holds(self, side: str, body: str) -> bool:
        """Return whether both fingers of a side touch a body that is off the table."""
        wanted = {f'{side}_left_finger', f'{side}_right_finger'}
        return wanted <= self.fingers.get(body, frozenset()) and body not in self.on_table


@dataclass(frozen=True)
class AlohaOutcome:
    """
    How a task stands.

    stage now and best so far, 0 to 4; success: stage 4 lasted HOLD_S. touched: objects in the
    order in which a hand first touched them. done: success, or the time limit has passed.
    """

    success: bool
    done: bool
    target: str
    stage: int
    best: int
    touched: tuple[str, ...]
    elapsed_s: float

    @property
    def first_touched(self) -> str | None:
        """Return the name of the object that a hand touched first."""
        return self.touched[0] if self.touched else None

    @property
    def told(self) -> str:
        """Return how far it came, in words."""
        return f'stage {self.stage} of {STAGES}, best {self.best}'


def stage_of(
    scene: AlohaScene, target: str, contacts: Contacts, poses: dict[str, np.ndarray]
) -> int:
    """Return the stage 0 to 4; poses are the bodies' [4, 4] in table."""
    item = scene.named(target)
    body = item.body
    return (
        _insertion(contacts, poses, item.scale)
        if scene.task == INSERTION
        else _transfer(scene.giver, scene.taker, body, contacts)
    )


def insertion_depth(peg: np.ndarray, socket: np.ndarray, scale: float = 1.0) -> float:
    """
    Return how far in m the peg's end is in the socket, poses [4, 4]; 0 where it is outside.

    scale: of both.
    """
    end = peg @ np.array([-scale * mjcf.PEG[0] / 2, 0.0, 0.0, 1.0])
    x, y, z, _ = np.linalg.solve(socket, end)
    half = scale * mjcf.SOCKET_INSIDE / 2
    if max(abs(y), abs(z)) > half:
        return 0.0
    return float(max(0.0, scale * mjcf.SOCKET_LENGTH / 2 - x))


def _transfer(giver: str, taker: str, body: str, contacts: Contacts) -> int:
    if contacts.holds(taker, body) and not contacts.touches(giver, body):
        return 4
    if body in contacts.on_table:
        return int(contacts.touches(giver, body))
    if contacts.touches(taker, body):
        return 3
    if contacts.holds(giver, body):
        return 2
    return int(contacts.touches(giver, body))


def _insertion(contacts: Contacts, poses: dict[str, np.ndarray], scale: float) -> int:
    if not (contacts.holds('right', 'peg') and contacts.holds('left', 'socket')):
        return int(contacts.touches('right', 'peg') and contacts.touches('left', 'socket'))
    depth = insertion_depth(poses['peg'], poses['socket'], scale)
    return 4 if depth >= DEPTH else 3 if depth > 0 else 2
