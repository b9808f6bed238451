"""Decoding the next tokens of a generation, when earlier positions are only in the caches."""

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

_MOST_WAITING = 128  # positions whose activations are kept before they are turned into codes


@dataclass(eq=False)
class GenerationState:
    """What the decoder remembers of the earlier positions of one generation.

    Attributes:
        entry: Weak reference to the host's cache that it goes along with.
        clean: Of the unchanged codes.
        edited: Of the codes as hooks left them.
        waiting: Source activations of positions that nobody asked about yet, the last ones.
        codes: Nearest codes of such positions, which came before those.
        encoded: Their encoder outputs, kept only for decoders that read them.
        diverged: Whether any position was edited so far, so that later ones attend to other codes.
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
        """Puts positions off until somebody asks about them or about later ones."""
        self.waiting.append(source.detach())
        if sum(part.shape[1] for part in self.waiting) >= _MOST_WAITING:
            self._settle_(quantizer)

    def _settle_(self, quantizer: CrossLayerQuantizer) -> None:
        """Turns waiting activations into codes, which are small."""
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
        encoded = torch.cat(self.encoded, dim=1) if self.encoded else vectors
        self.codes, self.encoded = [], []
        length = self.clean.length + vectors.shape[1]
        mask = None if context.key_mask is None else context.key_mask[:, :length]
        quantizer.decode(vectors, encoded=encoded, key_mask=mask, cache=self.clean)
        self.edited = self.clean.fork()  # once a position was edited, none waits any more

    # ---- what the host does to its cache between passes ----------------------------------------

    def take_(self, rows: Int[Tensor, " r"]) -> None:
        """Goes on with these sequences, in this order, each as often as it is named."""
        for name in ("clean", "edited"):
            cache = getattr(self, name)
            if cache.layers:
                cache = cache.take(rows.to(_device_of(cache)))
            setattr(self, name, cache)
        for name in ("waiting", "codes", "encoded"):
            parts = getattr(self, name)
            setattr(self, name, [part[rows.to(part.device)] for part in parts])

    def cut_(self, quantizer: CrossLayerQuantizer, length: int) -> None:
        """Forgets the last positions, so that this many are left."""
        if length >= self.length:
            return
        self._settle_(quantizer)
        self.length, self.n_missing = length, min(self.n_missing, length)
        n_decoded = self.clean.length
        if length < n_decoded:
            self.clean, self.edited = self.clean.cut(length), self.edited.cut(length)
        n_waiting = max(0, length - n_decoded)
        for name in ("codes", "encoded"):
            parts = getattr(self, name)
            setattr(self, name, [torch.cat(parts, dim=1)[:, :n_waiting]] if parts else [])


def _device_of(cache: DecoderCache) -> torch.device:
    buffers = (layer.buffer for layer in cache.layers.values() if layer.buffer is not None)
    return next(buffers).device


class GenerationStates:
    """The states of the generations under way, which end when the host drops its cache.

    Args:
        quantizer: Whose codes are decoded.
    """

    def __init__(self, quantizer: CrossLayerQuantizer) -> None:
        self._quantizer = quantizer
        self._states: dict[int, GenerationState] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_states": {}}  # a copy of the model has caches of its own

    def of(self, context: PassContext) -> GenerationState | None:
        """The state that goes along with a pass; None outside generation with a cache."""
        entry = context.cache_entry
        if entry is None:
            return None
        key = id(entry)
        state = self._states.get(key)
        if state is not None and state.length > context.n_past:
            state.cut_(self._quantizer, context.n_past)  # the host took positions back
        if state is None or state.length != context.n_past:
            reference = weakref.ref(entry, lambda _: self._states.pop(key, None))
            state = GenerationState(reference, length=context.n_past, n_missing=context.n_past)
            self._states[key] = state
            follow_sequences(entry, state.take_)
        return state.fork() if context.frozen else state  # a frozen cache forgets this pass
