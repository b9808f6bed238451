"""Salience: how much each token of a text counts for what the model says about the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from clvq_lens.arguments import check_choice, check_count
from clvq_lens.data.documents import Data, Documents, open_documents
from clvq_lens.data.tokens import check_long_texts
from clvq_lens.errors import ConfigError, EmptyCorpusError, LengthMismatchError
from clvq_lens.host.host import Host
from clvq_lens.host.modes import require_gradients
from clvq_lens.plots.salient_text import plot_salience
from clvq_lens.readouts.readout import Readout
from clvq_lens.readouts.salience_paths import Cut as Cut
from clvq_lens.readouts.salience_paths import (
    LayerActivations,
    Quantity,
    SaliencePaths,
    Start,
    TextSalience,
)
from clvq_lens.showing import Shown

Classes = Literal["predicted"] | Sequence[int] | np.ndarray | Tensor

_SMALL = 1e-12  # keeps the completeness error finite where no text has any difference


@dataclass(frozen=True, repr=False)
class Salience(Shown):
    """Integrated gradients of one class of each text, token by token.

    Attributes:
        layer: Hook point whose activations the scores are about.
        quantity: What is measured of the class: its "logit" or "probability".
        tokens: The tokens of each text, special ones among them.
        scores: Score of each token; NaN on padding. The scores of a text nearly add up to its
            entry in ``differences``.
        real: True on real tokens: neither padding nor special.
        predicted: The class that the readout says.
        classes: The class that is measured.
        values: The quantity with the activations of the run.
        differences: The quantity of the run less that with the start everywhere.
        n_points: At how many points of the path of each text the gradient was taken.
    """

    layer: str
    quantity: Quantity
    tokens: tuple[tuple[str, ...], ...]
    scores: Float[np.ndarray, "b pos"]
    real: Bool[np.ndarray, "b pos"]
    predicted: Int[np.ndarray, " b"]
    classes: Int[np.ndarray, " b"]
    values: Float[np.ndarray, " b"]
    differences: Float[np.ndarray, " b"]
    n_points: Int[np.ndarray, " b"]

    def headline(self) -> str:
        """How many texts, what was measured where, and how nearly the scores add up."""
        n = len(self.tokens)
        return (
            f"{n:,} {'text' if n == 1 else 'texts'}, {self.quantity} of a class from "
            f"{self.layer}, completeness error {self.completeness_error:.1%}"
        )

    def preview(self) -> pd.DataFrame:
        """Every token of the texts with its score."""
        return self.frame()

    @property
    def completeness_errors(self) -> Float[np.ndarray, " b"]:
        """For each text, how far its scores are from adding up.

        ``|sum of scores - difference| / mean of |difference|`` over the texts; 0 is exact. The mean
        is over all texts because a text with hardly any difference of its own would look bad.
        """
        errors = np.abs(np.nansum(self.scores, axis=1) - self.differences)
        return errors / max(float(np.abs(self.differences).mean()), _SMALL)

    @property
    def completeness_error(self) -> float:
        """Mean of `completeness_errors` over texts."""
        return float(self.completeness_errors.mean())

    def frame(self) -> pd.DataFrame:
        """One row for each token, special ones too: its text, its position and its score."""
        rows, positions = np.nonzero(~np.isnan(self.scores))
        return pd.DataFrame(
            {
                "text": rows,
                "position": positions,
                "token": self._tokens_at(rows, positions),
                "special": ~self.real[rows, positions],
                "score": self.scores[rows, positions],
            }
        )

    def top(self, *, special: bool = False, signed: bool = False) -> pd.DataFrame:
        """The most salient token of each text, one row for each.

        Args:
            special: Whether it may be a special token, such as [CLS].
            signed: Whether the largest score wins, so that the token speaks for the class; else
                the largest of either sign, as in the paper.
        """
        strength = self.scores if signed else np.abs(self.scores)
        counts = ~np.isnan(self.scores) if special else self.real
        # Minus infinity and not 0: with ``signed``, all scores of a text may be below 0.
        positions = np.where(counts, strength, -np.inf).argmax(1)
        rows = np.arange(len(positions))
        return pd.DataFrame(
            {
                "text": rows,
                "position": positions,
                "token": self._tokens_at(rows, positions),
                "score": self.scores[rows, positions],
            }
        )

    def _tokens_at(self, rows: np.ndarray, positions: np.ndarray) -> list[str]:
        return [self.tokens[row][at] for row, at in zip(rows, positions, strict=True)]

    def plot(self, row: int = 0) -> go.Figure:
        """One text, each token colored and underlined by its score.

        Args:
            row: Number of the text.
        """
        tokens = self.tokens[row]
        return plot_salience(
            tokens,
            self.scores[row, : len(tokens)],
            quantity=f"{self.quantity} of class {self.classes[row]}",
            value=float(self.values[row]),
            difference=float(self.differences[row]),
        )


def salience(
    model: Any,
    texts: Data,
    layer: int | str,
    readout: Readout,
    *,
    classes: Classes = "predicted",
    quantity: Quantity = "logit",
    n_steps: int | None = None,
    start: Start = "mean",
    long_texts: Cut = "error",
    progress: bool = True,
) -> Salience:
    """How much each token counts for a class, by integrated gradients (arXiv 1703.01365).

    The path is straight, from the start to the activations of the run, at all positions of a text
    at once: special tokens that move have scores too, or the scores would not add up. The score of
    a token is the gradient, averaged along the path, times what the token moved.

    Args:
        model: A `HookedTransformer`, `HookedEncoder` or `TransformerBridge`.
        texts: Texts or tokens, as for `Lens.fit`.
        layer: The residual stream after that block, or a hook point.
        readout: What the model says about a text: a `head` or `answers`.
        classes: The class measured in each text: "predicted", the one that the readout says, or
            one class number for each text.
        quantity: The "logit" of the class, or its "probability" among the classes.
        n_steps: Number of points on the path of each text, by Gauss-Legendre quadrature; None: from
            9 to 129 points, by Simpson's rule, which are added where the path bends until the
            scores add up within 2 % of the way that the quantity goes: its rises and falls.
        start: Where the path begins: at the "mean" activation over the real tokens of these texts,
            and special tokens at the mean of their own kind, so that one that is the same in all
            texts, such as BOS, does not move; at "zero" everywhere; or at one vector everywhere.
        long_texts: What to do with a text beyond the context.
        progress: Whether to show a progress bar.

    Returns:
        Scores in the order of the data, with ``.frame()``, ``.top()`` and ``.plot()``.

    Raises:
        ConfigError: If an option has an impossible value.
        LayerOrderError: If the readout reads below the layer.
        LengthMismatchError: If there are not as many classes as texts.
        EmptyCorpusError: If a text has no real token.
        NothingChangesError: If the path starts at the mean of a single token.
        ShapeError: If the readout has no such class, or the start does not fit the layer.
        NonFiniteError: If activations hold NaN or infinity.

    Example:
        >>> salience(model, texts, 8, head(weight, layer=11)).top()  # doctest: +SKIP
    """
    require_gradients("Salience")
    check_choice("quantity", quantity, get_args(Quantity))
    if not isinstance(start, Tensor):
        check_choice("start, unless it is a tensor,", start, ("mean", "zero"))
    if n_steps is not None:
        check_count("n_steps", n_steps)
    check_long_texts(long_texts, splittable=False)
    # Opened once and read up to three times: to count, for the mean and for the paths.
    host, documents = Host(model), open_documents(texts)
    n_texts = _count_texts(documents)
    activations = LayerActivations(host, host.resolve(layer), documents, long_texts)
    numbers = _class_numbers(classes, n_texts)
    origin = activations.start(start, n_texts=n_texts, progress=progress)
    results: list[TextSalience] = []
    bar = tqdm(total=n_texts, desc="salience", unit="text", disable=not progress)
    with bar, host.unembedding_often():
        for batch in activations.batches():
            given = None if numbers is None else numbers[list(batch.documents)]
            paths = SaliencePaths(activations, readout, quantity, batch, origin, given)
            for result in paths.scored(n_steps):
                results.append(result)
                bar.update()
    return _in_order(results, activations.point, quantity)


def _count_texts(documents: Documents) -> int:
    """How many texts there are.

    Raises:
        EmptyCorpusError: If one of them is empty: rows and classes are numbered as the data are.
    """
    n_texts = 0
    for document in documents:
        # An empty text is left out on the way, so the number of the next one is too high.
        if document.number != n_texts:
            raise EmptyCorpusError(
                f"{document.corpus.name_of(n_texts)} is empty. Leave it out, with its class."
            )
        n_texts += 1
    return n_texts


def _class_numbers(classes: object, n_texts: int) -> Int[Tensor, " b"] | None:
    """The class of each text; None: the one that the readout says."""
    if isinstance(classes, str):
        if classes != "predicted":
            raise ConfigError(f"classes is {classes!r}. Pass 'predicted' or class numbers.")
        return None
    try:
        numbers = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.tensor(torch.nan)  # has no axis, so it is refused below
    if numbers.ndim != 1 or numbers.dtype == torch.bool:
        raise ConfigError(f"The classes are {classes!r}. Pass one number of a class for each text.")
    if len(numbers) != n_texts:
        raise LengthMismatchError(
            f"There are {len(numbers)} classes for {n_texts} texts. Pass one for each text; leave "
            f"empty texts out."
        )
    if numbers.is_floating_point() or int(numbers.min()) < 0:
        raise ConfigError(
            f"The classes are {numbers.tolist()}. Pass numbers of classes, from 0 upwards."
        )
    return numbers.long()


def _in_order(results: Sequence[TextSalience], point: str, quantity: Quantity) -> Salience:
    """All texts in the order of the data."""
    # Batches hold texts of similar length, so results come sorted by length.
    results = sorted(results, key=lambda result: result.text)
    n_texts = len(results)
    predicted, classes = np.zeros(n_texts, dtype=int), np.zeros(n_texts, dtype=int)
    values, differences = np.zeros(n_texts), np.zeros(n_texts)
    n_points = np.zeros(n_texts, dtype=int)
    for row, result in enumerate(results):
        predicted[row] = result.predicted
        classes[row] = result.measured
        values[row] = result.value
        differences[row] = result.difference
        n_points[row] = result.n_points
    scores = pad_sequence([result.scores for result in results], True, torch.nan)
    real = pad_sequence([result.real for result in results], True, False)
    return Salience(
        layer=point,
        quantity=quantity,
        tokens=tuple(result.tokens for result in results),
        scores=scores.numpy(),
        real=real.numpy(),
        predicted=predicted,
        classes=classes,
        values=values,
        differences=differences,
        n_points=n_points,
    )
