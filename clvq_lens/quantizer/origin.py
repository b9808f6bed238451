"""What is remembered of a model, to refuse another one; and where a quantizer was fitted."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import pandas as pd

from clvq_lens.errors import FileFormatError
from clvq_lens.quantizer.fingerprint import compare
from clvq_lens.showing import Shown

# Names may differ, and weights and dtype are compared in another way.
_COMPARED_APART = {"name", "model_name", "host", "weights", "dtype"}


Identity = TypeVar("Identity", bound="ModelIdentity")


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelIdentity(Shown):
    """What tells one model from another.

    Attributes:
        model_name: The model's name for itself; another kind of host may have another name.
        host: Class of the model.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        d_vocab: Size of the vocabulary.
        dtype: Dtype of the model's weights, such as "float32"; of quantized ones also how they
            are quantized, such as "bfloat16, bitsandbytes 4-bit".
        layer_norm_folded: Whether layer-norm weights were folded into the next layer.
        weights_centered: Whether weights that write to the residual stream were centered.
        weights: A few values of every weight matrix that was passed, by name; empty if unknown.
    """

    model_name: str
    host: str
    n_layers: int
    d_model: int
    d_vocab: int
    dtype: str
    layer_norm_folded: bool
    weights_centered: bool
    weights: dict[str, list[float]]

    def headline(self) -> str:
        """The model and its dtype."""
        return f"{self.model_name!r} ({self.host}), {self.dtype}"

    @property
    def _shown(self) -> tuple[str, ...]:
        return ("n_layers", "d_model", "d_vocab", "layer_norm_folded", "weights_centered")

    def preview(self) -> pd.DataFrame:
        """The fields that tell one model from another, without the weights."""
        rows = [{"field": field, "value": str(getattr(self, field))} for field in self._shown]
        rows.append({"field": "sampled matrices", "value": str(len(self.weights))})
        return pd.DataFrame(rows)

    def differences(self, other: "ModelIdentity") -> list[str]:
        """Why the other is another model, as "field: mine, not theirs"; empty if it is the same.

        Names may differ, because one model has several. Weights may differ by the rounding that
        another order of processing leaves.
        """
        mine, theirs = asdict(self), asdict(other)
        differences = []
        for field in mine:
            if field not in _COMPARED_APART and mine[field] != theirs[field]:
                differences.append(f"{field}: {mine[field]!r}, not {theirs[field]!r}")
        weights = compare(self.weights, other.weights, self.dtype, other.dtype)
        if self.dtype != other.dtype:
            # Of quantized weights nothing is sampled that could tell.
            is_plain = "," not in self.dtype + other.dtype
            is_same = is_plain and weights is not None and weights.agree
            same = " (the weights are the same)" if is_same else ""
            differences.append(f"dtype: {self.dtype!r}, not {other.dtype!r}{same}")
        # A model of another shape or processing has other weights anyway; that need not be said.
        if not differences and weights is not None and not weights.agree:
            differences.append(f"weights: not those of {self.model_name!r}; {weights}")
        return differences

    @classmethod
    def from_dict(cls: type[Identity], values: Mapping[str, object]) -> Identity:
        """What `dataclasses.asdict` made a dict of; strict about names and types.

        Raises:
            FileFormatError: If a field is missing, unknown or of the wrong type.
        """
        kinds = {field.name: field.type for field in fields(cls)}
        if set(values) != set(kinds):
            raise FileFormatError(
                f"The saved origin has the fields {sorted(values)}, expected {sorted(kinds)}. "
                f"The file was edited or damaged; save the quantizer again."
            )
        for field, kind in kinds.items():
            value = values[field]
            fits = _are_samples(value) if field == "weights" else type(value) is kind
            if not fits:
                raise FileFormatError(
                    f"The saved origin's {field!r} is {value!r}, expected "
                    f"{getattr(kind, '__name__', kind)}. Save the quantizer again."
                )
        checked: Any = values
        return cls(**checked)


@dataclass(frozen=True, kw_only=True, repr=False)
class Origin(ModelIdentity):
    """The model and the two hook points that a quantizer belongs to.

    Attributes:
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        name: Name of the quantizer on its model.
    """

    source: str
    target: str
    name: str

    def headline(self) -> str:
        """The model and the two hook points."""
        return f"{self.model_name!r} ({self.host}), {self.source} -> {self.target}, {self.dtype}"

    @property
    def _shown(self) -> tuple[str, ...]:
        return (*super()._shown, "name")


def _are_samples(value: object) -> bool:
    """Whether a value is a list of floats for each name."""
    if not isinstance(value, dict):
        return False
    for name, numbers in value.items():
        if not isinstance(name, str) or not isinstance(numbers, list):
            return False
        if any(type(number) is not float for number in numbers):
            return False
    return True
