"""Ctrl-C and SIGTERM during long work: handled between steps, so that none is left half done."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from tqdm.auto import tqdm

from clvq_lens.errors import TerminatedError

T = TypeVar("T")


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C is only noted; pressed a second time, it interrupts at once, as always.

    Nothing changes outside the main thread, which alone receives signals, and in a process that
    ignores Ctrl-C, such as one in the background.

    Returns:
        A function that tells whether Ctrl-C was pressed.

    Example:
        >>> with deferred_interrupt() as pressed:
        ...     for step in range(3):
        ...         if pressed():
        ...             break
    """
    ignored = not callable(signal.getsignal(signal.SIGINT))
    if threading.current_thread() is not threading.main_thread() or ignored:
        yield lambda: False
        return
    with _noted_once(signal.SIGINT) as pressed:
        yield pressed


@contextmanager
def noted_termination() -> Iterator[Callable[[], bool]]:
    """While open, a first SIGTERM, which clusters send before they kill, is only noted.

    Nothing changes outside the main thread, which alone receives signals.

    Returns:
        A function that tells whether it has come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    with _noted_once(signal.SIGTERM) as has_come:
        yield has_come


@contextmanager
def _noted_once(number: signal.Signals) -> Iterator[Callable[[], bool]]:
    """While open, a signal is noted the first time, and does what it did before the second."""
    before = signal.getsignal(number)
    noted = False

    def note(_: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = True
        # Whoever sends it again does not want to wait for the end of the step.
        signal.signal(number, before)

    signal.signal(number, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(number, before)


@contextmanager
def ended_by_termination(remedy: str) -> Iterator[None]:
    """While open, SIGTERM ends the work at once, by an error that cleans up on its way.

    For work that loses nothing that it has finished. Nothing changes outside the main thread,
    which alone receives signals.

    Args:
        remedy: A sentence that says how to go on.

    Raises:
        TerminatedError: If SIGTERM comes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        raise TerminatedError(f"Told to end (SIGTERM). {remedy}")

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except TerminatedError as error:
        # A step inside that noted the signal itself does not know about this work.
        raise TerminatedError(f"Told to end (SIGTERM). {remedy}") from error
    finally:
        signal.signal(signal.SIGTERM, before)


def add_each(batches: Iterable[T], add: Callable[[T], None], *, desc: str, progress: bool) -> bool:
    """Adds batch after batch until they end or Ctrl-C is pressed.

    Args:
        batches: What is added.
        add: What is done with each batch; it is never interrupted halfway.
        desc: Text of the progress bar.
        progress: Whether to show the progress bar.

    Returns:
        Whether all batches were added, because Ctrl-C was not pressed.
    """
    with deferred_interrupt() as pressed:
        for batch in tqdm(batches, desc=desc, unit="batch", disable=not progress):
            add(batch)
            if pressed():
                break
    return not pressed()
