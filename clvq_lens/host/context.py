"""What else a pass through the model carries: tokens, padding, and the key-value cache."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from clvq_lens.host.protocol import Host


@dataclass(frozen=True)
class PassContext:
    """The pass under way, as the block of a hook point is told.

    Attributes:
        key_mask: False on padding, over past and present positions; None: no padding that a real
            position could see.
        cache_entry: The host's key-value cache of that block, or None.
        n_past: Positions already in that cache.
    """

    key_mask: Bool[Tensor, "b keys"] | None
    cache_entry: Any
    n_past: int

    def to(self, device: torch.device) -> "PassContext":
        """The same with the mask on a device."""
        mask = None if self.key_mask is None else self.key_mask.to(device)
        return replace(self, key_mask=mask)


_NO_CONTEXT = PassContext(key_mask=None, cache_entry=None, n_past=0)


@dataclass(frozen=True)
class PassText:
    """The text that a pass goes over, for edits that depend on it.

    Attributes:
        tokens: From the beginning of the text, positions in the cache included; None where the
            pass began in the middle of the model, so that nobody saw them.
        real: True on the real tokens of this pass: neither padding nor special.
        n_past: Positions before this pass.
        n_given: Length of the text as it was passed in; what a generation added comes after.
    """

    tokens: Int[Tensor, "b all"] | None
    real: Bool[Tensor, "b pos"]
    n_past: int
    n_given: int

    @property
    def shape(self) -> tuple[int, int]:
        """Sequences, and positions from the beginning of the text."""
        return self.real.shape[0], self.n_past + self.real.shape[1]

    def take(self, rows: Int[Tensor, " r"]) -> "PassText":
        """Some of its sequences."""
        tokens = None if self.tokens is None else self.tokens[rows.to(self.tokens.device)]
        return replace(self, tokens=tokens, real=self.real[rows.to(self.real.device)])


class PassWatcher:
    """Listens, while attached, to the tokens of a pass and to what some blocks are told.

    Args:
        host: The model.
        names: Hook points whose blocks are listened to.
    """

    def __init__(self, host: Host, names: list[str]) -> None:
        self._special = host.special_tokens
        self._n_context = host.n_context
        self._pieces: list[Int[Tensor, "b pos"]] = []  # of the text, as they were embedded
        self._earlier: list[Int[Tensor, "b pos"]] = []  # of the text before, which may go on
        self._contexts: dict[str, PassContext] = {}
        self._handles = [host.embedding.register_forward_pre_hook(self._see_tokens)]
        for name in set(names):
            self._handles += self._watch_block(host, name)

    def _watch_block(self, host: Host, name: str) -> list[RemovableHandle]:
        def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            mask, entry = kwargs.get("attention_mask"), kwargs.get("past_kv_cache_entry")
            n_past = 0 if entry is None else entry.past_keys.shape[1]
            mask = None if mask is None else mask.bool()
            self._contexts[name] = PassContext(key_mask=mask, cache_entry=entry, n_past=n_past)
            if n_past:
                self._join_pieces(n_past)

        def leave(module: Any, args: Any, output: Any) -> None:
            self._contexts.pop(name, None)

        block = host.block_of(name)
        handles = [block.register_forward_pre_hook(enter, with_kwargs=True)]
        if host.is_inside(name):  # a point after the last block is passed when that was left
            handles.append(block.register_forward_hook(leave))
        return handles

    def close(self) -> None:
        """Stops listening."""
        for handle in self._handles:
            handle.remove()

    def context(self, name: str) -> PassContext:
        """What the block of a hook point was told in the pass under way."""
        return self._contexts.get(name, _NO_CONTEXT)

    def text(self, shape: torch.Size, context: PassContext) -> PassText:
        """The text of the pass under way.

        Where a pass began in the middle of the model its tokens are unknown; only padding is then
        not real.
        """
        n_batch, n_pos = shape
        real = torch.ones(n_batch, n_pos, dtype=torch.bool)
        if context.key_mask is not None:
            real = context.key_mask[:, -n_pos:].cpu()
        n_all = context.n_past + n_pos
        pieces = self._pieces_of(n_batch, n_all)
        tokens = torch.cat(pieces, dim=1) if pieces else None
        if tokens is not None:
            real = real & ~torch.isin(tokens[:, -n_pos:].cpu(), self._special)
        n_given = pieces[0].shape[1] if pieces else n_all
        return PassText(tokens=tokens, real=real, n_past=context.n_past, n_given=n_given)

    def _pieces_of(self, n_batch: int, n_all: int) -> list[Tensor]:
        """The pieces that make up a text so long: all of them, or, for a new text, the last."""
        for pieces in (self._pieces, self._pieces[-1:]):
            if pieces and pieces[0].shape[0] == n_batch and _length(pieces) == n_all:
                return pieces
        return []

    def _see_tokens(self, module: Any, args: tuple[Any, ...]) -> None:
        tokens, pieces = args[0], self._pieces
        # One token a sequence goes on with the text, as generation does, with a cache or without.
        follows = bool(pieces) and tokens.shape == (pieces[0].shape[0], 1)
        if follows and _length(pieces) < self._n_context:
            self._pieces = [*pieces, tokens]
        else:
            self._earlier, self._pieces = pieces, [tokens]

    def _join_pieces(self, n_past: int) -> None:
        """The tokens of this pass go on with the text whose beginning is in the cache."""
        if not self._pieces:
            return
        *before, last = self._pieces
        for pieces in (before, self._earlier):
            for end in range(1, len(pieces) + 1):
                beginning = pieces[:end]
                if _length(beginning) == n_past and len(beginning[0]) == len(last):
                    self._pieces = [*beginning, last]
                    return


def _length(pieces: list[Tensor]) -> int:
    return sum(piece.shape[1] for piece in pieces)
