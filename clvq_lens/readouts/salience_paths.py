"""Paths from a start to the activations of the texts, and the scores that they give tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clvq_lens.data.documents import Documents
from clvq_lens.data.reading import read
from clvq_lens.data.tokens import TokenBatch, require_real, token_batches
from clvq_lens.errors import NothingChangesError, ShapeError
from clvq_lens.host.host import Host
from clvq_lens.readouts.integrated_gradients import average_gradient, gradient_of
from clvq_lens.readouts.readout import Readout, class_logits, last_real

Quantity = Literal["logit", "probability"]
Start = Literal["mean", "zero"] | Float[Tensor, " d"]
Cut = Literal["error", "truncate"]


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
    """

    text: int
    tokens: tuple[str, ...]
    scores: Float[Tensor, " pos"]
    real: Bool[Tensor, " pos"]
    predicted: int
    measured: int
    value: float
    difference: float


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
        return torch.zeros(width) if start == "zero" else self._mean(width)

    def _mean(self, width: int) -> Float[Tensor, " d"]:
        """The mean over real tokens."""
        # Added up in double: over a large corpus a float32 sum loses what single tokens add.
        total = torch.zeros(width, dtype=torch.float64)
        n_tokens = 0
        for batch in self.batches():
            real = self.of(batch).cpu()[batch.mask]
            total += real.double().sum(0)
            n_tokens += len(real)
        require_real(n_tokens)
        if n_tokens == 1:
            raise NothingChangesError(
                "The texts hold one real token, which is the mean itself: the path from the mean "
                "has no length, and the score would be 0. Pass more texts, start='zero' or a "
                "vector."
            )
        return (total / n_tokens).float()


class SaliencePaths:
    """Paths from the start to the activations of the run, for the texts of a batch.

    Args:
        activations: Supplies the activations of the batch.
        readout: What the model says about a text.
        quantity: What is measured of the class.
        batch: The texts.
        origin: The vector at which paths begin.
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
        origin: Float[Tensor, " d"],
        classes: Int[Tensor, " b"] | None,
    ) -> None:
        last_real(batch)  # refuses texts without a real token
        self.host, self.point = activations.host, activations.point
        self.readout, self.quantity, self.batch = readout, quantity, batch
        self.end = activations.of(batch)
        # Every position begins there, padding too: its scores are cut off afterwards.
        self.begin = origin.to(self.end.device).expand_as(self.end)
        with torch.no_grad():
            logits = self._logits(self.end)
        self.predicted = logits.argmax(1).cpu()
        self.measured = self.predicted if classes is None else classes
        # Only here is the number of classes known: a head may be any module.
        if int(self.measured.max()) >= logits.shape[1]:
            raise ShapeError(
                f"Class {int(self.measured.max())} is asked for, but the readout has the classes 0 "
                f"to {logits.shape[1] - 1}. Pass numbers of these."
            )

    def scored(self, n_steps: int) -> Iterator[TextSalience]:
        """The scores of each text."""
        average = average_gradient(
            self._gradient, self.begin, self.end, n_steps=n_steps, progress=False
        )
        scores = (average * (self.end - self.begin)).sum(-1).cpu()
        with torch.no_grad():
            values = self._measure(self.end).cpu()
            differences = values - self._measure(self.begin).cpu()
        batch, vocabulary = self.batch, self.host.vocabulary
        for row, text in enumerate(batch.documents):
            attended = batch.attended[row]
            yield TextSalience(
                text=text,
                tokens=tuple(vocabulary.displayed(batch.tokens[row][attended])),
                scores=scores[row][attended],
                real=batch.mask[row][attended],
                predicted=int(self.predicted[row]),
                measured=int(self.measured[row]),
                value=float(values[row]),
                difference=float(differences[row]),
            )

    def _logits(self, values: Tensor) -> Float[Tensor, "b c"]:
        return class_logits(self.host, self.readout, self.point, values, self.batch)

    def _measure(self, values: Tensor) -> Float[Tensor, " b"]:
        logits = self._logits(values)
        of_classes = logits.softmax(1) if self.quantity == "probability" else logits
        return of_classes.gather(1, self.measured.to(logits.device).unsqueeze(1)).squeeze(1)

    def _gradient(self, activations: Tensor) -> Tensor:
        # Also where the caller has turned gradients off: these are ours alone.
        with torch.enable_grad():
            activations = activations.detach().requires_grad_()
            # No text sees another, so the gradient of the sum is that of each.
            return gradient_of(self._measure(activations).sum(), activations)
