"""Methods side by side on the toy world."""

import numpy as np
import pandas as pd
import pytest

import clvq_lens as cl
from clvq_lens.comparison.comparison import Comparison, as_table
from clvq_lens.comparison.described import BOUNDS, METRICS
from clvq_lens.config import FitConfig
from clvq_lens.errors import ConfigError, DataError, FileFormatError
from clvq_lens.lens import Lens
from tests.comparison.shown import HOSTILE, assert_harmless

FIT = FitConfig(n_tokens=8_000, n_evaluations=1)
READOUT = cl.answers([["indoors", "upstairs"], ["outdoors", "outside"]])


METHODS = ["compared", "k-means", "token identity"]


@pytest.fixture(scope="module")
def lens(toy):
    lens = toy.model.add_clvq(0, 2, n_codes=24, decoder="table", name="compared")
    lens.fit(toy.texts, FIT.replace(seed=1), progress=False)
    yield lens
    lens.remove()


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[int]]:
    stories = cl.toy.generate(36, seed=9)
    outdoors = [int("outdoor" in labels) for labels in cl.toy.token_labels(stories)]
    return [story.split(" . ")[0] + " . finally we left the pool" for story in stories], outdoors


@pytest.fixture(scope="module")
def comparison(lens, toy, texts) -> Comparison:
    return cl.compare(
        [lens, "k-means", "token identity"],
        *texts,
        train=toy.texts[:200],
        n_seeds=2,
        config=FIT.replace(seed=1),
        progress=False,
        token_labels=[[str(n) for n in range(len(text.split()))] for text in texts[0]],
        readout=READOUT,
        n_folds=2,
        n_steps=2,
        n_draws=1,
        n_model_draws=1,
    )


def test_every_method_has_every_metric_with_an_interval(comparison):
    frame = comparison.frame()
    assert frame["method"].tolist() == [*METHODS, *BOUNDS]
    assert frame["decoder"].tolist() == ["table"] * 5 + ["none"]
    methods = frame[frame["decoder"] != "none"]
    for metric in METRICS:
        low, high = methods[f"{metric}_low"], methods[f"{metric}_high"]
        assert methods[metric].notna().all(), metric
        # Token identity finds one salient code, which says nothing about others.
        known = low.notna()
        assert known.tolist()[:2] == [True, True], metric
        assert (low <= methods[metric])[known].all()
        assert (methods[metric] <= high)[known].all()


def test_bounds_are_what_codes_could_reach_and_what_chance_gives(comparison):
    fvu = comparison.frame().set_index("method")["fvu"]
    assert fvu["k-means of the target"] < fvu[METHODS].min()
    assert fvu["random codes"] > fvu["k-means"]
    assert fvu["unquantized prediction"] < fvu[METHODS].min()
    unquantized = comparison.fits.query("method == 'unquantized prediction'")
    assert set(unquantized["metric"]) == {"fvu", "ce_loss_recovered", "kl", "readout_kl"}
    assert set(unquantized["fit"]) == {0, 1}


def test_shuffled_labels_stand_beside_measures_that_grow_with_the_codes(comparison):
    frame = comparison.frame().set_index("method")
    assert (frame.loc[METHODS, "nmi"] > frame.loc[METHODS, "nmi_shuffled"]).all()
    assert (frame.loc[METHODS, "purity"] > frame.loc[METHODS, "purity_shuffled"]).all()


def test_no_two_metrics_have_one_title():
    titles = [described.title for described in METRICS.values()]
    assert len(set(titles)) == len(titles)  # in `table` the later column would replace the other


def test_values_are_means_over_fits_and_intervals_hold_those_of_all(comparison):
    fits = comparison.fits.query("method == 'k-means' and metric == 'fvu'")
    assert len(fits) == 2
    row = comparison.frame().set_index("method").loc["k-means"]
    assert row["fvu"] == pytest.approx(fits["value"].mean())
    assert row["fvu_low"] == fits["low"].min()
    assert row["fvu_high"] == fits["high"].max()


def test_the_first_fit_of_a_lens_is_itself(comparison, lens, texts):
    evaluation = lens.evaluate(texts[0], progress=False)
    fits = comparison.fits.query("method == 'compared' and metric == 'fvu' and fit == 0")
    assert fits["value"].item() == pytest.approx(float(evaluation.fvu))


def test_token_identity_is_the_same_in_every_fit(comparison):
    stability = comparison.frame().set_index("method")["stability"]
    assert stability["token identity"] > 0.9
    assert stability["k-means"] < stability["token identity"]


def test_the_model_is_as_it_was_afterwards(comparison, lens):
    assert set(cl.clvqs(lens.model)) == {"compared"}


