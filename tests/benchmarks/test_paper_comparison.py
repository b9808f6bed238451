import pandas as pd
import pytest

import clvq_lens as cl
from benchmarks.paper import comparison_page
from benchmarks.paper.set_by_set import set_by_set

OURS, OTHERS = "predictive", ["k-means", "spherical k-means"]


def comparison(metric: str, methods: dict[str, tuple[float, float, float]]) -> cl.Comparison:
    """Methods with value, half width of its interval, and what each of two documents owes."""
    rows = []
    for method, (value, half, influence) in methods.items():
        rows.append(
            {
                "method": method,
                "decoder": "table",
                "fit": 0,
                "metric": metric,
                "value": value,
                "low": value - half,
                "high": value + half,
                "influences": [influence, -influence, 0.0],
                "freedom": 2.0,
            }
        )
    return cl.Comparison(pd.DataFrame(rows), 1, 3, {})


def answer(metric: str, ours: float, other: float, half: float, apart: float = 0.0) -> str:
    """Beside two others, the second of which is far worse than ours."""
    far = 100.0 if metric != "ce_loss_recovered" else -100.0
    methods = {
        OURS: (ours, half, 0.1),
        "k-means": (other, half, 0.1 + apart),
        "spherical k-means": (far, half, 0.1),
    }
    found = set_by_set({"texts": comparison(metric, methods)}, OURS, OTHERS)
    assert found["data set"].tolist() == ["texts"]
    return found["answer"].item()


@pytest.mark.parametrize(
    ("metric", "sign"), [("fvu", 1), ("readout_kl", 1), ("ce_loss_recovered", -1)]
)
@pytest.mark.parametrize(
    ("gain", "half", "apart", "expected"),
    [
        (0.5, 0.1, 0.0, "apart"),
        (0.5, 0.3, 0.0, "by pairs"),  # the same documents are hard for both
        (0.5, 0.3, 9.0, "open"),
        (-0.5, 0.3, 9.0, "open"),
        (-0.5, 0.3, 0.0, "behind by pairs"),
        (-0.5, 0.1, 0.0, "behind"),
    ],
)
def test_the_answer_is_the_worst_beside_any_other_method(metric, sign, gain, half, apart, expected):
    assert answer(metric, 2.0, 2.0 + sign * gain, half, apart) == expected


def test_the_best_other_is_named_and_a_set_without_all_methods_has_no_row():
    methods = {
        OURS: (0.5, 0.1, 0.1),
        "k-means": (0.4, 0.1, 0.1),
        "spherical k-means": (0.45, 0.1, 0.1),
    }
    whole = comparison("ce_loss_recovered", methods)
    del methods["k-means"]
    part = comparison("ce_loss_recovered", methods)
    found = set_by_set({"whole": whole, "part": part}, OURS, OTHERS)
    assert found["best other"].tolist() == ["0.45 [0.35, 0.55], spherical k-means"]
    assert found["number"].tolist() == ["CE loss recovered"]


def test_the_accuracies_of_models_are_kept_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison_page, "KEPT", tmp_path)
    for name, accuracy in {"one": 0.5, "other": 0.75, "one ": 0.25}.items():
        comparison_page.keep_accuracy(name.strip(), accuracy)
    assert comparison_page._accuracies() == {"one": 0.25, "other": 0.75}
