"""Concept: what one code means, and how it looks in a terminal and in a notebook."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from markupsafe import Markup

from clvq_lens.arguments import checked_text
from clvq_lens.plots.text import spelled

T = TypeVar("T")
_SHOWN = 5  # examples and tokens of a kind
_IN_NAME = 3  # tokens that make a name
_BETWEEN = " \u00b7 "
READ_OUT_FROM = 10  # tokens; the mean of fewer says more about their contexts than about the code


@dataclass(frozen=True)
class Counted:
    """How common a token, or a label, is among the tokens of a code.

    Attributes:
        text: The token or the label.
        count: How many tokens of the code it is, or labels.
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
        position: Position of the token in its sequence.
        before: Text on its left.
        token: Text of the token itself.
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
        token: Text of the token.
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
class Neighbor:
    """Another code whose code vector is near.

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
        name: Given by `ConceptTable.named`, or "".
        usage: Number of tokens with this code.
        share: Fraction of all tokens.
        tokens: Its commonest tokens.
        distinctive: Its tokens of the highest lift, among those that it holds more than once.
        typical: Tokens nearest the code vector, in different contexts.
        borderline: Tokens almost as near to another code, in different contexts.
        random: Tokens drawn at random from all of its tokens.
        at_target: What its decoded vector says about the next token: the mean reconstruction at
            its tokens, through the final norm and the unembedding. None where nothing can be
            said, as for a code without tokens.
        direct: The same for the code vector itself, which lives at the target if the encoder is
            predictive, and at the source if it is residual.
        token_entropy: Entropy of its tokens, in nats; 0 means a single token.
        position_entropy: Entropy of the positions of its tokens, in nats.
        nearest: Codes with the nearest code vectors.
        token_labels: The commonest labels of its tokens, if token labels were given.
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
    nearest: tuple[Neighbor, ...]
    token_labels: tuple[Counted, ...]

    @property
    def title(self) -> str:
        """Its name, or else its three commonest tokens."""
        return self.name or name_from(self.tokens)

    @property
    def read_out(self) -> Unembedded | None:
        """``at_target``, or None for a code of fewer than ten tokens."""
        return self.at_target if self.usage >= READ_OUT_FROM else None

    def named(self, name: str) -> "Concept":
        """The same concept with a name."""
        return replace(self, name=checked_text(name, "The name"))

    def __repr__(self) -> str:
        return f"Concept({self.code}: {self.title!r}, {self.usage:,} tokens, {self.share:.2%})"

    def __str__(self) -> str:
        lines = [
            f"code {self.code} {self.title}".rstrip(),
            f"{self.usage:,} tokens, {self.share:.2%} of all",
        ]
        lines += [f"{title}: {_BETWEEN.join(texts)}" for title, texts in self._lists()]
        for title, examples in self._examples():
            contexts = [f"  {_in_one_line(str(example))}" for example in examples]
            lines += [f"{title}:", *contexts]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        html = Markup("<b>code {}</b> {}<br>{:,} tokens, {:.2%} of all").format(
            self.code, self.title, self.usage, self.share
        )
        for title, texts in self._lists():
            items = Markup(_BETWEEN).join(texts)
            html += Markup("<div><i>{}:</i> {}</div>").format(title, items)
        for title, examples in self._examples():
            html += _contexts(title, examples)
        return html

    def _lists(self) -> list[tuple[str, list[str]]]:
        """What is said of it in a line each, with a title: the first few items, as text."""
        lists = [
            ("commonest", _texts(self.tokens, _with_count)),
            ("by lift", _texts(self.distinctive, _with_lift)),
            ("labels", _texts(self.token_labels, _with_share)),
        ]
        where = f"at the target, mean of {self.usage:,} tokens"
        for place, vector in ((where, self.read_out), ("directly", self.direct)):
            if vector is not None:
                lists.append((f"promotes, {place}", _texts(vector.promoted, _with_logit)))
                lists.append((f"suppresses, {place}", _texts(vector.suppressed, _with_logit)))
        lists.append(("nearest codes", _texts(self.nearest, _number)))
        return [(title, texts) for title, texts in lists if texts]

    def _examples(self) -> list[tuple[str, Sequence[Example]]]:
        """Its first few examples of each kind that there are, with a title."""
        kinds = {"typical": self.typical, "borderline": self.borderline, "random": self.random}
        return [(title, examples[:_SHOWN]) for title, examples in kinds.items() if examples]


def name_from(tokens: Sequence[Counted]) -> str:
    """A name for a code, made of the first three of some tokens."""
    return " ".join(spelled(token.text) for token in tokens[:_IN_NAME])


# ---- how it looks --------------------------------------------------------------------------------


def _texts(items: Sequence[T], as_text: Callable[[T], str]) -> list[str]:
    return [as_text(item) for item in items[:_SHOWN]]


def _contexts(title: str, examples: Sequence[Example]) -> Markup:
    """A list of examples that can be folded."""
    lines = Markup("")
    for example in examples:
        # HTML folds runs of spaces, and the spaces belong to the tokens.
        lines += Markup('<div style="white-space: pre-wrap">{}<mark>{}</mark>{}</div>').format(
            _in_one_line(example.before), _in_one_line(example.token), _in_one_line(example.after)
        )
    return Markup("<details open><summary>{}</summary>{}</details>").format(title, lines)


def _with_count(token: Counted) -> str:
    return f"{_with_spaces(token.text)} {token.count:,}"


def _with_lift(token: Counted) -> str:
    return f"{_with_spaces(token.text)} \u00d7{token.lift:.3g}"


def _with_share(label: Counted) -> str:
    return f"{label.text} {label.share:.0%}"


def _with_logit(token: TokenLogit) -> str:
    return f"{_with_spaces(token.token)} {token.logit:+.2g}"


def _number(neighbor: Neighbor) -> str:
    return str(neighbor.code)


def _with_spaces(token: str) -> str:
    """A token with visible spaces: " cat" and "cat" are two tokens, and should not look alike."""
    return _in_one_line(token.replace(" ", "\u2423"))


def _in_one_line(text: str) -> str:
    return text.replace("\n", "\u21b5")
