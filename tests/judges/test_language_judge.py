from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import clvq_lens as cl
from clvq_lens.concepts.detection import detection
from clvq_lens.judges.language_judge import LanguageJudge
from tests.concepts.test_detection import TABLE, WORDS


class Words:
    """Answers as somebody would who looks at the marked word."""

    name = "words"
    max_tokens = None

    def __init__(self, batch_size: int = 8, breaks_after: int | None = None) -> None:
        self.batch_size = batch_size
        self.breaks_after = breaks_after
        self.batches: list[list[str]] = []

    def settings(self) -> Mapping[str, str]:
        return {"kind": "words"}

    def answer(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        if self.breaks_after is not None and len(self.batches) >= self.breaks_after:
            raise KeyboardInterrupt
        self.batches.append(list(prompts))
        return list(map(self._answer, prompts))

    def _answer(self, prompt: str) -> str:
        word = prompt.split("<<")[-1].split(">>")[0]  # of the last passage
        if prompt.startswith("Each passage"):
            return f"Name: {word}"
        return "Yes" if f'"{word}"' in prompt else "No."


def test_a_judge_names_codes_and_judges_the_names():
    judge = LanguageJudge(Words(), None)
    named = TABLE.named(judge)
    assert named.names() == dict(enumerate(WORDS))
    result = detection(named, judge)
    assert result.accuracy == (1.0,) * 4
    assert result.n_undecided == 0
    assert repr(judge) == "LanguageJudge(words)"


def test_it_says_of_contexts_what_a_function_says_that_looks_at_the_same():
    assert detection(TABLE, LanguageJudge(Words(), None)) == detection(TABLE)


def test_a_second_run_asks_nothing(tmp_path: Path):
    first = LanguageJudge(Words(), tmp_path)
    found = detection(TABLE.named(first), first)
    assert first.n_asked == len({p for batch in first._answerer.batches for p in batch})
    again = LanguageJudge(Words(), tmp_path)
    assert detection(TABLE.named(again), again) == found
    assert again.n_asked == 0
    assert again._answerer.batches == []
    assert repr(again) == f"LanguageJudge(words, answers in {tmp_path})"


def test_without_a_cache_it_is_asked_each_time():
    judge = LanguageJudge(Words(), None)
    TABLE.named(judge)
    TABLE.named(judge)
    assert judge.n_asked == 8


def test_no_batch_is_larger_and_no_prompt_is_asked_twice():
    judge = LanguageJudge(Words(batch_size=3), None)
    twice = [("cat", ("a <<cat>>", "b <<cat>>")), ("cat", ("a <<cat>>", "c <<dog>>"))]
    from clvq_lens.concepts.asking import Question

    verdicts = judge.judge_names([Question(*each) for each in twice], progress=False)
    assert verdicts == [[True, True], [True, False]]
    assert [len(batch) for batch in judge._answerer.batches] == [3]


def test_a_run_that_is_interrupted_goes_on_where_it_was(tmp_path: Path):
    interrupted = LanguageJudge(Words(breaks_after=2), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        detection(TABLE, interrupted)
    assert interrupted.n_asked == 16
    rest = LanguageJudge(Words(), tmp_path)
    assert detection(TABLE, rest) == detection(TABLE)
    whole = LanguageJudge(Words(), None)
    detection(TABLE, whole)
    assert rest.n_asked == whole.n_asked - 16


def test_other_settings_do_not_share_answers(tmp_path: Path):
    class Others(Words):
        def settings(self) -> Mapping[str, str]:
            return {"kind": "others"}

    TABLE.named(LanguageJudge(Words(), tmp_path))
    others = LanguageJudge(Others(), tmp_path)
    TABLE.named(others)
    assert others.n_asked == 4


def test_progress_shows_how_much_is_there_already(tmp_path: Path, capsys: pytest.CaptureFixture):
    judge = LanguageJudge(Words(breaks_after=1, batch_size=2), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        TABLE.named(judge)
    capsys.readouterr()
    TABLE.named(LanguageJudge(Words(batch_size=2), tmp_path))
    shown = capsys.readouterr().err
    assert "names:  50%" in shown
    assert "4/4" in shown
    for judge in (LanguageJudge(Words(), tmp_path), LanguageJudge(Words(), None)):
        TABLE.named(judge, progress=False)
        assert capsys.readouterr().err == ""


def test_answers_that_are_neither_yes_nor_no_are_counted():
    class Mumbles(Words):
        def _answer(self, prompt: str) -> str:
            return "It depends."

    result = detection(TABLE, LanguageJudge(Mumbles(), None), n_contexts=4)
    assert result.n_undecided == 2 * sum(result.n_contexts)
    assert result.accuracy == result.control == (0.5,) * 4
    assert "32 of 32 answers undecided" in repr(result)


def test_a_code_of_which_nothing_is_said_keeps_its_commonest_tokens():
    class Silent(Words):
        def _answer(self, prompt: str) -> str:
            return " "

    named = TABLE.named(LanguageJudge(Silent(), None))
    assert named[0].name == ""
    assert named[0].title == cl.Concept.title.fget(named[0])
