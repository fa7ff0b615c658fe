"""
Which episodes are not trained on, and why (paper, section 3.2.1), decided over a whole set.

  unreadable      a picture, a row or a file is damaged: what the reader said
  missing frames  more of its middle is lost than max_missing_share; where less is lost, the
                  unbroken pieces are episodes of their own
  too short       fewer frames than min_frames, or than 1 / length_factor of the median
  too long        longer than max_seconds, or than length_factor times the median
  still           no channel varies by more than still_share of the set's q99 - q01, or by more
                  than still_spread
  instruction     the sentence names a motion that was not made, or its opposite

An instruction is held only against what its words leave no doubt about: see contradiction().
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

GRASPS = re.compile(r'\b(pick|picks|grasp|grasps|grab|grabs|lift|lifts|stack|stacks)\b')
MOVES = re.compile(
    r'^(?:move|go|drive|shift)(?: the (?:arm|gripper|robot|base|hand))?'
    r'(?: straight)? (?:to the )?(left|right|forwards?|backwards?|up|down)\b'
)
# REP-103: x forward, y left, z up; the word -> what displacements along it are called, and a sign.
AXES: Mapping[str, tuple[str, int]] = {
    'forward': ('x', 1),
    'backward': ('x', -1),
    'left': ('y', 1),
    'right': ('y', -1),
    'up': ('z', 1),
    'down': ('z', -1),
}
GRIPPER_SHARE = 0.1  # of the set's range that a gripper moves at least when it grasps
AGAINST_SHARE = 0.5  # of the way along an axis that must go the wrong way to contradict


@dataclass(frozen=True)
class Thresholds:
    """What is still trained on; the module tells the reasons."""

    min_frames: int = 8
    max_seconds: float = 600.0
    length_factor: float = 10.0
    max_missing_share: float = 0.1
    still_share: float = 0.01
    still_spread: float = 5e-4  # in the channels' own units: rad, m, shares; less is noise
    check_instruction: bool = True


@dataclass(frozen=True)
class EpisodeFacts:
    """
    What the decision needs of one episode: its length and how each action channel moved.

    An episode that is broken by lost frames is several of these, one for each unbroken piece.
    first       where the piece begins in its episode
    lost, of    frames of the whole episode that gave no sample, between the first and the last
                that did, and how many there are between these
    unreadable  what the reader said, or ''; then the rest is empty
    std, span, net, way   [A]: standard deviation, max - min, last - first (the sum, for a channel
                of displacements), and the sum of the absolute steps
    """

    source: str
    episode: int
    first: int = 0
    frames: int = 0
    lost: int = 0
    of: int = 0
    rate_hz: float = 0.0
    instructions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    std: tuple[float, ...] = ()
    span: tuple[float, ...] = ()
    net: tuple[float, ...] = ()
    way: tuple[float, ...] = ()
    success: bool | None = None
    unreadable: str = ''

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can store."""
        return asdict(self)

    @staticmethod
    def from_dict(found: Mapping[str, Any]) -> 'EpisodeFacts':
        """Undo as_dict() after JSON."""
        return EpisodeFacts(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        )


@dataclass(frozen=True)
class Rejection:
    """One episode or piece that is left out; reason is one of the module's, told in full."""

    source: str
    episode: int
    first: int
    reason: str
    told: str

    def __str__(self) -> str:
        """Return one line."""
        piece = f' from frame {self.first}' if self.first else ''
        return f'{self.source}: episode {self.episode}{piece}: {self.reason}: {self.told}'


@dataclass(frozen=True)
class CleaningReport:
    """
    How many episodes came, which were left out, and under which thresholds.

    episodes  unbroken pieces; recorded  episodes before they were broken into these
    """

    episodes: int
    rejected: tuple[Rejection, ...]
    thresholds: Thresholds = field(default_factory=Thresholds)
    recorded: int = 0

    def counts(self) -> dict[str, int]:
        """Return reason -> episodes."""
        return dict(Counter(item.reason for item in self.rejected))

    def as_dict(self) -> dict[str, Any]:
        """Return what is stored beside the data."""
        return {
            'episodes': self.episodes,
            'kept': self.episodes - len(self.rejected),
            'reasons': self.counts(),
            'rejected': [asdict(item) for item in self.rejected],
            'thresholds': asdict(self.thresholds),
        }

    def __str__(self) -> str:
        """Return a line of counts, and one for each episode or piece that was left out."""
        kept = self.episodes - len(self.rejected)
        told = ', '.join(f'{count} {reason}' for reason, count in self.counts().items())
        broken = self.episodes != self.recorded
        pieces = f'unbroken pieces of {self.recorded} episodes' if broken else 'episodes'
        return '\n'.join(
            [f'kept {kept} of {self.episodes} {pieces}{told and f" ({told})"}']
            + [f'  {item}' for item in self.rejected]
        )


