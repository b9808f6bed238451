"""How long each phase of a fit takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Phase = Callable[[str], AbstractContextManager[None]]
"""Opens a phase by its name: `PhaseClock.phase`."""


class PhaseClock:
    """Adds up the seconds of phases; a phase inside another one does not count for that one.

    Args:
        seconds: Takes the seconds of each phase, by name.

    Example:
        >>> clock = PhaseClock({})
        >>> with clock.phase("fit"), clock.phase("validation"):
        ...     pass
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """While open, time counts for this phase."""
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        """Adds the time since the last change to the innermost phase."""
        now = time.monotonic()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
