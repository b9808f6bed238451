"""Ctrl-C during long work: heard between two steps, so that none is done by half."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


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


def add_each(batches: Iterable[T], add: Callable[[T], None], *, desc: str, progress: bool) -> bool:
    """Adds batch after batch until they end or Ctrl-C is pressed.

    Args:
        batches: To be added.
        add: What is done with each; it is never interrupted halfway.
        desc: Of the progress bar.
        progress: Whether to show it.

    Returns:
        Whether Ctrl-C was not pressed, so that all of them were added.
    """
    with deferred_interrupt() as pressed:
        for batch in tqdm(batches, desc=desc, unit="batch", disable=not progress):
            add(batch)
            if pressed():
                break
    return not pressed()
