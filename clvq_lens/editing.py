"""What a lens does to the model that it is on: edits, splices, projections, removal."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Self

from clvq_lens.arguments import check_flags
from clvq_lens.config import CLVQConfig
from clvq_lens.host.attach import Attachment, forget_lens, lenses_of
from clvq_lens.interventions.codes import Codes, code_numbers
from clvq_lens.interventions.directions import Place, projection
from clvq_lens.interventions.edits import (
    CodeFunction,
    Edit,
    apply_edits,
    as_edits,
)
from clvq_lens.interventions.positions import At


class EditableLens:
    """A quantizer on a model, which it can change while a block is open.

    Args:
        attachment: Of the quantizer.
    """

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.host = attachment.host
        self.quantizer = attachment.quantizer

    def __repr__(self) -> str:
        state = "fitted" if self.quantizer.fitted else "not fitted"
        state += "" if self.attachment.attached else ", removed"
        n_codes = self.quantizer.config.n_codes
        return f"Lens({self.name!r}: {self.source} -> {self.target}, {n_codes} codes, {state})"

    @property
    def name(self) -> str:
        """Its name on the model."""
        return self.attachment.name

    @property
    def source(self) -> str:
        """The hook point that is read."""
        return self.attachment.source

    @property
    def target(self) -> str:
        """The hook point that is reconstructed."""
        return self.attachment.target

    @property
    def model(self) -> Any:
        """The model that it is attached to."""
        return self.host.model

    @property
    def config(self) -> CLVQConfig:
        """The quantizer's options."""
        return self.quantizer.config

    @contextmanager
    def splice(self) -> Iterator[Self]:
        """While open, the target is replaced by the reconstruction at every real token.

        Raises:
            SpliceConflictError: If another lens replaces the same target.

        Example:
            >>> with lens.splice():  # doctest: +SKIP
            ...     loss = model(tokens, return_type="loss")
        """
        self.quantizer.require_fitted()
        with self.attachment.spliced():
            yield self

    @contextmanager
    def edit(self, *edits: Edit | CodeFunction, error_term: bool = True) -> Iterator[Self]:
        """While open, codes are edited in the running model, in the order given.

        The target moves by the difference that the edits make to the reconstruction, so an edit
        that changes no code changes no bit. Blocks nest: an inner one edits what an outer one
        left. Edits act on real tokens; ``at`` of an edit names other positions.

        Args:
            *edits: `Ablate`, `Swap`, `Force`, `Restrict`, `Patch`, `Steer`, or functions of
                ``(codes, tokens)`` that return codes.
            error_term: Whether the target keeps what the codes do not explain; False: it is
                replaced by the edited reconstruction, as in `splice`.

        Raises:
            NotFittedError: If the quantizer has not been fitted.
            CodeRangeError: If an edit names a code that does not exist.
            SpliceConflictError: If another lens replaces the same target.

        Example:
            >>> with lens.edit(Ablate(17), Force(3, at=-1)):  # doctest: +SKIP
            ...     logits = model(tokens)
        """
        self.attachment.require_ready()
        edit = partial(apply_edits, as_edits(edits, self.quantizer), self.quantizer)
        check_flags(error_term=error_term)
        splice = nullcontext() if error_term else self.attachment.spliced()
        with splice, self.attachment.edited(edit):
            yield self

    @contextmanager
    def project_out(
        self,
        codes: Codes,
        *,
        at: Place = "target",
        centered: bool = True,
        positions: At = None,
    ) -> Iterator[Self]:
        """While open, the span of some code vectors is missing from the residual stream.

        Args:
            codes: A code, or several.
            at: "source": code vectors, taken out where they are read. "target": the mean targets
                of the codes, taken out where they are reconstructed.
            centered: Whether the mean is taken off first and stays as it is. False: raw vectors,
                as published, whose large common mean goes too.
            positions: Where; None: every real token.

        Raises:
            NotFittedError: If the quantizer has not been fitted.
            CodeRangeError: If a code does not exist, or has no mean target.
        """
        self.attachment.require_ready()
        named = code_numbers(codes, self.quantizer)
        project = projection(named, at, self.quantizer, centered=centered, positions=positions)
        with self.attachment.projected(self.source if at == "source" else self.target, project):
            yield self

    def remove(self) -> None:
        """Takes the quantizer off the model, which is then as it was found."""
        self.attachment.detach()
        if lenses_of(self.model).get(self.name) is self:
            forget_lens(self.model, self.name)