def test_differences_are_those_of_pairs_of_fits(comparison, tmp_path):
    fits = comparison.fits.set_index(["method", "fit", "metric"])["value"]
    for found in (comparison, Comparison.load(comparison.save(tmp_path / "one.json"))):
        differences = found.differences("compared").set_index("method")
        others = [
            name for name in found.methods if name not in ("compared", "unquantized prediction")
        ]
        assert differences.index.tolist() == others
        row = differences.loc["k-means"]
        pairs = [fits["k-means", n, "fvu"] - fits["compared", n, "fvu"] for n in (0, 1)]
        assert row["fvu"] == pytest.approx(np.mean(pairs))
        assert row["fvu_low"] <= min(pairs)
        assert row["fvu_high"] >= max(pairs)
        # Documents that are hard are hard for both.
        assert row["fvu_high"] - row["fvu_low"] < width(comparison, "k-means", "fvu")
        assert {"fvu", "ce_loss_recovered", "kl", "readout_kl", "stability"} <= set(differences)
        assert not {"perplexity", "purity", "code_drop"} & set(differences)  # not over documents


def width(comparison: Comparison, method: str, metric: str) -> float:
    row = comparison.frame().set_index("method").loc[method]
    return row[f"{metric}_high"] - row[f"{metric}_low"]


def test_differences_from_a_method_that_is_not_there_are_refused(comparison):
    with pytest.raises(ConfigError, match=r"no method 'kmeans'\. Closest: 'k-means'"):
        comparison.differences("kmeans")


def of_two_documents(method: str, decoder: str, fit: int, value: float) -> dict[str, object]:
    row = {"method": method, "decoder": decoder, "fit": fit, "metric": "fvu", "value": value}
    return {**row, "low": 0.0, "high": 1.0, "influences": [0.1, -0.1], "freedom": 1.0}


def test_only_fits_of_one_number_with_the_same_decoder_are_held_against_each_other():
    reference = [of_two_documents("a", "table", 0, 0.5), of_two_documents("a", "mlp", 0, 0.5)]
    rows = [*reference, of_two_documents("b", "table", 0, 0.4)]
    rows += [of_two_documents("c", "transformer", 0, 0.4)]
    rows += [of_two_documents("a", "table", 1, 0.6), of_two_documents("b", "table", 1, 0.7)]
    differences = Comparison(pd.DataFrame(rows), 2, 2, {}).differences("a")
    assert differences[["method", "decoder"]].to_numpy().tolist() == [["b", "table"]]
    # Both owe as much to each document, so that the documents leave no doubt, and the fits do.
    found = differences[["fvu", "fvu_low", "fvu_high"]].to_numpy()[0]
    assert found == pytest.approx([0.0, -0.1, 0.1])
    alone = Comparison(pd.DataFrame(reference), 1, 2, {}).differences("a")
    assert as_table(alone).columns.tolist() == ["method", "decoder"]
    assert not len(alone)


def test_tables_for_reading_and_for_print(comparison):
    table = comparison.table()
    assert table.columns[0] == "method"
    assert table["FVU"].str.contains(r"^\d\.\d+ \[\d\.\d+, \d\.\d+\]$").all()
    latex = comparison.to_latex()
    assert latex.startswith(r"\begin{tabular}")
    assert r"\toprule" in latex


def test_a_number_without_an_interval_is_shown_and_kept_as_such(tmp_path):
    row = {
        "method": "a",
        "decoder": "table",
        "metric": "fvu",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
    }
    unknown = {"low": float("nan"), "high": float("nan")}
    fits = pd.DataFrame([{**row, "fit": 0}, {**row, "fit": 1, **unknown}])
    comparison = Comparison(fits, 2, 1, {})
    for found in (comparison, Comparison.load(comparison.save(tmp_path / "one.json"))):
        assert found.table()["FVU"].tolist() == ["0.5 (no interval)"]
        assert found.fits["low"].tolist()[0] == 0.4
        found.plot()


def test_small_effects_are_told_from_zero():
    row = {"method": "a", "decoder": "table", "fit": 0, "metric": "code_drop_specific"}
    fits = pd.DataFrame([{**row, "value": 1.2e-5, "low": 5e-6, "high": 1.8e-5}])
    comparison = Comparison(fits, 1, 1, {})
    assert comparison.table().iloc[0, 2] == "1.2e-05 [5e-06, 1.8e-05]"
    assert comparison.plot().data[0].customdata[0] == "1.2e-05 [5e-06, 1.8e-05]"


def with_one_method(name: str) -> Comparison:
    row = {"method": name, "decoder": "table", "fit": 0, "metric": "fvu"}
    row |= {"value": 0.5, "low": 0.4, "high": 0.6}
    return Comparison(pd.DataFrame([row]), 1, 1, {})


def test_what_data_bring_is_escaped_in_latex():
    assert r"50 \% \& more\_" in with_one_method("50 % & more_").to_latex()


