"""
episode.json beside a recorded episode: its words, its label, and what the audit found.

Written when the episode starts (state recording), when it ends (kept or discarded) and when it is
labelled. An episode whose file still says recording was cut off.
"""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from qwen_vla_ros.errors import QwenVlaError

NOTES = 'episode.json'
RECORDING, KEPT, DISCARDED = 'recording', 'kept', 'discarded'
FAULT, NOTE = 'fault', 'note'  # a fault marks the episode

SAID = '/qwen_vla/instruction'  # the topic of an episode's sentence


@dataclass(frozen=True)
class Finding:
    """
    One thing that the audit saw.

    kind   missing, slow, gap, stuck, skewed, dropped or disk
    """

    severity: str
    kind: str
    topic: str
    text: str

    def __str__(self) -> str:
        """Return one line."""
        return f'{self.severity} {self.kind:8s} {self.topic}: {self.text}'


@dataclass
class EpisodeNotes:
    """
    What is known of one episode.

    success        None: nobody labelled it
    messages       topic -> how many were written
    rates_hz       topic of a stream -> what it reached
    """

    number: int
    robot: str
    instruction: str = ''
    success: bool | None = None
    state: str = RECORDING
    started: str = ''
    seconds: float = 0.0
    ended_by: str = ''
    messages: dict[str, int] = field(default_factory=dict)
    rates_hz: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        """Return what marks the episode."""
        return [finding for finding in self.findings if finding.severity == FAULT]

    def save(self, folder: Path) -> None:
        """Write beside, then rename."""
        beside = folder / f'{NOTES}.tmp'
        with beside.open('w', encoding='utf-8') as file:
            json.dump(asdict(self), file, indent=2, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / NOTES)

    def line(self) -> str:
        """Return one line for a list of episodes."""
        label = {None: 'unlabelled', True: 'success', False: 'failure'}[self.success]
        if self.state != KEPT:
            label = 'cut off' if self.state == RECORDING else self.state
        audit = f'{len(self.faults)} faults' if self.faults else 'sound'
        words = f'"{self.instruction}"' if self.instruction else 'no instruction'
        return (
            f'episode {self.number:4d}  {self.seconds:7.1f} s  {label:10s}  '
            f'{audit if self.state == KEPT else "":9s}  {words}'
        )


def read_notes(bag: Path) -> EpisodeNotes | None:
    """Return the notes beside a bag's folder or file; None where there are none. QwenVlaError."""
    path = (bag if bag.is_dir() else bag.parent) / NOTES
    if not path.is_file():
        return None
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        known = {item.name for item in fields(EpisodeNotes)}
        facts = {key: value for key, value in told.items() if key in known}
        facts['findings'] = [Finding(**item) for item in told.get('findings', [])]
        return EpisodeNotes(**facts)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise QwenVlaError(
            f'{path}: cannot be read ({error}); mend it, or remove it: the bag is read without'
        ) from error


def why_left_out(notes: EpisodeNotes | None, flawed: bool) -> str:
    """Return why an episode is not for training, '' when it is; flawed: marked ones are."""
    if notes is None:
        return ''
    if notes.state == DISCARDED:
        return 'it was discarded'
    if notes.faults and not flawed:
        return f'the audit marked it ({"; ".join(f.text for f in notes.faults[:3])})'
    return ''
