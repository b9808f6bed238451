import json
import multiprocessing
from pathlib import Path

import pytest

from clvq_lens.errors import FileFormatError, PathTakenError
from clvq_lens.judges.answer_cache import AnswerCache, key_of

JUDGE = {"model": "a", "fields": {"seed": 0}}


def test_answers_come_back(tmp_path: Path):
    cache = AnswerCache(tmp_path / "new")
    cache.add({"k1": "yes", "k2": "\U0001f408 \u00fc"}, JUDGE)
    cache.add({"k3": "no"}, JUDGE)
    assert AnswerCache(tmp_path / "new").read() == {
        "k1": "yes",
        "k2": "\U0001f408 \u00fc",
        "k3": "no",
    }
    assert len(list((tmp_path / "new").iterdir())) == 2  # and neither lock nor hidden file


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cache = AnswerCache(None)
    cache.add({"k": "yes"}, JUDGE)
    assert cache.read() == {}
    assert list(tmp_path.iterdir()) == []


def test_whatever_an_answer_depends_on_changes_its_key():
    keys = {
        key_of(JUDGE, "prompt", 6),
        key_of(JUDGE, "prompt ", 6),
        key_of(JUDGE, "prompt", 7),
        key_of({**JUDGE, "model": "b"}, "prompt", 6),
        key_of({**JUDGE, "fields": {"seed": 1}}, "prompt", 6),
    }
    assert len(keys) == 5
    assert key_of(dict(reversed(JUDGE.items())), "prompt", 6) in keys


def test_a_file_says_which_judge_answered(tmp_path: Path):
    AnswerCache(tmp_path).add({"k": "yes"}, JUDGE)
    [path] = tmp_path.iterdir()
    assert json.loads(path.read_text())["judge"] == JUDGE


@pytest.mark.parametrize(
    "content",
    ['{"format": "clvq_lens answers 1"', "[]", '{"answers": {}}', '{"format": "other"}'],
)
def test_a_file_that_is_not_ours_is_named_with_what_to_do(tmp_path: Path, content: str):
    AnswerCache(tmp_path).add({"k": "yes"}, JUDGE)
    (tmp_path / "answers-x.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"answers-x\.json.*Delete it, and what it held"):
        AnswerCache(tmp_path).read()


def test_answers_that_are_no_texts_are_refused(tmp_path: Path):
    content = {"format": "clvq_lens answers 1", "answers": {"k": 1}}
    (tmp_path / "answers-x.json").write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match="holds no answers of judges"):
        AnswerCache(tmp_path).read()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(PathTakenError, match="not a folder"):
        AnswerCache(tmp_path / "taken")


def _fill(folder: str, number: int) -> None:
    cache = AnswerCache(folder)
    for batch in range(20):
        cache.add({"shared": "the same for all" * 50_000}, JUDGE)
        cache.add({f"{number} {batch}": f"of {number}"}, JUDGE)
        cache.read()  # never sees half a file


def test_two_processes_fill_one_folder(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill, args=(str(tmp_path), n)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    answers = AnswerCache(tmp_path).read()
    assert len(answers) == 41
    assert answers["1 7"] == "of 1"
