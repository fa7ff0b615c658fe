"""
Addresses of other projects' policy servers, and the keys that they read.

    openpi://127.0.0.1:8000        starvla://127.0.0.1:10093        gr00t://127.0.0.1:5555
      ?keys=libero|FILE.yaml       whose keys the server reads: a benchmark's client, or a file
                                   like an entry of `clients` there; without it generic_layout()
      &image=224x224               pictures are resized to height x width first
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.protocols.layout import WireLayout, generic_layout

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

PORTS = {'openpi': 8000, 'starvla': 10093, 'gr00t': 5555}


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens, and what the address says beside."""

    protocol: str
    host: str
    port: int
    keys: str
    image: tuple[int, int] | None


def read_address(address: str) -> ServerAddress:
    """Return the parts of an address; QwenVlaError names what is wrong with it."""
    parts = urlsplit(address)
    if parts.scheme not in PORTS:
        raise QwenVlaError(
            f'{address}: the scheme is none of ws, wss, {", ".join(PORTS)}; write '
            'openpi://127.0.0.1:8000'
        )
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    unknown = sorted(set(options) - {'keys', 'image'})
    try:
        port = parts.port or PORTS[parts.scheme]
        size = [int(n) for n in options['image'].split('x')] if 'image' in options else None
    except ValueError as error:
        raise QwenVlaError(f'{address}: {error}') from error
    if unknown or not parts.hostname or (size is not None and (len(size) != 2 or min(size) < 1)):
        raise QwenVlaError(
            f'{address}: write {parts.scheme}://host:port?keys=NAME&image=224x224'
            + (f', without {", ".join(unknown)}' if unknown else '')
        )
    image = (size[0], size[1]) if size else None
    return ServerAddress(parts.scheme, parts.hostname, port, options.get('keys', ''), image)


def read_keys(place: ServerAddress, embodiment: 'Embodiment', layout: str | None) -> WireLayout:
    """Return the keys that a server reads."""
    from qwen_vla_ros.protocols.field_benchmarks import (
        FieldBenchmark,
        known_benchmarks,
        read_client,
    )

    if not place.keys:
        return generic_layout(place.protocol, describe_policy(embodiment, layout))
    if place.keys in known_benchmarks():
        return FieldBenchmark.load(place.keys).client(place.protocol)
    return read_client(Path(place.keys), place.protocol)
