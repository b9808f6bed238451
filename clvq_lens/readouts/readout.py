"""What a model says about whole texts: logits of a few classes, from a head or from its answers."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clvq_lens.arguments import as_list, check_choice, check_is
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.errors import ConfigError, DataError, EmptyCorpusError, LayerOrderError, ShapeError
from clvq_lens.host.host import Host

Sentence = Literal["cls", "last", "mean"]
Token = str | int

_ANSWERS = "Pass a token for each class, or a list of tokens, such as [' bad', ' good']."


def sentence_vectors(
    values: Float[Tensor, "b pos d"], batch: TokenBatch, sentence: Sentence
) -> Float[Tensor, "b d"]:
    """One vector for each text, differentiable in the values.

    Args:
        values: Activations at every position.
        batch: The texts.
        sentence: "cls": at the special token that a text begins with; "last": at its last real
            token; "mean": the mean over its real tokens.

    Raises:
        ConfigError: If ``sentence`` is none of these.
        DataError: If a text begins with a real token, for "cls".
        EmptyCorpusError: If a text has no real token, for "last" and "mean".
    """
    check_choice("sentence", sentence, get_args(Sentence))
    rows = torch.arange(len(values), device=values.device)
    if sentence == "cls":
        return values[rows, _first(batch).to(values.device)]
    if sentence == "last":
        return values[rows, last_real(batch).to(values.device)]
    last_real(batch)  # refuses texts without a real token
    mask = batch.mask.to(values.device).unsqueeze(-1)
    # Filled and not multiplied: activations on padding may be NaN, and NaN times 0 is NaN.
    return values.masked_fill(~mask, 0).sum(1) / mask.sum(1)


def last_real(batch: TokenBatch) -> Int[Tensor, " b"]:
    """The position of the last real token of each text.

    Raises:
        EmptyCorpusError: If a text has none.
    """
    without = (~batch.mask.any(1)).nonzero().flatten()
    if len(without):
        number = batch.documents[int(without[0])]
        raise EmptyCorpusError(
            f"Text {number} has no real token. Leave it out, or pass one with words."
        )
    columns = torch.arange(batch.mask.shape[1])
    return (batch.mask * columns).argmax(1)


def _first(batch: TokenBatch) -> Int[Tensor, " b"]:
    """The position of the special token that each text begins with."""
    # Not column 0: under left padding a text begins later.
    first = batch.attended.int().argmax(1)
    begins_real = batch.mask[torch.arange(len(first)), first].nonzero().flatten()
    if len(begins_real):
        number = batch.documents[int(begins_real[0])]
        raise DataError(
            f"Text {number} begins with a real token, not with a special one such as [CLS]. Pass "
            f"sentence='last' or 'mean', or tokens that begin with [CLS]."
        )
    return first


@runtime_checkable
class Readout(Protocol):
    """What a model says about whole texts, as logits of classes."""

    def until(self, host: Host) -> str | None:
        """The hook point after which no more of the model is needed; None: its logits are.

        Raises:
            CLVQError: If the readout does not fit this model.
        """
        ...

    def columns(self, batch: TokenBatch) -> Int[Tensor, " n"] | Int[Tensor, "b n"] | None:
        """The positions whose logits suffice, for ``Host.unembedding``; None: all.

        The same positions for all texts, or those of each.
        """
        ...

    def classes(
        self,
        outcome: Float[Tensor, "b n d_outcome"],
        batch: TokenBatch,
        *,
        host: Host,
        columns: Int[Tensor, " n"] | Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b c"]:
        """Logits of classes in float32, differentiable in the outcome.

        Args:
            outcome: Activations at ``until``, or logits.
            batch: The texts.
            host: The model.
            columns: The positions of the outcome; None: all of the batch.
        """
        ...


@dataclass(frozen=True)
class _Head:
    """A classifier on sentence vectors of a layer."""

    classifier: Callable[[Tensor], Tensor]
    layer: int | str
    sentence: Sentence
    width: int | None

    def until(self, host: Host) -> str:
        name = host.resolve(self.layer)
        if self.sentence == "cls" and host.causal:
            raise ConfigError(
                "In a causal model the first token sees no other, so it says nothing about its "
                "text. Pass sentence='last' or 'mean'."
            )
        if self.width is not None and self.width != host.width(name):
            raise ShapeError(
                f"The head reads vectors of width {self.width}, but {name!r} has width "
                f"{host.width(name)}. Pass a weight of shape [n_classes, {host.width(name)}]."
            )
        return name

    def columns(self, batch: TokenBatch) -> None:
        return None

    def classes(
        self, outcome: Tensor, batch: TokenBatch, *, host: Host, columns: Tensor | None = None
    ) -> Float[Tensor, "b c"]:
        vectors = sentence_vectors(outcome, batch, self.sentence)
        logits = self.classifier(vectors)
        # A module may return anything: its shape is known only once it has been called.
        if logits.ndim != 2 or len(logits) != len(vectors) or logits.shape[1] < 2:
            raise ShapeError(
                f"The head returned shape {list(logits.shape)} for vectors of shape "
                f"{list(vectors.shape)}; expected one logit for each of two or more classes, "
                f"[{len(vectors)}, n_classes]."
            )
        return logits.float()


@dataclass(frozen=True)
class _Answers:
    """Next-token logits after the last real token, a few tokens for each class."""

    tokens: tuple[tuple[Token, ...], ...]

    def until(self, host: Host) -> None:
        if not host.causal:
            raise ConfigError(
                "Answers are next tokens, which an encoder does not predict. Pass a head on its "
                "sentence vectors: head(weight, bias, layer=...)."
            )

    def columns(self, batch: TokenBatch) -> Int[Tensor, "b 1"]:
        # Logits over the vocabulary are most of the cost of a pass, and one position is read.
        return last_real(batch).unsqueeze(1)

    def classes(
        self, outcome: Tensor, batch: TokenBatch, *, host: Host, columns: Tensor | None = None
    ) -> Float[Tensor, "b c"]:
        last = last_real(batch)
        if columns is not None:
            # The outcome has these positions alone, so each has a new number among them.
            last = (columns.cpu() == last.unsqueeze(1)).int().argmax(1)
        logits = outcome[torch.arange(len(last)), last.to(outcome.device)].float()
        return torch.stack([logits[:, ids].logsumexp(1) for ids in self._ids(host)], dim=1)

    def _ids(self, host: Host) -> list[list[int]]:
        """The outputs of each class, no two of them the same."""
        seen: set[int] = set()
        ids_of_classes = []
        for tokens in self.tokens:
            ids = [host.vocabulary.output_of(token) for token in tokens]
            ids_of_classes.append(ids)
        for ids in ids_of_classes:
            for token in ids:
                if token in seen:
                    raise ConfigError(
                        f"Token {token} is an answer twice among {list(self.tokens)}. Name every "
                        f"token once, so that the classes can differ."
                    )
                seen.add(token)
        return ids_of_classes


def head(
    weight: Float[Tensor, "c d"] | nn.Module,
    bias: Float[Tensor, " c"] | None = None,
    *,
    layer: int | str,
    sentence: Sentence = "cls",
) -> Readout:
    """A classifier on sentence vectors of a layer, as it is now: it is copied, without dropout.

    Args:
        weight: Weight of a linear classifier, or any module from vectors [b, d] to logits [b, c].
        bias: Bias of a linear classifier; None: zero.
        layer: The layer (the residual stream after that block), or a hook point.
        sentence: How a text becomes one vector. "cls": at the special token that it begins with;
            "last": at its last real token; "mean": the mean over its real tokens.

    Raises:
        ConfigError: If a module comes with a bias, or ``sentence`` is unknown.
        ShapeError: If weight and bias do not fit each other.

    Example:
        >>> head(torch.randn(2, 384), torch.zeros(2), layer=11)  # doctest: +SKIP
    """
    check_choice("sentence", sentence, get_args(Sentence))
    check_is("weight", weight, Tensor | nn.Module, "Pass a tensor [n_classes, width], or a module.")
    check_is("bias", bias, Tensor | None, "Pass a tensor [n_classes], or None.")
    if isinstance(weight, nn.Module):
        if bias is not None:
            raise ConfigError("A module has its own bias. Pass bias=None with it.")
        return _Head(_frozen(weight), layer, sentence, None)
    return _Head(_frozen(_linear(weight, bias)), layer, sentence, weight.shape[1])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise ShapeError(
            f"The head has a weight of shape {list(weight.shape)} and a bias of shape "
            f"{None if bias is None else list(bias.shape)}; expected [n_classes, width] and "
            f"[n_classes]."
        )
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return linear


def _frozen(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A copy that nobody trains, called with vectors of its own type and device."""
    # A copy: two runs must not differ because the module was trained between them.
    module = copy.deepcopy(module).eval().requires_grad_(False)
    like = next(module.parameters(), None)
    if like is None:  # such as a softmax, which takes any type: the best one
        return lambda vectors: module(vectors.float())
    return lambda vectors: module(vectors.to(like))


