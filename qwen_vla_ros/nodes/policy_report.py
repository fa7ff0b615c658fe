"""What the policy node tells the world: PolicyStatus, ActionChunk and DiagnosticArray messages."""

from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.msg import ActionChunk as ActionChunkMessage
from qwen_vla_ros.msg import PolicyStatus
from qwen_vla_ros.nodes.pilot import HOLDING, INACTIVE, RUNNING
from qwen_vla_ros.stages import SHADOW
from qwen_vla_ros.stream_counts import told_bins
from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qwen_vla_ros.nodes.pilot import Pilot

LEVELS = {RUNNING: DiagnosticStatus.OK, HOLDING: DiagnosticStatus.ERROR}


def status_message(pilot: 'Pilot | None', reason: str, now_ns: int) -> PolicyStatus:
    """Return the status; reason is what went wrong while there is no pilot."""
    message = PolicyStatus(stage=INACTIVE, reason=reason)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 1_000_000_000)
    message.chunk_age_s = message.observation_age_s = message.shadow_skill = float('nan')
    if pilot is None:
        return message
    message.stage, message.reason = pilot.stage, pilot.reason or reason
    message.instruction, message.missing = pilot.instruction, list(pilot.missing)
    message.holding = pilot.stage == HOLDING
    message.inference_s = pilot.inference_s[-1] if pilot.inference_s else 0.0
    message.overhead_s = pilot.overhead_s[-1] if pilot.overhead_s else 0.0
    chunk, observed_ns = pilot.chunk, pilot.observed_ns
    if chunk is not None:
        message.chunk_age_s = (now_ns - chunk.start_ns) * 1e-9
    if observed_ns is not None:
        message.observation_age_s = (now_ns - observed_ns) * 1e-9
    message.chunks = pilot.chunks
    message.refusals = sum(refusal_counts(pilot).values())
    message.arming, message.arming_reason = pilot.stages.stage, pilot.stages.reason
    message.speed_scale = pilot.speed_scale
    if pilot.stages.stage == SHADOW:
        seen = pilot.shadow.agreement()
        message.shadow = str(seen)
        message.shadow_skill = float('nan') if seen.skill is None else seen.skill
    return message


def refusal_counts(pilot: 'Pilot') -> dict[str, int]:
    """Return how many chunks, motions and rows were refused, by safety or for how they begin."""
    gate = pilot.gate
    if gate is None:
        return {}
    return {
        'refused_chunks': gate.refused_chunks,
        'refused_starts': pilot.refused_starts,
        'refused_motions': gate.refused_motions,
        'refused_rows': gate.refused_rows,
    }


def chunk_message(chunk: ActionChunk, refused: str = '') -> ActionChunkMessage:
    """Return a chunk as a message; refused: why it is not executed."""
    message = ActionChunkMessage(
        names=list(chunk.names), step_s=chunk.step_s, horizon=chunk.horizon, frame=chunk.frame
    )
    message.refused = refused
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(chunk.start_ns, 1_000_000_000)
    message.actions = chunk.actions.astype(np.float64).ravel().tolist()
    return message


def chunk_from(message: ActionChunkMessage) -> ActionChunk:
    """Return what a message says; QwenVlaError when rows and names do not belong together."""
    names, horizon = tuple(message.names), int(message.horizon)
    if len(message.actions) != horizon * len(names):
        raise QwenVlaError(
            f'action chunk: {len(message.actions)} numbers for {horizon} rows of {len(names)}'
        )
    actions = np.array(message.actions, np.float32).reshape(horizon, len(names))
    stamp = message.header.stamp
    start_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
    return ActionChunk(actions, names, start_ns, message.step_s, message.frame)


def diagnostics_message(
    name: str, pilot: 'Pilot | None', reason: str, now_ns: int
) -> DiagnosticArray:
    """Return latencies, counts and the newest refusal of safety for /diagnostics."""
    message = DiagnosticArray()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 1_000_000_000)
    stage = INACTIVE if pilot is None else pilot.stage
    status = DiagnosticStatus(name=name, level=LEVELS.get(stage, DiagnosticStatus.WARN))
    status.message = f'{stage} {pilot.reason if pilot and pilot.reason else reason}'.strip()
    facts: dict[str, object] = {}
    if pilot is not None:
        facts = {
            **_percentiles('inference', pilot.inference_s),
            **_percentiles('overhead', pilot.overhead_s),
            **_splice_facts(pilot),
            **_arming_facts(pilot),
            'chunks': pilot.chunks,
            **refusal_counts(pilot),
        }
        if pilot.transport:
            facts['policy_transport'] = pilot.transport
        facts.update(_stream_facts(pilot.buffer.statistics()))
    status.values = [KeyValue(key=key, value=str(value)) for key, value in facts.items()]
    message.status = [status]
    return message


def _arming_facts(pilot: 'Pilot') -> dict[str, object]:
    """Return the stage and what safety checks, clamped and refused last."""
    facts = {'arming': pilot.stages.stage, 'speed_scale': f'{pilot.speed_scale:.2f}'}
    if pilot.stages.history:
        facts['last_stage_change'] = str(pilot.stages.history[-1])
    if pilot.gate is not None:
        facts['clamped_chunks'] = str(pilot.gate.clamped_chunks)
        facts['unchecked'] = ', '.join(pilot.gate.unchecked) or 'nothing'
        if pilot.gate.refusals:
            facts['last_refusal'] = pilot.gate.refusals[-1].reason
    return facts


def _splice_facts(pilot: 'Pilot') -> dict[str, object]:
    """Return how chunks are joined, and how late they come."""
    if pilot.executor is None:
        return {}
    rows = pilot.executor.delay_rows
    told = {} if rows is None else {'delay_p95_rows': f'{rows:.1f}'}
    return {'splice': pilot.executor.mode, **told}


def _stream_facts(statistics: 'Mapping[str, Any]') -> dict[str, object]:
    """Return counts, percentiles and histograms of every source, by keys like 'ego.age_p95_ms'."""
    facts: dict[str, object] = {'observations': statistics['samples']}
    for source, counts in statistics['sources'].items():
        for key in ('received', 'refused', 'duplicates'):
            facts[f'{source}.{key}'] = counts[key]
        for key in ('age', 'skew'):
            for percent, seconds in zip((50, 95, 99), counts[f'{key}_s'] or (), strict=False):
                facts[f'{source}.{key}_p{percent}_ms'] = f'{seconds * 1e3:.1f}'
            facts[f'{source}.{key}_histogram'] = told_bins(counts[key])
    return facts


def _percentiles(what: str, seconds: 'Sequence[float]') -> dict[str, str]:
    """Return p50, p95 and p99 in ms."""
    if not seconds:
        return {}
    values = np.percentile(list(seconds), (50, 95, 99)) * 1e3
    return {
        f'{what}_p{p}_ms': f'{value:.2f}' for p, value in zip((50, 95, 99), values, strict=True)
    }
