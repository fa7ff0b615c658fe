"""
Episodes of any reader -> one part an episode -> one data set; killed at any moment it resumes.

Parts lie in .NAME.partial beside the target, each written under a name with a dot and then
renamed; a second start makes only the parts that are not there. When all are there they are
joined, and the folder takes its name as the last step. What comes out depends on sources and
options alone, not on interruptions or the number of processes.
"""

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from qwen_vla_ros.data.cleaning import (
    CleaningReport,
    EpisodeFacts,
    Thresholds,
    facts_of,
    judge,
)
from qwen_vla_ros.data.sample import Sample, SampleError
from qwen_vla_ros.data.statistics import Counter
from qwen_vla_ros.data.work_list import Unit, opened, rate_of, success_of
from qwen_vla_ros.errors import QwenVlaError

FACTS, ACTIONS = 'facts.json', 'actions.npy'


class Part(Protocol):
    """What takes the samples of an unbroken run of frames, into files of its own."""

    def add(self, sample: Sample) -> None:
        """Take the next frame."""

    def close(self) -> None:
        """Finish the files."""


class Target(Protocol):
    """
    A format to write: a frozen dataclass, for processes get a copy.

    whole_rows  a frame whose first row of actions has a hole cannot be kept
    """

    whole_rows: bool

    def part(self, folder: Path, rate_hz: float) -> Part:
        """Begin an episode."""

    def join(self, parts: 'Sequence[tuple[Path, EpisodeFacts]]', folder: Path) -> None:
        """Write the data set into an empty folder; parts are those that are kept, in order."""


@dataclass(frozen=True)
class Conversion:
    """What is asked for; the same one finds the parts of an interrupted run."""

    units: Sequence[Unit]
    target: Target
    thresholds: Thresholds = field(default_factory=Thresholds)

    def plan(self) -> dict[str, Any]:
        """Return what the parts depend on, as JSON keeps it; thresholds judge them later."""
        told = {
            'target': [type(self.target).__name__, asdict(self.target)],
            'units': [[unit.source, unit.episode, dict(unit.options)] for unit in self.units],
        }
        return json.loads(json.dumps(told))


def convert(asked: Conversion, out: Path, jobs: int = 1) -> CleaningReport:
    """
    Write the data set; jobs is the number of processes.

    Raises QwenVlaError when out is not a new or empty folder, when nothing is worth keeping, and
    when the disk or a process fails: what is done is kept, and the same call goes on.
    """
    refuse_used(out)
    if not asked.units:
        raise QwenVlaError(f'{out}: there is no episode to convert')
    work = out.parent / f'.{out.name}.partial'
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _alone(work):
            _same_plan(work, asked)
            try:
                _make_parts(work, asked, jobs)
            except QwenVlaError:
                if not any(work.glob('[0-9]*')):  # it never began: another call may ask otherwise
                    shutil.rmtree(work)
                raise
            report = _join(work, asked, out)
    except (OSError, BrokenProcessPool) as error:
        raise QwenVlaError(
            f'{out}: {error}; what is done lies in {work}: the same command goes on from there'
        ) from error
    shutil.rmtree(work)
    return report


