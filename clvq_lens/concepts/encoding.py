"""Encoding: the code of every token of some texts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clvq_lens.arguments import check_is, check_names
from clvq_lens.config import LongTexts
from clvq_lens.errors import PositionError
from clvq_lens.host.host import Host
from clvq_lens.plots.colours import code_colours
from clvq_lens.plots.running_text import WIDTH
from clvq_lens.plots.strip import plot_token_strip
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.activations import check_finite
from clvq_lens.training.documents import Data, TokenRows, open_documents
from clvq_lens.training.tokens import Part, TokenBatch, token_batches


@dataclass(frozen=True)
class Encoding:
    """Texts as codes; one row per sequence, in the order of the data.

    Tokens [row, pos] keep their rows and positions, padding included, unless one of them is longer
    than the context. Other data are padded on the right.

    Attributes:
        codes: The code of each token, -1 on padding and special tokens.
        tokens: Token ids.
        mask: True on tokens that count: neither padding nor special, and no outliers, whose
            activation at the source is too long (see `clvq_lens.FitConfig`).
        documents: Number of the document of each row: its index in the data, or of its line in a
            file. The pieces of a long text share one.
        strings: What stands at each token, row by row, without padding on the right; padding on the
            left is empty. Of a character that is spread over several tokens, which part of it.
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
        check_names(labels)
        check_is("row", row, int | np.integer, "Pass a whole number.")
        if not -len(self.strings) <= row < len(self.strings):
            raise PositionError(
                f"There is no row {row}; these are {len(self.strings)} rows. "
                f"Choose 0 to {len(self.strings) - 1}."
            )
        row = int(row)
        strings, codes = self.strings[row], self.codes[row].tolist()
        shown = [(string, code) for string, code in zip(strings, codes, strict=False) if string]
        strings, codes = [string for string, _ in shown], [code for _, code in shown]
        return plot_token_strip(strings, codes, labels, colours=self.colours, width=width)


@dataclass(frozen=True)
class _Sequence:
    """What was found of a sequence, without padding."""

    document: int
    part: Part
    tokens: Int[Tensor, " n"]
    mask: Bool[Tensor, " n"]
    codes: Int[Tensor, " n"]


def encode(
    host: Host,
    quantizer: CrossLayerQuantizer,
    source: str,
    data: Data,
    *,
    long_texts: LongTexts = "split",
) -> Encoding:
    """The code of every token; see `clvq_lens.Lens.encode`."""
    quantizer.eval()
    documents = open_documents(data)
    sequences: list[_Sequence] = []
    for batch in token_batches(host, documents, long_texts=long_texts):
        codes, outliers = batch_codes(host, quantizer, source, batch)
        codes = codes.masked_fill(~batch.mask, -1)
        mask = batch.mask & ~outliers
        for row, document in enumerate(batch.documents):
            real = batch.attended[row]
            parts = (batch.tokens[row][real], mask[row][real], codes[row][real])
            sequences.append(_Sequence(document, batch.part(row), *parts))
    sequences.sort(key=lambda sequence: (sequence.document, sequence.part.piece))
    if isinstance(documents, TokenRows) and all(each.part.is_whole for each in sequences):
        return _in_rows_of(documents.tokens, sequences, host, quantizer)
    tokens, masks = [each.tokens for each in sequences], [each.mask for each in sequences]
    codes = [each.codes for each in sequences]
    padding = host.vocabulary.padding
    return Encoding(
        codes=pad_sequence(codes, batch_first=True, padding_value=-1),
        tokens=pad_sequence(tokens, batch_first=True, padding_value=padding),
        mask=pad_sequence(masks, batch_first=True),
        documents=tuple(sequence.document for sequence in sequences),
        strings=tuple(tuple(host.vocabulary.displayed(row)) for row in tokens),
        texts=_texts_of(sequences, host),
        colours=colours_of(quantizer),
    )


def _in_rows_of(
    tokens: Tensor, sequences: list[_Sequence], host: Host, quantizer: CrossLayerQuantizer
) -> Encoding:
    """The codes where the user has the tokens, so that they line up."""
    codes, mask = torch.full_like(tokens, -1), torch.zeros_like(tokens, dtype=torch.bool)
    strings: list[tuple[str, ...]] = []
    for row, sequence in enumerate(sequences):
        start = sequence.part.start
        places = slice(start, start + len(sequence.tokens))
        codes[row, places], mask[row, places] = sequence.codes, sequence.mask
        strings.append(("",) * start + tuple(host.vocabulary.displayed(sequence.tokens)))
    return Encoding(
        codes=codes,
        tokens=tokens.clone(),
        mask=mask,
        documents=tuple(range(len(tokens))),
        strings=tuple(strings),
        texts=_texts_of(sequences, host),
        colours=colours_of(quantizer),
    )


def _texts_of(sequences: list[_Sequence], host: Host) -> tuple[str, ...]:
    """The text of each sequence, without special tokens."""
    strings = host.vocabulary.strings
    return tuple("".join(strings(each.tokens[each.codes >= 0])) for each in sequences)


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
