"""Where a quantizer was fitted: what it remembers of the model, so as to refuse another."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from clvq_lens.errors import FileFormatError


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model and the two hook points that a quantizer belongs to.

    Attributes:
        model_name: As the model calls itself.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        d_vocab: Size of the vocabulary.
        dtype: Of the model's weights, such as "float32".
        layer_norm_folded: Whether layer-norm weights were folded into the next layer.
        weights_centered: Whether weights that write to the residual stream were centred.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        name: Of the quantizer on its model.
    """

    model_name: str
    n_layers: int
    d_model: int
    d_vocab: int
    dtype: str
    layer_norm_folded: bool
    weights_centered: bool
    source: str
    target: str
    name: str

    def differences(self, other: "Origin") -> list[str]:
        """What differs from another origin, as "field: mine, not theirs"; the name may differ."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{field}: {mine[field]!r}, not {theirs[field]!r}"
            for field in mine
            if field != "name" and mine[field] != theirs[field]
        ]

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
            if type(values[field]) is not kind:
                raise FileFormatError(
                    f"The saved origin's {field!r} is {values[field]!r}, expected "
                    f"{getattr(kind, '__name__', kind)}. Save the quantizer again."
                )
        return cls(**values)
