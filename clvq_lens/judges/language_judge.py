"""LanguageJudge: a language model that names codes and judges names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tqdm.auto import tqdm

from clvq_lens.concepts.asking import Question
from clvq_lens.concepts.concept import Example
from clvq_lens.judges.answer_cache import AnswerCache, key_of
from clvq_lens.judges.prompts import (
    NAME_TOKENS,
    VERDICT_TOKENS,
    judging_prompt,
    naming_prompt,
    read_name,
    read_verdict,
)


@runtime_checkable
class Answerer(Protocol):
    """What stands behind a judge: a model here, or a server.

    Attributes:
        name: What it is called.
        batch_size: How many prompts it is given at once.
        max_tokens: Most tokens of an answer; None: a few words' worth.
    """

    name: str
    batch_size: int
    max_tokens: int | None

    def settings(self) -> Mapping[str, Any]:
        """All that answers depend on, beside the prompt; no secrets."""
        ...

    def answer(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """An answer to each prompt, none of which knows of the others."""
        ...


class LanguageJudge:
    """A language model that names codes and judges names.

    `clvq_lens.judges.hf` and `clvq_lens.judges.openai` make one. It names codes for
    `ConceptTable.named`, and is a judge for `clvq_lens.detection`, one prompt for each context. An
    answer that begins neither with yes nor with no is undecided; a code for which it says nothing
    keeps its commonest tokens as its title.

    Args:
        answerer: What stands behind it.
        cache: Folder in which answers are kept; None: they are asked for each time.

    Attributes:
        n_asked: Prompts that were given to the model so far; those answered from the cache are not
            among them.

    Raises:
        PathError: If the folder cannot be created or written to.
    """

    def __init__(self, answerer: Answerer, cache: str | Path | None) -> None:
        self.n_asked = 0
        self._answerer = answerer
        self._cache = AnswerCache(cache)

    def __repr__(self) -> str:
        cache = "" if self._cache.folder is None else f", answers in {self._cache.folder}"
        return f"LanguageJudge({self._answerer.name}{cache})"

    def name_codes(self, examples: Sequence[Sequence[Example]], *, progress: bool) -> list[str]:
        """A name for each code.

        Args:
            examples: Examples of each.
            progress: Whether to show progress bars.
        """
        prompts = list(map(naming_prompt, examples))
        answers = self._answers(prompts, NAME_TOKENS, "names", progress=progress)
        return [read_name(answers[prompt]) for prompt in prompts]

    def judge_names(
        self, questions: Sequence[Question], *, progress: bool
    ) -> list[list[bool | None]]:
        """For each question whether each context belongs; None where the answer is neither.

        Args:
            questions: What is asked.
            progress: Whether to show progress bars.
        """
        prompts: list[list[str]] = []
        for question in questions:
            of_question = [judging_prompt(question.name, context) for context in question.contexts]
            prompts.append(of_question)
        every = [prompt for of_question in prompts for prompt in of_question]
        answers = self._answers(every, VERDICT_TOKENS, "detection", progress=progress)
        verdicts: list[list[bool | None]] = []
        for of_question in prompts:
            verdicts.append([read_verdict(answers[prompt]) for prompt in of_question])
        return verdicts

    def _answers(
        self, prompts: Sequence[str], max_tokens: int, desc: str, *, progress: bool
    ) -> dict[str, str]:
        """The answer to each different prompt: those that are kept, and the others asked for."""
        max_tokens = self._answerer.max_tokens or max_tokens
        settings = self._answerer.settings()
        kept = self._cache.read()
        answers: dict[str, str] = {}
        keys: dict[str, str] = {}  # of what has to be asked, each prompt once
        for prompt in prompts:
            key = key_of(settings, prompt, max_tokens)
            if key in kept:
                answers[prompt] = kept[key]
            else:
                keys[prompt] = key
        missing = list(keys)
        bar = tqdm(
            desc=desc,
            total=len(answers) + len(missing),
            initial=len(answers),
            unit="prompt",
            disable=not (progress and missing),
        )
        with bar:
            for start in range(0, len(missing), self._answerer.batch_size):
                batch = missing[start : start + self._answerer.batch_size]
                fresh = dict(zip(batch, self._answerer.answer(batch, max_tokens), strict=True))
                # Before the next batch: a run that ends here is not asked the same again.
                self._cache.add({keys[prompt]: fresh[prompt] for prompt in batch}, settings)
                answers |= fresh
                self.n_asked += len(batch)
                bar.update(len(batch))
        return answers
