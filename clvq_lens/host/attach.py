"""Attaching a quantizer to a model: its hooks, their names, their order, and their removal."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from clvq_lens.errors import (
    AlreadyAttachedError,
    DetachedError,
    HostMismatchError,
    OpenBlockError,
    SpliceConflictError,
)
from clvq_lens.host.compiled import hook_guards, uncompiled
from clvq_lens.host.context import PassText, PassWatcher
from clvq_lens.host.generation import GenerationState, GenerationStates
from clvq_lens.host.host import Host
from clvq_lens.host.order import read_at, write_at
from clvq_lens.host.protocol.base import PassContext
from clvq_lens.host.reconstruction import Reconstruction, Recorded
from clvq_lens.host.threads import PerThread, only_here
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer, Quantized
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


class _Passing(PerThread):
    """What has passed the source in the pass under way."""

    def __init__(self) -> None:
        self.source: Tensor | None = None
        self.quantized: Quantized | None = None

    def take(self) -> tuple[Tensor | None, Quantized | None]:
        """Both, which are then forgotten."""
        taken = self.source, self.quantized
        self.source = self.quantized = None
        return taken


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
        _require_free(quantizer)
        self.host, self.quantizer, self.name = host, quantizer, name
        self.source, self.target = source, target
        self.reconstruction = Reconstruction(quantizer, causal=host.causal)
        self._blocks: list[str] = []  # what is open, such as "edit"
        self.edits: list[EditFunction] = []
        self._records: list[Callable[[Recorded], None]] = []
        self._pass = _Passing()
        self._generations = GenerationStates(quantizer)
        self._watcher = PassWatcher(host, [source, target], self._pass.take)
        self._state_of_model = host.state
        self.points = {f"clvq.{name}.{key}": point for key, point in quantizer.hooks.items()}
        host.register(self.points)
        self._follow_model()
        self._handles: list[RemovableHandle] = []
        self._attach()

    def _attach(self) -> None:
        source, target = self.host.hook_point(self.source), self.host.hook_point(self.target)
        if source is target:
            self._handles = write_at(target, self._read_and_write)
        else:
            self._handles = [*read_at(source, self._read), *write_at(target, self._write)]
        self._begin()

    def _begin(self) -> None:
        _attached.add(self)
        hook_guards.turn_on()

    def __getstate__(self) -> dict[str, Any]:
        """For copies of the model; a copy is attached to the copied model.

        Raises:
            OpenBlockError: While a block is open, which nothing would ever close in the copy.
        """
        self.require_closed("copy or pickle the model")
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.attached:
            self._begin()

    @property
    def attached(self) -> bool:
        """Whether the quantizer is on the model."""
        return bool(self._handles)

    def detach(self) -> None:
        """Takes the quantizer off and leaves the model as it was found; twice does no harm."""
        if not self.attached:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._watcher.close()
        self.host.unregister(list(self.points))
        _attached.discard(self)
        if not _attached:
            hook_guards.turn_off()

    def require_attached(self) -> None:
        """Raises `DetachedError` after removal."""
        if not self.attached:
            raise DetachedError(
                f"The quantizer {self.name!r} was removed from its model. Attach it again: "
                f"model.add_clvq(quantizer=lens.quantizer)."
            )
        self._follow_model()

    def _follow_model(self) -> None:
        """Moves the quantizer to the device of the source."""
        self.quantizer.to(self.host.device_of(self.source))

    def require_ready(self) -> None:
        """Raises unless the quantizer is fitted, on its model, and that is what it was."""
        self.quantizer.require_fitted()
        self.require_attached()
        self._require_same_weights()

    def require_closed(self, what: str) -> None:
        """Raises `OpenBlockError` inside a block of this quantizer.

        Args:
            what: What must not be done there, such as "fit".
        """
        if self._blocks:
            raise OpenBlockError(
                f"Cannot {what} while {self.name!r} has an open block ({self._blocks[-1]}): it "
                f"would be done to the changed model. Close the block first."
            )

    def _require_same_weights(self) -> None:
        if self.host.state == self._state_of_model:
            return
        if self.quantizer.fitted:
            raise HostMismatchError(
                f"The model's weights were cast or processed after {self.name!r} was attached "
                f"({self._state_of_model}, now {self.host.state}), so its codes belong to "
                f"activations that the model no longer has. Cast and process the model first "
                f"(model.to(dtype), enable_compatibility_mode), then attach; or fit again: "
                f"lens.fit(data)."
            )
        self.recognise_model()

    def recognise_model(self) -> None:
        """Takes the model as it is now for the one that the quantizer belongs to."""
        self._state_of_model = self.host.state
        name = self.name if self.quantizer.origin is None else self.quantizer.origin.name
        self.quantizer.origin = self.host.origin(self.source, self.target, name)

    # ---- what is done to the model while a block is open ---------------------------------------

    @property
    def splices(self) -> bool:
        """Whether the reconstruction takes the place of the target."""
        return "splice" in self._blocks

    @contextmanager
    def _open(self, block: str) -> Iterator[None]:
        self._blocks.append(block)
        try:
            yield
        finally:
            last = len(self._blocks) - 1 - self._blocks[::-1].index(block)
            del self._blocks[last]

    @contextmanager
    def spliced(self) -> Iterator[None]:
        """While open, the target is replaced by the reconstruction at every real token."""
        self.require_attached()
        for other in self._others_at_target():
            if other.splices or other.edits:
                raise SpliceConflictError(
                    f"{other.name!r} already {'replaces' if other.splices else 'edits'} "
                    f"{self.target!r}, so {self.name!r} cannot replace it too. "
                    f"Close the other block first."
                )
        with self._open("splice"):
            yield

    @contextmanager
    def edited(self, edit: EditFunction) -> Iterator[None]:
        """While open, the codes are edited, after the edits of blocks that were open already."""
        self.require_attached()
        for other in self._others_at_target():
            if other.splices:
                raise SpliceConflictError(
                    f"{other.name!r} already replaces {self.target!r}, so an edit of "
                    f"{self.name!r} would be lost. Close the splice first."
                )
        self.edits.append(edit)
        try:
            with self._open("edit"):
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
            at_source = name == self.source
            source, target = (activations, None) if at_source else (None, activations)
            return project(activations, self._without_outliers(text, source, target))

        handles = write_at(self.host.hook_point(name), write)
        try:
            with self._open("project_out"):
                yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def recording(self) -> Iterator[list[Recorded]]:
        """While open, keeps what passes in this thread, to go on from there with other codes."""
        self.require_attached()
        record: list[Recorded] = []
        keep = only_here(record.append)
        self._records.append(keep)
        try:
            yield record
        finally:
            self._records.remove(keep)

    def others_are_idle(self) -> bool:
        """Whether no other quantizer changes the same target."""
        return not any(other.splices or other.edits for other in self._others_at_target())

    def _others_at_target(self) -> "list[Attachment]":
        attachments = [lens.attachment for lens in lenses_of(self.host.model).values()]
        return [a for a in attachments if a is not self and a.target == self.target]

    # ---- during a pass -------------------------------------------------------------------------

    @property
    def _wants_recon(self) -> bool:
        hooks = self.quantizer.hook_recon, self.quantizer.hook_error
        return self.splices or any(hook.has_hooks() for hook in hooks)

    @property
    def _wants_codes(self) -> bool:
        hooks = (
            self.quantizer.hook_encoded,
            self.quantizer.hook_codes,
            self.quantizer.hook_quantized,
        )
        return bool(self.edits or self._records) or any(hook.has_hooks() for hook in hooks)

    def _read(self, source: Tensor) -> None:
        """At the source: quantizes the activations if anybody listens."""
        self._pass.take()
        if self.host.protocol.discards(self.host.depth(self.source)[0]):
            return
        if self.quantizer.device != source.device:
            self.quantizer.to(source.device)
        self._pass.source = source
        if self._wants_codes or self._wants_recon:
            self._require_same_weights()
            edit = self._edit_of(source) if self.edits else None
            self._pass.quantized = self.quantizer.quantize(source, edit)

    def _edit_of(self, source: Tensor) -> Callable[[Draft], Draft]:
        text = self._watcher.text(source.shape[:2], self._watcher.context(self.source))
        text = self._without_outliers(text, source)
        return lambda draft: reduce(lambda so_far, edit: edit(so_far, text), self.edits, draft)

    def _without_outliers(
        self, text: PassText, source: Tensor | None, target: Tensor | None = None
    ) -> PassText:
        """The text in which outliers are not real: the decoder knows them no more than BOS."""
        outliers = self.quantizer.outliers(source, target)
        return replace(text, real=text.real & ~outliers.to(text.real.device))

    def _write(self, target: Tensor) -> Tensor | None:
        """At the target: the new activations, or None to leave them alone."""
        source, quantized = self._pass.take()
        context = self._watcher.context(self.target)
        if source is None or source.shape[:2] != target.shape[:2]:
            return None  # nobody asked, or the pass began after the source
        state = self._generation_state(context, source)
        diverged = state is not None and state.diverged
        if quantized is None and diverged:
            # Whoever changed earlier codes: these positions attend to them.
            quantized = self.quantizer.quantize(source)
        if quantized is None:
            if state is not None:
                state.wait_(self.quantizer, source)
            return None
        text = self._watcher.text(target.shape[:2], context)
        text = self._without_outliers(text, source, target)
        recorded = Recorded(quantized, target, text, context)
        for record in self._records:
            record(recorded)
        if quantized.changed or self._wants_recon or diverged:
            return self.reconstruction.of_pass(recorded, state, splices=self.splices)
        if state is not None:
            state.wait_(self.quantizer, source)
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


_attached: "weakref.WeakSet[Attachment]" = weakref.WeakSet()


def _require_free(quantizer: CrossLayerQuantizer) -> None:
    """Raises `AlreadyAttachedError` if a quantizer is on a model: its hook points can serve one."""
    if _place_of(quantizer) is None:
        return
    gc.collect()  # that model may be one that nobody has any more
    place = _place_of(quantizer)
    if place is not None:
        raise AlreadyAttachedError(
            f"This quantizer is on a {place}. Remove it there first (lens.remove()), or attach "
            f"another one: copy.deepcopy(quantizer), or clvq_lens.load(folder) once more."
        )


def _place_of(quantizer: CrossLayerQuantizer) -> str | None:
    """The model that a quantizer is on, in words."""
    for attachment in _attached:
        if attachment.quantizer is quantizer:
            return f"{attachment.host.protocol.kind} already, as {attachment.name!r}"
    return None
