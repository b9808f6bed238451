"""Ctrl-C during long work: heard between two steps, so that none is done by half."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C is only noted; pressed a second time, it interrupts at once, as always.

    It stays as it is outside the main thread, where nothing can be heard, and in a process that
    ignores it, as one in the background does.

    Returns:
        Tells whether it was pressed.

    Example:
        >>> with deferred_interrupt() as pressed:
        ...     for step in range(3):
        ...         if pressed():
        ...             break
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: False
        return
    noted = False

    def note(number: int, frame: Any) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)
