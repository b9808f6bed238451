"""What ``lens.edit`` takes: edits and plain functions, applied one after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clvq_lens.errors import CodeRangeError, ConfigError, ShapeError
from clvq_lens.host.context import PassText
from clvq_lens.interventions.edits import Edit
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.draft import Draft

CodeFunction = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, repr=False)
class Function(Edit):
    """Any function of codes and tokens, such as ``lens.edit`` makes of a plain function.

    Args:
        function: From codes and tokens, both [batch, pos], to codes. In generation with the
            key-value cache it sees the new positions only. Tokens are None where a pass began in
            the middle of the model.
        at: Positions where its codes are taken; None: every real token.
    """

    function: CodeFunction

    def _change(
        self, draft: Draft, where: Tensor, text: PassText, quantizer: CrossLayerQuantizer
    ) -> Draft:
        tokens = None if text.tokens is None else text.tokens[:, text.n_past :]
        if tokens is not None:  # a copy, since they may be the very tensor that the user passed in
            tokens = tokens.to(draft.codes.device, copy=True)
        # A copy too: a function that writes in place must not change the unedited codes.
        codes = self.function(draft.codes.clone(), tokens)
        self._check_returned(codes, draft)
        # What it says of other positions is not taken, so it may be anything.
        self._check_codes(codes[where], quantizer.config.n_codes)
        codes = codes.to(draft.codes)
        return draft.with_codes(codes, where & (codes != draft.codes), quantizer.codebook)

    def _check_returned(self, codes: object, draft: Draft) -> None:
        """Raises `ShapeError` unless the function returned a tensor with a code for each token."""
        if not isinstance(codes, Tensor):
            raise ShapeError(
                f"{self!r} returned {type(codes).__name__}. Return a dense tensor of codes."
            )
        if codes.layout != torch.strided or codes.is_meta:
            raise ShapeError(
                f"{self!r} returned a {codes.layout} on {codes.device}. Return a dense tensor of "
                f"codes."
            )
        if codes.shape != draft.codes.shape or codes.dtype not in (torch.int32, torch.int64):
            raise ShapeError(
                f"{self!r} returned {codes.dtype} of shape {list(codes.shape)}; expected "
                f"torch.int64 of shape {list(draft.codes.shape)}. Return one code per token."
            )

    def _check_codes(self, codes: Tensor, n_codes: int) -> None:
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < n_codes:
            raise CodeRangeError(
                f"{self!r} returned codes from {int(codes.min())} to {int(codes.max())}. Return "
                f"codes of the codebook: 0 to {n_codes - 1}."
            )


def as_edits(
    edits: Sequence[Edit | CodeFunction], quantizer: CrossLayerQuantizer
) -> tuple[Edit, ...]:
    """Edits and plain functions as edits that fit a quantizer.

    Raises:
        CodeRangeError: If one names a code that the quantizer does not have.
        ConfigError: If something else was given.
    """
    checked = []
    for edit in edits:
        if not isinstance(edit, Edit):
            # A class can be called too, but ``lens.edit(Ablate)`` is a slip.
            if not callable(edit) or isinstance(edit, type):
                raise ConfigError(
                    f"{edit!r} is not an edit. Pass clvq_lens.Ablate, Swap, Force, Restrict, Patch "
                    f"or Steer, or a function of (codes, tokens) that returns codes."
                )
            edit = Function(edit)
        edit.check(quantizer)
        checked.append(edit)
    return tuple(checked)


def apply_edits(
    edits: Sequence[Edit], quantizer: CrossLayerQuantizer, draft: Draft, text: PassText
) -> Draft:
    """The codes after some edits, one after another."""
    for edit in edits:
        draft = edit(draft, text, quantizer)
    return draft