def refuse_used(out: Path) -> None:
    """Raise QwenVlaError unless out does not exist, or is an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise QwenVlaError(f'{out}: there is something already; choose a new folder')


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock ends with the process, however it ends."""
    with (work / 'lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise QwenVlaError(f'{work}: another process is converting there') from error
        yield


def _same_plan(work: Path, asked: Conversion) -> None:
    """Keep the plan, or refuse parts that were made for another one; sweep what was half done."""
    path, plan = work / 'plan.json', asked.plan()
    if path.exists() and json.loads(path.read_text(encoding='utf-8')) != plan:
        raise QwenVlaError(
            f'{work}: a conversion of other data or with other options was begun there; remove '
            'it, or choose another folder'
        )
    beside = work / '.plan.json'
    beside.write_text(json.dumps(plan), encoding='utf-8')
    beside.replace(path)
    for left in work.glob('.[0-9]*'):
        shutil.rmtree(left)


def _make_parts(work: Path, asked: Conversion, jobs: int) -> None:
    """Make the parts that are not there."""
    left = [i for i in range(len(asked.units)) if not _part(work, i).exists()]
    with tqdm(
        total=len(asked.units), initial=len(asked.units) - len(left), unit='episode', disable=None
    ) as bar:
        if jobs <= 1 or len(left) <= 1:
            for index in left:
                make_part(asked.units[index], asked.target, _part(work, index))
                bar.update()
            return
        context = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(min(jobs, len(left)), context, _end_with_parent) as pool:
            try:
                done = pool.map(
                    make_part,
                    (asked.units[i] for i in left),
                    (asked.target for _ in left),
                    (_part(work, i) for i in left),
                )
                for _ in done:
                    bar.update()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _part(work: Path, index: int) -> Path:
    return work / f'{index:06d}'


def _end_with_parent() -> None:
    """Let a process end when the one that started it is killed, and leave Ctrl-C to that one."""
    from multiprocessing.connection import wait

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def make_part(unit: Unit, target: Target, folder: Path) -> None:
    """
    Write one episode's part: a folder a piece, and their facts.

    An episode that cannot be read becomes a fact.
    """
    beside = folder.with_name(f'.{folder.name}')
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        facts = _write_pieces(unit, target, beside)
    except (_UnreadableError, SampleError) as error:
        shutil.rmtree(beside)
        beside.mkdir()
        facts = [EpisodeFacts(unit.source, unit.episode, unreadable=str(error))]
    told = [fact.as_dict() for fact in facts]
    (beside / FACTS).write_text(json.dumps(told), encoding='utf-8')
    beside.rename(folder)


class NothingLeftError(QwenVlaError):
    """Not one episode is worth keeping; report tells why, one by one."""

    def __init__(self, report: CleaningReport) -> None:
        """Name how many there were, and the first."""
        self.report = report
        super().__init__(
            f'no episode is left of {report.recorded}; the first: {report.rejected[0]}'
        )


class _UnreadableError(Exception):
    """What a reader said of an episode; an error of the writer stays what it is."""


def _write_pieces(unit: Unit, target: Target, folder: Path) -> list[EpisodeFacts]:
    """Write each unbroken run of frames; return their facts."""
    rate_hz, stream = _begin(unit)
    pieces: list[_Piece] = []
    for sample in stream:
        frame = sample.place.frame
        if sample.actions.size and not _usable(sample.mask[0], target):
            continue
        if not pieces or frame != pieces[-1].end:
            if pieces:
                pieces[-1].part.close()
            place = folder / f'{len(pieces):03d}'
            place.mkdir()
            pieces.append(_Piece(place, frame, frame, target.part(place, rate_hz)))
        pieces[-1].add(sample)
    if not pieces:
        raise _UnreadableError('no frame of it gives an observation and a row of actions')
    pieces[-1].part.close()
    span = pieces[-1].end - pieces[0].start
    known = {
        'source': unit.source,
        'episode': unit.episode,
        'lost': span - sum(piece.end - piece.start for piece in pieces),
        'of': span,
        'rate_hz': rate_hz,
        'success': success_of(opened(unit), unit.episode),
    }
    return [piece.finish(known) for piece in pieces]


def _usable(mask: np.ndarray, target: Target) -> bool:
    return bool(mask.all() if target.whole_rows else mask.any())


@dataclass
class _Piece:
    """An unbroken run of frames: from start to before end, and what judges it."""

    folder: Path
    start: int
    end: int
    part: Part
    names: tuple[str, ...] = ()
    sentences: dict[str, None] = field(default_factory=dict)
    rows: list[np.ndarray] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        self.part.add(sample)
        self.end += 1
        self.names = sample.action_names
        self.sentences[sample.instruction] = None
        if sample.mask[:1].all():
            self.rows.append(sample.actions[:1])

    def finish(self, known: Mapping[str, Any]) -> EpisodeFacts:
        """Store the rows of actions that have no hole [F, A], and return the facts."""
        empty = np.zeros((0, len(self.names)), np.float32)
        rows = np.concatenate([empty, *self.rows])
        np.save(self.folder / ACTIONS, rows)
        return facts_of(
            rows,
            self.names,
            first=self.start,
            frames=self.end - self.start,
            instructions=tuple(self.sentences),
            **known,
        )


def _begin(unit: Unit) -> tuple[float, Iterator[Sample]]:
    """Return the rate and the samples of an episode, the reader's errors marked as its own."""
    try:
        episodes = opened(unit)
        rate_hz = rate_of(episodes, unit.episode)
    except QwenVlaError as error:
        raise _UnreadableError(str(error)) from error
    return rate_hz, _marked(episodes.stream(unit.episode))


def _marked(stream: Iterator[Sample]) -> Iterator[Sample]:
    while True:
        try:
            sample = next(stream, None)
        except QwenVlaError as error:
            raise _UnreadableError(str(error)) from error
        if sample is None:
            return
        yield sample


def _join(work: Path, asked: Conversion, out: Path) -> CleaningReport:
    """Judge all parts, join those that are kept, and give the folder its name."""
    parts: list[Path] = []
    facts: list[EpisodeFacts] = []
    for index in range(len(asked.units)):
        part = _part(work, index)
        for piece, told in enumerate(json.loads((part / FACTS).read_text(encoding='utf-8'))):
            parts.append(part / f'{piece:03d}')
            facts.append(EpisodeFacts.from_dict(told))
    report = judge(facts, _spreads(parts, facts), asked.thresholds)
    rejected = {(item.source, item.episode, item.first) for item in report.rejected}
    kept = [
        (part, fact)
        for part, fact in zip(parts, facts, strict=True)
        if (fact.source, fact.episode, fact.first) not in rejected
    ]
    if not kept:
        if all(fact.unreadable for fact in facts):
            shutil.rmtree(work)
        raise NothingLeftError(report)
    beside = work / 'set'
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    asked.target.join(kept, beside)
    told = beside / 'cleaning.json'
    told.write_text(json.dumps(report.as_dict(), indent=1) + '\n', encoding='utf-8')
    out.parent.mkdir(parents=True, exist_ok=True)
    beside.rename(out)
    return report


def _spreads(parts: Sequence[Path], facts: Sequence[EpisodeFacts]) -> dict[str, float]:
    """Return channel -> q99 - q01 over all readable episodes of its names."""
    counters: dict[tuple[str, ...], Counter] = {}
    for part, fact in zip(parts, facts, strict=True):
        if not fact.unreadable and fact.names:
            counter = counters.setdefault(fact.names, Counter(fact.names))
            counter.add(np.load(part / ACTIONS), f'{fact.source}: episode {fact.episode}')
    found: dict[str, float] = {}
    for counter in counters.values():
        spread = np.subtract(counter.quantile(0.99), counter.quantile(0.01))
        for name, value in zip(counter.names, spread.tolist(), strict=True):
            found[name] = max(found.get(name, 0.0), value)
    return found
