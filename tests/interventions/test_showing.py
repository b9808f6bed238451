"""How the results of experiments show themselves: one line, and a table without markup of data."""

import numpy as np
import pandas as pd
import pytest

import clvq_lens as cl
from tests.conftest import random_model
from tests.interventions.lenses import difference, fitted_lens

HOSTILE = "<script>alert(1)</script>\nnext"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def sweep(values=(1.5, -1.0, 1.25), positions=None) -> cl.AblationSweep:
    return cl.AblationSweep(
        metric=HOSTILE,
        unedited=1.0,
        codes=(4, 17, 30),
        positions=positions,
        n_tokens=(9, 5, 2),
        values=values,
        controls=(0.1, 0.2, 0.3),
        strings=("a", HOSTILE, "c"),
        tokens=(HOSTILE,) * 3,
        contexts=(HOSTILE,) * 3,
    )


def patching(values=(0.0, 0.25, 0.75)) -> cl.ConceptPatching:
    return cl.ConceptPatching(
        metric=HOSTILE,
        clean=1.0,
        corrupted=0.0,
        values=values,
        controls=None,
        clean_codes=((-1, 4, 17),),
        corrupted_codes=((-1, 4, 30),),
        clean_strings=(HOSTILE,) * 3,
        corrupted_strings=(HOSTILE,) * 3,
        n_changed=(0, 0, 1),
    )


def attribution() -> cl.Attribution:
    pairs = pd.DataFrame({"first_order": [1.0, 2.0, 3.0], "true": [1.0, 3.0, 2.0]})
    positions = pd.DataFrame(
        {
            "text": [0, 0, 0],
            "position": [0, 1, 2],
            "token": [HOSTILE] * 3,
            "code": [4, 17, 30],
            "integrated": [0.1, 0.2, 0.3],
            "true": [0.3, 0.2, 0.1],
        }
    )
    return cl.Attribution(
        metric=HOSTILE,
        value=2.0,
        effects=np.zeros((1, 3, 2)),
        path_effects=np.zeros((1, 3, 2)),
        integrated=np.array([[0.1, 0.2, 0.3]]),
        difference=0.6,
        pairs=pairs,
        positions=positions,
    )


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (sweep(), ["AblationSweep(3 ablations", "largest effect -2, code 17"]),
        (sweep(positions=(0, 1, 1)), ["largest effect -2, code 17 at position 1"]),
        (sweep(values=(np.nan,) * 3), ["largest effect +nan"]),
        (patching(), ["ConceptPatching(3 positions", "0 corrupted and 1 clean", "0.75 at pos"]),
        (patching(values=(np.nan, 0.5, -0.75)), ["largest effect -0.75 at position 2"]),
        (attribution(), ["Attribution(3 tokens", " 2: rank ", "0.50 first-order, -1.00 integ"]),
    ],
    ids=["sweep", "by position", "of NaN", "patching", "with NaN", "attribution"],
)
def test_a_result_is_printed_in_one_line_and_shown_as_a_table_without_markup_of_data(result, said):
    line, html = repr(result), result._repr_html_()
    assert "\n" not in line
    for part in said:
        assert part in line
    assert ESCAPED in html
    assert "<script>" not in html
    assert html.count("<tr") == 1 + 3


def test_a_notebook_shows_ten_experiments_of_a_real_sweep_and_says_how_many_are_left(tokens):
    lens = fitted_lens(random_model())
    shown = cl.ablation_sweep(lens, tokens, difference, by_position=True, progress=False)
    html = shown._repr_html_()
    assert html.count("<tr") == 1 + 10
    assert f"{len(shown.codes) - 10:,} more rows in <code>.frame()</code>" in html
