"""The folder of a run, --out: whose it is, and what an earlier run left in it."""

import json
import os
from pathlib import Path

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.train.arguments import BUNDLED, SMALL, TINY
from qwen_vla_ros.train.recipe import RL

LOG, RUN = 'log.jsonl', 'run.json'
# What tells a folder of a run: one of these, or nothing beside what is made before them.
MARKS = {SMALL: {'state.pt'}, TINY: {'state.pt'}, BUNDLED: {'see', 'sight'}}
BEFORE = {'data', 'tensorboard', 'wandb', LOG}


def claim(out: Path, stage: str) -> None:
    """Refuse what is no folder for a run of this stage; nothing is made or written."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise QwenVlaError(f'--out {out}: {there} is a file; choose a folder')
    if not os.access(there, os.W_OK):
        raise QwenVlaError(f'--out {out}: {there} may not be written to; choose another')
    if there != out:
        return
    if (before := _stage_of(out)) not in (None, stage):
        raise QwenVlaError(f'--out {out}: holds a run of {before}; choose another')
    names = {path.name for path in out.iterdir() if not _beside(path)}
    if names - BEFORE and not names & MARKS.get(stage, {RUN}):
        strange = min(names - BEFORE)
        raise QwenVlaError(f'--out {out}: holds {strange}, and no run of {stage}; choose another')


def _beside(path: Path) -> bool:
    """Return whether a file is one half written, or what a shell keeps of a run's words."""
    return path.name.startswith('.') or path.suffix == '.log'


def _stage_of(out: Path) -> str | None:
    """Return the stage whose run.json lies in a folder; None where there is none."""
    try:
        recipe = json.loads((out / RUN).read_text())['recipe']
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QwenVlaError(
            f'{out / RUN}: not of a run ({error!r}); choose another --out'
        ) from error
    return recipe.get('stage', RL)


def begin_anew(out: Path) -> None:
    """Drop the log of a run that was killed before its first state, and say so."""
    log = out / LOG
    if steps := logged_steps(log):
        print(f'no state in {out}: beginning anew; {steps} steps of the log are dropped')
        log.unlink()


def logged_steps(log: Path) -> int:
    """Return how many steps a log tells of, those of its phases together."""
    last: dict[str, int] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        try:
            entry = json.loads(line)
            last[entry.get('phase', '')] = entry['step']
        except ValueError:  # cut short by the kill
            break
    return sum(last.values())
