"""Where a quantizer was fitted: what it remembers of the model, so as to refuse another."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from clvq_lens.errors import FileFormatError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MAY_DIFFER = {"name", "model_name", "host", "weights"}
_TOLERANCE = 1e-4  # of weights, relative to the largest; a step of fine-tuning moves them further


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
        weights: A sample, which tells the model from others of its shape; empty: unknown.
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
    weights: list[float]
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
            if field not in _MAY_DIFFER and mine[field] != theirs[field]
        ]
        if not differences and not self._same_weights(other):
            differences = [f"weights: those of {self.model_name!r}, not these"]
        return differences

    def _same_weights(self, other: "Origin") -> bool:
        if not self.weights:
            return True  # saved by a version that did not remember any
        if len(self.weights) != len(other.weights):
            return False
        # Weights that were never filled may be anything, and are the same as themselves.
        mine, theirs = (torch.tensor(o.weights).nan_to_num() for o in (self, other))
        precision = torch.finfo(_DTYPES.get(self.dtype, torch.float32)).eps
        tolerance = max(_TOLERANCE, 4 * precision) * float(mine.abs().max())
        return bool((mine - theirs).abs().max() <= tolerance)

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
            of_floats = isinstance(value, list) and all(type(number) is float for number in value)
            if not (of_floats if kind == list[float] else type(value) is kind):
                raise FileFormatError(
                    f"The saved origin's {field!r} is {value!r}, expected "
                    f"{getattr(kind, '__name__', kind)}. Save the quantizer again."
                )
        return cls(**values)
