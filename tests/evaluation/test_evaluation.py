import copy
import pickle

import pytest

from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.evaluation.recovery import Recovered, Recovery
from clvq_lens.stats.estimates import Estimate


def report(**changes: object) -> Evaluation:
    estimate = Estimate(0.25, 0.2, 0.3)
    values = {
        **{"n_codes": 12, "n_tokens": 12_345, "n_documents": 1_000},
        **{"fvu": estimate, "fvu_random_codes": Estimate(1.5, 1.4, 1.6)},
        **{"fvu_shuffled_memory": None, "perplexity": 8.5, "n_dead_codes": 1},
        **{"fvu_median": 0.2, "n_outliers": 0},
        **{"ce_clean": estimate, "ce_spliced": estimate, "ce_mean_ablated": estimate},
        **{"ce_zero_ablated": estimate, "ce_loss_recovered": estimate},
        **{"ce_loss_recovered_zero": estimate, "kl": estimate, "kl_mean_ablated": estimate},
    }
    return Evaluation(**{**values, **changes})  # type: ignore[arg-type]


RECOVERY = Recovery((Recovered("codes", "all", 7, 0.4, 0.5, 0.75),))


def test_the_frame_has_a_row_with_interval_and_meaning_for_every_metric():
    frame = report().frame()
    assert list(frame.columns) == ["metric", "value", "low", "high", "meaning"]
    row = frame.set_index("metric").loc["fvu"]
    assert (row["value"], row["low"], row["high"]) == (0.25, 0.2, 0.3)
    assert "variance unexplained" in row["meaning"]
    assert frame["meaning"].str.len().min() > 10


def test_every_metric_of_the_report_is_in_its_frame():
    counts = {"n_codes", "n_tokens", "n_documents", "recovery", "norms", "left_out"}
    metrics = set(report().__dataclass_fields__) - counts
    optional = ("unquantized", "readout", "shuffled")
    full = report(
        **{each: Estimate(0.5, 0.4, 0.6) for each in metrics if any(o in each for o in optional)}
    )
    assert set(full.frame()["metric"]) == metrics


def test_what_was_not_measured_is_left_out_of_the_frame():
    metrics = report(kl=None, ce_clean=None).frame()["metric"].tolist()
    assert "kl" not in metrics
    assert "ce_clean" not in metrics
    assert "fvu_shuffled_memory" not in metrics


def test_numbers_without_an_interval_have_none():
    row = report().frame().set_index("metric").loc["perplexity"]
    assert row["value"] == 8.5
    assert row[["low", "high"]].isna().all()


def test_a_printed_report_reads_as_a_table():
    text = str(report(recovery=RECOVERY))
    assert text.startswith("12,345 tokens of 1,000 documents, 12 codes\n")
    assert "ce_loss_recovered_zero" in text
    assert "0.25" in text
    assert "purity" in text
    assert "nan" not in text.lower()


def test_the_representation_is_one_line_with_the_main_numbers():
    assert repr(report(recovery=RECOVERY)) == (
        "Evaluation(12,345 tokens of 1,000 documents, 12 codes, FVU 0.25 [0.2, 0.3], "
        "CE loss recovered 0.25 [0.2, 0.3])"
    )
    without = report(ce_loss_recovered=None, n_outliers=3, left_out="No next token.")
    assert repr(without) == (
        "Evaluation(12,345 tokens of 1,000 documents, 3 outliers left out, 12 codes, "
        "FVU 0.25 [0.2, 0.3]. No next token.)"
    )


def test_what_was_left_out_is_said_wherever_the_numbers_are():
    without = report(left_out="No <next> token.")
    assert str(without).startswith("12,345 tokens of 1,000 documents, 12 codes. No <next> token.\n")
    assert "No &lt;next&gt; token." in without._repr_html_()


def test_the_html_has_the_same_numbers():
    html = report(recovery=RECOVERY)._repr_html_()
    assert html.count("<table") == 2
    assert html.count("<td>") == 5 * 14 + 6  # all metrics, although there are more than ten
    assert "<td>fvu</td>" in html
    assert "NaN" not in html
    assert report()._repr_html_().count("<table") == 1


def test_the_html_shows_how_much_was_measured():
    assert "12,345 tokens of 1,000 documents, 12 codes" in report()._repr_html_()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])  # noqa: S301
def test_a_copied_report_keeps_its_intervals(copied):
    found = copied(report(recovery=RECOVERY))
    assert found == report(recovery=RECOVERY)
    assert (found.fvu.low, found.fvu.high) == (0.2, 0.3)


def test_small_numbers_are_told_from_zero_and_from_their_intervals():
    small = report(kl=Estimate(1.2e-5, 5e-6, 1.8e-5), fvu=Estimate(0.70004, 0.70003, 0.70006))
    for shown in (str(small), small._repr_html_()):
        for text in ("1.2e-05", "5e-06", "1.8e-05", "0.70004", "0.70003", "0.70006"):
            assert text in shown


def test_a_number_without_an_interval_says_so():
    alone = report(fvu=Estimate(0.25, float("nan"), float("nan")), left_out="One document.")
    assert "FVU 0.25 (no interval)" in repr(alone)
    assert "nan" not in str(alone).lower()
    assert "NaN" not in alone._repr_html_()
    assert "One document." in str(alone)
