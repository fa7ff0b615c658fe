"""What a chunk itself must keep to before the executor leads the motion onto it."""

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.motion_plan import Plan
from qwen_vla_ros.types import ActionChunk


class ChunkRefused(QwenVlaError):
    """A chunk that may not run: other names, expired, older than what runs, not finite."""


def refuse_malformed(chunk: ActionChunk, names: tuple[str, ...]) -> None:
    """Refuse other names or another order, numbers that are not finite, and a single row."""
    if chunk.names != names:
        raise ChunkRefused(
            f'chunk refused: it names {list(chunk.names)}, this robot takes '
            f'{list(names)} in that order; choose a checkpoint of this layout'
        )
    if not np.isfinite(chunk.actions).all():
        row, column = np.argwhere(~np.isfinite(chunk.actions))[0]
        raise ChunkRefused(
            f'chunk refused: row {row}, {chunk.names[column]} is '
            f'{chunk.actions[row, column]}, not a finite number'
        )
    if chunk.horizon < 2:
        raise ChunkRefused('chunk refused: one row is no motion; at least two are needed')


def refuse_untimely(chunk: ActionChunk, now_ns: int, ahead_s: float) -> None:
    """Refuse a chunk that is over, or that starts more than ahead_s after now."""
    if chunk.end_ns <= now_ns:
        raise ChunkRefused(
            f'chunk refused: its last row was due {(now_ns - chunk.end_ns) * 1e-9:.3f} s '
            'ago; the policy is slower than its horizon'
        )
    if chunk.start_ns > now_ns + round(ahead_s * 1e9):
        raise ChunkRefused(
            f'chunk refused: it starts {(chunk.start_ns - now_ns) * 1e-9:.3f} s in the '
            'future; compare the clocks of policy and robot'
        )


def refuse_out_of_order(chunk: ActionChunk, running: Plan) -> None:
    """Refuse a chunk that came twice or late, or from before the arm came to rest."""
    if running.observed_ns is None:
        return
    older = (running.observed_ns - chunk.start_ns) * 1e-9
    if older > 0:
        raise ChunkRefused(f'chunk refused: it is {older:.3f} s older than the one that runs')
    if older == 0:
        raise ChunkRefused('chunk refused: one of the same observation runs already')
    if not running.takes(chunk.start_ns):
        raise ChunkRefused(
            'chunk refused: its observation was taken before the arm came to rest; chunks are '
            'finished one by one'
        )


def refuse_astray(chunk: ActionChunk, prefix: np.ndarray, tolerance: float | np.ndarray) -> None:
    """Refuse a chunk that does not begin with the prefix [d, A], within a tolerance (rad, m)."""
    if chunk.horizon <= len(prefix):
        raise ChunkRefused(
            f'chunk refused: its {chunk.horizon} rows do not go beyond the prefix of '
            f'{len(prefix)} rows'
        )
    beyond = np.abs(chunk.actions[: len(prefix)] - prefix)
    astray = beyond / tolerance
    if (astray <= 1.0).all():
        return
    row, column = np.unravel_index(np.argmax(astray), astray.shape)
    raise ChunkRefused(
        f'chunk refused: row {row}, {chunk.names[column]} lies {beyond[row, column]:.3g} off '
        f'the prefix of {len(prefix)} rows that it should continue'
    )
