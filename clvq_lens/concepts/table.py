"""The concept table: what every code means, to look up, to name, to sort and to keep."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.arguments import check_is
from clvq_lens.concepts.concept import Concept, Example
from clvq_lens.errors import CodeRangeError
from clvq_lens.evaluation.agreement import Agreement
from clvq_lens.plots.concepts import plot_usage
from clvq_lens.plots.text import spelled
from clvq_lens.writing import write_atomically

_IN_FRAME = 5  # tokens named in a cell
_IN_NAME = 3  # tokens that make a name


@dataclass(frozen=True, repr=False)
class ConceptTable:
    """The concepts of a codebook in some data; ``table[17]`` is code 17.

    Attributes:
        concepts: One for every code, unused ones included.
        n_tokens: Real tokens read.
        token_entropy: Of all tokens, in nats: the baseline of a code's own.
        position_entropy: Of the positions of all tokens, in nats.
        agreement: Of codes with the labels that were given, or None.
        token_identity: Of token ids with those labels: the baseline.
        complete: Whether all of the data were read; False after Ctrl-C.
    """

    concepts: tuple[Concept, ...]
    n_tokens: int
    token_entropy: float
    position_entropy: float
    agreement: Agreement | None = None
    token_identity: Agreement | None = None
    complete: bool = True

    def __getitem__(self, code: int) -> Concept:
        check_is("The code", code, int | np.integer, "Pass a whole number.")
        if not 0 <= code < len(self.concepts):
            raise CodeRangeError(f"There is no code {code}. Pass one from 0 to {len(self) - 1}.")
        return self.concepts[code]

    def __len__(self) -> int:
        return len(self.concepts)

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    def __repr__(self) -> str:
        n_used = sum(concept.usage > 0 for concept in self)
        read = f"{self.n_tokens:,} tokens" + ("" if self.complete else ", interrupted")
        return f"ConceptTable({n_used} of {len(self)} codes in use, {read})"

    def frame(self) -> pd.DataFrame:
        """One row for each code, the most used first.

        ``promotes`` is empty for a code of fewer than ten tokens: the mean of so few says little.
        """
        rows = [_row(concept) for concept in self]
        frame = pd.DataFrame(rows)
        if self.agreement is None:
            frame = frame.drop(columns=["top_label", "top_label_share"])
        return frame.sort_values("usage", ascending=False, kind="stable").reset_index(drop=True)

    def labels(self) -> dict[int, str]:
        """A short name for every code: the one it was given, or else its commonest tokens."""
        return {concept.code: concept.label for concept in self}

    def label(self, name: Callable[[Sequence[Example]], str] | None = None) -> "ConceptTable":
        """The same table with a name for every code in use.

        Args:
            name: From examples of a code to its name; a language model may stand behind it. It
                sees the typical examples and every other random one: the rest is kept back for
                `clvq_lens.detection`. None: the most distinctive tokens of the code.

        Example:
            >>> table.label(lambda examples: examples[0].token)[17].name  # doctest: +SKIP
        """
        named = (
            concept.named(
                distinctive_tokens(concept)
                if name is None
                else str(name((*concept.typical, *concept.random[::2])))
            )
            if concept.usage
            else concept
            for concept in self
        )
        return replace(self, concepts=tuple(named))

    def plot(self) -> go.Figure:
        """The usage curve: the share of every code, the most used first, beside uniform use."""
        return plot_usage(np.array([concept.usage for concept in self]))

    def to_parquet(self, path: str | Path) -> Path:
        """Writes everything, one row for each code, with examples and tokens as nested columns.

        Args:
            path: Of the file; `pandas.read_parquet` reads it. One of that name is replaced.

        Raises:
            PathError: If nothing can be written there.
        """
        path = Path(path)
        table = pd.DataFrame([asdict(concept) for concept in self])
        write_atomically(path, table.to_parquet(index=False))
        return path

    def _repr_html_(self) -> str:
        return self.frame().to_html(index=False, escape=True, float_format="{:.3g}".format)


def _row(concept: Concept) -> dict[str, object]:
    at_target = concept.read_out
    label = next(iter(concept.labels), None)
    example = next(iter((*concept.typical, *concept.random)), "")
    return {
        "code": concept.code,
        "name": concept.name,
        "usage": concept.usage,
        "share": concept.share,
        "tokens": " ".join(token.text for token in concept.tokens[:_IN_FRAME]),
        "distinctive": " ".join(token.text for token in concept.distinctive[:_IN_FRAME]),
        "promotes": " ".join(t.token for t in at_target.promoted[:_IN_FRAME]) if at_target else "",
        "token_entropy": concept.token_entropy,
        "position_entropy": concept.position_entropy,
        "top_label": label.text if label else "",
        "top_label_share": label.share if label else float("nan"),
        "example": str(example),
    }


def distinctive_tokens(concept: Concept) -> str:
    """A name for a concept: its tokens of the highest lift, or else the commonest ones."""
    tokens = concept.distinctive or concept.tokens
    return " ".join(spelled(token.text) for token in tokens[:_IN_NAME])
