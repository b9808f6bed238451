"""Decoding the next tokens of a generation, whose earlier positions are only in the caches."""

import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.errors import ShapeError
from clvq_lens.host.protocol.base import PassContext
from clvq_lens.host.sequences import follow_sequences
from clvq_lens.quantizer.attention import DecoderCache
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer

_MOST_WAITING = 128  # positions whose activations are kept; then codes take their place


@dataclass(eq=False)
class GenerationState:
    """What the decoder remembers of the earlier positions of one generation.

    Attributes:
        entry: Weak reference to the host's cache that the state belongs to.
        clean: Decoder cache of the unchanged codes.
        edited: Decoder cache of the codes as hooks left them.
        waiting: Source activations of the last positions, which are not decoded yet.
        codes: Nearest codes of the positions before them, which are not decoded yet either.
        encoded: Encoder outputs of these positions, kept only for decoders that read them.
        diverged: Whether a position was edited so far, so that later ones attend to other codes.
        length: Positions seen, waiting ones included.
        n_missing: Positions in the host's cache from before the quantizer was attached.
    """

    entry: weakref.ref[Any]
    clean: DecoderCache = field(default_factory=DecoderCache)
    edited: DecoderCache = field(default_factory=DecoderCache)
    waiting: list[Float[Tensor, "b pos d_source"]] = field(default_factory=list)
    codes: list[Int[Tensor, "b pos"]] = field(default_factory=list)
    encoded: list[Float[Tensor, "b pos d_source"]] = field(default_factory=list)
    diverged: bool = False
    length: int = 0
    n_missing: int = 0

    def fork(self) -> "GenerationState":
        """A copy that can be extended without extending this one."""
        return replace(
            self,
            clean=self.clean.fork(),
            edited=self.edited.fork(),
            waiting=list(self.waiting),
            codes=list(self.codes),
            encoded=list(self.encoded),
        )

    @torch.no_grad()
    def wait_(self, quantizer: CrossLayerQuantizer, source: Float[Tensor, "b pos d"]) -> None:
        """Puts positions off until they are needed; most generations are never edited."""
        self.waiting.append(source.detach())  # the graph would keep the whole pass in memory
        n_waiting = sum(source.shape[1] for source in self.waiting)
        if n_waiting >= _MOST_WAITING:
            self._settle_(quantizer)

    def _settle_(self, quantizer: CrossLayerQuantizer) -> None:
        """Turns waiting activations into codes, which take less memory."""
        if not self.waiting:
            return
        encoded = quantizer.encode(torch.cat(self.waiting, dim=1))
        self.waiting = []
        self.codes.append(quantizer.codebook.nearest(encoded))
        if quantizer.config.decoder_memory == "encoder":
            self.encoded.append(encoded)

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
        self._settle_(quantizer)
        if not self.codes:
            return
        vectors = quantizer.codebook(torch.cat(self.codes, dim=1))
        # Other decoders read no encoder outputs; the vectors only fill the argument.
        encoded = torch.cat(self.encoded, dim=1) if self.encoded else vectors
        self.codes, self.encoded = [], []
        length = self.clean.length + vectors.shape[1]
        mask = None if context.key_mask is None else context.key_mask[:, :length]
        quantizer.decode(vectors, encoded=encoded, key_mask=mask, cache=self.clean)
        self.edited = self.clean.fork()  # once a position was edited, no later one waits

    # ---- following the host's cache between passes ----------------------------------------------

    def take_(self, rows: Int[Tensor, " r"]) -> None:
        """Goes on with these sequences, in this order, each as often as it is named."""
        self.clean = _sequences_of(self.clean, rows)
        self.edited = _sequences_of(self.edited, rows)
        for chunks in (self.waiting, self.codes, self.encoded):
            for index, chunk in enumerate(chunks):
                chunks[index] = chunk[rows.to(chunk.device)]

    def cut_(self, quantizer: CrossLayerQuantizer, length: int) -> None:
        """Forgets the last positions, so that only the first ``length`` are left."""
        if length >= self.length:
            return
        self._settle_(quantizer)
        self.length = length
        self.n_missing = min(self.n_missing, length)
        n_decoded = self.clean.length
        if length < n_decoded:
            self.clean = self.clean.cut(length)
            self.edited = self.edited.cut(length)
        n_waiting = max(0, length - n_decoded)
        if self.codes:
            self.codes = [torch.cat(self.codes, dim=1)[:, :n_waiting]]
        if self.encoded:
            self.encoded = [torch.cat(self.encoded, dim=1)[:, :n_waiting]]


def _sequences_of(cache: DecoderCache, rows: Int[Tensor, " r"]) -> DecoderCache:
    """Some sequences of a decoder's cache; an empty cache stays as it is."""
    for layer in cache.layers.values():
        if layer.buffer is not None:
            return cache.take(rows.to(layer.buffer.device))
    return cache


class GenerationStates:
    """The states of the running generations, each of which ends when the host drops its cache.

    Args:
        quantizer: The quantizer that decodes their codes.
    """

    def __init__(self, quantizer: CrossLayerQuantizer) -> None:
        self._quantizer = quantizer
        self._states: dict[int, GenerationState] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_states": {}}  # a copy of the model has its own caches

    def of(self, context: PassContext) -> GenerationState | None:
        """The state that belongs to a pass; None outside of generation with a cache."""
        entry = context.cache_entry
        if entry is None:
            return None
        key = id(entry)  # entries of TransformerLens have no hash
        state = self._states.get(key)
        if state is not None and state.length > context.n_past:
            state.cut_(self._quantizer, context.n_past)  # the host dropped positions
        if state is None or state.length != context.n_past:
            reference = weakref.ref(entry, lambda _: self._states.pop(key, None))
            state = GenerationState(reference, length=context.n_past, n_missing=context.n_past)
            self._states[key] = state
            follow_sequences(entry, state.take_)
        return state.fork() if context.frozen else state  # a frozen cache will forget this pass
