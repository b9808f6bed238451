"""Salience: how much each token of a text counts for what the model says about the text."""

from collections.abc import Iterator, Sequence
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
from clvq_lens.errors import (
    ConfigError,
    EmptyCorpusError,
    LengthMismatchError,
    NothingChangesError,
    ShapeError,
)
from clvq_lens.host.host import Host
from clvq_lens.host.modes import require_gradients
from clvq_lens.interventions.path import average_gradient, gradient_of
from clvq_lens.interventions.readout import Readout, class_logits, last_real
from clvq_lens.plots.salience import plot_salience
from clvq_lens.training.activations import check_finite
from clvq_lens.training.documents import Data, Documents, open_documents
from clvq_lens.training.tokens import TokenBatch, check_long_texts, token_batches

Quantity = Literal["logit", "probability"]
Start = Literal["mean", "zero"] | Float[Tensor, " d"]
Target = Literal["predicted"] | Sequence[int] | np.ndarray | Tensor
Cut = Literal["error", "truncate"]


@dataclass(frozen=True)
class Salience:
    """Integrated gradients of one class of each text, token by token.

    Attributes:
        layer: Hook point whose activations the scores are about.
        quantity: What is measured of the class: its "logit" or "probability".
        tokens: What stands at each position, special tokens among them.
        scores: Of each token; NaN on padding. They add up to ``differences``, nearly.
        real: True on real tokens: neither padding nor special.
        predicted: The class that the readout says.
        target: The class that is measured.
        values: The quantity with the activations of the run.
        differences: The quantity of the run less that with the start everywhere.
    """

    layer: str
    quantity: Quantity
    tokens: tuple[tuple[str, ...], ...]
    scores: Float[np.ndarray, "b pos"]
    real: Bool[np.ndarray, "b pos"]
    predicted: Int[np.ndarray, " b"]
    target: Int[np.ndarray, " b"]
    values: Float[np.ndarray, " b"]
    differences: Float[np.ndarray, " b"]

    @property
    def completeness_errors(self) -> Float[np.ndarray, " b"]:
        """For each text, how far its scores are from adding up.

        |sum of scores - difference| / mean of |difference| over the texts: from 0, which is
        exact. Relative to the text's own difference a text with hardly any would look bad.
        """
        errors = np.abs(np.nansum(self.scores, axis=1) - self.differences)
        return errors / max(float(np.abs(self.differences).mean()), 1e-12)

    @property
    def completeness_error(self) -> float:
        """Mean of `completeness_errors` over texts."""
        return float(self.completeness_errors.mean())

    def frame(self) -> pd.DataFrame:
        """One row for each token, special ones too: where it stands, what it is, its score."""
        rows, positions = np.nonzero(~np.isnan(self.scores))
        return pd.DataFrame(
            {
                "text": rows,
                "position": positions,
                "token": [self.tokens[row][at] for row, at in zip(rows, positions, strict=True)],
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
        at = np.where(counts, strength, -np.inf).argmax(1)
        rows = np.arange(len(at))
        return pd.DataFrame(
            {
                "text": rows,
                "position": at,
                "token": [
                    tokens[position] for tokens, position in zip(self.tokens, at, strict=True)
                ],
                "score": self.scores[rows, at],
            }
        )

    def plot(self, row: int = 0) -> go.Figure:
        """One text, each token coloured and underlined by its score.

        Args:
            row: Number of the text.
        """
        tokens = self.tokens[row]
        return plot_salience(
            tokens,
            self.scores[row, : len(tokens)],
            quantity=f"{self.quantity} of class {self.target[row]}",
            value=float(self.values[row]),
            difference=float(self.differences[row]),
        )


def salience(
    model: Any,
    texts: Data,
    layer: int | str,
    readout: Readout,
    *,
    target: Target = "predicted",
    quantity: Quantity = "logit",
    n_steps: int = 32,
    start: Start = "mean",
    long_texts: Cut = "error",
    progress: bool = True,
) -> Salience:
    """How much each token counts for a class, by integrated gradients (arXiv 1703.01365).

    The path is straight, from the start to the activations of the run, at all positions of a text
    at once: special tokens move too and have scores, or the scores would not add up. The score of
    a token is the gradient, averaged along the path, times what the token moved.

    Args:
        model: A `HookedTransformer`, `HookedEncoder` or `TransformerBridge`.
        texts: Texts or tokens, as for `Lens.fit`.
        layer: The residual stream after that block, or a hook point.
        readout: What the model says about a text: a `head` or `answers`.
        target: The class measured in each text: the one that the readout says, or numbers, one
            for each text.
        quantity: The "logit" of the class, or its "probability" among the classes.
        n_steps: Points of the path, by Gauss-Legendre quadrature.
        start: Where the path begins, at every position: "mean", the mean activation over the real
            tokens of these texts; "zero"; or one vector.
        long_texts: What to do with a text beyond the context.
        progress: Whether to show a progress bar.

    Returns:
        Scores in the order of the data, with ``.frame()``, ``.top()`` and ``.plot()``.

    Raises:
        ConfigError: If an option has an impossible value.
        LayerOrderError: If the readout reads below the layer.
        LengthMismatchError: If there are not as many targets as texts.
        EmptyCorpusError: If a text has no real token.
        NothingChangesError: If the path starts at the mean of a single token.
        ShapeError: If a target is no class, or the start does not fit the layer.
        NonFiniteError: If activations hold NaN or infinity.

    Example:
        >>> salience(model, texts, 8, head(weight, at=11)).top()  # doctest: +SKIP
    """
    require_gradients("Salience")
    check_choice("quantity", quantity, get_args(Quantity))
    if not isinstance(start, Tensor):
        check_choice("start, if it is no tensor,", start, ("mean", "zero"))
    check_count("n_steps", n_steps)
    check_long_texts(long_texts, splittable=False)
    host, documents = Host(model), open_documents(texts)
    n_texts = _number_of(documents)
    runs = _Runs(host, host.resolve(layer), documents, long_texts)
    classes = _checked(target, n_texts)
    origin = runs.start(start)
    parts: list[_Part] = []
    with tqdm(total=n_texts, desc="salience", unit="text", disable=not progress) as bar:
        for batch in runs.batches():
            given = None if classes is None else classes[list(batch.documents)]
            path = _Paths(runs, readout, quantity, batch, origin, given)
            parts += path.parts(n_steps)
            bar.update(len(batch.documents))
    return _joined(parts, runs.point, quantity)


@dataclass(frozen=True)
class _Part:
    """What was found of one text."""

    text: int
    tokens: tuple[str, ...]
    scores: Float[Tensor, " pos"]
    real: Bool[Tensor, " pos"]
    predicted: int
    target: int
    value: float
    difference: float


@dataclass(frozen=True)
class _Runs:
    """The texts, and what passes the layer in them."""

    host: Host
    point: str
    documents: Documents
    long_texts: Cut

    def batches(self) -> Iterator[TokenBatch]:
        return token_batches(
            self.host, self.documents, long_texts=self.long_texts, splittable=False
        )

    def activations(self, batch: TokenBatch) -> Float[Tensor, "b pos d"]:
        tokens, attended = batch.tokens.to(self.host.device), batch.attended.to(self.host.device)
        values = self.host.activations(tokens, attended, [self.point])[self.point].float()
        check_finite(values[attended.to(values.device)], self.point)
        return values

    def start(self, start: Start) -> Float[Tensor, " d"]:
        """The vector at which all paths begin."""
        width = self.host.width(self.point)
        if isinstance(start, Tensor):
            if start.shape != (width,):
                raise ShapeError(
                    f"The start has shape {list(start.shape)}, but {self.point!r} has width "
                    f"{width}. Pass one vector of shape [{width}]."
                )
            return start.float()
        if start == "zero":
            return torch.zeros(width)
        total, n_tokens = torch.zeros(width, dtype=torch.float64), 0
        for batch in self.batches():
            real = self.activations(batch).cpu()[batch.mask]
            total += real.double().sum(0)
            n_tokens += len(real)
        if n_tokens == 0:
            raise EmptyCorpusError("The texts hold no real token. Pass texts with words in them.")
        if n_tokens == 1:
            raise NothingChangesError(
                "The texts hold one real token, which is the mean itself: the path from the mean "
                "has no length, and the score would be 0. Pass more texts, start='zero' or a "
                "vector."
            )
        return (total / n_tokens).float()


class _Paths:
    """Paths from the start to the activations of the run, for the texts of a batch.

    Args:
        runs: Where activations come from.
        readout: What is read.
        quantity: What is measured of the class.
        batch: The texts.
        origin: The vector at which paths begin.
        target: The class of each text; None: the one that the readout says.
    """

    def __init__(
        self,
        runs: _Runs,
        readout: Readout,
        quantity: Quantity,
        batch: TokenBatch,
        origin: Float[Tensor, " d"],
        target: Int[Tensor, " b"] | None,
    ) -> None:
        last_real(batch)  # refuses texts without a real token
        self.runs, self.readout, self.quantity, self.batch = runs, readout, quantity, batch
        self.end = runs.activations(batch)
        self.begin = origin.to(self.end.device).expand_as(self.end)
        with torch.no_grad():
            logits = self._logits(self.end)
        self.predicted = logits.argmax(1).cpu()
        self.target = self.predicted if target is None else target
        if int(self.target.max()) >= logits.shape[1]:
            raise ShapeError(
                f"Class {int(self.target.max())} is asked for, but the readout has the classes 0 "
                f"to {logits.shape[1] - 1}. Pass numbers of these."
            )

    def parts(self, n_steps: int) -> Iterator[_Part]:
        """What is found of each text."""
        average = average_gradient(
            self._gradient, self.begin, self.end, n_steps=n_steps, progress=False
        )
        scores = (average * (self.end - self.begin)).sum(-1).cpu()
        with torch.no_grad():
            values = self._measure(self.end).cpu()
            differences = values - self._measure(self.begin).cpu()
        batch, vocabulary = self.batch, self.runs.host.vocabulary
        for row, text in enumerate(batch.documents):
            attended = batch.attended[row]
            yield _Part(
                text=text,
                tokens=tuple(vocabulary.displayed(batch.tokens[row][attended])),
                scores=scores[row][attended],
                real=batch.mask[row][attended],
                predicted=int(self.predicted[row]),
                target=int(self.target[row]),
                value=float(values[row]),
                difference=float(differences[row]),
            )

    def _logits(self, values: Tensor) -> Float[Tensor, "b c"]:
        return class_logits(self.runs.host, self.readout, self.runs.point, values, self.batch)

    def _measure(self, values: Tensor) -> Float[Tensor, " b"]:
        logits = self._logits(values)
        of_classes = logits.softmax(1) if self.quantity == "probability" else logits
        return of_classes.gather(1, self.target.to(logits.device).unsqueeze(1)).squeeze(1)

    def _gradient(self, at: Tensor) -> Tensor:
        with torch.enable_grad():
            at = at.detach().requires_grad_()
            # No text sees another, so the gradient of the sum is that of each.
            return gradient_of(self._measure(at).sum(), at)


def _number_of(documents: Documents) -> int:
    """How many texts there are, none of them empty: rows and targets are those of the data."""
    n_texts = 0
    for document in documents:
        if document.number != n_texts:
            raise EmptyCorpusError(
                f"{document.corpus.name_of(n_texts)} is empty. Leave it out, with its target."
            )
        n_texts += 1
    return n_texts


def _checked(target: Any, n_texts: int) -> Int[Tensor, " b"] | None:
    if isinstance(target, str):
        if target != "predicted":
            raise ConfigError(f"There is no target {target!r}. Pass 'predicted' or class numbers.")
        return None
    try:
        classes = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError):
        classes = torch.tensor(torch.nan)
    if classes.ndim != 1 or classes.dtype == torch.bool:
        raise ConfigError(f"The targets are {target!r}. Pass one number of a class for each text.")
    if len(classes) != n_texts:
        raise LengthMismatchError(
            f"There are {len(classes)} target classes for {n_texts} texts. Pass one for each text; "
            f"leave empty texts out."
        )
    if classes.is_floating_point() or int(classes.min()) < 0:
        raise ConfigError(
            f"The targets are {classes.tolist()}. Pass numbers of classes, from 0 upwards."
        )
    return classes.long()


def _joined(parts: Sequence[_Part], point: str, quantity: Quantity) -> Salience:
    """All texts in the order of the data."""
    parts = sorted(parts, key=lambda part: part.text)
    scores = pad_sequence([part.scores for part in parts], True, torch.nan)
    real = pad_sequence([part.real for part in parts], True, False)
    return Salience(
        layer=point,
        quantity=quantity,
        tokens=tuple(part.tokens for part in parts),
        scores=scores.double().numpy(),
        real=real.numpy(),
        predicted=np.array([part.predicted for part in parts]),
        target=np.array([part.target for part in parts]),
        values=np.array([part.value for part in parts]),
        differences=np.array([part.difference for part in parts]),
    )
