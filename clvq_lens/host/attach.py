"""Attaching a quantizer to a model: its hooks, their names, their order, and their removal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from clvq_lens.errors import DetachedError, HostMismatchError, SpliceConflictError
from clvq_lens.host.compiled import let_compiled_code_see_hooks, uncompiled
from clvq_lens.host.context import PassText, PassWatcher
from clvq_lens.host.generation import GenerationState, GenerationStates
from clvq_lens.host.host import Host
from clvq_lens.host.order import read_at, write_at
from clvq_lens.host.protocol.base import PassContext
from clvq_lens.quantizer.attention import DecoderCache
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer, Quantized, pass_through
from clvq_lens.quantizer.draft import Draft

_LENSES = "_clvq_lenses"


def lenses_of(model: Any) -> dict[str, Any]:
    """The lenses on a model, by name; kept on the model, outside its parameters and state."""
    return uncompiled(model).__dict__.get(_LENSES, {})


def remember_lens(model: Any, name: str, lens: Any) -> None:
    """Puts a lens on the model's list."""
    model.__dict__.setdefault(_LENSES, {})[name] = lens


def forget_lens(model: Any, name: str) -> None:
    """Takes a lens off the model's list, and the list with the last one."""
    lenses = lenses_of(model)
    lenses.pop(name, None)
    if not lenses:
        model.__dict__.pop(_LENSES, None)


@runtime_checkable
class Attached(Protocol):
    """Anything that is on a model through an attachment: a lens."""

    attachment: "Attachment"


EditFunction = Callable[[Draft, PassText], Draft]
Projection = Callable[[Tensor, PassText], Tensor]


@dataclass(frozen=True)
class Recorded:
    """What passed an attachment in one pass, to go on from there with other codes.

    Attributes:
        quantized: As edits and hooks left it.
        target: Activations at the target before anything was changed there.
        text: The tokens of the pass.
        context: Of the block at the target.
    """

    quantized: Quantized
    target: Float[Tensor, "b pos d_target"]
    text: PassText
    context: PassContext


