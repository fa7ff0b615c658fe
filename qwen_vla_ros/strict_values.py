"""
Strict reading of YAML: a value is exactly what is asked for, or an error with file and key path.

Nothing is guessed, nothing unknown is passed over, and where a known word is near, it is named.
"""

import math
import re
import sys
from collections.abc import Hashable, Iterable
from typing import Any

import yaml

from qwen_vla_ros.embodiment import ContractError, did_you_mean


class StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node after looking for keys that stand twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f'{key!r} cannot be a key', key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key {key!r} stands twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class StrictValues:
    """Reads single values of one file; every method takes the key path of what it reads."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, path: str, problem: str) -> ContractError:
        """Return the error for a key path, to be raised."""
        return ContractError(f'{self.file}: {path}: {problem}')

    def table(
        self, data: Any, path: str, required: Iterable[str], optional: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Return a mapping with exactly these keys."""
        self.table_of(data, path)
        dot = f'{path}.' if path else ''
        required, known = tuple(required), (*required, *optional)
        for key in data:
            if key not in known:
                raise self.fail(f'{dot}{key}', f'unknown key{did_you_mean(key, known)}')
        for key in required:
            if key not in data:
                raise self.fail(f'{dot}{key}', 'the key is missing')
        return data

    def table_of(self, data: Any, path: str) -> dict[str, Any]:
        """Return a mapping, whatever its keys."""
        if not isinstance(data, dict):
            raise self.fail(path or 'the file', f'a table of keys is wanted, got {data!r}')
        return data

    def named(self, data: Any, path: str) -> dict[str, Any]:
        """Return a non-empty mapping with free names for keys."""
        if not isinstance(data, dict) or not data:
            raise self.fail(path, f'a table of names is wanted, got {data!r}')
        for key in data:
            if not isinstance(key, str):
                raise self.fail(f'{path}.{key}', 'names are text; put it in quotes')
        return data

    def number(
        self,
        value: Any,
        path: str,
        low: float = -math.inf,
        high: float = math.inf,
        above: bool = False,
    ) -> float:
        """Return a finite number from `low` (or above it) to `high`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = (
                ' (write 1.0e-3, with point and sign)' if re.match(r'[\d.]+e', str(value)) else ''
            )
            raise self.fail(path, f'a number is wanted, got {value!r}{hint}')
        if value != value or abs(value) > sys.float_info.max:
            raise self.fail(path, f'a finite number is wanted, got {value}')
        if value < low or (above and value == low):
            raise self.fail(
                path, f'must be {"above" if above else "at least"} {low:g}, got {value}'
            )
        if value > high:
            raise self.fail(path, f'must be at most {high:g}, got {value}')
        return float(value)

    def whole(self, value: Any, path: str, high: int) -> int:
        """Return a whole number above 0, at most `high`."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail(path, f'a whole number above 0 is wanted, got {value!r}')
        if value > high:
            raise self.fail(path, f'must be at most {high}, got {value}')
        return value

    def word(self, value: Any, path: str, pattern: re.Pattern | None = None) -> str:
        """Return a text that is not empty and fits the pattern."""
        if not isinstance(value, str) or not value:
            raise self.fail(path, f'text is wanted, got {value!r}')
        if pattern is not None and not pattern.fullmatch(value):
            raise self.fail(path, f'{value!r} is not a valid name here ({pattern.pattern})')
        return value

    def one_of(self, value: Any, path: str, known: Iterable[str]) -> str:
        """Return one of the known words."""
        known = tuple(known)
        if value not in known:
            hint = '; put it in quotes' if str(value) in known else did_you_mean(value, known)
            raise self.fail(path, f'{value!r} is not one of {", ".join(known)}{hint}')
        return value

    def flag(self, value: Any, path: str) -> bool:
        """Return true or false."""
        if not isinstance(value, bool):
            raise self.fail(path, f'true or false is wanted, got {value!r}')
        return value

    def words(self, value: Any, path: str) -> tuple[str, ...]:
        """Return the texts of a list that is not empty."""
        if not isinstance(value, list) or not value:
            raise self.fail(path, f'a list of names is wanted, got {value!r}')
        for item in value:
            if value.count(self.word(item, path)) > 1:
                raise self.fail(path, f'{item!r} stands twice')
        return tuple(value)
