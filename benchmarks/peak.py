"""The memory that some work takes at its peak, above what its process had before."""

import threading
from collections.abc import Callable

from clvq_lens.training.memory import process_bytes

_POLL_S = 0.005


def peak_above(work: Callable[[], object]) -> int:
    """Bytes at the peak, above those before; in a fresh process, or it finds memory to reuse."""
    before = most = process_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(_POLL_S):
            most = max(most, process_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(most, process_bytes()) - before
