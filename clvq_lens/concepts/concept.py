"""Concept: what one code means, and how it looks in a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from clvq_lens.arguments import checked_text
from clvq_lens.plots.text import spelled

_SHOWN = 5  # examples and tokens of a kind in a notebook
READ_OUT_FROM = 10  # tokens; the mean of fewer says more about their contexts than about the code


@dataclass(frozen=True)
class Counted:
    """A token, or a label, among the tokens of a code.

    Attributes:
        text: What it is.
        count: Tokens of the code that are it, or have it.
        share: Fraction of the code's tokens.
        lift: Its share in the code over its share in all the data: 1 means no more than anywhere.
    """

    text: str
    count: int
    share: float
    lift: float


@dataclass(frozen=True)
class Example:
    """A token in its context.

    Attributes:
        document: Running number of its document.
        position: Of the token in its sequence.
        before: Text on its left.
        token: Its own text.
        after: Text on its right.
        distance: Squared distance of its encoder output to the code vector, over the mean of all
            tokens. Where codes are features: the activation with its sign changed.
        margin: How much farther the second nearest code is, in the same unit.
    """

    document: int
    position: int
    before: str
    token: str
    after: str
    distance: float
    margin: float

    def __str__(self) -> str:
        return f"{self.before}[{self.token}]{self.after}"


@dataclass(frozen=True)
class TokenLogit:
    """A token, and by how much a vector raises or lowers its logit.

    Attributes:
        token: What it is.
        logit: Above the mean over the vocabulary, and above what it is for codes on average.
    """

    token: str
    logit: float


@dataclass(frozen=True)
class Unembedded:
    """What a vector says about the next token, read straight through the unembedding.

    Attributes:
        promoted: The largest logits, the largest first.
        suppressed: The smallest logits, the smallest first.
    """

    promoted: tuple[TokenLogit, ...]
    suppressed: tuple[TokenLogit, ...]


@dataclass(frozen=True)
class Neighbour:
    """Another code.

    Attributes:
        code: Its number.
        distance: Squared distance of the two code vectors, over the mean squared distance of a
            token to its nearest code.
    """

    code: int
    distance: float


@dataclass(frozen=True, repr=False)
class Concept:
    """What one code means in some data.

    Attributes:
        code: Its number.
        name: Given by `ConceptTable.label`, or "".
        usage: Tokens in it.
        share: Fraction of all tokens.
        tokens: Its commonest tokens.
        distinctive: Its tokens of the highest lift, among those that it holds more than once.
        typical: Tokens nearest the code vector, in different contexts.
        borderline: Tokens almost as near to another code, in different contexts.
        random: Tokens drawn at random from all of its tokens.
        at_target: What its decoded vector says about the next token: the mean reconstruction at
            its tokens, through the final norm and the unembedding. None where there is none, as
            for a code without a token.
        direct: The same of the code vector itself, which lives at the source.
        token_entropy: Of its tokens, in nats; 0 means a single token.
        position_entropy: Of the positions of its tokens, in nats.
        nearest: Codes with the nearest code vectors.
        labels: The commonest of the labels that were given, if any.
    """

    code: int
    name: str
    usage: int
    share: float
    tokens: tuple[Counted, ...]
    distinctive: tuple[Counted, ...]
    typical: tuple[Example, ...]
    borderline: tuple[Example, ...]
    random: tuple[Example, ...]
    at_target: Unembedded | None
    direct: Unembedded | None
    token_entropy: float
    position_entropy: float
    nearest: tuple[Neighbour, ...]
    labels: tuple[Counted, ...]

    @property
    def label(self) -> str:
        """Its name, or else its three commonest tokens."""
        return self.name or " ".join(spelled(token.text) for token in self.tokens[:3])

    @property
    def read_out(self) -> Unembedded | None:
        """`at_target`, or None where fewer than ten tokens stand behind it."""
        return self.at_target if self.usage >= READ_OUT_FROM else None

    def named(self, name: str) -> "Concept":
        """The same with a name."""
        return replace(self, name=checked_text(name, "The name"))

    def __repr__(self) -> str:
        return f"Concept({self.code}: {self.label!r}, {self.usage:,} tokens, {self.share:.2%})"

    def _repr_html_(self) -> str:
        parts = [
            Markup("<b>code {}</b> {}<br>{:,} tokens, {:.2%} of all").format(
                self.code, self.label, self.usage, self.share
            ),
            _listed("commonest", [f"{_shown(t.text)} {t.count:,}" for t in self.tokens]),
            _listed("by lift", [f"{_shown(t.text)} \u00d7{t.lift:.3g}" for t in self.distinctive]),
            _listed("labels", [f"{t.text} {t.share:.0%}" for t in self.labels]),
            *_unembedded_lines(f"at the target, mean of {self.usage:,} tokens", self.read_out),
            *_unembedded_lines("directly", self.direct),
            _listed("nearest codes", [str(near.code) for near in self.nearest]),
            _contexts("typical", self.typical),
            _contexts("borderline", self.borderline),
            _contexts("random", self.random),
        ]
        return Markup("").join(part for part in parts if part)


def _unembedded_lines(where: str, vector: Unembedded | None) -> list[Markup]:
    if vector is None:
        return []
    return [
        _listed(f"{what}, {where}", [f"{_shown(t.token)} {t.logit:+.2g}" for t in tokens])
        for what, tokens in (("promotes", vector.promoted), ("suppresses", vector.suppressed))
    ]


def _listed(title: str, items: Sequence[str]) -> Markup:
    if not items:
        return Markup("")
    shown = Markup(" \u00b7 ").join(escape(item) for item in items[:_SHOWN])
    return Markup("<div><i>{}:</i> {}</div>").format(title, shown)


def _contexts(title: str, examples: Sequence[Example]) -> Markup:
    if not examples:
        return Markup("")
    lines = Markup("").join(
        Markup('<div style="white-space: pre-wrap">{}<mark>{}</mark>{}</div>').format(
            *(part.replace("\n", "\u21b5") for part in (e.before, e.token, e.after))
        )
        for e in examples[:_SHOWN]
    )
    return Markup("<details open><summary>{}</summary>{}</details>").format(title, lines)


def _shown(token: str) -> str:
    """A token among others: white space at its ends can be seen."""
    return token.replace(" ", "\u2423").replace("\n", "\u21b5")
