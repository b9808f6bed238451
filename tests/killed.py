"""Work that writes checkpoints, and dies after some of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clvq_lens.training.checkpoint import Checkpoints


@contextmanager
def killed_after(n_checkpoints: int) -> Iterator[None]:
    """While open, work dies right after it has written so many checkpoints, and has to."""
    original, written = Checkpoints.save, []

    def save(self: Checkpoints, state: Any) -> None:
        original(self, state)
        written.append(1)
        if len(written) == n_checkpoints:
            raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(RuntimeError, match="killed"):
            yield
