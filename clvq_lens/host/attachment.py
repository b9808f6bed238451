"""Attaching a quantizer to a model: its hooks, their names, their order, and their removal."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch.utils.hooks import RemovableHandle

from clvq_lens.arguments import check_is
from clvq_lens.errors import (
    AlreadyAttachedError,
    DetachedError,
    HostMismatchError,
    OpenBlockError,
    SpliceConflictError,
)
from clvq_lens.host.blocks import EditFunction, OpenBlocks, Projection
from clvq_lens.host.compiled import hook_guards
from clvq_lens.host.hook_order import read_at, write_at
from clvq_lens.host.host import Host
from clvq_lens.host.lenses import lenses_of, require_free_name
from clvq_lens.host.reconstruction import Reconstruction, Recorded
from clvq_lens.host.running import RunningQuantizer
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer


class Attachment:
    """A quantizer on the hook points of a model, which all verbs of a lens work on.

    At the source it reads what all other hooks left; at the target it writes before any of them,
    so that the user's hooks, the cache and other quantizers see what the model goes on with.

    Args:
        host: The model.
        quantizer: The quantizer, which must not be on a model yet.
        name: Name of the quantizer; its hook points begin with ``clvq.`` and this name.
        source: Full name of the hook point that is read.
        target: Full name of the hook point that is reconstructed.

    Raises:
        AlreadyAttachedError: If the quantizer is on a model.
        NameTakenError: If a lens of that name is on the model.
    """

    def __init__(
        self, host: Host, quantizer: CrossLayerQuantizer, name: str, source: str, target: str
    ) -> None:
        _require_free(quantizer)
        require_free_name(host.model, name)
        self.host, self.quantizer, self.name = host, quantizer, name
        self.source, self.target = source, target
        self.blocks = OpenBlocks()
        self._running = RunningQuantizer(
            host, quantizer, source, target, self.blocks, self._require_same_weights
        )
        self._state_of_model = host.state
        self.points = {f"clvq.{name}.{key}": point for key, point in quantizer.hooks.items()}
        host.register(self.points)
        self._follow_model()
        self._handles: list[RemovableHandle] = []
        self._attach()

    def _attach(self) -> None:
        source, target = self.host.hook_point(self.source), self.host.hook_point(self.target)
        running = self._running
        if source is target:
            # Writers run before readers, so two hooks here would act in the wrong order.
            self._handles = write_at(target, running.read_and_write)
        else:
            self._handles = [*read_at(source, running.read), *write_at(target, running.write)]
        self._announce()

    def _announce(self) -> None:
        """Tells the rest of the process that the quantizer is on a model."""
        _attached.add(self)
        hook_guards.turn_on()

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy of the model, on which the copied quantizer is attached.

        Raises:
            OpenBlockError: While a block is open: in the copy, nothing would ever close it.
        """
        self.require_closed("copy or pickle the model")
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.attached:
            self._announce()

    @property
    def attachment(self) -> "Attachment":
        """The attachment itself, so that functions that take a lens take an attachment too."""
        return self

    @property
    def reconstruction(self) -> Reconstruction:
        """What computes the target from codes."""
        return self._running.reconstruction

    @property
    def attached(self) -> bool:
        """Whether the quantizer is on the model."""
        return bool(self._handles)

    def detach(self) -> None:
        """Takes the quantizer off and leaves the model as it was; calling it twice does no harm."""
        if not self.attached:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._running.close()
        self.host.unregister(list(self.points))
        _attached.discard(self)
        if not _attached:
            hook_guards.turn_off()

    # ---- what must hold first -------------------------------------------------------------------

    def require_attached(self) -> None:
        """Raises `DetachedError` if the quantizer was removed from its model."""
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
        """Raises unless the quantizer is fitted and on its model, whose weights are the same."""
        self.quantizer.require_fitted()
        self.require_attached()
        self._require_same_weights()

    def require_closed(self, what: str) -> None:
        """Raises `OpenBlockError` inside a block of this quantizer.

        Args:
            what: The verb that is refused there, such as "fit".
        """
        if self.blocks.innermost is not None:
            raise OpenBlockError(
                f"Cannot {what} while {self.name!r} has an open block ({self.blocks.innermost}): "
                f"it would be done to the changed model. Close the block first."
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
        self.recognize_model()

    def recognize_model(self) -> None:
        """Makes the model, as it is now, the one that the quantizer belongs to."""
        self._state_of_model = self.host.state
        name = self.name if self.quantizer.origin is None else self.quantizer.origin.name
        self.quantizer.origin = self.host.origin(self.source, self.target, name)

    # ---- what open blocks do to the model -------------------------------------------------------

    @contextmanager
    def spliced(self) -> Iterator[None]:
        """While open, the target is replaced by the reconstruction at every real token."""
        self.require_attached()
        for other in self._others_at_target():
            if other.blocks.change_codes_or_target:
                does = "replaces" if other.blocks.splices else "edits"
                raise SpliceConflictError(
                    f"{other.name!r} already {does} {self.target!r}, so {self.name!r} cannot "
                    f"replace it too. Close the other block first."
                )
        with self.blocks.open("splice"):
            yield

    @contextmanager
    def edited(self, edit: EditFunction) -> Iterator[None]:
        """While open, the codes are edited, after the edits of blocks that were open already."""
        self.require_attached()
        for other in self._others_at_target():
            if other.blocks.splices:
                raise SpliceConflictError(
                    f"{other.name!r} already replaces {self.target!r}, so an edit of "
                    f"{self.name!r} would be lost. Close the splice first."
                )
        with self.blocks.editing(edit):
            yield

    @contextmanager
    def projected(self, name: str, project: Projection) -> Iterator[None]:
        """While open, the activations at the source or the target are projected."""
        self.require_attached()
        write = partial(self._running.projected, name=name, project=project)
        handles = write_at(self.host.hook_point(name), write)
        try:
            with self.blocks.open("project_out"):
                yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def recording(self) -> Iterator[list[Recorded]]:
        """While open, records the passes of this thread, to go on from them with other codes."""
        self.require_attached()
        with self.blocks.listening() as records:
            yield records

    def others_are_idle(self) -> bool:
        """Whether no other quantizer changes the same target."""
        return not any(other.blocks.change_codes_or_target for other in self._others_at_target())

    def _others_at_target(self) -> "list[Attachment]":
        others = []
        for lens in lenses_of(self.host.model).values():
            attachment = lens.attachment
            if attachment is not self and attachment.target == self.target:
                others.append(attachment)
        return others


@runtime_checkable
class Attached(Protocol):
    """Whatever has an attachment: a lens, or the attachment itself."""

    @property
    def attachment(self) -> Attachment:
        """The quantizer on its model."""
        ...


def ready(lens: Attached, doing: str | None = None) -> Attachment:
    """The attachment of a lens that is fitted and on its model.

    Args:
        lens: What the user passed.
        doing: A verb that is refused inside a block of the lens, such as "evaluate"; None: blocks
            may be open, and act on the result.

    Raises:
        ConfigError: If it is not a lens.
        NotFittedError: If it has not been fitted.
        DetachedError: If it was removed.
        HostMismatchError: If the model's weights were processed since.
        OpenBlockError: If a block is open that must not be.
    """
    check_is("lens", lens, Attached, "Pass what model.add_clvq(...) returned.")
    attachment = lens.attachment
    attachment.require_ready()
    attachment.quantizer.eval()
    if doing is not None:
        attachment.require_closed(doing)
    return attachment


_attached: "weakref.WeakSet[Attachment]" = weakref.WeakSet()  # all that are on a model now


def _require_free(quantizer: CrossLayerQuantizer) -> None:
    """Raises `AlreadyAttachedError` if a quantizer is on a model: its hook points serve one."""
    if _place_of(quantizer) is None:
        return
    gc.collect()  # that model may be garbage: cycles of hooks keep it until it is collected
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
