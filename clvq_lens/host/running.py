"""A quantizer during a pass: it reads at the source, and writes at the target if it has to."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from clvq_lens.host.blocks import OpenBlocks, Projection
from clvq_lens.host.context import PassText, PassWatcher
from clvq_lens.host.generation import GenerationState, GenerationStates
from clvq_lens.host.host import Host
from clvq_lens.host.protocol.base import PassContext
from clvq_lens.host.reconstruction import Reconstruction, Recorded
from clvq_lens.host.threads import PerThread
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.draft import Draft, Quantized


class _AtSource(PerThread):
    """What the running pass left at the source."""

    def __init__(self) -> None:
        self.activations: Tensor | None = None
        self.quantized: Quantized | None = None

    def take(self) -> tuple[Tensor | None, Quantized | None]:
        """Gives and forgets both: kept any longer, they would hold on to the memory of a pass."""
        taken = self.activations, self.quantized
        self.activations = self.quantized = None
        return taken


class RunningQuantizer:
    """Quantizes what passes the source, and changes what passes the target if it has to.

    Nothing is computed unless somebody listens to the quantizer's own hook points, edits or
    splices.

    Args:
        host: The model.
        quantizer: The quantizer, which moves to the device of the source when needed.
        source: Full name of the hook point that is read.
        target: Full name of the hook point that is reconstructed.
        blocks: The blocks that are open.
        check_model: Called before codes are used; raises if the weights are no longer the same.
    """

    def __init__(
        self,
        host: Host,
        quantizer: CrossLayerQuantizer,
        source: str,
        target: str,
        blocks: OpenBlocks,
        check_model: Callable[[], None],
    ) -> None:
        self.host, self.quantizer, self.source, self.target = host, quantizer, source, target
        self.blocks, self._check_model = blocks, check_model
        self.reconstruction = Reconstruction(quantizer, causal=host.causal)
        self._at_source = _AtSource()
        self._generations = GenerationStates(quantizer)
        self._watcher = PassWatcher(host, [source, target], self._at_source.take)

    def close(self) -> None:
        """Stops listening to passes."""
        self._watcher.close()

    # ---- hooks ---------------------------------------------------------------------------------

    def read(self, activations: Tensor) -> None:
        """At the source: quantizes the activations if a hook or a block needs their codes."""
        self._at_source.take()
        if self.host.protocol.discards(self.host.depth(self.source)[0]):
            return
        if self.quantizer.device != activations.device:  # the model has moved since
            self.quantizer.to(activations.device)
        self._at_source.activations = activations
        if self._wants_codes or self._wants_recon:
            self._check_model()
            edit = self._edit_of(activations) if self.blocks.edits else None
            self._at_source.quantized = self.quantizer.quantize(activations, edit)

    def write(self, target: Tensor) -> Tensor | None:
        """At the target: the new activations, or None to leave them alone."""
        source, quantized = self._at_source.take()
        context = self._watcher.context(self.target)
        if source is None or source.shape[:2] != target.shape[:2]:
            return None  # the pass began after the source, so it has no codes
        state = self._generation_state(context, source)
        diverged = state is not None and state.diverged
        if quantized is None and diverged:
            # Earlier codes of this generation were changed, and these positions attend to them.
            quantized = self.quantizer.quantize(source)
        if quantized is None:
            if state is not None:
                state.wait_(self.quantizer, source)
            return None
        text = self._text(target.shape, context, source, target)
        recorded = Recorded(quantized, target, text, context)
        self.blocks.tell(recorded)
        if quantized.changed or self._wants_recon or diverged:
            return self.reconstruction.of_pass(recorded, state, splices=self.blocks.splices)
        if state is not None:
            state.wait_(self.quantizer, source)
        return None

    def read_and_write(self, activations: Tensor) -> Tensor | None:
        """At one hook point that is both source and target: reads, then writes."""
        self.read(activations)
        return self.write(activations)

    def projected(self, activations: Tensor, name: str, project: Projection) -> Tensor:
        """At the hook point of that name, source or target: the activations after a projection."""
        at_source = name == self.source
        source, target = (activations, None) if at_source else (None, activations)
        context = self._watcher.context(name)
        return project(activations, self._text(activations.shape, context, source, target))

    # ---- what the pass needs -------------------------------------------------------------------

    @property
    def _wants_recon(self) -> bool:
        hooks = self.quantizer.hook_recon, self.quantizer.hook_error
        return self.blocks.splices or any(hook.has_hooks() for hook in hooks)

    @property
    def _wants_codes(self) -> bool:
        hooks = (
            self.quantizer.hook_encoded,
            self.quantizer.hook_codes,
            self.quantizer.hook_quantized,
        )
        return self.blocks.want_codes or any(hook.has_hooks() for hook in hooks)

    def _edit_of(self, source: Tensor) -> Callable[[Draft], Draft]:
        text = self._text(source.shape, self._watcher.context(self.source), source, None)
        edits = self.blocks.edits

        def apply_all(draft: Draft) -> Draft:
            for edit in edits:
                draft = edit(draft, text)
            return draft

        return apply_all

    def _text(
        self,
        shape: tuple[int, ...],
        context: PassContext,
        source: Tensor | None,
        target: Tensor | None,
    ) -> PassText:
        """The text of the pass. Outliers do not count as real: no decoder was trained on them."""
        text = self._watcher.text(shape[:2], context)
        outliers = self.quantizer.outliers(source, target)
        return replace(text, real=text.real & ~outliers.to(text.real.device))

    def _generation_state(self, context: PassContext, source: Tensor) -> GenerationState | None:
        if not self.quantizer.config.reads_sequences:
            return None
        state = self._generations.of(context)
        if state is not None:
            state.length += source.shape[1]
        return state
