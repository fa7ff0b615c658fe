"""
Episodes one after the other: a bag each, with notes, label and audit beside it.

    OUT/episode_0003/episode_0003.mcap, metadata.yaml, episode.json
    OUT/discarded/episode_0004/...

An episode ends by itself, kept, before the disk is full or when it reaches max_gb. Nothing that
ended is ever opened for writing again but its episode.json, which is replaced as a whole.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen_vla_ros.data.bag_files import CONTRACT
from qwen_vla_ros.data.episode_audit import EpisodeAudit
from qwen_vla_ros.data.episode_notes import (
    DISCARDED,
    FAULT,
    KEPT,
    RECORDING,
    SAID,
    EpisodeNotes,
    Finding,
    read_notes,
)
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.bag_thread import BagThread

FOLDER = 'episode_{:04d}'
DISCARDED_FOLDER = 'discarded'
STRING = 'std_msgs/msg/String'
Say = Callable[[str], object]


@dataclass(frozen=True)
class Limits:
    """What an episode may take (GB are 2**30 bytes): its bag, and free room on the disk."""

    max_gb: float
    warn_free_gb: float
    stop_free_gb: float


class EpisodeRecording:
    """The episodes below one folder; every answer is one line for people."""

    def __init__(
        self,
        out: Path,
        embodiment: Embodiment,
        topics: Mapping[str, str],
        sources: Mapping[str, str],
        limits: Limits,
        contract: bytes,
    ) -> None:
        """topics: topic -> type; sources: source of the contract -> topic; contract: a String."""
        self.out, self._robot = out, embodiment
        self._topics, self._sources, self._limits = dict(topics), dict(sources), limits
        self._contract = contract
        self._latched: dict[str, bytes] = {}
        self._bag: BagThread | None = None
        self._audit: EpisodeAudit | None = None
        self._slow: dict[str, str] = {}
        self._warned_disk = False
        self.notes: EpisodeNotes | None = None  # of the running episode, else of the last one
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise QwenVlaError(f'recorder: cannot create {out}: {error.strerror}') from error
        if (out / 'metadata.yaml').exists():
            raise QwenVlaError(f'recorder: {out} is a bag; choose a folder for episodes')

    @property
    def running(self) -> bool:
        """Tell whether an episode is being recorded."""
        return self._bag is not None

    @property
    def folder(self) -> Path:
        """Return where the running or last episode lies."""
        assert self.notes is not None
        return self.out / FOLDER.format(self.notes.number)

    def cut_off(self) -> list[Path]:
        """Return the episodes of earlier sessions that never ended."""
        folders = sorted(self.out.glob('episode_*'))
        notes = ((folder, read_notes(folder)) for folder in folders)
        return [folder for folder, told in notes if told is not None and told.state == RECORDING]

    def start(self, now_ns: int, instruction: str, said: bytes) -> str:
        """Begin an episode; said is the instruction as a serialised String. QwenVlaError."""
        if self.running:
            raise QwenVlaError(f'episode {self.notes.number} is being recorded; stop it first')
        free_gb = self._free_gb()
        if free_gb < self._limits.stop_free_gb:
            raise QwenVlaError(
                f'{free_gb:.1f} GB are free on the disk of {self.out}, '
                f'{self._limits.stop_free_gb:g} are kept free (stop_free_gb); make room'
            )
        self.notes = EpisodeNotes(self._next_number(), self._robot.name, instruction)
        self.notes.started = time.strftime('%Y-%m-%dT%H:%M:%S%z')
        self._audit = EpisodeAudit(self._robot, self._sources, now_ns)
        bag = BagThread(
            self.folder, self._limits.max_gb, self._robot, self._audit.take, self._audit.topics
        )
        for topic, kind in {**self._topics, CONTRACT: STRING, SAID: STRING}.items():
            bag.add_topic(topic, kind)
        self.notes.save(self.folder)
        bag.put(CONTRACT, now_ns, self._contract)
        if instruction:
            bag.put(SAID, now_ns, said)
        for topic, data in self._latched.items():
            bag.put(topic, now_ns, data)
        self._bag, self._slow, self._warned_disk = bag, {}, False
        told = instruction or 'no instruction; give one (key i, --instruction) or readers ask'
        return f'episode {self.notes.number} began: {told}'

    def put(self, topic: str, time_ns: int, data: bytes, latched: bool) -> None:
        """Record a message; the last one of a latched topic is told to later episodes too."""
        if latched:
            self._latched[topic] = data
        if self._bag is not None:
            self._bag.put(topic, time_ns, data)

    def heard(self, instruction: str) -> None:
        """Take the sentence that the policy was told, where the episode has none."""
        if self.running and self.notes is not None and not self.notes.instruction:
            self.notes.instruction = instruction

    def stop(self, now_ns: int, ended_by: str, success: bool | None = None) -> list[str]:
        """End the episode, kept; return lines: what it is, and what the audit found."""
        bag, audit = self._take_running()
        notes = self.notes
        notes.state, notes.ended_by = KEPT, ended_by
        notes.success = success if success is not None else notes.success
        self._close(bag, audit, now_ns)
        notes.save(self.folder)
        return [notes.line(), *(f'  {finding}' for finding in notes.findings)]

    def discard(self, now_ns: int) -> str:
        """Discard the running episode, or else the last one."""
        if self.running:
            self._close(*self._take_running(), now_ns)
        elif self.notes is None or self.notes.state == DISCARDED:
            raise QwenVlaError('there is no episode to discard')
        source, target = self.folder, self.out / DISCARDED_FOLDER / self.folder.name
        self.notes.state = DISCARDED
        self.notes.save(source)
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
        return f'episode {self.notes.number} is discarded; it lies in {target}'

    def label(self, success: bool, now_ns: int) -> list[str]:
        """Label the running episode and end it, or the last one."""
        if self.running:
            return self.stop(now_ns, 'label', success)
        if self.notes is None or self.notes.state != KEPT:
            raise QwenVlaError('there is no episode to label')
        self.notes.success = success
        self.notes.save(self.folder)
        return [self.notes.line()]

    def watch(self, now_ns: int, warn: Say) -> list[str]:
        """Once a second: rates, disk, size; return the lines of an episode that had to end."""
        if self._bag is None or self._audit is None:
            return []
        slow = self._audit.slow(now_ns)
        for topic in slow.keys() - self._slow.keys():
            warn(f'{topic}: {slow[topic]}')
        for topic in self._slow.keys() - slow.keys():
            warn(f'{topic}: as fast as it should be again')
        self._slow = slow
        free_gb = self._free_gb()
        if free_gb < self._limits.warn_free_gb and not self._warned_disk:
            self._warned_disk = True
            warn(
                f'{free_gb:.1f} GB are free on the disk; at {self._limits.stop_free_gb:g} GB the '
                'episode is ended'
            )
        if free_gb < self._limits.stop_free_gb:
            return self.stop(now_ns, f'the disk: {free_gb:.1f} GB were free')
        if self._bag.full:
            return self.stop(now_ns, f'max_gb: it reached {self._limits.max_gb:g} GB')
        if self._bag.failure:
            return self.stop(now_ns, self._bag.failure)
        return []

    def summary(self) -> str:
        """Return one line about the running episode."""
        if self._bag is None:
            return 'no episode is being recorded'
        counts = sum(self._bag.counts.values())
        slow = f'; slow: {", ".join(self._slow)}' if self._slow else ''
        return f'episode {self.notes.number}: {counts} messages{slow}'

    def _take_running(self) -> tuple[BagThread, EpisodeAudit]:
        if self._bag is None or self._audit is None:
            raise QwenVlaError('no episode is being recorded')
        bag, self._bag = self._bag, None
        return bag, self._audit

    def _close(self, bag: BagThread, audit: EpisodeAudit, now_ns: int) -> None:
        """Close the bag and write down what it holds and what the audit found."""
        bag.close()
        notes = self.notes
        notes.seconds = round((now_ns - audit.start_ns) * 1e-9, 3)
        notes.messages, notes.rates_hz = dict(bag.counts), audit.reached(now_ns)
        notes.findings = audit.findings(now_ns)
        for topic, count in bag.unreadable.items():
            notes.findings.append(Finding(FAULT, 'refused', topic, f'{count} are no messages'))
        if bag.failure:
            notes.findings.append(Finding(FAULT, 'disk', str(self.folder), bag.failure))
        elif bag.dropped and not bag.full:
            told = f'{bag.dropped} messages: the disk is slow'
            notes.findings.append(Finding(FAULT, 'dropped', str(self.folder), told))

    def _next_number(self) -> int:
        places = (self.out, self.out / DISCARDED_FOLDER)
        names = [path.name for place in places for path in place.glob('episode_*')]
        numbers = [int(name.split('_')[1]) for name in names if name.split('_')[1].isdigit()]
        return max(numbers, default=-1) + 1

    def _free_gb(self) -> float:
        return shutil.disk_usage(self.out).free / 2**30
