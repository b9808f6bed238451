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
from tqdm.auto import tqdm

from clvq_lens.arguments import check_is, check_names
from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Data, TokenRows, open_documents
from clvq_lens.data.reading import read
from clvq_lens.data.tokens import Part, TokenBatch, token_batches
from clvq_lens.errors import PositionError
from clvq_lens.host.attachment import Attached, Attachment, ready
from clvq_lens.host.host import Host
from clvq_lens.plots.colors import code_colors
from clvq_lens.plots.running_text import WIDTH
from clvq_lens.plots.strip import plot_token_strip
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.showing import Shown

_NO_CODE = -1  # in place of a code, on padding and special tokens
_DELAY_S = 1.0  # before a progress bar is drawn: most encodings take less, and need none


@dataclass(frozen=True, repr=False)
class Encoding(Shown):
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
        strings: Text of each token, row by row, without padding on the right; padding on the left
            is empty. A token that is a part of a character shows the character, and which part.
        texts: The text of each row, without special tokens, but with outliers.
        colors: The color of each code, the same as in every other figure.
    """

    codes: Int[Tensor, "row pos"]
    tokens: Int[Tensor, "row pos"]
    mask: Bool[Tensor, "row pos"]
    documents: tuple[int, ...]
    strings: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]
    colors: tuple[str, ...]

    @property
    def real(self) -> Bool[Tensor, "row pos"]:
        """True on tokens that are neither padding nor special, outliers among them."""
        return self.codes >= 0

    def frame(self) -> pd.DataFrame:
        """One line for each token that counts: document, position, token and code."""
        rows, positions = self.mask.nonzero(as_tuple=True)
        documents: list[int] = []
        tokens: list[str] = []
        for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
            documents.append(self.documents[row])
            tokens.append(self.strings[row][position])
        return pd.DataFrame(
            {
                "document": documents,
                "position": positions.tolist(),
                "token": tokens,
                "code": self.codes[self.mask].tolist(),
            }
        )

    def headline(self) -> str:
        """Its size, and how many codes it uses."""
        codes = self.codes[self.mask]
        return (
            f"{len(self.codes):,} rows, {len(codes):,} tokens, "
            f"{len(codes.unique()):,} of {len(self.colors):,} codes in use"
        )

    def preview(self) -> pd.DataFrame:
        """The table of tokens."""
        return self.frame()

    def plot(
        self, row: int = 0, names: Mapping[int, str] | None = None, *, width: int = WIDTH
    ) -> go.Figure:
        """The tokens of one row as running text, colored by concept.

        Args:
            row: Number of the row; negative numbers count from the end.
            names: What codes mean, such as ``lens.concepts(texts).names()``.
            width: Characters in a line: about 40 for a narrow page.

        Raises:
            PositionError: If there is no such row.
        """
        check_names(names)
        check_is("row", row, int | np.integer, "Pass a whole number.")
        n_rows = len(self.strings)
        if not -n_rows <= row < n_rows:
            raise PositionError(
                f"There is no row {row}. Choose 0 to {n_rows - 1}, or a negative number to count "
                f"from the end."
            )
        row = int(row)  # tuples take no number of numpy's
        strings: list[str] = []
        codes: list[int] = []
        # Not strict: codes go on over padding on the right, strings do not.
        for string, code in zip(self.strings[row], self.codes[row].tolist(), strict=False):
            if string:  # padding on the left has none
                strings.append(string)
                codes.append(code)
        return plot_token_strip(strings, codes, names, colors=self.colors, width=width)


@dataclass(frozen=True)
class _EncodedSequence:
    """A document or a piece of one, without padding."""

    document: int
    part: Part
    tokens: Int[Tensor, " n"]
    mask: Bool[Tensor, " n"]
    codes: Int[Tensor, " n"]


def encode(
    lens: Attached, data: Data, *, long_texts: LongTexts = "split", progress: bool = True
) -> Encoding:
    """The code of every token, with tokens and mask, for texts that fit in memory.

    Args:
        lens: A fitted lens.
        data: Documents, as for `clvq_lens.Lens.fit`. Tokens [row, pos] keep their rows and
            positions.
        long_texts: What to do with a text beyond the context: "split" it into rows of their own,
            "truncate" it, or raise an "error".
        progress: Whether to show a progress bar if it takes longer than a second.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        TextTooLongError: If a text is too long and ``long_texts`` is "error".
        NonFiniteError: If activations hold NaN or infinity.
    """
    attachment = ready(lens)
    documents = open_documents(data)
    batches = token_batches(attachment.host, documents, long_texts=long_texts)
    sequences: list[_EncodedSequence] = []
    for batch in tqdm(batches, desc="encode", unit="batch", delay=_DELAY_S, disable=not progress):
        sequences += _encoded(attachment, batch)
    # Batches hold sequences of similar length; here they are put back in the order of the data.
    sequences.sort(key=lambda sequence: (sequence.document, sequence.part.piece))
    if isinstance(documents, TokenRows) and all(sequence.part.is_whole for sequence in sequences):
        return _in_rows_of(documents.tokens, sequences, attachment)
    return _padded(sequences, attachment)


def _encoded(attachment: Attachment, batch: TokenBatch) -> list[_EncodedSequence]:
    """The sequences of a batch with their codes."""
    codes, outliers = batch_codes(attachment, batch)
    codes = codes.masked_fill(~batch.mask, _NO_CODE)
    # An outlier has a code, as the model goes on with it, but does not count.
    mask = batch.mask & ~outliers
    sequences: list[_EncodedSequence] = []
    for row, document in enumerate(batch.documents):
        attended = batch.attended[row]
        sequence = _EncodedSequence(
            document=document,
            part=batch.part(row),
            tokens=batch.tokens[row][attended],
            mask=mask[row][attended],
            codes=codes[row][attended],
        )
        sequences.append(sequence)
    return sequences


def _padded(sequences: list[_EncodedSequence], attachment: Attachment) -> Encoding:
    """An encoding with one row for each sequence, padded on the right."""
    vocabulary = attachment.host.vocabulary
    documents: list[int] = []
    codes: list[Tensor] = []
    tokens: list[Tensor] = []
    masks: list[Tensor] = []
    strings: list[tuple[str, ...]] = []
    for sequence in sequences:
        documents.append(sequence.document)
        codes.append(sequence.codes)
        tokens.append(sequence.tokens)
        masks.append(sequence.mask)
        strings.append(tuple(vocabulary.displayed(sequence.tokens)))
    return Encoding(
        codes=pad_sequence(codes, batch_first=True, padding_value=_NO_CODE),
        tokens=pad_sequence(tokens, batch_first=True, padding_value=vocabulary.padding),
        mask=pad_sequence(masks, batch_first=True),
        documents=tuple(documents),
        strings=tuple(strings),
        texts=_texts_of(sequences, attachment.host),
        colors=colors_of(attachment.quantizer),
    )


def _in_rows_of(
    tokens: Tensor, sequences: list[_EncodedSequence], attachment: Attachment
) -> Encoding:
    """An encoding with the rows and positions of the tokens that the user passed."""
    codes = torch.full_like(tokens, _NO_CODE)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    strings: list[tuple[str, ...]] = []
    for row, sequence in enumerate(sequences):
        start = sequence.part.start
        places = slice(start, start + len(sequence.tokens))
        codes[row, places] = sequence.codes
        mask[row, places] = sequence.mask
        displayed = attachment.host.vocabulary.displayed(sequence.tokens)
        strings.append(("",) * start + tuple(displayed))
    return Encoding(
        codes=codes,
        tokens=tokens.clone(),  # the user's own tensor may change later
        mask=mask,
        documents=tuple(range(len(tokens))),
        strings=tuple(strings),
        texts=_texts_of(sequences, attachment.host),
        colors=colors_of(attachment.quantizer),
    )


def _texts_of(sequences: list[_EncodedSequence], host: Host) -> tuple[str, ...]:
    """The text of each sequence, without special tokens."""
    texts: list[str] = []
    for sequence in sequences:
        real = sequence.tokens[sequence.codes >= 0]
        texts.append("".join(host.vocabulary.strings(real)))
    return tuple(texts)


def colors_of(quantizer: CrossLayerQuantizer) -> tuple[str, ...]:
    """The color of each code of a quantizer, the same in every figure."""
    return code_colors(quantizer.codebook.vectors.detach().float().cpu().numpy())


@torch.no_grad()
def batch_codes(
    attachment: Attachment, batch: TokenBatch
) -> tuple[Int[Tensor, "b pos"], Bool[Tensor, "b pos"]]:
    """The code of every position of a batch, and whether it is an outlier; on the CPU.

    Raises:
        NonFiniteError: If activations hold NaN or infinity.
    """
    source = attachment.source
    x = read(attachment.host, batch, [source])[source]
    quantizer = attachment.quantizer
    return quantizer.assign(x).cpu(), quantizer.outliers(x).cpu()
