"""
A bag that was cut off, made whole: all complete messages, an index, metadata.yaml, the audit.

Written beside and renamed; the cut file stays inside as <name>.mcap.cut.
"""

import shutil
import time
from pathlib import Path

from qwen_vla_ros.data.bag_files import CONTRACT, McapBag, contract_of, open_bag, read
from qwen_vla_ros.data.episode_audit import EpisodeAudit
from qwen_vla_ros.data.episode_notes import (
    KEPT,
    NOTE,
    RECORDING,
    EpisodeNotes,
    Finding,
    read_notes,
)
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError


def mend_bag(folder: Path) -> str:
    """Mend the MCAP bag of a folder; return what was kept and lost. QwenVlaError."""
    if not folder.is_dir():
        raise QwenVlaError(f'{folder}: there is no such folder; name the folder of the bag')
    metadata = folder / 'metadata.yaml'
    broken = folder / 'metadata.yaml.cut'
    with open_files(folder) as reader:
        if not reader.lost and metadata.is_file() and _notes_whole(folder):
            with open_bag(folder):
                return f'{folder}: whole; nothing to mend'
        if not reader.message_count:
            raise QwenVlaError(f'{folder}: no whole message is left in it; remove it')
        beside = folder.parent / f'.mending-{folder.name}' / folder.name
        shutil.rmtree(beside.parent, ignore_errors=True)
        _copy(reader, beside)
        notes = read_notes(folder)
        if notes is not None:
            _audit(folder, reader, notes)
            notes.save(beside)
        lost, count = reader.lost, reader.message_count
    for file in folder.glob('*.mcap'):
        file.rename(beside / f'{file.name}.cut')
    if metadata.exists():
        metadata.rename(beside / broken.name)
    old = beside.parent / 'old'
    folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(beside.parent)
    return f'{folder}: {lost or "its files were whole"}; {count} messages are in it now'


def open_files(folder: Path) -> McapBag:
    """Return a reader of a folder's MCAP files, whatever its metadata.yaml says."""
    files = sorted(folder.glob('*.mcap'))
    if not files:
        raise QwenVlaError(f'{folder}: no .mcap file in it; only those can be mended')
    return McapBag(folder, files)


def _notes_whole(folder: Path) -> bool:
    notes = read_notes(folder)
    return notes is None or notes.state != RECORDING


def _copy(reader: McapBag, folder: Path) -> None:
    """Write all messages into a new bag, as they are."""
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    folder.parent.mkdir(parents=True)
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        topics = {
            (c.topic, c.msgtype): writer.add_connection(
                c.topic, c.msgtype, typestore=reader.types()
            )
            for c in reader.connections
        }
        for connection, time_ns, data in reader.messages():
            writer.write(topics[connection.topic, connection.msgtype], time_ns, data)


def _audit(folder: Path, reader: McapBag, notes: EpisodeNotes) -> None:
    """Fill in what the end of the episode would have told."""
    names = {connection.topic for connection in reader.connections}
    notes.state, notes.ended_by = KEPT, f'cut off; mended {time.strftime("%Y-%m-%d")}'
    notes.seconds = round((reader.end_time - reader.start_time) * 1e-9, 3)
    notes.messages = {c.topic: c.msgcount for c in reader.connections}
    notes.findings = [Finding(NOTE, 'cut', str(folder), reader.lost)] if reader.lost else []
    if CONTRACT not in names:
        return
    robot = contract_of(folder, reader)
    audit = EpisodeAudit(robot, _sources(robot, names), reader.start_time)
    wanted = [c for c in reader.connections if c.topic in audit.topics]
    for topic, time_ns, message in read(folder, reader, wanted):
        audit.take(topic, time_ns, message)
    notes.rates_hz = audit.reached(reader.end_time)
    notes.findings += audit.findings(reader.end_time)


def _sources(robot: Embodiment, names: set[str]) -> dict[str, str]:
    """Return source -> topic; a namespace may stand before it."""
    wanted = {camera.view: camera.topic for camera in robot.cameras}
    wanted |= {state.name: state.topic for state in robot.states}
    found = {}
    for source, topic in wanted.items():
        end = '/' + topic.lstrip('/')
        found[source] = next((name for name in sorted(names) if name.endswith(end)), end)
    return found
