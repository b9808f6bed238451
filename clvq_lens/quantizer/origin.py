"""Where a quantizer was fitted: what it remembers of the model, so as to refuse another."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from clvq_lens.errors import FileFormatError
from clvq_lens.quantizer.fingerprint import compare

_COMPARED_APART = {"name", "model_name", "host", "weights", "dtype"}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model and the two hook points that a quantizer belongs to.

    Attributes:
        model_name: As the model calls itself; another host may have another name for it.
        host: Class of the model that it was fitted on.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        d_vocab: Size of the vocabulary.
        dtype: Of the model's weights, such as "float32".
        layer_norm_folded: Whether layer-norm weights were folded into the next layer.
        weights_centered: Whether weights that write to the residual stream were centred.
        weights: A few values of every weight matrix up to the target, by name; empty: unknown.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        name: Of the quantizer on its model.
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
    source: str
    target: str
    name: str

    def differences(self, other: "Origin") -> list[str]:
        """What makes the other another model, as "field: mine, not theirs".

        Names may differ: one model has many. So may weights, by what the order of their
        processing does to their last bits.
        """
        mine, theirs = asdict(self), asdict(other)
        differences = [
            f"{field}: {mine[field]!r}, not {theirs[field]!r}"
            for field in mine
            if field not in _COMPARED_APART and mine[field] != theirs[field]
        ]
        weights = compare(self.weights, other.weights, self.dtype, other.dtype)
        if self.dtype != other.dtype:
            same = " (the weights are the same)" if weights is not None and weights.agree else ""
            differences.append(f"dtype: {self.dtype!r}, not {other.dtype!r}{same}")
        # Of a model of another shape or processing, different weights are no news.
        if not differences and weights is not None and not weights.agree:
            differences.append(f"weights: not those of {self.model_name!r}; {weights}")
        return differences

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Origin":
        """The inverse of `dataclasses.asdict`, strict about names and types.

        Raises:
            FileFormatError: If a field is missing, unknown or of the wrong type.
        """
        wanted = {field.name: field.type for field in fields(cls)}
        if set(values) != set(wanted):
            raise FileFormatError(
                f"The saved origin has the fields {sorted(values)}, expected {sorted(wanted)}. "
                f"The file was edited or damaged; save the quantizer again."
            )
        for field, kind in wanted.items():
            value = values[field]
            fits = _are_samples(value) if field == "weights" else type(value) is kind
            if not fits:
                raise FileFormatError(
                    f"The saved origin's {field!r} is {value!r}, expected "
                    f"{getattr(kind, '__name__', kind)}. Save the quantizer again."
                )
        return cls(**values)


def _are_samples(value: Any) -> bool:
    """Whether a value is a list of floats for each name."""
    if not isinstance(value, dict):
        return False
    for name, numbers in value.items():
        if not isinstance(name, str) or not isinstance(numbers, list):
            return False
        if any(type(number) is not float for number in numbers):
            return False
    return True