def answers(tokens: Sequence[Token | Sequence[Token]]) -> Readout:
    """What a causal model goes on to say after the last real token of a text, a class for each.

    The logit of a class is that of its token. A class of several tokens has the log-sum-exp of
    their logits, so probabilities of classes are the summed probabilities of their tokens, scaled
    to add up to one.

    Args:
        tokens: A token for each class, or several, as strings (with the space that belongs to a
            token) or ids.

    Raises:
        ConfigError: If there are fewer than two classes, or one has no token.

    Example:
        >>> answers([[" bad", " awful"], [" good", " great"]])  # doctest: +SKIP
    """
    given = tokens.tolist() if isinstance(tokens, Tensor | np.ndarray) else tokens
    classes: list[tuple[Token, ...]] = []
    for answer in as_list("The answers", given, _ANSWERS):
        if isinstance(answer, str | int):
            classes.append((answer,))
        else:
            classes.append(tuple(as_list("A class", answer, _ANSWERS)))
    if len(classes) < 2 or not all(classes):
        raise ConfigError(
            f"The answers are {classes}, but it takes two classes or more, with at least one "
            f"token each. {_ANSWERS}"
        )
    return _Answers(tuple(classes))


def reads_last_token(readout: Readout) -> bool:
    """Whether a readout is known to read what is at the last real token of a text alone."""
    if isinstance(readout, _Head):
        return readout.sentence == "last"
    return isinstance(readout, _Answers)


