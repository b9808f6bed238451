"""What a lens does to the model while a block is open: edits, splices, projections."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

from clvq_lens.arguments import check_flags
from clvq_lens.host.attachment import Attached, ready
from clvq_lens.interventions.codes import CodeOrCodes, code_numbers
from clvq_lens.interventions.directions import Place, projection
from clvq_lens.interventions.edit_sequence import CodeFunction, apply_edits, as_edits
from clvq_lens.interventions.edits import Edit
from clvq_lens.interventions.positions import EditPositions

LensT = TypeVar("LensT", bound=Attached)


@contextmanager
def splice(lens: LensT) -> Iterator[LensT]:
    """While open, the target is replaced by the reconstruction at every real token.

    Args:
        lens: A fitted lens.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        SpliceConflictError: If another lens replaces the same target.

    Example:
        >>> with lens.splice():  # doctest: +SKIP
        ...     loss = model(tokens, return_type="loss")
    """
    with ready(lens).spliced():
        yield lens


@contextmanager
def edit(lens: LensT, *edits: Edit | CodeFunction, error_term: bool = True) -> Iterator[LensT]:
    """While open, codes are edited in the running model, in the order given.

    The target moves by the difference that the edits make to the reconstruction, so an edit that
    changes no code changes no bit. Blocks nest: an inner one edits what an outer one left. Edits
    act on real tokens; ``at`` of an edit names other positions.

    Args:
        lens: A fitted lens.
        *edits: `Ablate`, `Swap`, `Force`, `Restrict`, `Patch`, `Steer`, or functions of
            ``(codes, tokens)`` that return codes.
        error_term: Whether the target keeps what the codes do not explain; False: it is replaced
            by the edited reconstruction, as in `splice`.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        CodeRangeError: If an edit names a code that does not exist.
        SpliceConflictError: If another lens replaces the same target.

    Example:
        >>> with lens.edit(Ablate(17), Force(3, at=-1)):  # doctest: +SKIP
        ...     logits = model(tokens)
    """
    attachment = ready(lens)
    quantizer = attachment.quantizer
    # Checked before the block opens, so that a bad edit leaves the model alone.
    apply = partial(apply_edits, as_edits(edits, quantizer), quantizer)
    check_flags(error_term=error_term)
    spliced = nullcontext() if error_term else attachment.spliced()
    with spliced, attachment.edited(apply):
        yield lens


@contextmanager
def project_out(
    lens: LensT,
    codes: CodeOrCodes,
    *,
    place: Place = "target",
    centered: bool = True,
    at: EditPositions = None,
) -> Iterator[LensT]:
    """While open, the span of some code vectors is missing from the residual stream.

    Args:
        lens: A fitted lens.
        codes: A code, or several.
        place: "source": where codes are at the source (`source_vectors` of the quantizer), taken
            out where they are read. "target": the mean targets of the codes, taken out where they
            are reconstructed.
        centered: Whether the mean is taken off first and stays as it is. False: raw vectors, as
            published, whose large common mean goes too.
        at: Positions; None: every real token.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        CodeRangeError: If a code does not exist, or has no tokens and so no mean.
        ConfigError: If ``place`` is neither "source" nor "target".
        PositionError: If ``at`` does not name positions.
    """
    attachment = ready(lens)
    numbers = code_numbers(codes, attachment.quantizer)
    project = projection(numbers, place, attachment.quantizer, centered=centered, at=at)
    point = attachment.source if place == "source" else attachment.target
    with attachment.projected(point, project):
        yield lens
