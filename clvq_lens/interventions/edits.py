"""Edits of codes in the running model: Ablate, Swap, Force, Restrict, Patch, Steer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.arguments import check_choice, check_seed
from clvq_lens.errors import CodeRangeError, ConfigError, ShapeError
from clvq_lens.host.context import PassText
from clvq_lens.interventions.codes import CodeOrCodes, as_codes, check_range, membership
from clvq_lens.interventions.positions import (
    EditPositions,
    frozen_positions,
    over_positions,
    resolve_positions,
)
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.draft import Draft

Replacement = Literal["nearest", "mean", "resample"]
_SHOWN = 16  # longer tuples are shown by their shape


@dataclass(frozen=True, repr=False)
class Edit(ABC):
    """A change of codes, as a pure function; immutable, to be used any number of times."""

    _CODES: ClassVar[tuple[str, ...]] = ()  # the fields that name codes
    at: EditPositions = field(default=None, kw_only=True, hash=False)  # slices have no hash

    def __post_init__(self) -> None:
        # Past the frozen dataclass: an edit keeps values of its own, whatever the caller's become.
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
        arguments = []
        # As they are written in a call: ``at`` comes first among the fields, for it is inherited.
        for f in sorted(fields(self), key=lambda f: f.kw_only is True):
            value = getattr(self, f.name)
            if not _is_default(f, value):
                arguments.append(f"{f.name}={_short(value)}")
        return f"{type(self).__name__}({', '.join(arguments)})"

    @property
    def codes_named(self) -> tuple[int, ...]:
        """The codes that it names, which must be codes of the quantizer."""
        named: list[int] = []
        for name in self._CODES:
            named += np.atleast_1d(getattr(self, name)).tolist()
        return tuple(named)

    def check(self, quantizer: CrossLayerQuantizer) -> None:
        """Raises `CodeRangeError` if it names a code that the quantizer does not have."""
        check_range(self.codes_named, quantizer, repr(self))

    def __call__(self, draft: Draft, text: PassText, quantizer: CrossLayerQuantizer) -> Draft:
        """The codes after the edit."""
        where = resolve_positions(self.at, text).to(draft.codes.device)
        changed = self._change(draft, where, text, quantizer)
        # Positions that a user names may be special tokens, where nothing is written otherwise.
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
        seed: Random seed for "resample". A draw depends on the row and the position alone, so a
            beam search, which moves texts to other rows, finds other texts with the key-value
            cache than without.

    Example:
        >>> Ablate([3, 17], to="mean")
        Ablate(codes=(3, 17), to='mean')
    """

    _CODES = ("codes",)
    codes: CodeOrCodes
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
        # They are banned as well: else the next ablation could bring them back.
        draft = draft.banning(ablated, where)
        if self.to == "mean":
            return draft.with_mean(quantizer.shares @ quantizer.codebook.vectors, losing)
        codes = draft.codes.masked_scatter(losing, self._drawn(draft, losing, text, quantizer))
        return draft.with_codes(codes, losing, quantizer.codebook)

    def _drawn(
        self, draft: Draft, where: Tensor, text: PassText, quantizer: CrossLayerQuantizer
    ) -> Int[Tensor, " n"]:
        """Codes drawn from the shares of those not banned, the same however passes are cut."""
        edges = draft.allowed(where, quantizer.shares).cumsum(1)
        if len(edges) and float(edges[:, -1].min()) <= 0:
            raise CodeRangeError(f"{self!r} leaves no used code to draw from. Ablate fewer codes.")
        n_batch, n_all = text.shape
        # On the CPU, so that every device draws the same; positions first, so that a longer text
        # begins with the same numbers.
        generator = torch.Generator().manual_seed(self.seed)
        uniform = torch.rand(n_all, n_batch, generator=generator)
        uniform = uniform[text.n_past :].T.to(edges)[where].unsqueeze(1)
        drawn = torch.searchsorted(edges, uniform * edges[:, -1:], right=True).squeeze(1)
        # Rounding may reach beyond the last edge, where no code has a share.
        last = (edges < edges[:, -1:]).sum(1)
        return torch.minimum(drawn, last)


@dataclass(frozen=True, repr=False)
class Restrict(Edit):
    """Leaves only some codes to choose from; where another one was nearest, one of them takes over.

    Args:
        codes: The codes that may be chosen.
        at: Positions; None: every real token.
    """

    _CODES = ("codes",)
    codes: CodeOrCodes

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
        # Only there: elsewhere an earlier edit may have put in a vector that is not the code's.
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
        return self is other  # == of tensors is a tensor, and they have no hash of their values

    def __hash__(self) -> int:
        return id(self)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            codes = torch.as_tensor(self.codes)
            given = f"{codes.dtype} of shape {list(codes.shape)}"
        except (TypeError, ValueError, RuntimeError, OverflowError):  # no numbers, or ragged rows
            codes, given = torch.empty(0), type(self.codes).__name__
        is_fractional = codes.is_floating_point() or codes.is_complex()
        if is_fractional or codes.dtype == torch.bool or codes.ndim not in (1, 2):
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
        # Clamped because -1 would be looked up in the codebook before it is left out.
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
            # float() would take "2" and True, which are slips.
            is_real = not isinstance(self.scale, str | bool | complex)
            scale = float(self.scale) if is_real else math.nan
        except (TypeError, ValueError, RuntimeError, OverflowError):
            scale = math.nan
        if not math.isfinite(scale):
            raise ConfigError(f"Steer has scale={self.scale!r}; pass a finite number.")
        object.__setattr__(self, "scale", scale)

    def check(self, quantizer: CrossLayerQuantizer) -> None:
        """Raises `CodeRangeError` if the code has no direction, `ConfigError` if it is too long."""
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


def _is_default(f: Field, value: object) -> bool:
    # Compared only where == gives an answer: that of a tensor is a tensor.
    return value is f.default or (isinstance(value, int | float | str) and value == f.default)


def _short(value: object) -> str:
    if isinstance(value, tuple) and np.size(value) > _SHOWN:
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    if callable(value):
        return getattr(value, "__name__", repr(value))
    return repr(value)
