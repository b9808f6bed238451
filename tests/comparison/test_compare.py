"""Methods side by side on the toy world."""

import numpy as np
import pandas as pd
import pytest

import clvq_lens as cl
from clvq_lens.comparison.compare import Comparison
from clvq_lens.config import FitConfig
from clvq_lens.errors import ConfigError, DataError
from clvq_lens.plots.methods import METRICS

FIT = FitConfig(n_tokens=8_000, n_evaluations=1)
READOUT = cl.answers([["indoors", "upstairs"], ["outdoors", "outside"]])


@pytest.fixture(scope="module")
def lens(toy):
    lens = toy.model.add_clvq(0, 2, n_codes=24, decoder="table", name="compared")
    lens.fit(toy.texts, FIT, progress=False)
    yield lens
    lens.remove()


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[int]]:
    stories = cl.toy.generate(36, seed=9)
    outdoors = [int("outdoor" in labels) for labels in cl.toy.labels(stories)]
    return [story.split(" . ")[0] + " . finally we left the pool" for story in stories], outdoors


@pytest.fixture(scope="module")
def comparison(lens, toy, texts) -> Comparison:
    return cl.compare(
        [lens, "k-means", "token identity"],
        *texts,
        train=toy.texts[:200],
        n_seeds=2,
        fit=FIT,
        progress=False,
        token_labels=[[str(n) for n in range(len(text.split()))] for text in texts[0]],
        readout=READOUT,
        n_folds=2,
        n_steps=2,
        n_draws=1,
        n_model_draws=1,
        n_replicates=20,
    )


def test_every_method_has_every_metric_with_an_interval(comparison):
    frame = comparison.frame()
    assert frame["method"].tolist() == ["compared", "k-means", "token identity"]
    for metric in METRICS:
        assert frame[metric].notna().all(), metric
        assert (frame[f"{metric}_low"] <= frame[metric]).all()
        assert (frame[metric] <= frame[f"{metric}_high"]).all()


def test_values_are_means_over_fits_and_intervals_hold_those_of_all(comparison):
    fits = comparison.fits.query("method == 'k-means' and metric == 'fvu'")
    assert len(fits) == 2
    row = comparison.frame().set_index("method").loc["k-means"]
    assert row["fvu"] == pytest.approx(fits["value"].mean())
    assert row["fvu_low"] == fits["low"].min()
    assert row["fvu_high"] == fits["high"].max()


def test_the_first_fit_of_a_lens_is_itself(comparison, lens, texts):
    report = lens.evaluate(texts[0], progress=False)
    fits = comparison.fits.query("method == 'compared' and metric == 'fvu' and fit == 0")
    assert fits["value"].item() == pytest.approx(float(report.fvu))


def test_token_identity_is_the_same_in_every_fit(comparison):
    stability = comparison.frame().set_index("method")["stability"]
    assert stability["token identity"] > 0.9
    assert stability["k-means"] < stability["token identity"]


def test_the_model_is_as_it_was_afterwards(comparison, lens):
    assert set(cl.clvqs(lens.model)) == {"compared"}


def test_tables_for_reading_and_for_print(comparison):
    table = comparison.table()
    assert table.columns[0] == "method"
    assert table["FVU"].str.contains(r"^\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]$").all()
    latex = comparison.to_latex()
    assert latex.startswith(r"\begin{tabular}")
    assert r"\toprule" in latex
    assert repr(comparison).startswith("36 texts, 2 fits of each method")
    assert "<table" in comparison._repr_html_()


def test_what_data_bring_is_escaped_in_latex():
    row = {
        "method": "50 % & more_",
        "fit": 0,
        "metric": "fvu",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
    }
    latex = Comparison(pd.DataFrame([row]), 1, 1, {}).to_latex()
    assert r"50 \% \& more\_" in latex


def test_without_labels_there_is_no_faithfulness(lens, texts):
    comparison = cl.compare([lens], texts[0], progress=False)
    assert "fvu" in comparison.frame()
    assert "model_drop" not in comparison.frame()
    assert comparison.faithfulness == {}


def test_what_cannot_be_compared_is_refused(lens, texts):
    with pytest.raises(ConfigError, match="There is no lens among the methods"):
        cl.compare(["k-means"], texts[0], train=texts[0])
    with pytest.raises(ConfigError, match="Pass train=texts"):
        cl.compare([lens, "k-means"], texts[0])
    with pytest.raises(ConfigError, match="Pass train=texts"):
        cl.compare([lens], texts[0], n_seeds=2)
    with pytest.raises(ConfigError, match=r"No baseline 'k-meens'\. Closest: 'k-means'"):
        cl.compare([lens, "k-meens"], texts[0], train=texts[0], progress=False)
    with pytest.raises(DataError, match="Pass one label"):
        cl.compare([lens], texts[0], texts[1][:3], progress=False)


def test_the_figure_has_a_panel_for_each_metric(comparison):
    figure = comparison.plot()
    assert len(figure.data) == len(METRICS)
    assert np.allclose(figure.data[0].x, comparison.frame()["fvu"])
    assert list(figure.layout.yaxis.ticktext) == ["compared", "k-means", "token identity"]