def test_it_says_in_one_line_which_method_loses_least(comparison):
    said = repr(comparison)
    assert said.startswith("Comparison(6 methods on 36 held-out texts, 2 fits of each; lowest FVU ")
    fvu = comparison.frame().set_index("method")["fvu"][METHODS]  # bounds are no methods
    assert said.endswith(f"{fvu.min():.3f} ({fvu.idxmin()}, table decoder))")
    assert "\n" not in said
    assert repr(with_one_method("k-means")) == (
        "Comparison(1 method on 1 held-out text, 1 fit of each; lowest FVU 0.500 "
        "(k-means, table decoder))"
    )
    assert repr(Comparison(pd.DataFrame(), 1, 1, {})).endswith("1 fit of each)")


def test_a_notebook_shows_its_table_and_escapes_names(comparison):
    html = comparison._repr_html_()
    assert html.count("<tr") == 1 + 6
    assert "NMI with labels" in html
    assert_harmless(with_one_method(HOSTILE))
    assert "<table" not in Comparison(pd.DataFrame(), 1, 1, {})._repr_html_()


@pytest.fixture
def few(lens, toy, texts):
    """Arguments of a comparison that takes seconds."""
    return {
        "texts": texts[0],
        "classes": texts[1],
        "train": toy.texts[:200],
        "config": FIT,
        "progress": False,
        "readout": READOUT,
        "bounds": False,
        "documents": range(len(texts[0])),
        **{"n_folds": 2, "n_steps": 2, "n_draws": 1, "n_model_draws": 1},
    }


