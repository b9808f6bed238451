"""The log of fits in a file: whole lines, each record once, and no other file touched."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clvq_lens.callbacks import JSONLines
from clvq_lens.errors import FileFormatError, PathError, PathTakenError
from clvq_lens.training.callback import FitEnd
from tests.callbacks.short_fits import DATA, FIT, a_record, a_start, killed_fit, new_lens


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def steps(path: Path) -> list[int]:
    return [fields["step"] for fields in lines(path) if fields["event"] == "record"]


def test_a_fit_is_a_line_at_the_beginning_one_for_each_record_and_one_at_the_end(tmp_path: Path):
    path = tmp_path / "fit.jsonl"
    history = new_lens().fit(DATA, callbacks=[JSONLines(path)], **FIT)
    begin, *records, end = lines(path)
    assert begin["lens"] == "1-2"
    assert begin["config"]["n_codes"] == 12
    assert begin["n_tokens"] == 6_000
    assert end == {
        "event": "end",
        "stop": "finished",
        "best_step": history.best_step,
        "error": None,
    }
    assert {fields.pop("event") for fields in records} == {"record"}
    pd.testing.assert_frame_equal(pd.DataFrame(records), history.frame())


def test_records_are_in_the_file_as_soon_as_they_are_told(tmp_path: Path):
    log = JSONLines(tmp_path / "fit.jsonl")
    log.on_begin(a_start())
    for step in (2, 4):
        log.on_record(a_record(step))
        assert steps(tmp_path / "fit.jsonl")[-1] == step


def test_several_fits_follow_one_another(tmp_path: Path):
    log = JSONLines(tmp_path / "fit.jsonl")
    for _ in range(2):
        log.on_begin(a_start())
        log.on_record(a_record(2))
        log.on_end(FitEnd(stop="finished", best_step=2))
    events = [fields["event"] for fields in lines(tmp_path / "fit.jsonl")]
    assert events == ["begin", "record", "end"] * 2


def test_an_error_is_written_as_text(tmp_path: Path):
    log = JSONLines(tmp_path / "fit.jsonl")
    log.on_begin(a_start())
    log.on_end(FitEnd(stop="failed", best_step=0, error=ValueError("no\nroom")))
    assert lines(tmp_path / "fit.jsonl")[-1]["error"] == "ValueError: no\nroom"


def test_numbers_that_are_not_finite_are_null(tmp_path: Path):
    log = JSONLines(tmp_path / "fit.jsonl")
    log.on_begin(a_start())
    log.on_record(a_record(2, fvu=float("nan"), held_out_fvu=float("inf")))
    record = lines(tmp_path / "fit.jsonl")[-1]
    assert (record["fvu"], record["held_out_fvu"], record["commitment"]) == (None, None, 0.25)


# ---- resumed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_steps", [2, 9, 20])
def test_a_resumed_fit_repeats_no_record(tmp_path: Path, after_steps: int):
    path = tmp_path / "fit.jsonl"
    killed_fit(new_lens(), tmp_path / "checkpoints", after_steps, [JSONLines(path)])
    with path.open("ab") as file:
        file.write(b'{"event": "rec')  # as a kill leaves it
    history = new_lens().fit(
        DATA,
        **{"callbacks": [JSONLines(path)], "checkpoint": tmp_path / "checkpoints"},
        resume=True,
        **FIT,
    )
    assert steps(path) == [record.step for record in history.records]
    assert lines(path)[-1]["stop"] == "finished"


def test_records_beyond_the_checkpoint_are_not_written_again(tmp_path: Path):
    log = JSONLines(tmp_path / "fit.jsonl")
    log.on_begin(a_start())
    for step in (2, 4, 6):
        log.on_record(a_record(step))
    log = JSONLines(tmp_path / "fit.jsonl")
    log.on_begin(a_start(resumed_from=3))
    for step in (4, 6, 8):
        log.on_record(a_record(step))
    assert steps(tmp_path / "fit.jsonl") == [2, 4, 6, 8]
    log.on_begin(a_start())  # another fit, with the same options and the same object
    log.on_record(a_record(2))
    assert steps(tmp_path / "fit.jsonl") == [2, 4, 6, 8, 2]
    log.on_begin(a_start(resumed_from=2))
    log.on_record(a_record(4))
    assert steps(tmp_path / "fit.jsonl") == [2, 4, 6, 8, 2, 4]


def test_records_of_another_fit_do_not_count(tmp_path: Path):
    log = JSONLines(tmp_path / "fit.jsonl")
    log.on_begin(a_start())
    log.on_record(a_record(2))
    log.on_begin(a_start(lens="2-3"))
    log.on_record(a_record(9))
    log.on_begin(a_start(resumed_from=1))
    for step in (2, 4):
        log.on_record(a_record(step))
    assert steps(tmp_path / "fit.jsonl") == [2, 9, 4]


# ---- what a kill leaves, and what is refused -----------------------------------------------------


def test_a_torn_last_line_is_removed_wherever_it_is_cut(tmp_path: Path):
    log = JSONLines(tmp_path / "whole.jsonl")
    log.on_begin(a_start())
    log.on_record(a_record(2))
    whole = (tmp_path / "whole.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    for n_bytes in range(len(whole)):
        path = tmp_path / "torn.jsonl"
        path.write_bytes(whole[:n_bytes])
        JSONLines(path).on_begin(a_start(lens="2-3"))
        rest = lines(path)
        assert rest[-1]["lens"] == "2-3"
        assert len(rest) == 1 + (n_bytes >= first)


@pytest.mark.parametrize("content", [b'{"text": "mine"}\nnot whole', b"x", b'{"event": 3}'])
def test_a_file_of_the_user_is_left_as_it_is(tmp_path: Path, content: bytes):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content)
    with pytest.raises(PathTakenError, match=r"is not a log of fits.*path of a new file"):
        JSONLines(path).on_begin(a_start())
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line", [b"nothing\n", b"[]\n", b'{"event": "begin"}\n', b'{"event": "record"}\n']
)
def test_a_damaged_line_is_named_when_a_fit_is_resumed(tmp_path: Path, line: bytes):
    path = tmp_path / "fit.jsonl"
    JSONLines(path).on_begin(a_start())
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(FileFormatError, match=r"fit\.jsonl, line 2 is damaged.*Delete the line"):
        JSONLines(path).on_begin(a_start(resumed_from=3))


def test_a_path_that_cannot_be_written_is_refused_before_the_fit(tmp_path: Path):
    with pytest.raises(PathError, match="There is no folder"):
        JSONLines(tmp_path / "missing" / "fit.jsonl")
    with pytest.raises(PathError, match="is a folder"):
        JSONLines(tmp_path)


def test_a_file_that_can_no_longer_be_written_ends_the_fit(tmp_path: Path):
    (tmp_path / "logs").mkdir()
    log = JSONLines(tmp_path / "logs" / "fit.jsonl")
    (tmp_path / "logs").rmdir()
    lens = new_lens()
    with pytest.raises(PathError, match=r"Nothing can be written to .*fit\.jsonl"):
        lens.fit(DATA, callbacks=[log], **FIT)
    assert not lens.quantizer.fitted
