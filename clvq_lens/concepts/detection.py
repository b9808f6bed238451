"""How well the name of a concept tells its tokens from others: a blinded detection score."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import bootstrap

from clvq_lens.arguments import (
    as_list,
    check_count,
    check_flags,
    check_is,
    check_names,
    check_seed,
)
from clvq_lens.concepts.asking import (
    CLOSE,
    OPEN,
    Judge,
    JudgesMany,
    Question,
    ask_what_belongs,
    marked,
)
from clvq_lens.concepts.concept import Example
from clvq_lens.concepts.kept_back import kept_back_examples
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.errors import DataError
from clvq_lens.plots.detection_points import plot_detection
from clvq_lens.plots.text import spelled
from clvq_lens.showing import Shown

CHANCE = 0.5  # as many contexts belong as do not


@dataclass(frozen=True, repr=False)
class Detection(Shown):
    """How often a judge could tell which contexts belong to a name.

    Attributes:
        codes: The codes that were judged.
        names: The name of each.
        n_contexts: Contexts shown for each, half of them its own.
        accuracy: Fraction judged rightly, in [0, 1]; chance is 0.5.
        control: The same with the name of another code on the same contexts.
        left_out: Codes in use that have a name but too few documents: no context is left that can
            be judged, or none could be shown to whoever names codes.
        n_undecided: Answers of the judge that are neither yes nor no (None), under both names.
            They count as no, which is right half of the time.
    """

    codes: tuple[int, ...]
    names: tuple[str, ...]
    n_contexts: tuple[int, ...]
    accuracy: tuple[float, ...]
    control: tuple[float, ...]
    left_out: tuple[int, ...] = ()
    n_undecided: int = 0

    def frame(self) -> pd.DataFrame:
        """One row for each code, the best first."""
        frame = pd.DataFrame(
            {
                "code": self.codes,
                "name": self.names,
                "n_contexts": self.n_contexts,
                "accuracy": self.accuracy,
                "control": self.control,
                "chance": CHANCE,
            }
        )
        return frame.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """Mean accuracy over codes beside the control's, each with a 95 % bootstrap interval."""
        own = _mean_with_interval("own", self.accuracy)
        control = _mean_with_interval("of another code", self.control)
        return pd.DataFrame([own, control])

    def headline(self) -> str:
        """How many codes were judged, and their mean accuracy beside the control's and chance."""
        left_out = f" ({len(self.left_out)} left out)" if self.left_out else ""
        undecided = ""
        if self.n_undecided:
            undecided = f", {self.n_undecided:,} of {2 * sum(self.n_contexts):,} answers undecided"
        return (
            f"{len(self.codes)} codes{left_out}, mean accuracy {np.mean(self.accuracy):.2f}, "
            f"with names of other codes {np.mean(self.control):.2f}, chance {CHANCE}{undecided}"
        )

    def preview(self) -> pd.DataFrame:
        """The codes whose names tell most."""
        return self.frame()

    def plot(self) -> go.Figure:
        """Accuracy of every code, the best first, beside the control and chance."""
        return plot_detection(self.frame())


