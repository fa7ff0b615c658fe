"""`qwen-vla record` in front of RecorderNode: one key an act, or episodes by the clock."""

import argparse
import os
import select
import termios
import time
import tty
from typing import TextIO

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.nodes.recorder_node import RecorderNode
from qwen_vla_ros.nodes.running import run

POLL_S = 0.05
WAIT_S = 15.0  # for the robot's streams, before episodes by the clock
HINT = 'space start/stop   y success   n failure   d discard   i instruction   q quit'


def record(args: argparse.Namespace, stdin: TextIO) -> int:
    """Run the recorder with what the arguments say; return the exit code."""
    told = {
        'output': args.out,
        'robot': args.robot,
        'instruction': args.instruction,
        'max_gb': float(args.max_gb),
        'stop_free_gb': float(args.stop_free_gb),
        'episodes': str(not args.one_bag).lower(),
    }
    words = ['--ros-args']
    for key, value in told.items():
        text = _quoted(str(value)) if key in ('output', 'robot', 'instruction') else str(value)
        words += ['-p', f'{key}:={text}']
    if args.one_bag:
        return run(RecorderNode, words)
    if args.seconds is not None:
        return run(lambda: ClockRecorder(args.seconds, args.episodes), words)
    if stdin.isatty():
        return run(lambda: KeyRecorder(stdin), words)
    return run(RecorderNode, words)


def _quoted(text: str) -> str:
    """Return a value that ROS reads as a text, whatever is in it."""
    return "'" + text.replace("'", "''") + "'"


class KeyRecorder(RecorderNode):
    """Episodes by keys of a terminal."""

    def __init__(self, stdin: TextIO) -> None:
        """Let the terminal give single keys."""
        super().__init__()
        self._stdin, self._sentence = stdin, self.settings.instruction
        self._before = termios.tcgetattr(stdin)
        tty.setcbreak(stdin)
        print(HINT, flush=True)
        self.create_timer(POLL_S, self._poll)
        self.create_timer(1.0, self._tell)

    def close(self) -> None:
        """Give the terminal back, then close the bag."""
        if hasattr(self, '_before'):
            termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._before)
            print(flush=True)
        super().close()

    def _poll(self) -> None:
        while select.select([self._stdin], [], [], 0)[0]:
            key = os.read(self._stdin.fileno(), 1).decode('utf-8', 'replace').lower()
            if key in ('q', ''):
                raise KeyboardInterrupt
            try:
                self._act(key)
            except QwenVlaError as error:
                self._say([str(error)])

    def _act(self, key: str) -> None:
        running = self.recording is not None and self.recording.running
        if key == ' ' and running:
            self._say(self.end('key'))
        elif key == ' ':
            if self.silent:
                self._say([f'not heard yet: {", ".join(sorted(self.silent))}'])
            self._say([self.begin()])
        elif key in ('y', 'n'):
            self._say(self.label(key == 'y'))
        elif key == 'd':
            self._say([self.discard()])
        elif key == 'i' and not running:
            self._ask()
        else:
            self._say([HINT])

    def _ask(self) -> None:
        """Read the next instruction as a line."""
        from rclpy.parameter import Parameter

        termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._before)
        print('\rinstruction: ', end='', flush=True)
        sentence = self._stdin.readline().strip()
        tty.setcbreak(self._stdin)
        self.set_parameters([Parameter('instruction', value=sentence)])

    def _tell(self) -> None:
        if self.recording is not None and self.recording.running:
            print(f'\r\x1b[K{self.recording.summary()}', end='', flush=True)

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            print(f'\r\x1b[K{line}', flush=True)


class ClockRecorder(RecorderNode):
    """Some episodes of one length; begins once every stream of the contract was heard."""

    def __init__(self, seconds: float, episodes: int) -> None:
        """Wait for the streams."""
        super().__init__()
        self._seconds, self._left = seconds, episodes
        self._since = time.monotonic()
        self.create_timer(POLL_S, self._tick)

    def _tick(self) -> None:
        passed = time.monotonic() - self._since
        assert self.recording is not None
        if self.recording.running:
            if passed >= self._seconds:
                self._say(self.end('--seconds'))
                self._left -= 1
        elif self._left == 0:
            raise KeyboardInterrupt
        elif not self.silent:
            self._say([self.begin()])
            self._since = time.monotonic()
        elif passed > WAIT_S:
            raise QwenVlaError(
                f'record: nothing heard on {", ".join(sorted(self.silent))} for {WAIT_S:.0f} s; '
                'is the robot running, with the same ROS_DOMAIN_ID?'
            )
