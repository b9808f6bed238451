"""Paths from a start to the activations of the texts, and the scores that they give tokens."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.data.documents import Documents
from clvq_lens.data.reading import read
from clvq_lens.data.tokens import TokenBatch, require_real, token_batches
from clvq_lens.errors import NothingChangesError, ShapeError
from clvq_lens.host.host import Host
from clvq_lens.readouts.bending_path import BendingPath
from clvq_lens.readouts.counted import counted
from clvq_lens.readouts.integrated_gradients import (
    Quadrature,
    gauss_legendre,
    gradient_of,
)
from clvq_lens.readouts.readout import Readout, class_logits, last_real

Quantity = Literal["logit", "probability"]
Start = Literal["mean", "zero"] | Float[Tensor, " d"]
Cut = Literal["error", "truncate"]

TOLERANCE = 0.02  # completeness error of a text at which its path needs no more points
_REAL = -1  # stands for all real tokens, where special ones are told apart by their ids
MOST_POINTS = 129  # on a path that needs them


@dataclass(frozen=True)
class TextSalience:
    """The scores of one text.

    Attributes:
        text: Its number in the data.
        tokens: Its tokens, special ones among them.
        scores: Score of each token.
        real: True on real tokens.
        predicted: The class that the readout says.
        measured: The class that the scores are about.
        value: The quantity with the activations of the run.
        difference: ``value`` less the quantity with the start everywhere.
        n_points: At how many points of the path the gradient was taken.
    """

    text: int
    tokens: tuple[str, ...]
    scores: Float[Tensor, " pos"]
    real: Bool[Tensor, " pos"]
    predicted: int
    measured: int
    value: float
    difference: float
    n_points: int


@dataclass(frozen=True)
class PathOrigin:
    """Where paths begin.

    Attributes:
        everywhere: The vector at every position but those of special tokens.
        of_special: The vector of each special token by its id; those that have none begin where
            others do.
    """

    everywhere: Float[Tensor, " d"]
    of_special: Mapping[int, Float[Tensor, " d"]]

    def of(self, batch: TokenBatch, end: Float[Tensor, "b pos d"]) -> Float[Tensor, "b pos d"]:
        """The beginnings of the paths to the activations of a batch."""
        begin = self.everywhere.to(end.device).expand_as(end).clone()
        special = batch.attended & ~batch.mask
        for token, vector in self.of_special.items():
            begin[(special & (batch.tokens == token)).to(end.device)] = vector.to(end.device)
        return begin


@dataclass(frozen=True)
class LayerActivations:
    """What passes a hook point in some texts, batch by batch.

    Attributes:
        host: The model.
        point: Resolved name of the hook point.
        documents: The texts.
        long_texts: What to do with a text beyond the context.
    """

    host: Host
    point: str
    documents: Documents
    long_texts: Cut

    def batches(self) -> Iterator[TokenBatch]:
        """The texts, in batches of similar length."""
        return token_batches(
            self.host, self.documents, long_texts=self.long_texts, splittable=False
        )

    def of(self, batch: TokenBatch) -> Float[Tensor, "b pos d"]:
        """Activations of a batch, in float32."""
        # In half precision the steps of a path would be rounded, and scores would not add up.
        return read(self.host, batch, [self.point])[self.point].float()

    def start(self, start: Start, *, n_texts: int, progress: bool) -> PathOrigin:
        """Where all paths begin.

        Args:
            start: As for `clvq_lens.salience`.
            n_texts: Number of texts, for the progress bar.
            progress: Whether to show a progress bar.
        """
        width = self.host.width(self.point)
        if isinstance(start, Tensor):
            if start.shape != (width,):
                raise ShapeError(
                    f"The start has shape {list(start.shape)}, but {self.point!r} has width "
                    f"{width}. Pass one vector of shape [{width}]."
                )
            return PathOrigin(start.float(), {})
        if start == "zero":
            return PathOrigin(torch.zeros(width), {})
        batches = counted(self.batches(), "mean", n_texts=n_texts, progress=progress)
        return self._mean(width, batches)

    def _mean(self, width: int, batches: Iterator[TokenBatch]) -> PathOrigin:
        """The mean over real tokens, and that of each special token."""
        # Added up in double: over a large corpus a float32 sum loses what single tokens add.
        totals: dict[int, Tensor] = defaultdict(lambda: torch.zeros(width, dtype=torch.float64))
        counts: Counter[int] = Counter()
        for batch in batches:
            activations, special = self.of(batch).cpu(), batch.attended & ~batch.mask
            where = {_REAL: batch.mask}
            for token in batch.tokens[special].unique().tolist():
                where[token] = special & (batch.tokens == token)
            for token, mask in where.items():
                totals[token] += activations[mask].double().sum(0)
                counts[token] += int(mask.sum())
        require_real(counts[_REAL])
        if counts[_REAL] == 1:
            raise NothingChangesError(
                "The texts hold one real token, which is the mean itself: the path from the mean "
                "has no length, and the score would be 0. Pass more texts, start='zero' or a "
                "vector."
            )
        means = {token: (total / counts[token]).float() for token, total in totals.items()}
        return PathOrigin(means.pop(_REAL), means)


class SaliencePaths:
    """Paths from the start to the activations of the run, for the texts of a batch.

    Args:
        activations: Supplies the activations of the batch.
        readout: What the model says about a text.
        quantity: What is measured of the class.
        batch: The texts.
        origin: Where paths begin.
        classes: The class of each text; None: the one that the readout says.

    Raises:
        EmptyCorpusError: If a text has no real token.
        ShapeError: If the readout has no such class.
    """

    def __init__(
        self,
        activations: LayerActivations,
        readout: Readout,
        quantity: Quantity,
        batch: TokenBatch,
        origin: PathOrigin,
        classes: Int[Tensor, " b"] | None,
    ) -> None:
        last_real(batch)  # refuses texts without a real token
        self.host, self.point = activations.host, activations.point
        self.readout, self.quantity, self.batch = readout, quantity, batch
        self.end = activations.of(batch)
        # Every position begins there, padding too: its scores are cut off afterwards.
        self.begin = origin.of(batch, self.end)
        self.rows = torch.arange(len(self.end))
        with torch.no_grad():
            logits = self._logits(self.end, batch)
        self.predicted = logits.argmax(1).cpu()
        self.measured = self.predicted if classes is None else classes
        # Only here is the number of classes known: a head may be any module.
        if int(self.measured.max()) >= logits.shape[1]:
            raise ShapeError(
                f"Class {int(self.measured.max())} is asked for, but the readout has the classes 0 "
                f"to {logits.shape[1] - 1}. Pass numbers of these."
            )
        self.values = self._quantity_of(logits, self.rows).cpu()

    def scored(self, n_steps: int | None) -> Iterator[TextSalience]:
        """The scores of each text, as soon as they are known.

        Args:
            n_steps: Number of points on the path, by Gauss-Legendre quadrature; None: points are
                added where scores do not add up.
        """
        if n_steps is None:
            yield from self._scored_where_it_bends()
            return
        rule = gauss_legendre(n_steps)
        _, slopes = self._look(
            self.rows.repeat_interleave(n_steps), np.tile(rule.points, len(self.rows))
        )
        with torch.no_grad():
            at_start = self._logits(self.begin, self.batch)
        differences = self.values - self._quantity_of(at_start, self.rows).cpu()
        for row, of_text in enumerate(slopes.split(n_steps)):
            yield self._result(row, rule, of_text, float(differences[row]))

    def _scored_where_it_bends(self) -> Iterator[TextSalience]:
        paths = {row: BendingPath() for row in self.rows.tolist()}
        while paths:
            wanted = [path.wanted for path in paths.values()]
            sizes = [len(points) for points in wanted]
            rows = torch.tensor(list(paths)).repeat_interleave(torch.tensor(sizes))
            values, slopes = self._look(rows, np.concatenate(wanted))
            found = zip(list(paths), values.split(sizes), slopes.split(sizes), strict=True)
            for row, of_text, slopes_of_text in found:
                path = paths[row]
                path.add(of_text.double().numpy(), slopes_of_text.double().numpy())
                path.refine(TOLERANCE, MOST_POINTS)
                if not len(path.wanted):
                    slopes_of_text = torch.from_numpy(path.slopes)
                    yield self._result(row, path.rule, slopes_of_text, path.difference)
                    del paths[row]

    def _result(
        self, row: int, rule: Quadrature, slopes: Float[Tensor, "n pos"], difference: float
    ) -> TextSalience:
        """The scores of a text: the mean of the slopes along its path."""
        batch, vocabulary = self.batch, self.host.vocabulary
        attended = batch.attended[row]
        # In double: many small terms are added up.
        scores = torch.as_tensor(rule.weights) @ slopes.double()
        return TextSalience(
            text=batch.documents[row],
            tokens=tuple(vocabulary.displayed(batch.tokens[row][attended])),
            scores=scores[attended],
            real=batch.mask[row][attended],
            predicted=int(self.predicted[row]),
            measured=int(self.measured[row]),
            value=float(self.values[row]),
            difference=difference,
            n_points=len(rule.points),
        )

    def _look(
        self, rows: Int[Tensor, " w"], points: Float[np.ndarray, " w"]
    ) -> tuple[Float[Tensor, " w"], Float[Tensor, "w pos"]]:
        """The quantity at points on the paths of texts, and how steeply it rises there.

        Args:
            rows: The text of each point; a text may have many.
            points: Where on its path each point is, from 0 to 1.

        Returns:
            The quantity, and its slopes by what moves at each position.
        """
        # Points of all texts go into passes together: a pass of a few rows takes nearly as long
        # as a full one.
        rows_per_pass = max(1, self.host.positions_per_pass // self.end.shape[1])
        at = torch.as_tensor(points, dtype=self.end.dtype)
        values, slopes = [], []
        for part, at_part in zip(rows.split(rows_per_pass), at.split(rows_per_pass), strict=True):
            of_part, slopes_of_part = self._look_in_one_pass(part, at_part)
            values.append(of_part)
            slopes.append(slopes_of_part)
        return torch.cat(values), torch.cat(slopes)

    def _look_in_one_pass(
        self, rows: Int[Tensor, " w"], at: Float[Tensor, " w"]
    ) -> tuple[Float[Tensor, " w"], Float[Tensor, "w pos"]]:
        device = self.end.device
        begin = self.begin[rows.to(device)]
        moved = self.end[rows.to(device)] - begin
        # Also where the caller has turned gradients off: these are ours alone.
        with torch.enable_grad():
            activations = begin + at.to(device)[:, None, None] * moved
            activations.requires_grad_()
            logits = self._logits(activations, self.batch.take(rows))
            values = self._quantity_of(logits, rows)
            # No text sees another, so the gradient of the sum is that of each.
            gradient = gradient_of(values.sum(), activations)
        return values.detach().cpu(), (gradient * moved).sum(-1).cpu()

    def _logits(self, values: Tensor, batch: TokenBatch) -> Float[Tensor, "r c"]:
        return class_logits(self.host, self.readout, self.point, values, batch)

    def _quantity_of(
        self, logits: Float[Tensor, "r c"], rows: Int[Tensor, " r"]
    ) -> Float[Tensor, " r"]:
        of_classes = logits.softmax(1) if self.quantity == "probability" else logits
        measured = self.measured[rows].to(logits.device)
        return of_classes.gather(1, measured.unsqueeze(1)).squeeze(1)
