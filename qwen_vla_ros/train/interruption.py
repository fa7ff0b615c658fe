"""SIGTERM and the first Ctrl-C end a run after the present step; a second one ends it at once."""

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def noted_signals(note: Callable[[int], None]) -> Iterator[None]:
    """Call note with the number of a signal that asks for the end, instead of ending."""

    def heard(number: int, _: object) -> None:
        note(number)
        signal.signal(number, before[number])

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            signal.signal(number, heard)
    except ValueError:  # not in the main thread: whoever started that one handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
