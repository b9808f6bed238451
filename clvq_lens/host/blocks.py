"""The ``with`` blocks of a quantizer that are open: what they do to the model meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from clvq_lens.host.context import PassText
from clvq_lens.host.reconstruction import Recorded
from clvq_lens.host.threads import only_here
from clvq_lens.quantizer.draft import Draft

EditFunction = Callable[[Draft, PassText], Draft]
Projection = Callable[[Tensor, PassText], Tensor]


class OpenBlocks:
    """The open blocks, innermost last. Blocks of one kind may nest, also with equal edits."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self.edits: list[EditFunction] = []
        self._listeners: list[Callable[[Recorded], None]] = []

    @property
    def innermost(self) -> str | None:
        """The name of the innermost open block, such as "edit"; None if no block is open."""
        return self._names[-1] if self._names else None

    @property
    def splices(self) -> bool:
        """Whether the reconstruction takes the place of the target."""
        return "splice" in self._names

    @property
    def change_codes_or_target(self) -> bool:
        """Whether an edit or a splice is open; a projection does not count."""
        return self.splices or bool(self.edits)

    @property
    def want_codes(self) -> bool:
        """Whether an open block needs the codes of a pass."""
        return bool(self.edits or self._listeners)

    @contextmanager
    def open(self, name: str) -> Iterator[None]:
        """While open, counts as an open block of that name."""
        with _held(self._names, name):
            yield

    @contextmanager
    def editing(self, edit: EditFunction) -> Iterator[None]:
        """While open, an edit acts on codes, after the edits that were open before it."""
        with _held(self.edits, edit), self.open("edit"):
            yield

    @contextmanager
    def listening(self) -> Iterator[list[Recorded]]:
        """While open, records the passes of this thread."""
        records: list[Recorded] = []
        # Verbs of several threads may listen to one quantizer, each to its own passes.
        with _held(self._listeners, only_here(records.append)):
            yield records

    def tell(self, recorded: Recorded) -> None:
        """Hands a pass to every listener."""
        for listener in self._listeners:
            listener(recorded)


@contextmanager
def _held(stack: list[Any], item: Any) -> Iterator[None]:
    """While open, a list has one more item at its end; blocks may close in any order."""
    stack.append(item)
    try:
        yield
    finally:
        # The last equal one: an outer block with the same edit keeps its place in the order.
        last = len(stack) - 1 - stack[::-1].index(item)
        del stack[last]
