"""The last token of a text, run again and again: keys and values of the others are kept."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.host.host import Host
from clvq_lens.host.lenses import lenses_of


def is_untouched(host: Host) -> bool:
    """Whether a pass is that of the bare model: no hook of a user, no open block of a lens.

    Those may count positions from the beginning of a text, of which a pass of one token knows
    nothing.
    """
    if any(point.has_hooks() for point in host.model.hook_dict.values()):
        return False
    for lens in lenses_of(host.model).values():
        blocks = lens.attachment.blocks
        if blocks.innermost is not None or blocks.want_codes:
            return False
    return True


class KeptPass:
    """A pass over some texts whose keys and values are kept, block by block.

    In a causal model, what changes at the last token of a text changes nothing before it.

    Args:
        host: A causal model.
        tokens: Texts, padded on the right.
        attended: False on padding.
        names: Hook points that are read. The pass stops after the last of them.
    """

    def __init__(
        self,
        host: Host,
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        names: Sequence[str],
    ) -> None:
        self._host = host
        self._past = host.protocol.new_past(len(tokens)) if host.causal else None
        self.activations: dict[str, Float[Tensor, "b pos d"]] = host.activations(
            tokens, attended, names, past=self._past
        )
        last_block = min(max(host.depth(name)[0] for name in names), host.n_layers - 1)
        self.is_complete = self._past is not None and self._holds(last_block + 1, tokens.shape[1])

    def _holds(self, n_blocks: int, n_positions: int) -> bool:
        """Whether the model put all that passed into the cache; a few ignore it."""
        protocol = self._host.protocol
        return all(protocol.n_past(self._past, block) == n_positions for block in range(n_blocks))

    def before(self, row: int, position: int, n_times: int) -> Any:
        """What `Host.logits_with` and `Host.activations_with` take as ``past``.

        Args:
            row: Number of the text.
            position: The position whose token is run again.
            n_times: How often it is run in one pass.
        """
        return self._host.protocol.part_of_past(self._past, row, position, n_times)
