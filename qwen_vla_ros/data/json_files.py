"""JSON as data sets bring it: plain, gzipped, or one object a line; errors name file and entry."""

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen_vla_ros.errors import QwenVlaError

HEAD = 2**20
JSON_ENDS = ('.json', '.jsonl', '.json.gz', '.jsonl.gz')


def is_json(path: Path) -> bool:
    """Return whether a path is a file with one of our endings."""
    return path.name.endswith(JSON_ENDS) and path.is_file()


def read_json(path: Path) -> Any:
    """Return what a file holds; that of JSON lines is a list."""
    text = _text(path)
    try:
        if '.jsonl' not in path.name:
            return json.loads(text)
    except ValueError as error:
        raise QwenVlaError(f'{path}: no JSON ({error}); copy it again') from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise QwenVlaError(f'{path}: line {number}: no JSON ({error})') from error
    return found


def head_of(path: Path) -> str:
    """Return the first megabyte of a file, to tell what it is without reading all of it."""
    try:
        with gzip.open(path) if path.suffix == '.gz' else path.open('rb') as file:
            return file.read(HEAD).decode('utf-8', 'replace')
    except (OSError, EOFError, zlib.error) as error:
        raise QwenVlaError(f'{path}: cannot be read ({error}); copy it again') from error


def table_of(place: str, value: Any) -> Mapping[str, Any]:
    """Return a JSON object; QwenVlaError where it is something else."""
    if not isinstance(value, dict):
        raise QwenVlaError(f'{place}: a JSON object is expected, not {type(value).__name__}')
    return value


def list_of(place: str, value: Any) -> list[Any]:
    """Return a JSON list that holds something; QwenVlaError where it is something else."""
    if not isinstance(value, list) or not value:
        raise QwenVlaError(f'{place}: a list with something in it is expected')
    return value


def text_of(place: str, table: Mapping[str, Any], key: str) -> str:
    """Return a text that is not empty; QwenVlaError names its key."""
    found = table.get(key)
    if not isinstance(found, str) or not found.strip():
        raise QwenVlaError(f'{place}: {key}: a text is expected, not {found!r}')
    return found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == '.gz' else data).decode('utf-8')
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise QwenVlaError(f'{path}: cannot be read ({error}); copy it again') from error
