"""How well the name of a concept tells its tokens from others: a blinded detection score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import bootstrap

from clvq_lens.arguments import as_list, check_count, check_is, check_names, check_seed
from clvq_lens.concepts.concept import Concept, Example
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.errors import DataError, ShapeError
from clvq_lens.plots.detection import plot_detection

Judge = Callable[[str, Sequence[str]], Sequence[bool]]
"""From a name and some contexts to which of them belong to it."""

CHANCE = 0.5  # as many contexts belong as do not
_OPEN, _CLOSE = "<<", ">>"  # around the token in question


@dataclass(frozen=True)
class Detection:
    """How often a judge could tell which contexts belong to a name.

    Attributes:
        codes: The codes that were judged.
        labels: The name of each.
        n_contexts: Contexts shown for each, half of them its own.
        accuracy: Fraction judged rightly, in [0, 1]; chance is 0.5.
        control: The same with the name of another code on the same contexts.
    """

    codes: tuple[int, ...]
    labels: tuple[str, ...]
    n_contexts: tuple[int, ...]
    accuracy: tuple[float, ...]
    control: tuple[float, ...]

    def frame(self) -> pd.DataFrame:
        """One row for each code, the best first."""
        frame = pd.DataFrame(
            {
                "code": self.codes,
                "label": self.labels,
                "n_contexts": self.n_contexts,
                "accuracy": self.accuracy,
                "control": self.control,
                "chance": CHANCE,
            }
        )
        return frame.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """Mean accuracy over codes beside the control's, each with a 95 % bootstrap interval."""
        rows = [
            {"names": names, "accuracy": np.mean(values), **_interval(values), "chance": CHANCE}
            for names, values in (("own", self.accuracy), ("of another code", self.control))
        ]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Accuracy of every code, the best first, beside the control and chance."""
        return plot_detection(self.frame())


def detection(
    table: ConceptTable,
    judge: Judge | None = None,
    labels: Mapping[int, str] | None = None,
    *,
    codes: Sequence[int] | None = None,
    n_contexts: int = 20,
    seed: int = 0,
) -> Detection:
    """Can somebody who knows only the name of a code tell its tokens from others?

    A judge is shown a name and contexts in random order, each with a token marked as
    ``<<token>>``: half of them of that code, half of other codes, drawn by their usage. No function
    that was given to `ConceptTable.label` saw any of them; names made of the commonest or most
    distinctive tokens come from all tokens, so for those pass a table of other texts and the names
    as ``labels``. Then the same contexts once more with the name of another code, which is chance
    as this judge has it.

    Args:
        table: With random examples.
        judge: From a name and contexts to which of them belong; a person or a language model may
            stand behind it. None: those whose marked token is a word of the name.
        labels: The names; None: ``table.labels()``.
        codes: The codes to be judged; None: all that have enough examples.
        n_contexts: Contexts shown for each code, at most.
        seed: Of the contexts and their order.

    Raises:
        CodeRangeError: If one of ``codes`` does not exist.
        ConfigError: If ``n_contexts`` or ``seed`` has an impossible value.
        DataError: If fewer than two codes have the examples that it takes.
        ShapeError: If a judge does not answer for every context.

    Example:
        >>> detection(table.label()).summary()  # doctest: +SKIP
    """
    check_count("n_contexts", n_contexts, least=2)
    check_seed(seed)
    check_is("judge", judge, Callable | None, "Pass a function of a label and contexts.")
    check_names(labels)
    chosen = None if codes is None else as_list("codes", codes, "Pass a list of codes.")
    judge, labels = judge or marked_token, labels or table.labels()
    random = np.random.default_rng(seed)
    pool = {concept.code: _kept_back(concept) for concept in table}
    for code in chosen or ():
        table[code]  # refuses what is no code
    usable = [code for code in (chosen or pool) if pool[code] and labels.get(code)]
    if len(usable) < 2:
        raise DataError(
            f"{len(usable)} codes have a name and random examples that were kept back; it takes "
            f"two at least. Pass a table made with a larger n_examples, of more text."
        )
    others = _derangement(usable, random)
    rows = []
    for code, other in zip(usable, others, strict=True):
        contexts, belongs = _mixed(code, pool, table, n_contexts, random)
        own, control = (_accuracy(judge, labels[name], contexts, belongs) for name in (code, other))
        rows.append((code, labels[code], len(contexts), own, control))
    return Detection(*(tuple(column) for column in zip(*rows, strict=True)))


def marked_token(label: str, contexts: Sequence[str]) -> list[bool]:
    """A judge that needs no language model: does the marked token occur in the name?

    Example:
        >>> marked_token("cat dog", ["a <<cat>> sat", "a cat <<sat>>"])
        [True, False]
    """
    words = set(label.split())
    marked = (context.split(_OPEN, 1)[1].rsplit(_CLOSE, 1)[0] for context in contexts)
    return [token.strip() in words for token in marked]


def _kept_back(concept: Concept) -> tuple[Example, ...]:
    """The examples that no label was made from."""
    return concept.random[1::2]


def _mixed(
    code: int,
    pool: Mapping[int, tuple[Example, ...]],
    table: ConceptTable,
    n_contexts: int,
    random: np.random.Generator,
) -> tuple[list[str], np.ndarray]:
    """Contexts in random order, and which of them are of the code."""
    n_own = min(len(pool[code]), n_contexts // 2)
    others = [other for other in pool if other != code and pool[other]]
    usage = np.array([table[other].usage for other in others], dtype=float)
    drawn = random.choice(others, size=n_own, p=usage / usage.sum()).tolist()
    own = [pool[code][i] for i in random.permutation(len(pool[code]))[:n_own]]
    foreign = [pool[other][random.integers(len(pool[other]))] for other in drawn]
    order = random.permutation(2 * n_own)
    examples = [*own, *foreign]
    contexts = [f"{e.before}{_OPEN}{e.token}{_CLOSE}{e.after}" for e in examples]
    return [contexts[i] for i in order], order < n_own


def _derangement(codes: Sequence[int], random: np.random.Generator) -> list[int]:
    """For each code another one: all of them in a random cycle."""
    cycle = random.permutation(len(codes))
    other = np.empty_like(cycle)
    other[cycle] = np.roll(cycle, 1)
    return [codes[i] for i in other]


def _accuracy(judge: Judge, label: str, contexts: list[str], belongs: np.ndarray) -> float:
    answers = judge(label, tuple(contexts))
    answers = as_list("The answers of the judge", answers, "Return one for each context.")
    if len(answers) != len(contexts):
        raise ShapeError(
            f"The judge gave {len(answers)} answers for {len(contexts)} contexts. "
            f"Return one True or False for each, in order."
        )
    return float((np.array(answers, dtype=bool) == belongs).mean())


def _interval(values: Sequence[float]) -> dict[str, float]:
    if len(set(values)) == 1:
        return {"low": values[0], "high": values[0]}
    ends = bootstrap((np.array(values),), np.mean, rng=0, method="percentile").confidence_interval
    return {"low": float(ends.low), "high": float(ends.high)}
