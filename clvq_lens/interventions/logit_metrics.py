"""What an experiment measures: one number computed from the logits of a run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from clvq_lens.arguments import check_is
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.errors import MetricError, PositionError
from clvq_lens.host.host import Host
from clvq_lens.readouts.readout import Token
from clvq_lens.stats.divergence import kl_divergence

LogitsFunction = Callable[[Tensor], Tensor]
# Narrower than the positions of an edit: a metric counts from the own ends of each text.
MetricPositions = int | slice | None


@dataclass(frozen=True)
class Reference:
    """The run that others are compared with.

    Attributes:
        host: The model.
        batch: The texts.
        columns: Positions at which logits were computed; None: all of them.
        logits: Logits of the model before the edits that are measured, at those positions.
    """

    host: Host
    batch: TokenBatch
    columns: Int[Tensor, " n"] | None
    logits: Float[Tensor, "b n d_vocab"]

    def at_logits(self, values: Shaped[Tensor, "b pos"]) -> Shaped[Tensor, "b n"]:
        """Values of all positions, cut down to the positions that have logits."""
        return values if self.columns is None else values[:, self.columns]


@dataclass(frozen=True)
class Metric(ABC):
    """A metric that needs more than logits; `bound` to a run it is a function of logits alone.

    Attributes:
        at: Positions whose logits count, for each text: a number (negative from the text's own
            end), a slice, or None for every real token (for `loss`, that a real token follows).
    """

    at: MetricPositions

    def __post_init__(self) -> None:
        try:
            # What an index may be, Python itself says: NumPy's numbers too, and None.
            range(0)[self.at if isinstance(self.at, slice) else slice(self.at)]
        except (TypeError, ValueError):
            raise PositionError(
                f"The metric has at={self.at!r}. Pass a whole number, a slice, or None for every "
                f"real token."
            ) from None

    @property
    @abstractmethod
    def name(self) -> str:
        """What to write on an axis, with its unit."""

    @abstractmethod
    def bound(self, reference: Reference) -> LogitsFunction:
        """The function of logits [batch, n, d_vocab] to one number."""

    def where(self, batch: TokenBatch) -> Bool[Tensor, "b pos"]:
        """True where logits count.

        Raises:
            PositionError: If ``at`` lies beyond a text, or leaves nothing to measure.
        """
        where = _where(self.at, batch) & self._measurable(batch)
        if not where.any():
            raise PositionError(
                f"There is nothing to measure for {self.name!r}: no text has a position in "
                f"at={self.at} that counts. Pass other positions, or longer texts."
            )
        return where

    def _measurable(self, batch: TokenBatch) -> Bool[Tensor, "b pos"]:
        # Special tokens too: without ``at`` they are left out, but a user may name one.
        return batch.attended


@dataclass(frozen=True)
class _LogitDiff(Metric):
    correct: Token | Sequence[Token]
    incorrect: Token | Sequence[Token]

    @property
    def name(self) -> str:
        return f"logit of {self.correct!r} less that of {self.incorrect!r}"

    def bound(self, reference: Reference) -> LogitsFunction:
        correct = _ids(self.correct, reference)
        incorrect = _ids(self.incorrect, reference)
        where = reference.at_logits(self.where(reference.batch))

        def logit_difference(logits: Tensor) -> Tensor:
            difference = _at_tokens(logits, correct) - _at_tokens(logits, incorrect)
            return _mean(difference, where)

        return logit_difference


@dataclass(frozen=True)
class _Probability(Metric):
    token: Token | Sequence[Token]

    @property
    def name(self) -> str:
        return f"probability of {self.token!r}"

    def bound(self, reference: Reference) -> LogitsFunction:
        ids = _ids(self.token, reference)
        where = reference.at_logits(self.where(reference.batch))

        def mean_probability(logits: Tensor) -> Tensor:
            # In float32: over a whole vocabulary a softmax in half precision loses its digits.
            return _mean(_at_tokens(logits.float().softmax(-1), ids), where)

        return mean_probability


@dataclass(frozen=True)
class _TokenLoss(Metric):
    @property
    def name(self) -> str:
        return "loss in nats per token"

    def _measurable(self, batch: TokenBatch) -> Bool[Tensor, "b pos"]:
        followed = batch.mask & batch.mask.roll(-1, dims=1)
        followed[:, -1] = False  # which the roll has made the first token follow
        return followed

    def bound(self, reference: Reference) -> LogitsFunction:
        _check_predicts_tokens(reference.host)
        where = reference.at_logits(self.where(reference.batch))
        index = reference.at_logits(reference.batch.tokens.roll(-1, dims=1)).unsqueeze(-1)

        def loss(logits: Tensor) -> Tensor:
            log_probabilities = logits.float().log_softmax(-1)
            return _mean(-log_probabilities.gather(-1, index.to(logits.device)).squeeze(-1), where)

        return loss


@dataclass(frozen=True)
class _KL(Metric):
    @property
    def name(self) -> str:
        return "KL(unedited || edited) in nats per token"

    def bound(self, reference: Reference) -> LogitsFunction:
        where = reference.at_logits(self.where(reference.batch))
        return lambda logits: _mean(kl_divergence(reference.logits, logits), where)


def logit_diff(
    correct: Token | Sequence[Token],
    incorrect: Token | Sequence[Token],
    *,
    at: MetricPositions = -1,
) -> Metric:
    """Logit of one next token less that of another, averaged over texts.

    Args:
        correct: A token, as a string or an id, or one for each text. Where outputs are not tokens,
            the number of an output.
        incorrect: The other token, in the same form.
        at: Where the token is predicted; -1: at the last token of each text.

    Example:
        >>> logit_diff(" he", " she").name
        "logit of ' he' less that of ' she'"
    """
    return _LogitDiff(at, correct, incorrect)


def probability(token: Token | Sequence[Token], *, at: MetricPositions = -1) -> Metric:
    """Probability of a next token, averaged over texts.

    Args:
        token: A token, as a string or an id, or one for each text.
        at: Where the token is predicted; -1: at the last token of each text.
    """
    return _Probability(at, token)


def loss(*, at: MetricPositions = None) -> Metric:
    """Cross-entropy of the next token in nats, averaged over real tokens that follow real tokens.

    Only for models that predict the next token: neither encoders nor classifiers.

    Args:
        at: Where predictions are made; None: everywhere.
    """
    return _TokenLoss(at)


def kl(*, at: MetricPositions = None) -> Metric:
    """KL(unedited || edited) of output distributions in nats, averaged over real tokens.

    Outputs are next tokens in a language model, and classes in a classifier.

    Args:
        at: Where predictions are made; None: everywhere.
    """
    return _KL(at)


def bind(metric: Metric | LogitsFunction, reference: Reference) -> LogitsFunction:
    """A metric, or any function of logits, as a function that is checked to return one number.

    Raises:
        MetricError: If it is one of ours that was not called, or does not return one number.
    """
    # These are functions too, but of options: called with logits they would fail far from here.
    if any(metric is maker for maker in (kl, loss, logit_diff, probability)):
        raise MetricError(
            f"{name_of(metric)!r} makes a metric when it is called. "
            f"Pass clvq_lens.{name_of(metric)}(...)."
        )
    check_is("metric", metric, Metric | Callable, "Pass clvq_lens.kl(), or a function of logits.")
    function = metric.bound(reference) if isinstance(metric, Metric) else metric

    def checked(logits: Tensor) -> Tensor:
        value = torch.as_tensor(function(logits))
        if value.numel() != 1:
            raise MetricError(
                f"The metric {name_of(metric)!r} returned shape {list(value.shape)} for logits of "
                f"shape {list(logits.shape)}; expected one number. Average over texts and "
                f"positions."
            )
        return value.reshape(())

    return checked


def name_of(metric: Metric | LogitsFunction) -> str:
    """What to call a metric in tables and on axes."""
    return metric.name if isinstance(metric, Metric) else getattr(metric, "__name__", "metric")


def columns_of(
    metric: Metric | LogitsFunction, batches: Sequence[TokenBatch]
) -> Int[Tensor, " n"] | None:
    """The positions whose logits a metric needs in some text; None: all, as any function may."""
    if not isinstance(metric, Metric):
        return None
    needed = torch.stack([metric.where(batch).any(0) for batch in batches]).any(0)
    # None where all are needed: cutting activations down to all of them would copy them.
    return None if needed.all() else needed.nonzero().flatten()


def _ids(tokens: Token | Sequence[Token], reference: Reference) -> Int[Tensor, "_ 1"]:
    """Numbers of outputs, one for each text or one for all."""
    is_one = isinstance(tokens, Tensor | np.ndarray) and tokens.ndim == 0
    if isinstance(tokens, str) or is_one or not isinstance(tokens, Iterable):
        tokens = [tokens]  # pyright: ignore[reportAssignmentType]
    output_of = reference.host.vocabulary.output_of
    ids = [output_of(token) for token in tokens]  # pyright: ignore[reportGeneralTypeIssues]
    n_texts = len(reference.batch.tokens)
    if len(ids) not in (1, n_texts):
        raise MetricError(
            f"The metric has {len(ids)} tokens for {n_texts} texts. "
            f"Pass one token, or one for each text."
        )
    return torch.tensor(ids).unsqueeze(1)


def _check_predicts_tokens(host: Host) -> None:
    if host.predicts_tokens:
        return
    if host.causal:
        what = f"has {host.cfg.d_vocab_out} outputs for {host.cfg.d_vocab} tokens"
    else:
        what = "sees both sides of a token"
    raise MetricError(
        f"loss() is the cross-entropy of the next token, which this model does not predict: it "
        f"{what}. Pass kl(), logit_diff(...), probability(...) or a function of logits."
    )


def _at_tokens(values: Tensor, ids: Tensor) -> Float[Tensor, "b pos"]:
    index = ids.to(values.device).expand(values.shape[0], values.shape[1]).unsqueeze(-1)
    return values.gather(-1, index).squeeze(-1)


def _where(at: MetricPositions, batch: TokenBatch) -> Bool[Tensor, "b pos"]:
    if at is None:
        return batch.mask
    where = torch.zeros_like(batch.attended)
    for row, length in enumerate(batch.attended.sum(1).tolist()):
        if isinstance(at, int) and not -length <= at < length:
            raise PositionError(
                f"The metric's position {at} lies beyond text {row}, which has {length} tokens. "
                f"Pass one from {-length} to {length - 1}."
            )
        # Batches are padded on the right, so the tokens of a text are the first ones of its row.
        where[row, list(range(length))[at]] = True
    return where


def _mean(values: Float[Tensor, "b pos"], where: Bool[Tensor, "b pos"]) -> Tensor:
    return values[where.to(values.device)].float().mean()
