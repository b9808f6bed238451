"""What a long phase will cost, said once, from the speed of its first two seconds."""

import time

from tqdm.auto import tqdm

_MEASURED_S = 2.0
_LONG_S = 60.0  # shorter phases need no announcement


class Forecast:
    """Says how long a phase will take, if that is long.

    Args:
        what: What is done, as the beginning of a sentence.
        done: Tokens that were done before.
        silent: Whether to say nothing.
    """

    def __init__(self, what: str, *, done: int = 0, silent: bool) -> None:
        self._what, self._before = what, done
        self._said, self._started_at = silent, time.monotonic()

    def tell(self, done: int, total: float | int | None) -> None:
        """Says it, if two seconds have passed.

        Args:
            done: Tokens so far.
            total: Tokens of the phase; None: nobody knows.
        """
        if self._said or total is None:
            return
        wall_s = time.monotonic() - self._started_at
        if wall_s < _MEASURED_S:
            return
        self._said = True
        left_s = wall_s * (total - done) / max(1, done - self._before)
        if left_s >= _LONG_S:
            speed = "at the speed of the first two seconds"
            tqdm.write(f"{self._what} {total:,.0f} tokens takes {in_words(left_s)} {speed}.")


def in_words(seconds: float) -> str:
    """A duration, such as "about 5 minutes"."""
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"
