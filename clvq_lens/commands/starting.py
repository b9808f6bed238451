"""The first seconds of a command, in which it imports heavy packages."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the number of the signal."""


@contextmanager
def starting() -> Iterator[None]:
    """While open, Ctrl-C ends the process at once, with one line.

    For the imports of a command: a `KeyboardInterrupt` may leave a package half imported, and some
    packages swallow it. Nothing has been done yet that would have to be undone.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    # Somebody else's handler, or a process that ignores Ctrl-C, stays as it is.
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        # os.write and os._exit: nothing of Python that an interrupted import may hold locked.
        os.write(2, b"Interrupted while starting. Nothing was written.\n")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
