from dataclasses import replace

import numpy as np
import pytest
import torch

from clvq_lens.comparison.refits import refits
from clvq_lens.comparison.stability import stability
from clvq_lens.errors import DataError
from clvq_lens.lens import Lens
from tests.comparison.shown import HOSTILE, assert_harmless

DATA = torch.randint(0, 40, (30, 16), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def two(fitted):
    """Two lenses of one quantizer each, the second with the same code vectors in another order."""
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    with refits(fitted, data, seeds=1, n_tokens=1_000, progress=False) as [other]:
        yield fitted, other


def renumber_(lens: Lens, order: list[int]) -> None:
    codebook, quantizer = lens.quantizer.codebook, lens.quantizer
    codebook.vectors.copy_(codebook.vectors[order])
    quantizer.usage.copy_(quantizer.usage[order])


def test_the_same_codes_under_other_numbers_agree_perfectly(two):
    lens, other = two
    other.quantizer.load_state_dict(lens.quantizer.state_dict())
    renumber_(other, list(range(11, -1, -1)))
    found = stability({"codes": [lens, other]}, DATA)
    [pair] = found.pairs
    assert (pair.ami, pair.matched) == (1.0, 1.0)
    assert (pair.ami.low, pair.matched.high) == (1.0, 1.0)
    assert pair.cosine == pytest.approx(1.0)
    assert abs(pair.ami_shuffled) < 0.1
    assert pair.matched_shuffled < 0.4
    assert pair.cosine_shuffled < 0.5


def test_codes_without_a_relation_agree_by_chance(two):
    """Beside an accuracy well above zero: so the control is needed."""
    random = np.random.default_rng(0)
    found = stability({"random": [random_lens(lens, random) for lens in two]}, DATA)
    [pair] = found.pairs
    assert pair.ami == pytest.approx(0.0, abs=0.06)
    assert pair.matched == pytest.approx(pair.matched_shuffled, abs=0.08)
    assert pair.matched_shuffled > 0.1


def random_lens(lens: Lens, random: np.random.Generator) -> Lens:
    """A lens whose codes are drawn at random, whatever the text."""

    class Random(Lens):
        def encode(self, data, **options):
            encoding = super().encode(data, **options)
            drawn = torch.from_numpy(random.integers(0, 12, tuple(encoding.codes.shape)))
            return replace(encoding, codes=drawn.masked_fill(~encoding.mask, -1))

    return Random(lens.attachment)


def test_cosines_are_relative_to_the_mean_that_code_vectors_share(two):
    """The common wrong variant: raw vectors with a large mean are alike whatever they say."""
    lens, other = two
    fixed = {id(each): each.encode(DATA) for each in two}
    with torch.no_grad():
        for each in two:
            each.quantizer.codebook.vectors += 100 * torch.ones(16)
    for each in two:
        each.encode = lambda data, each=each, **options: fixed[id(each)]
    found = stability({"codes": [lens, other]}, DATA)
    raw = torch.cosine_similarity(
        lens.quantizer.codebook.vectors, other.quantizer.codebook.vectors, dim=1
    )
    assert raw.min() > 0.99
    assert found.pairs[0].cosine_shuffled < 0.6


def test_code_vectors_of_another_width_have_no_cosine(fitted):
    wide = fitted.model.add_clvq(
        "blocks.1.mlp.hook_post", 2, n_codes=12, encoder="residual", name="wide"
    )
    wide.fit(DATA, n_tokens=500, progress=False)
    found = stability({"codes": [fitted, wide]}, DATA)
    assert np.isnan(found.pairs[0].cosine)
    assert found.pairs[0].ami > 0


def test_every_pair_of_fits_is_compared_and_the_mean_is_theirs(two):
    lens, other = two
    found = stability({"a": [lens, other, lens], "b": [lens, lens]}, DATA)
    assert [(p.method, p.first, p.second) for p in found.pairs] == [
        ("a", 0, 1),
        ("a", 0, 2),
        ("a", 1, 2),
        ("b", 0, 1),
    ]
    frame = found.frame().set_index("method")
    amis = [float(pair.ami) for pair in found.pairs[:3]]
    assert amis[1] == 1.0 > amis[0] > 0
    assert frame.loc["a", "ami"] == pytest.approx(np.mean(amis))
    assert frame.loc["a", ["ami_lowest", "ami_highest"]].tolist() == [min(amis), max(amis)]
    assert frame.loc["a", "ami_low"] < frame.loc["a", "ami"] < frame.loc["a", "ami_high"]
    assert frame["n_fits"].tolist() == [3, 2]
    assert frame["n_pairs"].tolist() == [3, 1]
    assert (found.n_tokens, found.n_documents) == (30 * 16, 30)


def test_halves_are_compared_with_each_other_only(two):
    lens, other = two
    fits = {"codes": [lens, other, other, lens]}
    found = stability(fits, DATA, how="halves")
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 1), (2, 3)]


def test_a_generator_of_texts_is_read_once_for_all_lenses(toy):
    lens = toy.model.add_clvq(0, 1, n_codes=8, decoder="table", name="stability")
    try:
        lens.fit(toy.texts[:40], n_tokens=1_000, progress=False)
        found = stability({"codes": [lens, lens]}, (text for text in toy.texts[:5]))
    finally:
        lens.remove()
    assert found.n_documents == 5
    assert found.pairs[0].ami == 1.0


def test_lenses_that_make_other_tokens_of_the_data_are_refused(two):
    lens, other = two
    encoding = other.encode(DATA)
    other.encode = lambda data, **options: replace(encoding, tokens=encoding.tokens + 1)
    with pytest.raises(DataError, match="makes other tokens of these data"):
        stability({"codes": [lens, other]}, DATA)


@pytest.mark.parametrize(
    ("n_fits", "how", "needed"),
    [(1, "seeds", "two fits at least"), (3, "halves", "two fits for each split")],
)
def test_too_few_fits_are_refused(fitted, n_fits, how, needed):
    with pytest.raises(DataError, match=needed):
        stability({"codes": [fitted] * n_fits}, DATA, how=how)


def test_no_method_is_refused():
    with pytest.raises(DataError, match="no fit to compare"):
        stability({}, DATA)


def test_it_says_in_one_line_how_well_each_method_agrees(two):
    lens, other = two
    found = stability({"a": [lens, other], HOSTILE: [lens, lens]}, DATA)
    assert repr(found).startswith(f"Stability(AMI of fits: a {float(found.ami['a']):.3f}, <script>")
    assert repr(found).endswith("1.000; 2 pairs, 480 tokens of 30 documents)")
    assert_harmless(found)
    assert found._repr_html_().count("<tr") == 1 + 2


def test_progress_is_shown_unless_it_is_turned_off(two, capsys):
    lens, other = two
    stability({"a": [lens, other, lens]}, DATA, progress=False)
    assert capsys.readouterr().err == ""
    stability({"a": [lens, other, lens]}, DATA)
    assert "stability: 100%" in capsys.readouterr().err


def test_its_plot_has_a_row_for_each_method(two):
    lens, other = two
    found = stability({"a": [lens, other], "b": [lens, lens]}, DATA)
    assert list(found.plot().layout.yaxis.ticktext) == ["a", "b"]
