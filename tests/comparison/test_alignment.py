from dataclasses import replace

import numpy as np
import pytest
import torch

from clvq_lens.comparison.alignment import alignment
from clvq_lens.errors import ConfigError, DataError, EmptyCorpusError
from clvq_lens.lens import Lens
from tests.comparison.shown import HOSTILE, assert_harmless

LENGTH = 20


def given(
    fitted: Lens, codes: list[list[int]], tokens: list[list[int]]
) -> tuple[Lens, torch.Tensor]:
    """A lens that gives the tokens of some documents these codes, and the documents."""
    data = torch.tensor(tokens)

    class Given(Lens):
        def encode(self, data, **options):
            return replace(super().encode(data, **options), codes=torch.tensor(codes))

    return Given(fitted.attachment), data


@pytest.fixture
def case(fitted):
    """Two documents of 20 tokens: code 0 is all A, code 1 is 9 of 10 A, codes 2 and 3 are mixed.

    Code 0 is always token 7, the others are many tokens.
    """
    codes = [[0] * 10 + [1] * 10, [2] * 10 + [3] * 10]
    labels = [["A"] * 19 + ["B"], ["B"] * 6 + ["C"] * 4 + ["B"] * 5 + ["C"] * 5]
    tokens = [[7] * 10 + list(range(10, 20)), list(range(20, 40))]
    return *given(fitted, codes, tokens), labels


def test_a_code_is_aligned_from_the_threshold_on(case):
    found = alignment(*case, threshold=0.9)
    rows = found.over_thresholds((0.6, 0.9, 0.95)).set_index(["method", "threshold"]).loc["codes"]
    assert rows["n_codes"].tolist() == [4, 4, 4]
    assert rows["n_aligned"].tolist() == [3, 2, 1]
    assert rows["codes_aligned"].tolist() == [0.75, 0.5, 0.25]
    assert rows["tokens_covered"].tolist() == [0.75, 0.5, 0.25]
    # Labels with ten tokens: A and B, the latter with a code at 0.6 only; C has nine.
    assert rows["labels_found"].tolist() == [1.0, 0.5, 0.5]


def test_codes_that_are_merely_one_token_are_told_apart(case):
    row = alignment(*case).frame().set_index("method").loc["codes"]
    assert row["one_token"] == 0.5
    assert row["covered_by_others"] == 0.25


def test_aligned_codes_and_labels_are_listed(case):
    found = alignment(*case)
    codes = found.codes()
    assert codes[codes["method"] == "codes"]["code"].tolist() == [0, 1]
    assert codes["label"].tolist()[:2] == ["A", "A"]
    assert codes["share"].tolist()[:2] == [1.0, 0.9]
    assert codes["one_token"].tolist()[:2] == [True, False]
    labels = found.labels()
    labels = labels[labels["method"] == "codes"].set_index("label")
    assert labels["n_tokens"].to_dict() == {"A": 19, "B": 12}
    assert labels.loc["A", "codes"] == (0, 1)
    assert labels["covered"].to_dict() == {"A": 1.0, "B": 0.0}


def test_codes_and_labels_with_few_tokens_are_not_judged(case):
    """The common wrong variant: every code with a single token is aligned."""
    frame = alignment(*case, min_tokens=1).frame().set_index("method")
    assert frame.loc["token identity", "n_codes"] == 31
    assert frame.loc["token identity", "codes_aligned"] == 1.0
    frame = alignment(*case, min_tokens=2).frame().set_index("method")
    assert frame.loc["token identity", "n_codes"] == 1
    row = alignment(*case, min_tokens=11).frame().set_index("method").loc["codes"]
    assert (row["n_codes"], row["codes_aligned"], row["tokens_covered"]) == (0, 0.0, 0.0)


def test_codes_that_are_labels_are_aligned_and_shuffled_labels_are_not(fitted):
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (10, LENGTH)).tolist()
    lens, data = given(fitted, codes, random.integers(0, 40, (10, LENGTH)).tolist())
    labels = [["ABCD"[code] for code in row] for row in codes]
    row = alignment(lens, data, labels, threshold=0.6).frame().set_index("method").loc["codes"]
    assert row[["codes_aligned", "tokens_covered", "labels_found"]].tolist() == [1, 1, 1]
    assert row["one_token"] == 0
    for name in ("codes_aligned", "tokens_covered", "labels_found"):
        assert row[f"{name}_shuffled"] <= row[f"{name}_highest"] < 0.5


def test_one_label_for_nearly_all_tokens_aligns_by_chance_and_the_control_shows_it(fitted):
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (10, LENGTH)).tolist()
    lens, data = given(fitted, codes, random.integers(0, 40, (10, LENGTH)).tolist())
    labels = [["A"] * (LENGTH - 1) + ["B"] for _ in codes]
    row = alignment(lens, data, labels, threshold=0.8).frame().set_index("method").loc["codes"]
    assert row["codes_aligned"] == row["codes_aligned_shuffled"] == 1.0


