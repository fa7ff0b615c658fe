"""
A checkpoint by name: a folder of this machine, or `organisation/name[@revision]` of the hub.

A folder that exists wins. Downloads are what huggingface_hub caches; nothing that Python could
execute (pickles, code) is asked for.
"""

import re
from pathlib import Path

from qwen_vla_ros.model.weights import CheckpointError

_ID = re.compile(r'(?P<name>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?')
_WANTED = ['*.json', '*.safetensors', '*.txt', '*.jinja', 'embodiments/*.yaml']


def find_checkpoint(source: str | Path) -> Path:
    """Return the folder of a checkpoint, fetched from the hub when it is a hub's name."""
    if Path(source).is_dir():
        return Path(source)
    match = _ID.fullmatch(str(source))
    if match is None:
        raise CheckpointError(
            f'{source}: no such folder; give the folder of a checkpoint, or a name of the hub as '
            'organisation/name[@revision]'
        )
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f'{source}: no such folder, and for the hub huggingface_hub is not installed: '
            "pip install 'qwen_vla_ros[train]'"
        ) from error
    try:
        return Path(
            snapshot_download(match['name'], revision=match['revision'], allow_patterns=_WANTED)
        )
    except (OSError, ValueError) as error:  # huggingface_hub's errors are kinds of these
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(
            f'{source}: no such folder here, and the hub did not give it ({reason}); check the '
            'name and the network, log in for a private one (hf auth login), or download it '
            'elsewhere and give its folder'
        ) from error
