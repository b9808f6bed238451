"""Where an edit acts: positions, slices, masks, or a function of the tokens."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from clvq_lens.errors import PositionError
from clvq_lens.host.context import PassText

Mask = Sequence[bool] | Sequence[Sequence[bool]]
TokenFunction = Callable[[Tensor], Tensor]
# None: every real token. Numbers: columns of the tokens as they were passed in, negative ones
# from their end. A slice may reach further, into what is generated. A mask: [pos] or [batch, pos].
# A string: a special token, such as "cls" or "[SEP]".
# A function: from all tokens so far to such a mask; what it says of a token must not depend on
# later tokens, or generation with and without the key-value cache would differ.
EditPositions = int | str | slice | Sequence[int] | Mask | Tensor | TokenFunction | None


def resolve_positions(at: EditPositions, text: PassText) -> Bool[Tensor, "b pos"]:
    """True where an edit acts, among the positions of a pass.

    Raises:
        PositionError: If a number lies beyond the text, a mask does not fit it, a special token is
            unknown, or it or a function needs tokens that the pass does not have.
    """
    if at is None:
        return text.real
    if isinstance(at, slice):
        everywhere = _of_slice(at, text)
    elif isinstance(at, str):
        everywhere = _of_special_token(at, text)
    elif callable(at):
        everywhere = _of_function(at, text)
    else:
        given = torch.as_tensor(at)
        if given.dtype == torch.bool:
            return over_positions(given, text, fill=False, what="a mask").to(text.real.device)
        everywhere = _of_numbers(given, text)
    # Resolved over the whole text and then cut: with the key-value cache a pass sees its end only.
    return everywhere.to(text.real.device)[:, text.n_past :]


def frozen_positions(at: object) -> EditPositions:
    """The same positions as values that nobody can change.

    Raises:
        PositionError: If they are not positions at all.
    """
    if isinstance(at, slice):
        _check_slice(at)
    if at is None or isinstance(at, slice | str) or callable(at):
        return at  # pyright: ignore[reportReturnType]
    try:
        given = torch.as_tensor(at)
    except (TypeError, ValueError, RuntimeError):
        given = None
    # A bare True would be a mask without an axis.
    is_answer = given is not None and given.dtype == torch.bool and given.ndim == 0
    # An empty list becomes a float tensor, and means nowhere.
    if given is None or is_answer or (given.is_floating_point() and given.numel()):
        raise PositionError(
            f"{at!r} names no positions. Pass whole numbers, a slice, a boolean mask of shape "
            f"[pos] or [batch, pos], the name of a special token, or a function of the tokens."
        )
    if given.dtype != torch.bool and given.ndim > 1:
        raise PositionError(
            f"Numbers of positions hold for all texts, so they have one axis, not shape "
            f"{list(given.shape)}. Pass a boolean mask to choose other ones in each text."
        )
    return _tuples(given.tolist())


def over_positions(given: Tensor, text: PassText, *, fill: int | bool, what: str) -> Tensor:
    """Values that were given for a text, at the positions of a pass over it.

    Args:
        given: [pos] or [batch, pos], for the text as it was passed in.
        text: The text of the pass.
        fill: Value at positions that a generation added.
        what: Name of the values in the error.

    Raises:
        PositionError: If the values do not have the text's shape.
    """
    n_batch, _ = text.shape
    if tuple(given.shape) not in {(text.n_given,), (1, text.n_given), (n_batch, text.n_given)}:
        raise PositionError(
            f"An edit has {what} of shape {list(given.shape)}, but the text has shape "
            f"{[n_batch, text.n_given]}. Pass one value for each of its positions."
        )
    everywhere = given.new_full(text.shape, fill)
    everywhere[:, : text.n_given] = given
    return everywhere[:, text.n_past :]


def _tuples(values: object) -> EditPositions:
    """Nested lists as nested tuples, which can be compared and hashed."""
    if not isinstance(values, list):
        return values  # pyright: ignore[reportReturnType]
    return tuple(map(_tuples, values))  # pyright: ignore[reportReturnType]


def _check_slice(at: slice) -> None:
    try:
        range(0)[at]  # what a slice may be, Python itself says
    except (TypeError, ValueError) as error:
        raise PositionError(f"{at!r} names no positions: {error}. Pass whole numbers.") from None


def _of_slice(at: slice, text: PassText) -> Tensor:
    def from_start(end: int | None) -> int | None:
        # Negative ends count from the end of what was passed in, however much was generated since.
        return end if end is None or end >= 0 else max(0, end + text.n_given)

    columns = list(range(text.shape[1]))
    mask = torch.zeros(text.shape, dtype=torch.bool)
    mask[:, columns[from_start(at.start) : from_start(at.stop) : at.step]] = True
    return mask


def _of_special_token(at: str, text: PassText) -> Tensor:
    tokens = _tokens_of(text)
    if at not in text.special:
        known = ", ".join(map(repr, text.special)) or "none at all"
        raise PositionError(
            f"The model's tokenizer has no special token {at!r}. It has: {known}. For other tokens "
            f"pass a function: at=lambda tokens: tokens == model.to_single_token({at!r})."
        )
    return tokens == text.special[at]


def _tokens_of(text: PassText) -> Tensor:
    if text.tokens is None:
        raise PositionError(
            "The edit's positions depend on the tokens, but this pass began in the middle of the "
            "model, without them. Pass tokens or texts to the model, or give positions instead."
        )
    return text.tokens


def _of_function(at: TokenFunction, text: PassText) -> Tensor:
    tokens = _tokens_of(text)
    mask = at(tokens.clone())  # the user's own tensor may not change under the function
    if not isinstance(mask, Tensor):
        raise PositionError(
            f"The function of the tokens returned {type(mask).__name__}; return a boolean tensor."
        )
    if mask.dtype != torch.bool or mask.shape != tokens.shape:
        raise PositionError(
            f"The function of the tokens returned {mask.dtype} of shape {list(mask.shape)}; "
            f"expected torch.bool of shape {list(tokens.shape)}, one for each token."
        )
    return mask


def _of_numbers(numbers: Tensor, text: PassText) -> Tensor:
    numbers = numbers.flatten().long()
    beyond = (numbers >= text.n_given) | (numbers < -text.n_given)
    if beyond.any():
        raise PositionError(
            f"Position {int(numbers[beyond][0])} lies beyond the text, which has {text.n_given} "
            f"positions. Use -{text.n_given} to {text.n_given - 1}, or a slice such as "
            f"slice({text.n_given}, None) for positions still to be generated."
        )
    everywhere = torch.zeros(text.shape, dtype=torch.bool, device=numbers.device)
    everywhere[:, numbers % text.n_given] = True
    return everywhere
