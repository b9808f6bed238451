"""Asking what codes are called, and what belongs to a name: one by one, or many at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tqdm.auto import tqdm

from clvq_lens.arguments import as_list
from clvq_lens.concepts.concept import Example
from clvq_lens.errors import ShapeError

OPEN, CLOSE = "<<", ">>"  # around the token in question
_DELAY_S = 1.0  # before a progress bar is drawn: functions that look at tokens need none

Namer = Callable[[Sequence[Example]], str]
"""A function of examples of a code that names it."""

Judge = Callable[[str, Sequence[str]], Sequence[bool]]
"""A function of a name and some contexts that says which of them belong to the name."""


@dataclass(frozen=True)
class Question:
    """Which of these contexts belong to the name?

    Attributes:
        name: What a code is called.
        contexts: Texts in each of which a token is marked as ``<<token>>``.
    """

    name: str
    contexts: tuple[str, ...]


@runtime_checkable
class NamesMany(Protocol):
    """Names many codes at once, such as what `clvq_lens.judges.hf` returns."""

    def name_codes(self, examples: Sequence[Sequence[Example]], *, progress: bool) -> Sequence[str]:
        """A name for each code.

        Args:
            examples: Examples of each.
            progress: Whether to show progress bars.
        """
        ...


@runtime_checkable
class JudgesMany(Protocol):
    """Judges many names at once, such as what `clvq_lens.judges.hf` returns."""

    def judge_names(
        self, questions: Sequence[Question], *, progress: bool
    ) -> Sequence[Sequence[bool | None]]:
        """For each question whether each context belongs; None where the judge cannot tell.

        Args:
            questions: What is asked.
            progress: Whether to show progress bars.
        """
        ...


def marked(example: Example) -> str:
    """An example as text, with its token marked."""
    return f"{example.before}{OPEN}{example.token}{CLOSE}{example.after}"


def ask_for_names(
    name: Namer | NamesMany, examples: Sequence[Sequence[Example]], *, progress: bool
) -> list[str]:
    """A name for each code.

    Args:
        name: Whoever names them.
        examples: Examples of each code.
        progress: Whether to show progress bars.

    Raises:
        ShapeError: If there is not one name for each.
    """
    if isinstance(name, NamesMany):
        names = list(name.name_codes(examples, progress=progress))
    else:
        bar = tqdm(examples, desc="names", unit="code", delay=_DELAY_S, disable=not progress)
        names = [name(of_code) for of_code in bar]
    if len(names) != len(examples):
        raise ShapeError(
            f"name_codes gave {len(names)} names for {len(examples)} codes. Return one for each, "
            f"in order."
        )
    return [str(each) for each in names]


def ask_what_belongs(
    judge: Judge | JudgesMany, questions: Sequence[Question], *, progress: bool
) -> list[list[bool | None]]:
    """The answers to each question, one for each context.

    Args:
        judge: Whoever judges.
        questions: What is asked.
        progress: Whether to show progress bars.

    Raises:
        DataError: If answers are no list.
        ShapeError: If the judge does not answer for every context.
    """
    if isinstance(judge, JudgesMany):
        of_questions = list(judge.judge_names(questions, progress=progress))
        if len(of_questions) != len(questions):
            raise ShapeError(
                f"judge_names answered {len(of_questions)} of {len(questions)} questions. Return "
                f"a list for each, in order."
            )
    else:
        bar = tqdm(
            questions, desc="detection", unit="question", delay=_DELAY_S, disable=not progress
        )
        of_questions = (judge(question.name, question.contexts) for question in bar)
    answers: list[list[bool | None]] = []
    for question, of_question in zip(questions, of_questions, strict=True):
        answers.append(_checked(of_question, len(question.contexts)))
    return answers


def _checked(answers: object, n_contexts: int) -> list[bool | None]:
    """The answers to one question.

    Raises:
        DataError: If they are no list.
        ShapeError: If they are not one for each context.
    """
    remedy = "Return one for each context."
    checked = as_list("The answers of the judge", answers, remedy)
    if len(checked) != n_contexts:
        raise ShapeError(
            f"The judge gave {len(checked)} answers for {n_contexts} contexts. Return one True or "
            f"False for each, in order."
        )
    return [None if answer is None else bool(answer) for answer in checked]
