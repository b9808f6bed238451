"""Attaching a quantizer to a model: its hooks, their names, their order, and their removal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

from clvq_lens.errors import DetachedError, SpliceConflictError
from clvq_lens.host.context import PassContext, PassWatcher
from clvq_lens.host.generation import GenerationState, GenerationStates
from clvq_lens.host.protocol import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer, Quantized, pass_through

_LENSES = "_clvq_lenses"


def lenses_of(model: Any) -> dict[str, Any]:
    """The lenses on a model, by name; kept on the model, outside its parameters and state."""
    return model.__dict__.get(_LENSES, {})


def remember_lens(model: Any, name: str, lens: Any) -> None:
    """Puts a lens on the model's list."""
    model.__dict__.setdefault(_LENSES, {})[name] = lens


def forget_lens(model: Any, name: str) -> None:
    """Takes a lens off the model's list, and the list with the last one."""
    lenses = lenses_of(model)
    lenses.pop(name, None)
    if not lenses:
        model.__dict__.pop(_LENSES, None)


class Attachment:
    """A quantizer on the hook points of a model.

    At the source it reads what all other hooks left; at the target it writes before any of them,
    so that the user's hooks, the cache and other quantizers see what the model goes on with.
    Nothing is computed unless somebody listens to the quantizer's own hook points or splices.

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
        self._source_activations: Tensor | None = None
        self._quantized: Quantized | None = None
        self._generations = GenerationStates()
        self._watcher = PassWatcher(host, target)
        self.points = {f"clvq.{name}.{key}": point for key, point in quantizer.hooks.items()}
        host.register(self.points)
        self._handles: list[RemovableHandle] = []
        self._attach()

    def _attach(self) -> None:
        source, target = self.host.hook_point(self.source), self.host.hook_point(self.target)
        if source is target:
            self._handles = [_first(target, self._read_and_write)]
        else:
            self._handles = [*_last(source, self._read), _first(target, self._write)]

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

    @contextmanager
    def spliced(self) -> Iterator[None]:
        """While open, the target is replaced by the reconstruction at every real token."""
        self.require_attached()
        for lens in lenses_of(self.host.model).values():
            other: Attachment = lens.attachment
            if other is not self and other.target == self.target and other.splicing:
                raise SpliceConflictError(
                    f"{other.name!r} already replaces {self.target!r}, so {self.name!r} cannot "
                    f"replace it too. Close the other splice first."
                )
        self.splicing += 1
        try:
            yield
        finally:
            self.splicing -= 1

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
        return any(hook.has_hooks() for hook in hooks)

    def _read(self, source: Tensor) -> None:
        """At the source: keeps the activations, and quantizes them if anybody listens."""
        if self.quantizer.device != source.device:
            self.quantizer.to(source.device)
        self._source_activations = source
        wanted = self._wants_codes or self._wants_recon
        self._quantized = self.quantizer.quantize(source) if wanted else None

    def _write(self, target: Tensor) -> Tensor | None:
        """At the target: the new activations, or None to leave them alone."""
        source, self._source_activations = self._source_activations, None
        quantized, self._quantized = self._quantized, None
        context = self._watcher.take_context()
        if source is None or source.shape[:2] != target.shape[:2]:
            return None  # the pass began after the source
        state = self._generation_state(context, source)
        if quantized is None or not (quantized.changed or self._wants_recon):
            if state is not None:
                state.waiting.append(source)
            return None
        return self._reconstruct(quantized, target, context, state)

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

    def _reconstruct(
        self, q: Quantized, target: Tensor, context: PassContext, state: GenerationState | None
    ) -> Tensor | None:
        context = context.to(self.quantizer.device)
        decode, mask = self.quantizer.decode, context.key_mask
        if state is not None:
            state.catch_up_(self.quantizer, context)
        clean_vectors = self.quantizer.codebook(q.codes)
        clean_cache, cache = (None, None) if state is None else (state.clean, state.edited)
        clean = decode(clean_vectors, encoded=q.clean_encoded, key_mask=mask, cache=clean_cache)
        if q.changed or state is not None:  # earlier positions may have been changed
            edited = decode(q.quantized, encoded=q.encoded, key_mask=mask, cache=cache)
        else:
            edited = clean
        clean = clean.to(target.device)
        recon = pass_through(self.quantizer.hook_recon, edited.to(target.device))
        error = pass_through(self.quantizer.hook_error, target.float() - clean)
        if self.splicing:
            real = self._watcher.real(target.shape[:2], context).to(target.device)
            return torch.where(real.unsqueeze(-1), recon.after.to(target.dtype), target)
        if not (q.changed or recon.changed or error.changed or state is not None):
            return None
        # Equal reconstructions differ by an exact zero, and the target keeps its bits.
        difference = recon.after - clean
        if error.changed:
            difference = difference + (error.after - error.before)
        return target + difference.to(target.dtype)


def _first(point: HookPoint, write: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Lets a function change what passes a hook point, before any hook that is there."""

    def first_hook(module: Any, inputs: Any, output: Any) -> Tensor | None:
        return write(output)

    return point.register_forward_hook(first_hook, prepend=True)


def _last(point: HookPoint, read: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Lets a function read what passes a hook point, after every hook that is there by then.

    Hooks run in the order of a dictionary, which torch copies after the pre-hooks have run: the
    pre-hook moves the reader to the end.
    """

    def last_hook(module: Any, inputs: Any, output: Any) -> None:
        read(output)

    reader = point.register_forward_hook(last_hook)

    def move_to_end(module: Any, inputs: Any) -> None:
        point._forward_hooks[reader.id] = point._forward_hooks.pop(reader.id)

    return [reader, point.register_forward_pre_hook(move_to_end)]
