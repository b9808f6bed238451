"""Encoding: the code of every token of some texts."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clvq_lens.config import LongTexts
from clvq_lens.errors import PositionError
from clvq_lens.host.host import Host
from clvq_lens.plots.colours import code_colours
from clvq_lens.plots.running_text import WIDTH
from clvq_lens.plots.strip import plot_token_strip
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.activations import check_finite
from clvq_lens.training.documents import Data, open_documents
from clvq_lens.training.tokens import TokenBatch, token_batches


@dataclass(frozen=True)
class Encoding:
    """Texts as codes; one row per sequence, in the order of the data, padded on the right.

    Attributes:
        codes: The code of each token, -1 on padding and special tokens.
        tokens: Token ids.
        mask: True on tokens that count: neither padding nor special, and no outliers, whose
            activation at the source is too long (see `clvq_lens.FitConfig`).
        documents: Running number of the document of each row.
        strings: What stands at each token, row by row, without padding; of a character that is
            spread over several tokens, which part of it.
        texts: The text of each row, without special tokens, but with outliers.
        colours: Of each code, the same as in every other figure.
    """

    codes: Int[Tensor, "row pos"]
    tokens: Int[Tensor, "row pos"]
    mask: Bool[Tensor, "row pos"]
    documents: tuple[int, ...]
    strings: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]
    colours: tuple[str, ...]

    @property
    def real(self) -> Bool[Tensor, "row pos"]:
        """True on tokens that are neither padding nor special, outliers among them."""
        return self.codes >= 0

    def frame(self) -> pd.DataFrame:
        """One line for each token that counts: document, position, token and code."""
        rows, positions = (index.tolist() for index in self.mask.nonzero(as_tuple=True))
        return pd.DataFrame(
            {
                "document": [self.documents[row] for row in rows],
                "position": positions,
                "token": [self.strings[r][p] for r, p in zip(rows, positions, strict=True)],
                "code": self.codes[self.mask].tolist(),
            }
        )

    def plot(
        self, row: int = 0, labels: Mapping[int, str] | None = None, *, width: int = WIDTH
    ) -> go.Figure:
        """The tokens of one row as running text, coloured by concept.

        Args:
            row: Which one; negative numbers count from the end.
            labels: What codes mean, such as ``lens.concepts(texts).labels()``.
            width: Characters in a line: about 40 for a narrow page.

        Raises:
            PositionError: If there is no such row.
        """
        if not -len(self.strings) <= row < len(self.strings):
            raise PositionError(
                f"There is no row {row}; these are {len(self.strings)} rows. "
                f"Choose 0 to {len(self.strings) - 1}."
            )
        strings = self.strings[row]
        codes = self.codes[row, : len(strings)].tolist()
        return plot_token_strip(strings, codes, labels, colours=self.colours, width=width)


def encode(
    host: Host,
    quantizer: CrossLayerQuantizer,
    source: str,
    data: Data,
    *,
    long_texts: LongTexts = "error",
) -> Encoding:
    """The code of every token; see `clvq_lens.Lens.encode`."""
    quantizer.eval()
    rows: list[tuple[int, Tensor, Tensor, Tensor]] = []
    batches = token_batches(host, open_documents(data), long_texts=long_texts)
    for batch in batches:
        codes, outliers = batch_codes(host, quantizer, source, batch)
        codes = codes.masked_fill(~batch.mask, -1)
        mask = batch.mask & ~outliers
        for row, document in enumerate(batch.documents):
            real = batch.attended[row]
            rows.append((document, batch.tokens[row][real], mask[row][real], codes[row][real]))
    # The pieces of a long text came in order, but for the last one, which is shorter.
    rows.sort(key=lambda row: (row[0], -len(row[1])))
    documents, tokens, masks, codes = zip(*rows, strict=True)
    return Encoding(
        codes=pad_sequence(list(codes), batch_first=True, padding_value=-1),
        tokens=pad_sequence(list(tokens), batch_first=True),
        mask=pad_sequence(list(masks), batch_first=True),
        documents=documents,
        strings=tuple(tuple(host.vocabulary.displayed(row)) for row in tokens),
        texts=tuple(
            "".join(host.vocabulary.strings(row[found >= 0]))
            for row, found in zip(tokens, codes, strict=True)
        ),
        colours=colours_of(quantizer),
    )


def colours_of(quantizer: CrossLayerQuantizer) -> tuple[str, ...]:
    """The colour of each code of a quantizer, for every figure that shows them."""
    return code_colours(quantizer.codebook.vectors.detach().float().cpu().numpy())


@torch.no_grad()
def batch_codes(
    host: Host, quantizer: CrossLayerQuantizer, source: str, batch: TokenBatch
) -> tuple[Int[Tensor, "b pos"], Bool[Tensor, "b pos"]]:
    """The code of every position of a batch, and whether its activation is an outlier; on the CPU.

    Raises:
        NonFiniteError: If activations hold NaN or infinity.
    """
    attended = batch.attended.to(host.device)
    x = host.activations(batch.tokens.to(host.device), attended, [source])[source]
    check_finite(x[attended.to(x.device)], source)
    return quantizer.assign(x).cpu(), quantizer.outliers(x).cpu()
