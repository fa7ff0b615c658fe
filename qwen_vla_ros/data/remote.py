"""
Data sets behind a URL (s3://, gs://, http://, ... through fsspec), read as if they were here.

A set is mirrored into a folder of this machine: its meta data at once, the files that hold rows
and films when a reader first opens them, so training begins before the set is here and moves only
what is drawn. Formats whose readers look for files by name (all but LeRobot and text-action) are
fetched whole. A file is written beside and renamed, so several workers may fetch at once.

  QWEN_VLA_SETS      the folder (default ~/.cache/qwen_vla_ros/sets)
  QWEN_VLA_SETS_GB   beyond this the files that were read longest ago are removed (default: never)
"""

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from qwen_vla_ros.errors import QwenVlaError

META = 'meta/'  # what LeRobot and text-action sets need before a row is read
_mirrors: dict[Path, tuple[Any, str]] = {}  # local root -> file system, its path there


def is_url(source: str) -> bool:
    """Tell a URL from a path."""
    scheme, mark, _ = source.partition('://')
    return bool(mark) and scheme.replace('+', '').isalnum()


def mirrored(url: str) -> Path:
    """Return the local folder of a set behind a URL; QwenVlaError when it cannot be reached."""
    try:
        import fsspec
    except ImportError as error:
        raise QwenVlaError(f"{url}: {error}; pip install 'qwen_vla_ros[data]'") from error
    try:
        system, root = fsspec.core.url_to_fs(url.rstrip('/'))
        files = system.find(root, detail=True)
    except (ImportError, OSError, ValueError) as error:
        raise QwenVlaError(f'{url}: cannot be reached ({error})') from error
    sizes = {
        str(PurePosixPath(name).relative_to(PurePosixPath(root))): int(entry['size'])
        for name, entry in files.items()
    }
    if not sizes:
        raise QwenVlaError(f'{url}: there is no file in it')
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    folder = _cache() / f'{PurePosixPath(root).name}-{key}' / PurePosixPath(root).name
    _mirrors[folder] = (system, root)
    lazy = f'{META}info.json' in sizes
    wanted = [name for name in sizes if not lazy or name.startswith(META)]
    for name in tqdm(wanted, desc=url, unit='file', disable=len(wanted) < 20):
        path = folder / name
        if not path.is_file() or path.stat().st_size != sizes[name]:
            _fetch(system, f'{root}/{name}', path)
    return folder


def here(path: Path) -> Path:
    """Return a path after fetching its file, where it belongs to a mirror and is not there yet."""
    for folder, (system, root) in _mirrors.items():
        if path.is_relative_to(folder):
            if path.is_file():
                os.utime(path)  # read last, so removed last
            else:
                _fetch(system, f'{root}/{path.relative_to(folder).as_posix()}', path)
                _make_room(path)
    return path


def _fetch(system: Any, remote: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        system.get_file(remote, str(beside))
        beside.rename(path)
    except OSError as error:
        raise QwenVlaError(f'{remote}: cannot be fetched ({error})') from error
    finally:
        beside.unlink(missing_ok=True)


def _make_room(kept: Path) -> None:
    """Remove the files read longest ago, meta data and the newest kept, until all fit."""
    told = os.environ.get('QWEN_VLA_SETS_GB')
    if not told:
        return
    found = [
        (path.stat().st_mtime, path.stat().st_size, path)
        for folder in _mirrors
        for path in folder.rglob('*')
        if path.is_file() and not path.name.startswith('.')
    ]
    room = sum(size for _, size, _ in found) - float(told) * 1e9
    for _, size, path in sorted(found):
        if room <= 0:
            return
        inside = any(path.is_relative_to(folder / META) for folder in _mirrors)
        if path != kept and not inside:
            path.unlink(missing_ok=True)
            room -= size


def _cache() -> Path:
    told = os.environ.get('QWEN_VLA_SETS')
    return Path(told) if told else Path.home() / '.cache' / 'qwen_vla_ros' / 'sets'
