"""Decoding the next tokens of a generation, when earlier positions are only in the caches."""

import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clvq_lens.errors import ShapeError
from clvq_lens.host.protocol.base import PassContext
from clvq_lens.quantizer.attention import DecoderCache
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer


@dataclass
class GenerationState:
    """What the decoder remembers of the earlier positions of one generation.

    Attributes:
        entry: Weak reference to the host's cache that it goes along with.
        clean: Of the unchanged codes.
        edited: Of the codes as hooks left them.
        waiting: Source activations of positions that nobody asked about yet.
        diverged: Whether any position was edited so far, so that later ones attend to other codes.
        length: Positions seen, waiting ones included.
        n_missing: Positions in the host's cache from before the quantizer was attached.
    """

    entry: weakref.ref[Any]
    clean: DecoderCache = field(default_factory=DecoderCache)
    edited: DecoderCache = field(default_factory=DecoderCache)
    waiting: list[Float[Tensor, "b pos d_source"]] = field(default_factory=list)
    diverged: bool = False
    length: int = 0
    n_missing: int = 0

    def fork(self) -> "GenerationState":
        """A copy that can be extended without extending this one."""
        clean, edited = self.clean.fork(), self.edited.fork()
        return replace(self, clean=clean, edited=edited, waiting=list(self.waiting))

    def catch_up_(self, quantizer: CrossLayerQuantizer, context: PassContext) -> None:
        """Decodes the waiting positions, so that the next ones can attend to them.

        Raises:
            ShapeError: If the host's cache holds positions that were never seen.
        """
        if self.n_missing:
            raise ShapeError(
                f"The model's key-value cache holds {self.n_missing} positions from before the "
                f"quantizer was attached. Attach it first, and start this generation again."
            )
        if not self.waiting:
            return
        encoded = quantizer.encode(torch.cat(self.waiting, dim=1))
        self.waiting = []
        vectors = quantizer.codebook(quantizer.codebook.nearest(encoded))
        for cache in (self.clean, self.edited) if self.diverged else (self.clean,):
            length = cache.length + encoded.shape[1]
            mask = None if context.key_mask is None else context.key_mask[:, :length]
            quantizer.decode(vectors, encoded=encoded, key_mask=mask, cache=cache)
        if not self.diverged:
            self.edited = self.clean.fork()


class GenerationStates:
    """The states of the generations under way, which end when the host drops its cache."""

    def __init__(self) -> None:
        self._states: dict[int, GenerationState] = {}

    def of(self, context: PassContext) -> GenerationState | None:
        """The state that goes along with a pass; None outside generation with a cache."""
        entry = context.cache_entry
        if entry is None:
            return None
        key = id(entry)
        state = self._states.get(key)
        if state is None or state.length != context.n_past:
            reference = weakref.ref(entry, lambda _: self._states.pop(key, None))
            state = GenerationState(reference, length=context.n_past, n_missing=context.n_past)
            self._states[key] = state
        return state.fork() if context.frozen else state  # a frozen cache forgets this pass