def class_logits(
    host: Host,
    readout: Readout,
    source_point: str,
    values: Float[Tensor, "b pos d"],
    batch: TokenBatch,
    *,
    past: Any = None,
) -> Float[Tensor, "b c"]:
    """What a readout says with the activations at a hook point replaced, differentiable in them.

    From the residual stream on, only the layers above are computed.

    Args:
        host: The model.
        readout: A `head` or `answers`.
        source_point: Resolved name of the hook point.
        values: Activations that replace those of the model.
        batch: The texts.
        past: What comes before these tokens, from ``KeptPass``.

    Raises:
        LayerOrderError: If the readout reads below that point.
    """
    until, columns = readout.until(host), readout.columns(batch)
    tokens, attended = batch.tokens, batch.attended
    if until is None:
        with host.unembedding(columns):
            outcome = host.logits_with(source_point, values, tokens, attended, past=past)
        return readout.classes(outcome, batch, host=host, columns=columns)
    if host.depth(source_point) > host.depth(until):
        raise LayerOrderError(
            f"The readout reads {until!r}, which comes before {source_point!r}, so nothing that "
            f"happens there can reach it. Choose a lower layer, or a readout above it."
        )
    options = {"until": until, "past": past}
    outcome = host.activations_with(source_point, values, tokens, attended, **options)
    return readout.classes(outcome, batch, host=host)


@torch.no_grad()
def read_classes(host: Host, readout: Readout, batch: TokenBatch) -> Float[Tensor, "b c"]:
    """What a readout says of the model as it runs, with whatever edits are open.

    Args:
        host: The model.
        readout: A `head` or `answers`.
        batch: The texts.
    """
    until, columns = readout.until(host), readout.columns(batch)
    inputs = batch.on(host.device)
    if until is None:
        with host.unembedding(columns):
            outcome = host.run(*inputs)
        return readout.classes(outcome, batch, host=host, columns=columns)
    return readout.classes(host.activations(*inputs, [until])[until], batch, host=host)
