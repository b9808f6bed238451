import dataclasses

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from clvq_lens.training.history import History, Record


@pytest.fixture(params=["predictive", "residual"])
def history(model, request) -> History:
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3, encoder=request.param)
    options = {"n_tokens": 3_000, "batch_tokens": 200, "n_evaluations": 5, "patience": 50}
    return lens.fit(data, progress=False, held_out_fraction=0.1, **options)


def test_a_history_has_a_record_for_every_validation(history: History):
    frame = history.frame()
    assert list(frame.columns) == [field.name for field in dataclasses.fields(Record)]
    assert len(frame) == len(history.records) == 5
    assert history.stop == "finished"
    assert history.best_step in frame["step"].tolist()
    assert (history.n_training_documents, history.n_held_out_documents) == (54, 6)


def test_what_a_record_counts_only_grows(history: History, request):
    frame = history.frame()
    for column in ("step", "n_tokens", "wall_s", "epoch", "n_revived"):
        assert frame[column].is_monotonic_increasing
    last = history.records[-1]
    assert 3_000 <= last.n_tokens < 3_200
    n_passes = last.n_tokens // (54 * 16)
    if request.node.callspec.params["history"] == "residual":
        assert last.epoch == n_passes
    else:  # training the encoder ended in the middle of a pass
        assert n_passes <= last.epoch <= n_passes + 1


def test_validations_are_spread_evenly(history: History):
    for index, record in enumerate(history.records, start=1):
        assert index * 600 <= record.n_tokens < index * 600 + 200


def test_measures_lie_in_their_ranges(history: History):
    for record in history.records:
        assert record.fvu > 0
        assert 0 < record.held_out_fvu < 1.5
        assert 1 <= record.perplexity <= 12
        assert 0 <= record.n_dead_codes < 12
        assert record.commitment > 0
        assert 0 < record.learning_rate <= 0.05 / 16**0.5  # the width of the tiny model
        assert record.kl is None
        assert record.held_out_kl is None


def test_a_history_plots_itself(history: History):
    assert isinstance(history.plot(), go.Figure)


def test_a_history_without_a_validation_has_an_empty_frame_and_an_empty_plot():
    history = History(stop="interrupted")  # Ctrl-C in the first steps
    pd.testing.assert_index_equal(
        history.frame().columns, pd.Index([field.name for field in dataclasses.fields(Record)])
    )
    assert history.frame().empty
    assert len(history.plot().data) == 0


def test_a_history_shows_in_one_line_how_it_ended_and_the_fvu_that_was_kept(history: History):
    kept = history.frame().set_index("step").loc[history.best_step]
    said = f", {history.said_if_too_short}" if history.said_if_too_short else ""
    expected = f"History(finished, 5 validations{said}; weights of step {history.best_step}, "
    assert repr(history).startswith(expected)
    assert f"FVU {kept['fvu']:.4g}, held out {kept['held_out_fvu']:.4g})" in repr(history)
    assert repr(history.records[0]).startswith("Record(step ")
    html = history._repr_html_()
    assert html.count("<tr") == 1 + 5
    assert "held_out_fvu" in html
    assert repr(History(stop="interrupted")) == "History(interrupted, 0 validations)"
    assert "<table" in History(stop="interrupted")._repr_html_()


def test_a_record_without_held_out_documents_shows_the_fvu_alone(history: History):
    record = dataclasses.replace(history.records[0], held_out_fvu=None, fvu=0.25, step=7)
    assert repr(record) == f"Record(step 7, {record.n_tokens:,} tokens, FVU 0.25)"