def test_token_identity_has_the_labels_that_tokens_always_have(fitted):
    tokens = [[1] * 10 + [2] * 10, [3] * 10 + [2] * 10]
    lens, data = given(fitted, [[0] * LENGTH] * 2, tokens)
    labels = [["A"] * 10 + ["A"] * 10, ["B"] * 10 + ["B"] * 10]
    frame = alignment(lens, data, labels).frame().set_index("method")
    row = frame.loc["token identity"]
    assert (row["n_codes"], row["n_aligned"], row["one_token"]) == (3, 2, 1.0)
    assert row["tokens_covered"] == 0.5
    assert frame.loc["codes", "n_aligned"] == 0
    assert np.isnan(frame.loc["codes", "one_token"])


def test_the_token_of_a_code_is_its_commonest(fitted):
    tokens = [[5, 6, 6, 6] + [9] * 16, [8] * 20]
    lens, data = given(fitted, [[0] * 4 + [1] * 16, [1] * 20], tokens)
    found = alignment(lens, data, [["A"] * LENGTH] * 2, min_tokens=2).codes()
    names = fitted.host.vocabulary.names(torch.tensor([6, 8]))
    assert dict(zip(found["code"][:2], found["token"][:2], strict=True)) == {
        0: names[0],
        1: names[1],
    }
    assert sorted(found["token_share"][:2]) == [pytest.approx(20 / 36), 0.75]


def test_several_lenses_stand_side_by_side_and_the_seed_decides_the_shuffles(case):
    lens, data, labels = case
    found = alignment({"a": lens, "b": lens}, data, labels, threshold=0.6, seed=3)
    frame = found.frame()
    assert frame["method"].tolist() == ["a", "b", "token identity"]
    assert frame.iloc[0].drop("method").tolist() == frame.iloc[1].drop("method").tolist()
    again = alignment(lens, data, labels, threshold=0.6, seed=3).frame()
    assert again["tokens_covered_shuffled"][0] == frame["tokens_covered_shuffled"][0]
    other = alignment(lens, data, labels, threshold=0.6, seed=40).methods["codes"].chance_shares
    assert not np.array_equal(other, found.methods["a"].chance_shares)


def test_texts_in_pieces_keep_their_labels(fitted):
    data = torch.arange(60).remainder(40).unsqueeze(0)
    labels = [["A"] * 60]
    found = alignment(fitted, data, labels, min_tokens=1, long_texts="split")
    assert found.label_tokens.tolist() == [60]


def test_it_says_in_one_line_how_many_codes_are_aligned(case):
    lens, data, labels = case
    found = alignment({HOSTILE: lens}, data, labels)
    assert repr(found).startswith("Alignment(codes aligned at 0.9: <script>")
    assert repr(found).endswith("0.500, token identity 1.000; 2 labels, 40 tokens)")
    assert_harmless(found)
    assert found._repr_html_().count("<tr") == 1 + 2
    assert repr(found.methods[HOSTILE]) == "LabeledCodes(4 codes, 40 tokens)"


def test_progress_is_shown_unless_it_is_turned_off(case, capsys):
    alignment(*case, progress=False)
    assert capsys.readouterr().err == ""
    alignment(*case)
    assert "alignment: 100%" in capsys.readouterr().err


def test_the_plot_has_the_methods_and_their_controls(case):
    names = {trace.name for trace in alignment(*case).plot().data}
    assert {"codes", "token identity", "labels shuffled"} <= names


@pytest.mark.parametrize("options", [{"threshold": 0.5}, {"min_tokens": 0}, {"n_shuffles": 0}])
def test_impossible_options_are_refused(case, options):
    with pytest.raises(ConfigError, match=r"^(threshold|min_tokens|n_shuffles) is"):
        alignment(*case, **options)


def test_labels_that_do_not_match_are_refused(case):
    lens, data, labels = case
    with pytest.raises(DataError, match="Document 1 has 20 real tokens and 19 labels"):
        alignment(lens, data, [labels[0], labels[1][1:]])
    with pytest.raises(DataError, match="labels for 3 documents"):
        alignment(lens, data, [*labels, labels[0]])


def test_no_lens_and_the_name_of_the_baseline_are_refused(case):
    lens, data, labels = case
    for lenses in ({}, {"token identity": lens}):
        with pytest.raises(DataError, match="Pass at least one"):
            alignment(lenses, data, labels)


def test_data_without_a_real_token_are_refused(fitted):
    encoding = fitted.encode(torch.tensor([[1, 2]]))
    nothing = replace(
        encoding,
        codes=torch.full_like(encoding.codes, -1),
        mask=torch.zeros_like(encoding.mask),
    )

    class Nothing(Lens):
        def encode(self, data, **options):
            return nothing

    with pytest.raises(EmptyCorpusError, match="no real token"):
        alignment(Nothing(fitted.attachment), torch.tensor([[1, 2]]), [[]])