def detection(
    table: ConceptTable,
    judge: Judge | JudgesMany | None = None,
    names: Mapping[int, str] | None = None,
    *,
    codes: Sequence[int] | None = None,
    n_contexts: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> Detection:
    """Can somebody who knows only the name of a code tell its tokens from others?

    A judge is shown a name and contexts in random order, each with a token marked as
    ``<<token>>``: half of them of that code, half of other codes, drawn by their usage. A function
    that was given to `ConceptTable.named` saw none of these contexts, no other one from their
    documents, and none that reads the same, so that memory is of no use: one half of the documents
    is kept back. Codes that have too few documents for that are left out and counted. Names made
    of the commonest or most distinctive tokens come from all tokens, so for those pass a table of
    other texts and the names as ``names``. Then the judge is shown the same contexts with the name
    of another code. That accuracy is the control: chance, for a judge with these habits.

    Args:
        table: With random examples.
        judge: A language model (`clvq_lens.judges`), or a function of a name and contexts that
            says which of them belong to the name. None: those whose marked token is a word of the
            name. No text leaves the machine unless a judge that sends it is passed.
        names: The names; None: ``table.names()``.
        codes: The codes to be judged; None: all that have enough examples.
        n_contexts: Most contexts shown for each code.
        seed: Random seed for the contexts and their order. With one table, one seed and names for
            the same codes every judge is shown the same, as `clvq_lens.judges.agreement` needs it.
        progress: Whether to show progress bars.

    Raises:
        CodeRangeError: If one of ``codes`` does not exist.
        ConfigError: If ``n_contexts`` or ``seed`` has an impossible value.
        DataError: If fewer than two codes have the examples that it takes, as where all contexts
            come from one document.
        JudgeError: If a server that was passed as a judge does not answer.
        ShapeError: If a judge does not answer for every context.

    Example:
        >>> detection(table.named()).summary()  # doctest: +SKIP
    """
    check_count("n_contexts", n_contexts, least=2)
    check_seed(seed)
    check_flags(progress=progress)
    remedy = "Pass a function of a name and contexts, or a judge of clvq_lens.judges."
    check_is("judge", judge, Callable | JudgesMany | None, remedy)
    check_names(names)
    judge = judge or marked_token
    names = names or table.names()
    kept_back = kept_back_examples(table)
    judged, left_out = _codes_to_judge(table, codes, kept_back, names)
    random = np.random.default_rng(seed)
    others = _derangement(judged, random)
    questions: list[Question] = []
    truths: list[np.ndarray] = []
    for code, other in zip(judged, others, strict=True):
        contexts, belongs = _mixed(code, kept_back, table, n_contexts, random)
        # On the same contexts, so that the two differ in the name alone.
        questions += [Question(names[code], contexts), Question(names[other], contexts)]
        truths += [belongs, belongs]
    answers = ask_what_belongs(judge, questions, progress=progress)
    accuracy = list(map(_accuracy, answers, truths))
    return Detection(
        codes=tuple(judged),
        names=tuple(names[code] for code in judged),
        n_contexts=tuple(map(len, truths[::2])),
        accuracy=tuple(accuracy[::2]),
        control=tuple(accuracy[1::2]),
        left_out=tuple(left_out),
        n_undecided=sum(of_question.count(None) for of_question in answers),
    )


def marked_token(name: str, contexts: Sequence[str]) -> list[bool]:
    """A judge that needs no language model: does the marked token occur in the name?

    Example:
        >>> marked_token("cat dog", ["a <<cat>> sat", "a cat <<sat>>"])
        [True, False]
    """
    words = set(name.split())
    answers: list[bool] = []
    for context in contexts:
        token = _marked_in(context)
        # Names made of tokens spell marks out: the token "," is the word "comma" of such a name.
        answers.append(token.strip() in words or spelled(token) in words)
    return answers


def _marked_in(context: str) -> str:
    """The marked token of a context."""
    # Brackets beside it belong to the text, as in "<<<unk>>>" of a text that says "<unk>".
    without_brackets = re.search(rf"{OPEN}([^<>]+){CLOSE}", context)
    if without_brackets is not None:
        return without_brackets.group(1)
    after = context.split(OPEN, 1)[1]
    return after.rsplit(CLOSE, 1)[0]  # the last one: the token itself holds brackets


def _codes_to_judge(
    table: ConceptTable,
    codes: Sequence[int] | None,
    kept_back: Mapping[int, tuple[Example, ...]],
    names: Mapping[int, str],
) -> tuple[list[int], list[int]]:
    """The codes with a name and contexts to show, and those with a name alone.

    Raises:
        CodeRangeError: If one of ``codes`` does not exist.
        DataError: If there are fewer than two.
    """
    wanted = list(kept_back)
    if codes is not None:
        wanted = as_list("codes", codes, "Pass a list of codes.") or wanted
    judged: list[int] = []
    left_out: list[int] = []
    for code in wanted:
        is_used = table[code].usage > 0  # raises for a code that does not exist
        if not names.get(code) or not is_used:
            continue
        if kept_back[code]:
            judged.append(code)
        else:
            left_out.append(code)
    if len(judged) < 2:
        raise DataError(
            f"{len(judged)} codes have a name and random examples that were kept back, from other "
            f"documents than those shown to whoever names codes; it takes two at least, and "
            f"{len(left_out)} codes have none. Pass a table made of more documents, with a larger "
            f"n_examples."
        )
    return judged, left_out


def _mixed(
    code: int,
    kept_back: Mapping[int, tuple[Example, ...]],
    table: ConceptTable,
    n_contexts: int,
    random: np.random.Generator,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Contexts in random order, and which of them are of the code."""
    own = kept_back[code]
    n_own = min(len(own), n_contexts // 2)
    others: list[int] = []
    usage: list[int] = []
    for other, examples in kept_back.items():
        if other != code and examples:
            others.append(other)
            usage.append(table[other].usage)
    # By usage, as a token of all the data would be: rare codes should not be the common contrast.
    shares = np.array(usage, dtype=float) / sum(usage)
    drawn = random.choice(others, size=n_own, p=shares)
    shown: list[Example] = []
    for index in random.permutation(len(own))[:n_own]:
        shown.append(own[index])
    for other in drawn.tolist():
        index = random.integers(len(kept_back[other]))
        shown.append(kept_back[other][index])
    order = random.permutation(2 * n_own)
    contexts = tuple(marked(shown[index]) for index in order)
    return contexts, order < n_own


def _derangement(codes: Sequence[int], random: np.random.Generator) -> list[int]:
    """For each code another one: all of them in a random cycle."""
    # Names drawn at random would now and then be a code's own, and some would never be used.
    cycle = random.permutation(len(codes))
    other = np.empty_like(cycle)
    other[cycle] = np.roll(cycle, 1)
    return [codes[index] for index in other]


def _accuracy(answers: Sequence[bool | None], belongs: np.ndarray) -> float:
    """Fraction of contexts that a judge puts on the right side; None counts as no."""
    return float((np.array(answers, dtype=bool) == belongs).mean())


def _mean_with_interval(names: str, values: Sequence[float]) -> dict[str, object]:
    """A row of the summary: the mean over codes and its 95 % bootstrap interval."""
    low = high = values[0]
    # The bootstrap warns, and gives NaN, where all values are the same.
    if len(set(values)) > 1:
        resampled = bootstrap((np.array(values),), np.mean, rng=0, method="percentile")
        low = float(resampled.confidence_interval.low)
        high = float(resampled.confidence_interval.high)
    return {
        "names": names,
        "accuracy": np.mean(values),
        "low": low,
        "high": high,
        "chance": CHANCE,
    }
