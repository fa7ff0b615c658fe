"""
Emergency stops and a dead-man switch, as states that a node feeds and the safety gate asks.

An emergency stop counts from press() until the same source says release(); the gate that it
latched needs a reset besides. A dead-man switch counts as held for its period after each
refresh(held=True): silence is the same as letting go. Times are int nanoseconds of the caller.
"""

import threading

from qwen_vla_ros.errors import QwenVlaError

ESTOP, DEAD_MAN = 'estop', 'dead_man'
ESTOP_PRESSED, ESTOP_RELEASED = 'emergency stop pressed', 'emergency stop released, still latched'


class Interlocks:
    """What a person presses or holds. Thread-safe."""

    def __init__(self, dead_man_s: float | None = None) -> None:
        """Take the period of the dead-man switch in s; None: there is none."""
        if dead_man_s is not None and not dead_man_s > 0:
            raise QwenVlaError(f'interlocks: dead_man_s must be above 0, got {dead_man_s}')
        self._period_s = dead_man_s
        self._lock = threading.Lock()
        self._pressed: dict[str, int] = {}
        self._held_ns: int | None = None

    def press(self, source: str, now_ns: int) -> None:
        """Stop, by a source that must release() itself: a topic, a service."""
        with self._lock:
            self._pressed.setdefault(source, now_ns)

    def release(self, source: str) -> None:
        """Take back the stop of one source; those of others stay."""
        with self._lock:
            self._pressed.pop(source, None)

    def refresh(self, held: bool, now_ns: int) -> None:
        """Hear from the dead-man switch."""
        with self._lock:
            self._held_ns = now_ns if held else None

    def leap(self, leap_ns: int) -> None:
        """Move what was noted along with a clock that leapt."""
        with self._lock:
            if self._held_ns is not None:
                self._held_ns += leap_ns

    @property
    def estop(self) -> str:
        """Return which emergency stops are pressed; '' when none is."""
        with self._lock:
            pressed = ', '.join(self._pressed)
        return f'{ESTOP_PRESSED} ({pressed})' if pressed else ''

    def dead_man(self, now_ns: int) -> str:
        """Return why the dead-man switch forbids motion; '' when it is held or there is none."""
        with self._lock:
            held_ns = self._held_ns
        if self._period_s is None:
            return ''
        if held_ns is None:
            return 'the dead-man switch is not held'
        silent = (now_ns - held_ns) * 1e-9
        if abs(silent) <= self._period_s:  # now_ns may be older than another thread's refresh
            return ''
        return (
            f'the dead-man switch was last heard {silent:.3f} s ago (limit {self._period_s:g} s)'
        )

    def causes(self, now_ns: int) -> dict[str, str]:
        """Return what forbids motion now: cause -> reason."""
        found = {ESTOP: self.estop, DEAD_MAN: self.dead_man(now_ns)}
        return {cause: reason for cause, reason in found.items() if reason}
