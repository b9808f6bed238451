"""Edits of codes in the running model: Ablate, Swap, Force, Restrict, Patch, Steer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.arguments import check_choice, check_seed
from clvq_lens.errors import CodeRangeError, ConfigError, ShapeError
from clvq_lens.host.context import PassText
from clvq_lens.interventions.codes import Codes, as_codes, check_range, membership
from clvq_lens.interventions.positions import (
    At,
    frozen_positions,
    over_positions,
    resolve_positions,
)
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.draft import Draft

CodeFunction = Callable[[Tensor, Tensor | None], Tensor]
Replacement = Literal["nearest", "mean", "resample"]
_SHOWN = 16  # longer tuples are shown by their shape


@dataclass(frozen=True, repr=False)
class Edit(ABC):
    """A change of codes, as a pure function; immutable, to be used any number of times."""

    _CODES: ClassVar[tuple[str, ...]] = ()  # the fields that name codes
    at: At = field(default=None, kw_only=True, hash=False)  # slices have no hash

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", frozen_positions(self.at))
        for name in self._CODES:
            codes = as_codes(getattr(self, name))
            if name != "codes" and len(codes) != 1:
                raise ConfigError(
                    f"{type(self).__name__} takes one code for {name!r}, not {codes}. For several "
                    f"codes pass several edits."
                )
            object.__setattr__(self, name, codes if name == "codes" else codes[0])

    def __repr__(self) -> str:
        shown = sorted(fields(self), key=lambda f: f.kw_only is True)
        values = [(f, getattr(self, f.name)) for f in shown]
        parts = (f"{f.name}={_short(v)}" for f, v in values if not _is_default(f, v))
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def codes_named(self) -> tuple[int, ...]:
        """The codes that it names, which must be codes of the quantizer."""
        named = (getattr(self, name) for name in self._CODES)
        return tuple(code for codes in named for code in np.atleast_1d(codes).tolist())

    def check(self, quantizer: CrossLayerQuantizer) -> None:
        """Raises `CodeRangeError` if it names a code that the quantizer does not have."""
        check_range(self.codes_named, quantizer, repr(self))

    def __call__(self, draft: Draft, text: PassText, quantizer: CrossLayerQuantizer) -> Draft:
        """The codes after the edit."""
        where = resolve_positions(self.at, text).to(draft.codes.device)
        changed = self._change(draft, where, text, quantizer)
        return changed if self.at is None else changed.naming(where)

    @abstractmethod
    def _change(
        self,
        draft: Draft,
        where: Bool[Tensor, "b pos"],
        text: PassText,
        quantizer: CrossLayerQuantizer,
    ) -> Draft: ...


@dataclass(frozen=True, repr=False)
class Ablate(Edit):
    """Takes codes away.

    Args:
        codes: A code, or several that go together.
        to: What takes their place. "nearest": the nearest code that is not ablated, by this edit
            or one before it. "mean": the mean code vector, weighted by usage (for the table
            decoder, the mean of its table). "resample": a code drawn from the corpus' shares, the
            ablated ones left out.
        at: Positions; None: every real token.
        seed: Of the draws of "resample", which depend on the row and the position alone: a beam
            search, which moves texts to other rows, finds other texts with the key-value cache
            than without.

    Example:
        >>> Ablate([3, 17], to="mean")
        Ablate(codes=(3, 17), to='mean')
    """

    _CODES = ("codes",)
    codes: Codes
    to: Replacement = "nearest"
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("to", self.to, get_args(Replacement))
        check_seed(self.seed)

    def _change(
        self, draft: Draft, where: Tensor, text: PassText, quantizer: CrossLayerQuantizer
    ) -> Draft:
        ablated = membership(self.codes_named, quantizer)
        losing = where & ablated[draft.codes]
        if self.to == "nearest":
            return draft.without(ablated, where, quantizer.codebook)
        draft = draft.banning(ablated, where)
        if self.to == "mean":
            return draft.with_mean(quantizer.shares @ quantizer.codebook.vectors, losing)
        codes = draft.codes.masked_scatter(losing, self._drawn(draft, losing, text, quantizer))
        return draft.with_codes(codes, losing, quantizer.codebook)

    def _drawn(
        self, draft: Draft, where: Tensor, text: PassText, quantizer: CrossLayerQuantizer
    ) -> Int[Tensor, " n"]:
        """Codes drawn from the shares of those not banned, the same in whatever passes."""
        edges = draft.allowed(where, quantizer.shares).cumsum(1)
        if len(edges) and float(edges[:, -1].min()) <= 0:
            raise CodeRangeError(f"{self!r} leaves no used code to draw from. Ablate fewer codes.")
        n_batch, n_all = text.shape
        generator = torch.Generator().manual_seed(self.seed)
        uniform = torch.rand(n_all, n_batch, generator=generator)  # longer: the same beginning
        uniform = uniform[text.n_past :].T.to(edges)[where].unsqueeze(1)
        drawn = torch.searchsorted(edges, uniform * edges[:, -1:], right=True).squeeze(1)
        # Rounding may reach beyond the last edge, where no code has a share.
        last = (edges < edges[:, -1:]).sum(1)
        return torch.minimum(drawn, last)


@dataclass(frozen=True, repr=False)
class Restrict(Edit):
    """Leaves only some codes to choose from; where another one was nearest, they take over.

    Args:
        codes: The codes that may be chosen.
        at: Positions; None: every real token.
    """

    _CODES = ("codes",)
    codes: Codes

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.codes_named:
            raise CodeRangeError("Restrict() leaves no code to choose. Name at least one.")

    def _change(
        self, draft: Draft, where: Tensor, text: PassText, quantizer: CrossLayerQuantizer
    ) -> Draft:
        banned = ~membership(self.codes_named, quantizer)
        return draft.without(banned, where, quantizer.codebook)


@dataclass(frozen=True, repr=False)
class Swap(Edit):
    """Exchanges two codes.

    Args:
        a: One code.
        b: The other.
        at: Positions; None: every real token.
    """

    _CODES = ("a", "b")
    a: int
    b: int

    def _change(
        self, draft: Draft, where: Tensor, text: PassText, quantizer: CrossLayerQuantizer
    ) -> Draft:
        was_a, was_b = draft.codes == self.a, draft.codes == self.b
        codes = torch.where(was_a, self.b, torch.where(was_b, self.a, draft.codes))
        return draft.with_codes(codes, where & (was_a | was_b), quantizer.codebook)


@dataclass(frozen=True, repr=False)
class Force(Edit):
    """Puts a code at positions, whatever was there.

    Args:
        code: The code.
        at: Positions; None: every real token.
    """

    _CODES = ("code",)
    code: int

    def _change(
        self, draft: Draft, where: Tensor, text: PassText, quantizer: CrossLayerQuantizer
    ) -> Draft:
        codes = torch.full_like(draft.codes, self.code)
        return draft.with_codes(codes, where, quantizer.codebook)


@dataclass(frozen=True, repr=False, eq=False)
class Patch(Edit):
    """Puts the codes of another run in, position by position.

    Args:
        codes: [pos] or [batch, pos], as ``cache["clvq.<name>.hook_codes"]`` or
            ``lens.encode(texts).codes`` has them; -1 leaves a position alone.
        at: Positions; None: every real token.
    """

    codes: Tensor | Sequence[int]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            codes = torch.as_tensor(self.codes)
            given = f"{codes.dtype} of shape {list(codes.shape)}"
        except (TypeError, ValueError, RuntimeError, OverflowError):  # no numbers, or ragged rows
            codes, given = torch.empty(0), type(self.codes).__name__
        is_broken = codes.is_floating_point() or codes.is_complex()
        if is_broken or codes.dtype == torch.bool or codes.ndim not in (1, 2):
            raise ShapeError(
                f"Patch takes whole numbers of shape [pos] or [batch, pos], not {given}. Pass "
                f"cache['clvq.<name>.hook_codes'] or lens.encode(texts).codes."
            )
        object.__setattr__(self, "codes", codes.long().clone())

    @property
    def codes_named(self) -> tuple[int, ...]:
        """The codes that it names."""
        codes = torch.as_tensor(self.codes)
        return tuple(codes[codes != -1].unique().tolist())

    def _change(
        self, draft: Draft, where: Tensor, text: PassText, quantizer: CrossLayerQuantizer
    ) -> Draft:
        given = torch.as_tensor(self.codes).to(draft.codes)
        codes = over_positions(given, text, fill=-1, what="codes")  # generated ones stay
        return draft.with_codes(codes.clamp_min(0), where & (codes >= 0), quantizer.codebook)


@dataclass(frozen=True, repr=False)
class Steer(Edit):
    """Adds a code's direction to the target; codes stay as they are.

    The direction is the mean target of the code's training tokens less that of all tokens, so a
    scale of 1 moves the mean token to the code's mean.

    Args:
        code: The code.
        scale: How many times the direction is added; negative: away from the code.
        at: Positions; None: every real token.
    """

    _CODES = ("code",)
    code: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            is_real = not isinstance(self.scale, str | bool | complex)
            scale = float(self.scale) if is_real else math.nan
        except (TypeError, ValueError, RuntimeError, OverflowError):
            scale = math.nan
        if not math.isfinite(scale):
            raise ConfigError(f"Steer has scale={self.scale!r}; pass a finite number.")
        object.__setattr__(self, "scale", scale)

    def check(self, quantizer: CrossLayerQuantizer) -> None:
        """Raises `CodeRangeError` if the code has no direction, `ConfigError` if none so long."""
        super().check(quantizer)
        if quantizer.usage[self.code] == 0:
            raise CodeRangeError(
                f"{self!r} steers to a code that no training token is in, so it has no direction. "
                f"Choose one with lens.quantizer.usage > 0."
            )
        if not torch.isfinite(self._direction(quantizer)).all():
            raise ConfigError(f"{self!r} goes beyond the largest number. Pass a smaller scale.")

    def _change(
        self, draft: Draft, where: Tensor, text: PassText, quantizer: CrossLayerQuantizer
    ) -> Draft:
        return draft.steered(self._direction(quantizer), where)

    def _direction(self, quantizer: CrossLayerQuantizer) -> Float[Tensor, " d_target"]:
        return self.scale * (quantizer.mean_target[self.code] - quantizer.target_mean)


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
        codes = self.function(draft.codes.clone(), tokens)
        if not isinstance(codes, Tensor) or codes.layout != torch.strided or codes.is_meta:
            kind = type(codes).__name__
            kind = f"a {codes.layout} on {codes.device}" if isinstance(codes, Tensor) else kind
            raise ShapeError(f"{self!r} returned {kind}. Return a dense tensor of codes.")
        if codes.shape != draft.codes.shape or codes.dtype not in (torch.int32, torch.int64):
            raise ShapeError(
                f"{self!r} returned {codes.dtype} of shape {list(codes.shape)}; expected "
                f"torch.int64 of shape {list(draft.codes.shape)}. Return one code per token."
            )
        n_codes, chosen = quantizer.config.n_codes, codes[where]
        if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < n_codes:
            raise CodeRangeError(
                f"{self!r} returned codes from {int(chosen.min())} to {int(chosen.max())}. Return "
                f"codes of the codebook: 0 to {n_codes - 1}."
            )
        codes = codes.to(draft.codes)
        return draft.with_codes(codes, where & (codes != draft.codes), quantizer.codebook)


def as_edits(
    edits: Sequence[Edit | CodeFunction], quantizer: CrossLayerQuantizer
) -> tuple[Edit, ...]:
    """Edits and plain functions as edits that fit a quantizer.

    Raises:
        CodeRangeError: If one names a code that the quantizer does not have.
        ConfigError: If something else was given.
    """
    made = []
    for edit in edits:
        if not isinstance(edit, Edit):
            if not callable(edit) or isinstance(edit, type):
                raise ConfigError(
                    f"{edit!r} is no edit. Pass clvq_lens.Ablate, Swap, Force, Restrict, Patch or "
                    f"Steer, or a function of (codes, tokens) that returns codes."
                )
            edit = Function(edit)
        edit.check(quantizer)
        made.append(edit)
    return tuple(made)


def apply_edits(
    edits: Sequence[Edit], quantizer: CrossLayerQuantizer, draft: Draft, text: PassText
) -> Draft:
    """The codes after some edits, one after another."""
    return reduce(lambda so_far, edit: edit(so_far, text, quantizer), edits, draft)


def _is_default(f: Any, value: Any) -> bool:
    return value is f.default or (isinstance(value, int | float | str) and value == f.default)


def _short(value: Any) -> str:
    if isinstance(value, tuple) and np.size(value) > _SHOWN:
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    if callable(value):
        return getattr(value, "__name__", repr(value))
    return repr(value)
