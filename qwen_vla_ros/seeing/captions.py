"""A PolicyStatus in words: the sentence, the stage, why the robot stopped, and the figures."""

import math
from typing import Any

from qwen_vla_ros.seeing.picture import Caption

RUNNING, SILENT = ('RUNNING', 'WATCHING', 'PARKING'), 'SILENT'


def caption_of(status: Any, quiet_s: float, refusal: str, horizon_s: float) -> Caption:
    """
    Return the caption of a PolicyStatus; None: the policy has said nothing yet.

    quiet_s: s since anything was heard, 0 while it speaks; refusal: what safety refused just now;
    horizon_s: how far ahead the drawn chunk reaches, 0 without one.
    """
    if status is None:
        return Caption(badge=SILENT, alarm='the policy has said nothing yet')
    if quiet_s > 0:
        return Caption(status.instruction, SILENT, f'policy silent for {quiet_s:.0f} s')
    alarm = '' if status.stage in RUNNING else status.reason
    if refusal:
        alarm = f'refused: {refusal}'
    return Caption(status.instruction, status.stage, alarm, facts_of(status), horizon_s)


def facts_of(status: Any) -> tuple[tuple[str, str], ...]:
    """Return the lines beside a picture from a PolicyStatus: (name, value)."""
    facts = [('missing', text) for text in status.missing]
    arming = getattr(status, 'arming', '')
    if arming:
        scale = f', {100 * status.speed_scale:.0f} % speed' if arming == 'scaled' else ''
        facts.append(('armed', arming + scale))
    facts += [
        ('model', milliseconds(status.inference_s)),
        ('node beside it', milliseconds(status.overhead_s, 1)),
        ('age of chunk', milliseconds(status.chunk_age_s)),
        ('refused', str(status.refusals)),
    ]
    return tuple(facts)


def milliseconds(value_s: float, digits: int = 0) -> str:
    """Return a time in ms; a dash for one that was not measured (0 or NaN)."""
    return f'{1e3 * value_s:.{digits}f} ms' if value_s > 0 and math.isfinite(value_s) else '–'
