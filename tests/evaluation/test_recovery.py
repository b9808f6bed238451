from typing import Any

import numpy as np
import pytest

from clvq_lens.evaluation.recovery import Recovered, Recovery, concept_recovery
from clvq_lens.stats.metrics import normalized_mutual_information, purity

N = 600


def world(seed: int = 0) -> dict[str, Any]:
    """Four concepts in separate clouds; token 9 means any of them, tokens 0 to 3 one each."""
    random = np.random.default_rng(seed)
    concept = random.integers(0, 4, N)
    source = 10 * np.eye(4)[concept] + random.normal(size=(N, 4))
    tokens = np.where(random.random(N) < 0.3, 9, concept)
    return {
        "codes": concept,
        "source": source.astype(np.float32),
        "tokens": tokens,
        "labels": [["bank", "bat", "crane", "mole"][i] for i in concept],
    }


def recovery(**changes: Any) -> dict[tuple[str, str], Recovered]:
    found = concept_recovery(**{**world(), **changes}, n_codes=4, seed=0)
    return {(row.method, row.tokens): row for row in found.rows}


def test_there_is_a_row_for_every_method_on_all_and_on_ambiguous_tokens():
    rows = recovery()
    methods = ("codes", "k-means", "token identity", "codes, labels shuffled")
    assert list(rows) == [(method, which) for which in ("all", "ambiguous") for method in methods]


def test_codes_that_are_the_concepts_recover_them():
    for which in ("all", "ambiguous"):
        row = recovery()["codes", which]
        assert row.ami == pytest.approx(1)
        assert row.nmi == pytest.approx(1)
        assert row.purity == 1


def test_k_means_finds_well_separated_concepts():
    assert recovery()["k-means", "all"].nmi > 0.95


def test_every_row_has_the_metrics_of_its_tokens():
    codes = np.random.default_rng(1).integers(0, 4, N)
    rows, data = recovery(codes=codes), world()
    ambiguous = data["tokens"] == 9
    for which, chosen in (("all", np.ones(N, dtype=bool)), ("ambiguous", ambiguous)):
        for method, assigned in (("codes", codes), ("token identity", data["tokens"])):
            row, truth = rows[method, which], np.array(data["labels"])[chosen]
            assert row.n_tokens == chosen.sum()
            assert row.nmi == pytest.approx(normalized_mutual_information(assigned[chosen], truth))
            assert row.purity == pytest.approx(purity(assigned[chosen], truth))


def test_the_shuffled_control_is_near_chance():
    row = recovery()["codes, labels shuffled", "all"]
    assert abs(row.ami) < 0.02
    assert row.nmi < 0.03
    assert row.purity < 0.35  # four labels of about equal share


def test_labels_of_ambiguous_tokens_are_shuffled_among_these():
    """A third label that no ambiguous token has would make the control look worse than it is."""
    random = np.random.default_rng(3)
    is_ambiguous = random.random(N) < 0.3
    labels = np.where(is_ambiguous, random.integers(0, 2, N), random.integers(2, 12, N))
    rows = recovery(
        labels=list(map(str, labels)),
        tokens=np.where(is_ambiguous, 99, labels),
        codes=np.zeros(N, dtype=np.int64),
    )
    assert rows["codes, labels shuffled", "ambiguous"].purity > 0.5
    assert rows["codes, labels shuffled", "all"].purity < 0.3


def test_random_codes_have_no_ami_however_many_they_are():
    random = np.random.default_rng(4)
    for n_codes in (4, 100):
        row = recovery(codes=random.integers(0, n_codes, N))["codes", "all"]
        assert abs(row.ami) < 0.02
    assert row.nmi > 0.05


def test_token_identity_says_nothing_about_an_ambiguous_token():
    rows = recovery()
    assert rows["token identity", "ambiguous"].nmi == 0
    assert rows["token identity", "all"].nmi > 0.5


def test_without_ambiguous_tokens_there_are_no_rows_for_them():
    rows = recovery(tokens=world()["codes"])
    assert {which for _, which in rows} == {"all"}


def test_the_seed_decides():
    data = {**world(), "source": np.random.default_rng(5).normal(size=(N, 4)).astype(np.float32)}
    one, again, other = (concept_recovery(**data, n_codes=4, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_with_fewer_tokens_than_codes_every_token_is_a_cluster():
    data = {name: values[:3] for name, values in world().items()}
    rows = concept_recovery(**data, n_codes=50, seed=0).rows
    assert next(row for row in rows if row.method == "k-means").purity == 1


def test_the_frame_has_a_line_for_every_row():
    frame = Recovery((Recovered("codes", "all", 7, 0.25, 0.5, 0.75),)).frame()
    assert frame.to_dict("records") == [
        {
            "method": "codes",
            "tokens": "all",
            "n_tokens": 7,
            "ami": 0.25,
            "nmi": 0.5,
            "purity": 0.75,
        }
    ]


def test_it_shows_ami_and_purity_in_one_line_and_its_rows_in_html():
    rows = (
        Recovered("codes", "all", 7_000, 0.4, 0.5, 0.75),
        Recovered("<i>", "all", 7_000, 0.1, 0.1, 0.2),
    )
    assert repr(Recovery(rows)) == "Recovery(codes on 7,000 tokens: AMI 0.400, purity 0.750)"
    html = Recovery(rows)._repr_html_()
    assert "<td>codes</td>" in html
    assert "<i>" not in html
    assert repr(Recovery(())) == "Recovery(no tokens)"
