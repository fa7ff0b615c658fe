"""Emergency stops and the dead-man switch, alone and through the gate."""

import numpy as np
import pytest

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.interlocks import DEAD_MAN, ESTOP, Interlocks
from qwen_vla_ros.safety import SafetyGate
from qwen_vla_ros.types import ActionChunk

CONTRACT = Embodiment.load('widowx')
SECOND = 1_000_000_000
POSE = np.array([0.0, -0.6, 0.5, 0.0, 1.2, 0.0, 0.03])
SLOW = np.full(7, 0.01)


def chunk(start_ns: int = 0) -> ActionChunk:
    rows = np.tile(POSE.astype(np.float32), (16, 1))
    return ActionChunk(rows, CONTRACT.action_names(), start_ns, CONTRACT.step_s)


def test_each_source_releases_its_own_stop():
    interlocks = Interlocks()
    interlocks.press('topic', 1)
    interlocks.press('service', 2)
    interlocks.release('topic')
    assert interlocks.causes(3) == {ESTOP: 'emergency stop pressed (service)'}
    interlocks.release('service')
    assert interlocks.causes(3) == {}


def test_a_dead_man_switch_counts_for_its_period():
    interlocks = Interlocks(dead_man_s=0.2)
    assert interlocks.dead_man(0) == 'the dead-man switch is not held'
    interlocks.refresh(True, SECOND)
    assert interlocks.dead_man(SECOND + SECOND // 5) == ''
    assert 'last heard 0.300 s ago (limit 0.2 s)' in interlocks.dead_man(SECOND * 13 // 10)
    assert interlocks.dead_man(SECOND - 1) == ''  # heard by another thread, just now
    assert interlocks.dead_man(SECOND - SECOND // 4) != ''
    interlocks.refresh(False, 2 * SECOND)
    assert interlocks.causes(2 * SECOND) == {DEAD_MAN: 'the dead-man switch is not held'}


def test_a_period_of_nothing_is_refused():
    with pytest.raises(QwenVlaError, match='dead_man_s must be above 0'):
        Interlocks(dead_man_s=0.0)


@pytest.mark.parametrize('ask', ['row', 'chunk', 'watchdog'])
def test_an_emergency_stop_latches_until_released_and_reset(ask):
    interlocks = Interlocks()
    gate = SafetyGate(CONTRACT, interlocks=interlocks)
    interlocks.press('topic', 3)
    verdict = {
        'row': lambda: gate.check_row(POSE, SLOW, 5),
        'chunk': lambda: gate.check_chunk(chunk(), 5),
        'watchdog': lambda: gate.watchdog(5),
    }[ask]()
    assert not verdict.ok
    assert (gate.latch_state.cause, gate.latch_state.time_ns) == (ESTOP, 5)
    refused = gate.reset()
    assert (refused.ok, refused.reason) == (False, 'reset refused: emergency stop pressed (topic)')
    interlocks.release('topic')
    assert not gate.check_row(POSE, SLOW, 6).ok
    assert gate.reset().ok
    assert gate.check_row(POSE, SLOW, 7).ok


def test_without_the_dead_man_nothing_starts_and_nothing_latches():
    gate = SafetyGate(CONTRACT, interlocks=Interlocks(dead_man_s=0.2))
    verdict = gate.check_chunk(chunk(), 0)
    assert (verdict.ok, verdict.reason) == (False, 'the dead-man switch is not held')
    assert gate.watchdog(1).ok
    assert not gate.latched


def test_letting_go_while_the_arm_moves_latches():
    interlocks = Interlocks(dead_man_s=0.2)
    gate = SafetyGate(CONTRACT, interlocks=interlocks)
    interlocks.refresh(True, 0)
    assert gate.check_row(POSE, SLOW, 0).ok
    assert gate.watchdog(SECOND // 10).ok
    interlocks.refresh(False, SECOND // 10)
    assert not gate.watchdog(SECOND // 10 + 1).ok
    assert gate.latch_state.cause == DEAD_MAN
    assert 'not held' in gate.reset(SECOND // 10 + 2).reason
    interlocks.refresh(True, SECOND // 5)
    assert gate.reset(SECOND // 5).ok


def test_the_first_cause_of_a_latch_stays():
    interlocks = Interlocks()
    gate = SafetyGate(CONTRACT, interlocks=interlocks)
    gate.latch('policy gone', 3)
    interlocks.press('topic', 4)
    for now in range(5, 9):
        assert gate.check_row(POSE, SLOW, now).reason == 'latched: policy gone'
    assert len(gate.refusals) == 1
    assert 'emergency stop pressed' in gate.reset().reason