def facts_of(rows: np.ndarray, names: Sequence[str], **known: Any) -> EpisodeFacts:
    """
    Return the facts of an episode; known are the other fields.

    rows  those of its actions that have no hole [F, A]; fewer than two judge nothing
    """
    if len(rows) < 2 or not len(names):
        return EpisodeFacts(**known)
    rows = rows.astype(np.float64)
    moved = np.diff(rows, axis=0)
    relative = np.array([is_displacement(name) for name in names], bool)
    return EpisodeFacts(
        names=tuple(names),
        std=tuple(rows.std(0).tolist()),
        span=tuple(np.ptp(rows, 0).tolist()),
        net=tuple(np.where(relative, rows.sum(0), rows[-1] - rows[0]).tolist()),
        way=tuple(np.where(relative, np.abs(rows).sum(0), np.abs(moved).sum(0)).tolist()),
        **known,
    )


def is_displacement(name: str) -> bool:
    """Tell whether a channel holds steps (dx, dy, dyaw, ...) and no position."""
    return re.fullmatch(r'(.*[._])?d(x|y|z|yaw|theta|roll|pitch)', name) is not None


def judge(
    episodes: Sequence[EpisodeFacts],
    spread: Mapping[str, float],
    thresholds: Thresholds,
) -> CleaningReport:
    """
    Return which episodes are left out; spread is each channel's q99 - q01 over the set.

    Samples of text alone, and episodes of one frame, are judged by what is readable only.
    """
    lengths = [facts.frames for facts in episodes if facts.names]
    median = float(np.median(lengths)) if lengths else 0.0
    found = []
    for facts in episodes:
        moving = (_length, _still, _instruction) if facts.names else ()
        for check in (_unreadable, _missing, *moving):
            said = check(facts, median, spread, thresholds)
            if said is not None:
                found.append(Rejection(facts.source, facts.episode, facts.first, *said))
                break
    recorded = len({(facts.source, facts.episode) for facts in episodes})
    return CleaningReport(len(episodes), tuple(found), thresholds, recorded)


Said = tuple[str, str] | None


def _unreadable(facts: EpisodeFacts, median: float, spread: Any, limits: Thresholds) -> Said:
    return ('unreadable', facts.unreadable) if facts.unreadable else None


def _missing(facts: EpisodeFacts, median: float, spread: Any, limits: Thresholds) -> Said:
    if facts.lost <= limits.max_missing_share * facts.of:
        return None
    return 'missing frames', f'{facts.lost} of {facts.of} are lost'


def _length(facts: EpisodeFacts, median: float, spread: Any, limits: Thresholds) -> Said:
    least = max(float(limits.min_frames), median / limits.length_factor)
    most = median * limits.length_factor
    if facts.rate_hz > 0:  # where the data tell one
        most = min(most, limits.max_seconds * facts.rate_hz)
    if facts.frames < least:
        return 'too short', f'{facts.frames} frames, {least:g} are the least'
    if facts.frames > most:
        return 'too long', f'{facts.frames} frames, {most:g} are the most'
    return None


def _still(
    facts: EpisodeFacts, median: float, spread: Mapping[str, float], limits: Thresholds
) -> Said:
    shares = [
        std / spread[name] if spread[name] > 0 else 0.0
        for name, std in zip(facts.names, facts.std, strict=True)
    ]
    moved = max(facts.std, default=0.0) > limits.still_spread
    if not shares or (moved and max(shares) > limits.still_share):
        return None
    return 'still', (
        f'no action varies by more than {max(shares):.2g} of its range in the set, or '
        f'{max(facts.std):.2g} in its unit'
    )


def _instruction(
    facts: EpisodeFacts, median: float, spread: Mapping[str, float], limits: Thresholds
) -> Said:
    if not limits.check_instruction:
        return None
    for sentence in facts.instructions:
        if told := contradiction(sentence, facts, spread):
            return 'instruction', f'{sentence!r}: {told}'
    return None


def contradiction(sentence: str, facts: EpisodeFacts, spread: Mapping[str, float]) -> str:
    """
    Return how the motion contradicts a sentence, or ''.

    Two rules: who picks, grasps, grabs, lifts or stacks moves a gripper, where the actions have
    one; and an order to move in a direction is not obeyed by going the other way, where the
    actions have that axis. Sentences of several parts are not held against the second rule.
    """
    words = sentence.lower().strip(' .')
    grippers = [i for i, name in enumerate(facts.names) if 'gripper' in name]
    if grippers and GRASPS.search(words):
        shares = [
            facts.span[i] / spread[facts.names[i]] if spread[facts.names[i]] > 0 else 0.0
            for i in grippers
        ]
        if max(shares) < GRIPPER_SHARE:
            return f'the gripper moves by {max(shares):.2g} of its range only'
    order = MOVES.match(words)
    if order and ' and ' not in words and ' then ' not in words:
        axis, sign = AXES[order[1].removesuffix('s')]
        for i, name in enumerate(facts.names):
            if re.fullmatch(rf'(.*[._])?d?{axis}', name) and facts.way[i] > 0:
                share = sign * facts.net[i] / facts.way[i]
                if share < -AGAINST_SHARE:
                    return f'{name} goes the other way'
    return ''