class Attachment:
    """A quantizer on the hook points of a model.

    At the source it reads what all other hooks left; at the target it writes before any of them,
    so that the user's hooks, the cache and other quantizers see what the model goes on with.
    Nothing is computed unless somebody listens to the quantizer's own hook points, edits or
    splices.

    Args:
        host: The model.
        quantizer: Moves to the device of the source when needed.
        name: Prefix of its hook points, after ``clvq.``.
        source: Resolved hook point that is read.
        target: Resolved hook point that is reconstructed.
    """

    def __init__(
        self, host: Host, quantizer: CrossLayerQuantizer, name: str, source: str, target: str
    ) -> None:
        self.host, self.quantizer, self.name = host, quantizer, name
        self.source, self.target = source, target
        self.splicing = 0
        self.edits: list[EditFunction] = []
        self._records: list[list[Recorded]] = []
        self._source_activations: Tensor | None = None
        self._quantized: Quantized | None = None
        self._generations = GenerationStates()
        self._watcher = PassWatcher(host, [source, target])
        self._processing = host.protocol.processing
        self.points = {f"clvq.{name}.{key}": point for key, point in quantizer.hooks.items()}
        host.register(self.points)
        self._follow_model()
        self._handles: list[RemovableHandle] = []
        self._attach()

    def _attach(self) -> None:
        let_compiled_code_see_hooks()
        source, target = self.host.hook_point(self.source), self.host.hook_point(self.target)
        if source is target:
            self._handles = [write_at(target, self._read_and_write)]
        else:
            self._handles = [*read_at(source, self._read), write_at(target, self._write)]

    @property
    def attached(self) -> bool:
        """Whether the quantizer is on the model."""
        return bool(self._handles)

    def detach(self) -> None:
        """Takes the quantizer off and leaves the model as it was found; twice does no harm."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._watcher.close()
        self.host.unregister(list(self.points))

    def require_attached(self) -> None:
        """Raises `DetachedError` after removal."""
        if not self.attached:
            raise DetachedError(
                f"The quantizer {self.name!r} was removed from its model. Attach it again: "
                f"model.add_clvq(quantizer=lens.quantizer)."
            )
        self._follow_model()

    def _follow_model(self) -> None:
        """Goes where the source is before anything is made that has to be there too."""
        self.quantizer.to(self.host.device_of(self.source))

    def require_ready(self) -> None:
        """Raises unless the quantizer is fitted, on its model, and that is what it was."""
        self.quantizer.require_fitted()
        self.require_attached()
        self._require_same_weights()

    def _require_same_weights(self) -> None:
        if self.host.protocol.processing == self._processing:
            return
        if self.quantizer.fitted:
            raise HostMismatchError(
                f"The model's weights were processed after {self.name!r} was attached, so its "
                f"codes belong to activations that the model no longer has. Process the weights "
                f"first (enable_compatibility_mode), then attach; or fit again: lens.fit(data)."
            )
        self.recognise_model()

    def recognise_model(self) -> None:
        """Takes the model as it is now for the one that the quantizer belongs to."""
        self._processing = self.host.protocol.processing
        name = self.name if self.quantizer.origin is None else self.quantizer.origin.name
        self.quantizer.origin = self.host.origin(self.source, self.target, name)

    # ---- what is done to the model while a block is open ---------------------------------------

    @contextmanager
    def spliced(self) -> Iterator[None]:
        """While open, the target is replaced by the reconstruction at every real token."""
        self.require_attached()
        for other in self._others_at_target():
            if other.splicing or other.edits:
                raise SpliceConflictError(
                    f"{other.name!r} already {'replaces' if other.splicing else 'edits'} "
                    f"{self.target!r}, so {self.name!r} cannot replace it too. "
                    f"Close the other block first."
                )
        self.splicing += 1
        try:
            yield
        finally:
            self.splicing -= 1

    @contextmanager
    def edited(self, edit: EditFunction) -> Iterator[None]:
        """While open, the codes are edited, after the edits of blocks that were open already."""
        self.require_attached()
        for other in self._others_at_target():
            if other.splicing:
                raise SpliceConflictError(
                    f"{other.name!r} already replaces {self.target!r}, so an edit of "
                    f"{self.name!r} would be lost. Close the splice first."
                )
        self.edits.append(edit)
        try:
            yield
        finally:
            last = len(self.edits) - 1 - self.edits[::-1].index(edit)
            del self.edits[last]

    @contextmanager
    def projected(self, name: str, project: Projection) -> Iterator[None]:
        """While open, the activations at the source or the target are projected."""
        self.require_attached()

        def write(activations: Tensor) -> Tensor:
            text = self._watcher.text(activations.shape[:2], self._watcher.context(name))
            return project(activations, text)

        handle = write_at(self.host.hook_point(name), write)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def recording(self) -> Iterator[list[Recorded]]:
        """While open, keeps what passes, to go on from there with other codes."""
        self.require_attached()
        record: list[Recorded] = []
        self._records.append(record)
        try:
            yield record
        finally:
            self._records.pop()

    def others_are_idle(self) -> bool:
        """Whether no other quantizer changes the same target."""
        return not any(other.splicing or other.edits for other in self._others_at_target())

    def _others_at_target(self) -> "list[Attachment]":
        attachments = [lens.attachment for lens in lenses_of(self.host.model).values()]
        return [a for a in attachments if a is not self and a.target == self.target]

    # ---- during a pass -------------------------------------------------------------------------

    @property
    def _wants_recon(self) -> bool:
        hooks = self.quantizer.hook_recon, self.quantizer.hook_error
        return self.splicing > 0 or any(hook.has_hooks() for hook in hooks)

    @property
    def _wants_codes(self) -> bool:
        hooks = (
            self.quantizer.hook_encoded,
            self.quantizer.hook_codes,
            self.quantizer.hook_quantized,
        )
        return bool(self.edits or self._records) or any(hook.has_hooks() for hook in hooks)

    def _read(self, source: Tensor) -> None:
        """At the source: keeps the activations, and quantizes them if anybody listens."""
        self._source_activations = self._quantized = None
        if self.host.protocol.discards(self.host.depth(self.source)[0]):
            return
        if self.quantizer.device != source.device:
            self.quantizer.to(source.device)
        self._source_activations = source
        if self._wants_codes or self._wants_recon:
            self._require_same_weights()
            edit = self._edit_of(source.shape[:2]) if self.edits else None
            self._quantized = self.quantizer.quantize(source, edit)

    def _edit_of(self, shape: torch.Size) -> Callable[[Draft], Draft]:
        text = self._watcher.text(shape, self._watcher.context(self.source))
        return lambda draft: reduce(lambda so_far, edit: edit(so_far, text), self.edits, draft)

    def _write(self, target: Tensor) -> Tensor | None:
        """At the target: the new activations, or None to leave them alone."""
        source, self._source_activations = self._source_activations, None
        quantized, self._quantized = self._quantized, None
        context = self._watcher.context(self.target)
        if source is None or source.shape[:2] != target.shape[:2]:
            return None  # the pass began after the source
        state = self._generation_state(context, source)
        if quantized is None:
            if state is not None:
                state.waiting.append(source)
            return None
        text = self._watcher.text(target.shape[:2], context)
        recorded = Recorded(quantized, target, text, context)
        for record in self._records:
            record.append(recorded)
        follows_edits = state is not None and state.diverged and bool(self.edits)
        if quantized.changed or self._wants_recon or follows_edits:
            return self._reconstruct(recorded, state)
        if state is not None:
            state.waiting.append(source)
        return None

    def _read_and_write(self, activations: Tensor) -> Tensor | None:
        self._read(activations)
        return self._write(activations)

    def _generation_state(self, context: PassContext, source: Tensor) -> GenerationState | None:
        if not self.quantizer.config.reads_sequences:
            return None
        state = self._generations.of(context)
        if state is not None:
            state.length += source.shape[1]
        return state

    def _reconstruct(self, recorded: Recorded, state: GenerationState | None) -> Tensor | None:
        q, context = recorded.quantized, recorded.context.to(self.quantizer.device)
        decode, mask = self.quantizer.decode, context.key_mask
        if state is not None:
            state.catch_up_(self.quantizer, context)
            state.diverged |= q.changed
        clean_vectors = self.quantizer.codebook(q.codes)
        clean_cache = None if state is None else state.clean
        clean = decode(clean_vectors, encoded=q.clean_encoded, key_mask=mask, cache=clean_cache)
        # Earlier positions may have been changed, too.
        changed = q.changed or (state is not None and state.diverged)
        if changed:
            cache = None if state is None else state.edited
            edited = self.quantizer.reconstruct(q.draft, key_mask=mask, cache=cache)
        else:
            edited = clean
            if state is not None:
                state.edited = state.clean.fork()
        return self._combine(clean, edited, recorded.target, recorded.text, changed=changed)

    def _combine(
        self, clean: Tensor, edited: Tensor, target: Tensor, text: PassText, *, changed: bool
    ) -> Tensor | None:
        """The target with the edited reconstruction in it, or None if it stays as it is."""
        clean = clean.to(target.device)
        recon = pass_through(self.quantizer.hook_recon, edited.to(target.device))
        error = pass_through(self.quantizer.hook_error, target.float() - clean)
        if self.splicing:
            real = text.real.to(target.device)
            return torch.where(real.unsqueeze(-1), recon.after.to(target.dtype), target)
        if not (changed or recon.changed or error.changed):
            return None
        # Equal reconstructions differ by an exact zero, and the target keeps its bits.
        difference = recon.after - clean
        if error.changed:
            difference = difference + (error.after - error.before)
        return target + difference.to(target.dtype)

    # ---- after a recorded pass -----------------------------------------------------------------

    def recon_of(
        self, recorded: Recorded, draft: Draft, rows: Int[Tensor, " r"]
    ) -> Float[Tensor, "r pos d_target"]:
        """The reconstruction from other codes of some sequences of a recorded pass.

        A causal decoder begins at the first position that differs.
        """
        mask = recorded.context.to(self.quantizer.device).key_mask
        reconstruct = self.quantizer.reconstruct
        before = recorded.quantized.draft
        start = 0
        if self.host.causal and mask is None and not torch.is_grad_enabled():
            start = draft.first_difference(before.take(rows))
        if start == 0:
            return reconstruct(draft, key_mask=None if mask is None else mask[rows])
        cache = DecoderCache()
        beginning = reconstruct(before.cut(None, start), cache=cache)
        rest = reconstruct(draft.cut(start, None), cache=cache.take(rows))
        return torch.cat([beginning[rows], rest], dim=1)

    def clean_recon_of(self, recorded: Recorded) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction from the nearest codes of a recorded pass."""
        q, mask = recorded.quantized, recorded.context.to(self.quantizer.device).key_mask
        vectors = self.quantizer.codebook(q.codes)
        return self.quantizer.decode(vectors, encoded=q.clean_encoded, key_mask=mask)

    def target_of(
        self,
        recorded: Recorded,
        rows: Int[Tensor, " r"],
        *,
        clean: Float[Tensor, "r pos d_target"],
        edited: Float[Tensor, "r pos d_target"],
    ) -> Float[Tensor, "r pos d_target"]:
        """What the target of some sequences would have been with another reconstruction."""
        target, text = recorded.target[rows.to(recorded.target.device)], recorded.text.take(rows)
        changed = self._combine(clean, edited, target, text, changed=True)
        return target if changed is None else changed
