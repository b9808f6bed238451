"""From codes to the target: what the model goes on with after an edit, a hook or a splice."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.host.context import PassText
from clvq_lens.host.generation import GenerationState
from clvq_lens.host.protocol.base import PassContext
from clvq_lens.quantizer.attention import DecoderCache
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.draft import Draft, Quantized
from clvq_lens.quantizer.hook_points import pass_through


@dataclass(frozen=True)
class Recorded:
    """One pass through an attachment, to go on from it with other codes.

    Attributes:
        quantized: The codes of the pass as edits and hooks left them, and its nearest codes.
        target: Activations at the target before we changed anything there.
        text: The tokens of the pass.
        context: What the block at the target was told.
    """

    quantized: Quantized
    target: Float[Tensor, "b pos d_target"]
    text: PassText
    context: PassContext


class Reconstruction:
    """Computes the target of a pass from its codes, or from other codes.

    Args:
        quantizer: The quantizer, whose decoder is used.
        causal: Whether a token of the host sees only earlier tokens.
    """

    def __init__(self, quantizer: CrossLayerQuantizer, *, causal: bool) -> None:
        self.quantizer, self.causal = quantizer, causal

    def of_pass(
        self, recorded: Recorded, state: GenerationState | None, *, splices: bool
    ) -> Float[Tensor, "b pos d_target"] | None:
        """The new target of the running pass; None if it stays as it is.

        Args:
            recorded: The pass.
            state: State of the generation that it belongs to; the pass is added to it.
            splices: Whether the reconstruction takes the place of the target.
        """
        quantized = recorded.quantized
        context = recorded.context.to(self.quantizer.device)
        clean_cache = edited_cache = None
        if state is not None:
            state.catch_up_(self.quantizer, context)
            state.diverged |= quantized.changed
            clean_cache, edited_cache = state.clean, state.edited
        clean = self.quantizer.decode(
            self.quantizer.codebook(quantized.codes),
            encoded=quantized.clean_encoded,
            key_mask=context.key_mask,
            cache=clean_cache,
        )
        # The codes here may be clean and those of earlier positions not: these attend to them.
        changed = quantized.changed or (state is not None and state.diverged)
        edited = clean
        if changed:
            edited = self.quantizer.reconstruct(
                quantized.draft, key_mask=context.key_mask, cache=edited_cache
            )
        elif state is not None:
            state.edited = state.clean.fork()
        return self._combine(
            recorded.target,
            clean,
            edited,
            recorded.text.real,
            quantized.draft.named,
            changed=changed,
            splices=splices,
        )

    def _combine(
        self,
        target: Float[Tensor, "b pos d_target"],
        clean: Float[Tensor, "b pos d_target"],
        edited: Float[Tensor, "b pos d_target"],
        real: Bool[Tensor, "b pos"],
        named: Bool[Tensor, "b pos"] | None,
        *,
        changed: bool,
        splices: bool,
    ) -> Float[Tensor, "b pos d_target"] | None:
        """The target with the edited reconstruction in it, or None if it stays as it is.

        The decoder was trained on real tokens: at special ones its output is noise, which changes
        when codes of other tokens do. So there it is written only where an edit or a hook names
        the position.
        """
        device = target.device
        clean, edited = clean.to(device), edited.to(device)
        real = real.to(device).unsqueeze(-1)
        recon = pass_through(self.quantizer.hook_recon, edited)
        error = pass_through(self.quantizer.hook_error, target.float() - clean)
        if not (splices or changed or recon.changed or error.changed):
            return None
        written = real if named is None else real | named.to(device).unsqueeze(-1)
        # Equal reconstructions differ by an exact zero, and the target keeps its bits.
        difference = torch.where(written, edited - clean, 0.0)
        # What a hook changes is written wherever the hook changed it: the user asked for it.
        if recon.changed:
            difference = difference + (recon.after - recon.before)
        if splices:
            elsewhere = target if named is None else target + difference.to(target.dtype)
            return torch.where(real, recon.after.to(target.dtype), elsewhere)
        if error.changed:
            difference = difference + (error.after - error.before)
        return target + difference.to(target.dtype)

    # ---- after a recorded pass -----------------------------------------------------------------

    def from_codes(
        self, recorded: Recorded, draft: Draft, rows: Int[Tensor, " r"]
    ) -> Float[Tensor, "r pos d_target"]:
        """The reconstruction of some sequences of a recorded pass from other codes.

        A causal decoder starts at the first position that differs.
        """
        mask = recorded.context.to(self.quantizer.device).key_mask
        reconstruct = self.quantizer.reconstruct
        before = recorded.quantized.draft
        start = 0
        # Not with gradients, which the earlier positions of this draft need too, and not with a
        # mask, which belongs to whole sequences.
        if self.causal and mask is None and not torch.is_grad_enabled():
            start = draft.first_difference(before.take(rows))
        if start == 0:
            return reconstruct(draft, key_mask=None if mask is None else mask[rows])
        cache = DecoderCache()  # the common beginning of all sequences, decoded once
        beginning = reconstruct(before.cut(None, start), cache=cache)
        rest = reconstruct(draft.cut(start, None), cache=cache.take(rows))
        return torch.cat([beginning[rows], rest], dim=1)

    def clean(self, recorded: Recorded) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction from the nearest codes of a recorded pass."""
        mask = recorded.context.to(self.quantizer.device).key_mask
        vectors = self.quantizer.codebook(recorded.quantized.codes)
        encoded = recorded.quantized.clean_encoded
        return self.quantizer.decode(vectors, encoded=encoded, key_mask=mask)

    def target_with(
        self,
        recorded: Recorded,
        rows: Int[Tensor, " r"],
        *,
        clean: Float[Tensor, "r pos d_target"],
        edited: Float[Tensor, "r pos d_target"],
        named: Bool[Tensor, "r pos"] | None,
        splices: bool,
    ) -> Float[Tensor, "r pos d_target"]:
        """What the target of some sequences would be with another reconstruction.

        Args:
            recorded: The pass.
            rows: The sequences of the pass.
            clean: Their reconstruction from the nearest codes.
            edited: Their other reconstruction.
            named: Positions that edits name.
            splices: Whether the reconstruction takes the place of the target.
        """
        target = recorded.target[rows.to(recorded.target.device)]
        real = recorded.text.take(rows).real
        combined = self._combine(target, clean, edited, real, named, changed=True, splices=splices)
        return target if combined is None else combined