def test_what_an_interrupted_comparison_measured_is_not_measured_again(
    lens, few, tmp_path, monkeypatch
):
    kept = tmp_path / "new folder" / "kept.json"
    whole = cl.compare([lens, "k-means", "token identity"], **few)
    attach = Lens.baseline

    def interrupted(self, kind, *args, **kwargs):
        if kind == "token identity":
            raise KeyboardInterrupt
        return attach(self, kind, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Lens, "baseline", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cl.compare([lens, "k-means", "token identity"], **few, keep=kept)
    assert cl.Comparison.load(kept).methods == ["compared", "k-means"]

    asked = []

    def recorded(self, kind, *args, **kwargs):
        asked.append(kind)
        return attach(self, kind, *args, **kwargs)

    monkeypatch.setattr(Lens, "baseline", recorded)
    resumed = cl.compare([lens, "k-means", "token identity"], **few, keep=kept)
    assert asked == ["token identity"]
    pd.testing.assert_frame_equal(resumed.frame(), whole.frame())
    assert resumed.faithfulness.keys() == whole.faithfulness.keys()
    for name, found in whole.faithfulness.items():
        assert repr(resumed.faithfulness[name]) == repr(found)
        for table in ("conditions", "contrasts", "texts"):
            read = getattr(resumed.faithfulness[name], table)
            pd.testing.assert_frame_equal(read, getattr(found, table), check_dtype=False)
    assert cl.compare(["token identity", lens], **few, keep=kept).methods == [
        "token identity",
        "compared",
    ]


def test_a_file_of_other_settings_is_refused(lens, few, tmp_path):
    kept = tmp_path / "kept.json"
    cl.compare([lens], **few, keep=kept)
    for changed, named in (
        ({"classes": [1 - each for each in few["classes"]]}, "classes"),
        ({"documents": [1, *few["documents"][1:]]}, "documents"),
        ({"n_draws": 2}, "n_draws"),
        ({"seed": 3}, "seed"),
        ({"config": FIT.replace(n_tokens=9_000)}, r"config\.n_tokens"),
    ):
        with pytest.raises(ConfigError, match=f"keeps a comparison with other {named}"):
            cl.compare([lens], **{**few, **changed}, keep=kept)


def test_what_is_no_comparison_is_refused(tmp_path):
    path = tmp_path / "other.json"
    for content in ("{", "[]", '{"format": "another"}', '{"format": "clvq_lens comparison 3"}'):
        path.write_text(content)
        with pytest.raises(FileFormatError, match="does not hold a comparison, or is damaged"):
            cl.Comparison.load(path)
    with pytest.raises(FileFormatError, match=r"comparison 3'.*reads 'clvq_lens comparison 4'"):
        cl.Comparison.load(path)
    with pytest.raises(FileNotFoundError):
        cl.Comparison.load(tmp_path / "missing.json")


def test_every_method_has_every_decoder_and_the_same_codes_with_each(lens, toy, texts):
    arguments = {"train": toy.texts[:200], "config": FIT, "progress": False}
    arguments |= {"decoders": ["mlp", "table"], "bounds": False}
    comparison = cl.compare([lens, "k-means"], texts[0], **arguments)
    assert comparison.rows == [
        ("compared", "mlp"),
        ("compared", "table"),
        ("k-means", "mlp"),
        ("k-means", "table"),
    ]
    frame = comparison.frame().set_index(["method", "decoder"])
    for method in ("compared", "k-means"):
        assert (
            frame.loc[(method, "mlp"), "perplexity"] == frame.loc[(method, "table"), "perplexity"]
        )
        assert frame.loc[(method, "mlp"), "fvu"] != frame.loc[(method, "table"), "fvu"]
    itself = lens.evaluate(texts[0], progress=False)
    assert frame.loc[("compared", "table"), "fvu"] == pytest.approx(float(itself.fvu))
    baseline = lens.baseline(
        "k-means", toy.texts[:200], FIT.replace(seed=1), decoder="mlp", progress=False
    )
    found = baseline.evaluate(texts[0], progress=False)
    baseline.remove()
    assert frame.loc[("k-means", "mlp"), "fvu"] == pytest.approx(float(found.fvu))
    assert set(cl.clvqs(lens.model)) == {"compared"}


def test_a_predictive_lens_brings_the_row_of_its_prediction(toy, texts):
    lens = toy.model.add_clvq(0, 2, n_codes=24, encoder="predictive", top_k=1, name="predictive")
    try:
        lens.fit(toy.texts[:200], FIT, progress=False)
        comparison = cl.compare([lens], texts[0], progress=False)
        found = float(lens.evaluate(texts[0], progress=False).fvu_unquantized or 0)
    finally:
        lens.remove()
    assert comparison.rows == [("predictive", "transformer"), ("unquantized prediction", "none")]
    assert comparison.frame()["fvu"].tolist()[1] == pytest.approx(found)


def test_without_classes_there_is_no_faithfulness(lens, texts):
    comparison = cl.compare([lens], texts[0], progress=False)
    assert "fvu" in comparison.frame()
    assert "model_drop" not in comparison.frame()
    assert comparison.faithfulness == {}


@pytest.mark.usefixtures("as_for_a_user")
def test_what_cannot_be_compared_is_refused(lens, texts):
    with pytest.raises(ConfigError, match="There is no lens among the methods"):
        cl.compare(["k-means"], texts[0], train=texts[0])
    with pytest.raises(ConfigError, match="Pass train=texts"):
        cl.compare([lens, "k-means"], texts[0])
    with pytest.raises(ConfigError, match="Pass train=texts"):
        cl.compare([lens], texts[0], n_seeds=2)
    with pytest.raises(ConfigError, match="other decoders need the texts"):
        cl.compare([lens], texts[0], decoders=["table", "mlp"])
    with pytest.raises(ConfigError, match=r"One of the decoders is 'tabel'\. Closest: 'table'"):
        cl.compare([lens], texts[0], decoders=["tabel"])
    for decoders in ([], ["table", "table"]):
        with pytest.raises(ConfigError, match="must name at least one, each once"):
            cl.compare([lens], texts[0], decoders=decoders)
    with pytest.raises(ConfigError, match=r"baseline is 'k-meens'\. Closest: 'k-means'"):
        cl.compare([lens, "k-meens"], texts[0], train=texts[0], progress=False)
    with pytest.raises(DataError, match="Pass one class"):
        cl.compare([lens], texts[0], texts[1][:3], progress=False)
    with pytest.raises(ConfigError, match="Two methods are called 'compared'"):
        cl.compare([lens, lens], texts[0], progress=False)


def test_labels_of_tokens_that_do_not_match_are_refused(lens, texts):
    labels = [["a"] * len(text.split()) for text in texts[0]]
    for wrong, said in (
        ([labels[0][1:], *labels[1:]], "Document 0 has"),
        ([*labels, ["a"]], "no document 36"),
    ):
        with pytest.raises(DataError, match=said):
            cl.compare([lens], texts[0], token_labels=wrong, progress=False)


def test_an_option_that_nothing_reads_is_refused(lens, texts):
    """It would be lost in silence where no faithfulness is measured."""
    with pytest.raises(ConfigError, match="compare has no option 'labels'"):
        cl.compare([lens], texts[0], labels=texts[1], progress=False)
    with pytest.raises(ConfigError, match=r"no option 'n_step'\. Closest: 'n_steps'"):
        cl.compare([lens], texts[0], n_step=2, progress=False)
    with pytest.raises(ConfigError, match="no option 'protocol'"):
        cl.compare([lens], *texts, protocol="paper", progress=False)


def test_the_figure_has_a_panel_for_each_metric(comparison):
    figure = comparison.plot()
    assert len(figure.data) == len(METRICS)
    assert np.allclose(figure.data[0].x, comparison.frame()["fvu"])
    assert list(figure.layout.yaxis.ticktext)[:2] == ["compared", "k-means"]
