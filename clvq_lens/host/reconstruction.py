"""From codes to the target: what the model goes on with when codes were changed or spliced."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.host.context import PassText
from clvq_lens.host.generation import GenerationState
from clvq_lens.host.protocol.base import PassContext
from clvq_lens.quantizer.attention import DecoderCache
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer, Quantized, pass_through
from clvq_lens.quantizer.draft import Draft


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


class Reconstruction:
    """The target of a pass, from its codes and from others.

    Args:
        quantizer: Decodes.
        causal: Whether the host is.
    """

    def __init__(self, quantizer: CrossLayerQuantizer, *, causal: bool) -> None:
        self.quantizer, self.causal = quantizer, causal

    def of_pass(
        self, recorded: Recorded, state: GenerationState | None, *, splices: bool
    ) -> Float[Tensor, "b pos d_target"] | None:
        """The new target of the pass under way; None if it stays as it is.

        Args:
            recorded: The pass.
            state: Of the generation that it belongs to, which is extended.
            splices: Whether the reconstruction takes the place of the target.
        """
        q, context = recorded.quantized, recorded.context.to(self.quantizer.device)
        mask = context.key_mask
        if state is not None:
            state.catch_up_(self.quantizer, context)
            state.diverged |= q.changed
        clean_vectors = self.quantizer.codebook(q.codes)
        clean_cache = None if state is None else state.clean
        clean = self.quantizer.decode(
            clean_vectors, encoded=q.clean_encoded, key_mask=mask, cache=clean_cache
        )
        # Earlier positions may have been changed, too.
        changed = q.changed or (state is not None and state.diverged)
        if changed:
            cache = None if state is None else state.edited
            edited = self.quantizer.reconstruct(q.draft, key_mask=mask, cache=cache)
        else:
            edited = clean
            if state is not None:
                state.edited = state.clean.fork()
        return self._combine(
            recorded.target,
            clean,
            edited,
            recorded.text.real,
            q.draft.named,
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

        The decoder knows real tokens only: what it says of special ones is noise, and a change of
        codes elsewhere changes that noise. It is written only where an edit or a hook asks for it.
        """
        device = target.device
        clean, edited, real = clean.to(device), edited.to(device), real.to(device).unsqueeze(-1)
        recon = pass_through(self.quantizer.hook_recon, edited)
        error = pass_through(self.quantizer.hook_error, target.float() - clean)
        if not (splices or changed or recon.changed or error.changed):
            return None
        written = real if named is None else real | named.to(device).unsqueeze(-1)
        # Equal reconstructions differ by an exact zero, and the target keeps its bits.
        difference = torch.where(written, edited - clean, 0.0)
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
        """The reconstruction from other codes of some sequences of a recorded pass.

        A causal decoder begins at the first position that differs.
        """
        mask = recorded.context.to(self.quantizer.device).key_mask
        reconstruct = self.quantizer.reconstruct
        before = recorded.quantized.draft
        start = 0
        if self.causal and mask is None and not torch.is_grad_enabled():
            start = draft.first_difference(before.take(rows))
        if start == 0:
            return reconstruct(draft, key_mask=None if mask is None else mask[rows])
        cache = DecoderCache()
        beginning = reconstruct(before.cut(None, start), cache=cache)
        rest = reconstruct(draft.cut(start, None), cache=cache.take(rows))
        return torch.cat([beginning[rows], rest], dim=1)

    def clean(self, recorded: Recorded) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction from the nearest codes of a recorded pass."""
        q, mask = recorded.quantized, recorded.context.to(self.quantizer.device).key_mask
        vectors = self.quantizer.codebook(q.codes)
        return self.quantizer.decode(vectors, encoded=q.clean_encoded, key_mask=mask)

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
        """What the target of some sequences would have been with another reconstruction.

        Args:
            recorded: The pass.
            rows: Its sequences.
            clean: Their reconstruction from the nearest codes.
            edited: The other one.
            named: Positions that edits name.
            splices: Whether the reconstruction takes the place of the target.
        """
        target, text = recorded.target[rows.to(recorded.target.device)], recorded.text.take(rows)
        options = {"changed": True, "splices": splices}
        moved = self._combine(target, clean, edited, text.real, named, **options)
        return target if moved is None else moved
