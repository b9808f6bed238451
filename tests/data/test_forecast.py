"""What a fit says of its cost before, and of its length after."""

from typing import Any

import pytest
import torch

from clvq_lens.data import forecast as module
from clvq_lens.data.forecast import Forecast, in_words
from clvq_lens.training.history import History, Record
from tests.conftest import random_model

DATA = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))


def said(monkeypatch: pytest.MonkeyPatch, times: list[float], **options: Any) -> list[str]:
    """What a forecast of 10,000 tokens says, at some times with 100 tokens more each."""
    lines: list[str] = []
    clock = iter([0.0, *times])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module.tqdm, "write", lines.append)
    forecast = Forecast("Reading", **options)
    forecast.tell(50, None)  # nobody knows how much it will be
    for number in range(len(times)):
        forecast.tell(options.get("done", 0) + 100 * (number + 1), 10_000)
    return lines


def test_a_long_phase_is_announced_once_after_two_seconds(monkeypatch):
    lines = said(monkeypatch, [1.0, 1.9, 3.0, 4.0], silent=False)
    [line] = lines
    # 300 tokens in 3 seconds, 9,700 to go.
    assert line == (
        "Reading 10,000 tokens takes about 2 minutes at the speed of the first two seconds."
    )
    assert said(monkeypatch, [1.0, 3.0], silent=True) == []


def test_what_was_done_before_does_not_count_as_fast(monkeypatch):
    [line] = said(monkeypatch, [2.5], silent=False, done=4_000)
    assert "about 2 minutes" in line  # 100 tokens in 2.5 seconds, 5,900 to go


def test_a_short_phase_is_not_announced(monkeypatch):
    assert said(monkeypatch, [2.0, 2.1], silent=False, done=9_000) == []


def test_durations_are_in_words():
    assert in_words(90.0) == "about 2 minutes"
    assert in_words(3 * 3600.0) == "about 3.0 hours"


def history(fvus: list[float | None], *, n_tokens: int = 1_000) -> History:
    records: list[Record] = []
    for number, fvu in enumerate(fvus, start=1):
        numbers: dict[str, Any] = dict.fromkeys(
            ("wall_s", "learning_rate", "fvu", "commitment", "perplexity"), 1.0
        )
        numbers |= {
            "step": number,
            "epoch": 0,
            "kl": None,
            "held_out_kl": None,
            "n_dead_codes": 0,
            "n_revived": 0,
        }
        at = n_tokens * number // len(fvus)
        records.append(Record(**numbers, n_tokens=at, held_out_fvu=fvu))
    return History(records=records, n_tokens=n_tokens)


def test_the_last_fifth_of_a_fit_tells_whether_it_was_too_short():
    assert history([0.9, 0.8, 0.7, 0.6, 0.5]).last_fall == pytest.approx(1 - 0.5 / 0.6)
    assert history([0.9, 0.5, 0.5, 0.5, 0.5]).last_fall == 0
    assert history([0.9, 0.8, 0.7, 0.6]).last_fall is None  # too few to tell
    assert history([None] * 5).last_fall is None
    early = history([0.9, 0.8, 0.7, 0.6, 0.5])
    early.stop = "early"
    assert early.last_fall is None


@pytest.mark.parametrize(("limit", "warned"), [(-1.0, True), (1.0, False)])
def test_a_fit_that_was_too_short_says_so(monkeypatch, capsys, limit: float, warned: bool):
    monkeypatch.setattr("clvq_lens.training.history._CONVERGED", limit)
    lens = random_model().add_clvq(1, 2, n_codes=12, decoder="mlp")
    options: dict[str, Any] = {"n_tokens": 4_000, "batch_tokens": 256, "n_evaluations": 5}
    history = lens.fit(DATA, patience=99, **options)
    said = capsys.readouterr().out
    assert ("too short to have converged: the held-out FVU still fell" in said) == warned
    assert ("Pass a larger n_tokens than 4,000" in said) == warned
    assert ("too short to have converged" in history.headline()) == warned
    lens.fit(DATA, patience=99, progress=False, **options)
    assert capsys.readouterr().out == ""
