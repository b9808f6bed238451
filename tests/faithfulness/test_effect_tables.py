"""Verdicts on effects that are known, such as none at all."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from clvq_lens.faithfulness.effect_tables import SMALLEST_EFFECT, EffectTables, tabulate
from clvq_lens.faithfulness.effects import Effect
from clvq_lens.faithfulness.faithfulness import Faithfulness

N_TEXTS = 240
DOCUMENTS = np.arange(N_TEXTS) // 2
RANDOM = np.random.default_rng(0)


def effect(place: str, ablation: str, condition: str, probability: np.ndarray) -> Effect:
    correct = (probability > 0.5).astype(float)
    return Effect(place, ablation, condition, correct, probability, 1 - correct)


def judged(
    drops: dict[str, np.ndarray],
    codes: np.ndarray,
    *,
    documents: np.ndarray = DOCUMENTS,
    smallest_effect: float = SMALLEST_EFFECT,
) -> Faithfulness:
    """Verdicts on one ablation after the other, each with a control that does nothing."""
    clean = np.full(len(codes), 0.6)
    effects = [effect("probe", "", "unperturbed", clean)]
    for ablation, drop in drops.items():
        effects.append(effect("probe", ablation, "concept", clean - drop))
        effects.append(effect("probe", ablation, "random code", clean))
    tables = tabulate(effects, documents, codes, smallest_effect=smallest_effect)
    return with_tables(tables, codes, smallest_effect)


def with_tables(tables: EffectTables, codes: np.ndarray, smallest_effect: float) -> Faithfulness:
    return Faithfulness(
        protocol="honest",
        n_texts=len(codes),
        n_documents=len(codes) // 2,
        n_salient_codes=len(np.unique(codes)),
        n_folds=5,
        chance=0.5,
        floor=0.5,
        smallest_effect=smallest_effect,
        level=tables.level,
        completeness_error=0.0,
        conditions=tables.conditions,
        contrasts=tables.contrasts,
        texts=pd.DataFrame({"code": codes}),
    )


def noisy(mean: float, *, spread: float = 0.1) -> np.ndarray:
    return mean + spread * np.random.default_rng(3).standard_normal(N_TEXTS)


EVEN = np.arange(N_TEXTS) % 40  # as many texts of each code


# ---- how large -----------------------------------------------------------------------------------


def test_an_effect_that_nobody_would_care_for_is_not_specific_however_sure_it_is():
    tiny = {"centered": noisy(1.2e-5, spread=2e-5)}
    result = judged(tiny, EVEN)
    least = result.least_contrast("probe", "centered")
    assert 0 < least.low < least < 0.0001
    assert not result.is_specific("probe", "centered")
    assert judged(tiny, EVEN, smallest_effect=0.0).is_specific("probe", "centered")


def test_what_is_specific_is_above_the_smallest_effect_with_its_whole_interval():
    drop = {"centered": noisy(0.05)}
    assert judged(drop, EVEN).is_specific("probe", "centered")
    assert not judged(drop, EVEN, smallest_effect=0.045).is_specific("probe", "centered")


def test_small_effects_are_shown_in_digits_that_tell_them_from_zero():
    result = judged({"centered": noisy(1.2e-5, spread=2e-5)}, EVEN)
    for shown in (result.verdict(), result._repr_html_()):
        assert "e-05 [" in shown
        assert "0.000" not in shown
    [text] = [each.customdata[0][0] for each in result.plot().data]
    assert "e-05 [" in text


# ---- how many ------------------------------------------------------------------------------------


def test_verdicts_are_corrected_for_their_number():
    """One drop alone is specific; beside four others that are not, it is not."""
    drop = noisy(0.028)
    alone = judged({"centered": drop}, EVEN)
    assert alone.is_specific("probe", "centered")
    assert alone.level == pytest.approx(0.95)
    nothing = {f"nothing {number}": noisy(0.0) for number in range(4)}
    among = judged({"centered": drop, **nothing}, EVEN)
    assert not among.is_specific("probe", "centered")
    assert among.level == pytest.approx(0.99)
    assert among.verdicts()["p_holm"].iloc[0] == pytest.approx(5 * alone.verdicts()["p"].iloc[0])


def test_the_verdict_is_the_same_wherever_it_stands():
    drops = {"raw": noisy(0.05), "centered": noisy(0.021), "code": noisy(0.0)}
    result = judged(drops, EVEN)
    table = result.verdicts()
    assert table["specific"].tolist() == [True, False, False]
    assert (table["p_holm"] < 0.05).tolist() == [True, False, False]
    for place, ablation, specific in table[["place", "ablation", "specific"]].to_numpy():
        assert result.is_specific(place, ablation) == specific
        least = result.least_contrast(place, ablation)
        assert (least.low > result.smallest_effect) == specific
    words = ["specific", "no specific effect", "no specific effect"]
    assert result.preview()["verdict"].tolist() == words
    lines = result.verdict().split("\n")
    for line, word in zip(lines[:-1], words, strict=True):
        assert f": {word}; over random code by" in line
    assert lines[-1] == (
        "3 verdicts tried and corrected for by Holm's method; 97.5 % intervals over 120 documents "
        "and 40 salient codes; specific is a drop of more than 0.01"
    )
    assert "1 of 3 effects specific" in repr(result)
    titles = [note.text for note in result.plot().layout.annotations]
    assert [f"({word})" in title for word, title in zip(words, titles, strict=True)] == [True] * 3


def test_the_control_that_decides_is_the_one_that_comes_nearest_with_its_interval():
    """A control with a smaller difference that is sure does not decide; one that is unsure does."""
    clean = np.full(N_TEXTS, 0.6)
    sure, unsure = clean - 0.01, clean - 0.005 + noisy(0.0, spread=0.4)
    effects = [effect("probe", "", "unperturbed", clean)]
    for condition, values in {
        "concept": clean - 0.05,
        "random code": sure,
        "share-matched code": unsure,
        "code of another class": clean - 0.05,
    }.items():
        effects.append(effect("probe", "centered", condition, values))
    result = with_tables(tabulate(effects, DOCUMENTS, EVEN), EVEN, SMALLEST_EFFECT)
    assert result.verdicts()["control"].tolist() == ["share-matched code"]
    assert not result.is_specific("probe", "centered")
    assert "as much by a code of another class" in result.verdict()


# ---- documents and codes -------------------------------------------------------------------------


def test_one_salient_code_gives_no_verdict():
    result = judged({"centered": noisy(0.3)}, np.zeros(N_TEXTS, dtype=np.int64))
    assert not result.is_specific("probe", "centered")
    assert np.isnan(result.least_contrast("probe", "centered").low)
    assert "no verdict: it takes two documents and two salient codes" in result.verdict()
    assert "(no interval)" in result.verdict()
    assert "1 salient code;" in result.verdict()
    result.plot()


def test_codes_play_no_part_where_nothing_was_removed():
    few, many = (judged({"centered": noisy(0.05)}, EVEN % n) for n in (3, 40))
    for column in ("probability_low", "accuracy_high"):
        assert few.conditions[column].iloc[0] == many.conditions[column].iloc[0]
    assert few.conditions["drop_low"].iloc[1] < few.conditions["drop_high"].iloc[1]


N_RUNS = 300
# What a true rate of 0.05 exceeds once in a thousand simulations of as many runs: 27.
MOST_FALSE = int(binom.ppf(0.999, N_RUNS, 0.05))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_codes", "zipf"), [(3, 0), (10, 0), (40, 0), (400, 0), (10, 1)], ids=str
)
def test_effects_of_codes_that_are_none_on_average_are_seldom_specific(
    n_codes, zipf, record_property
):
    """Effects belong to codes, documents and texts, and their mean over codes is 0.

    Codes are equally common, or as common as Zipf's law has it.

    Intervals that resample documents alone called 0.39 (3 codes), 0.31 (10), 0.11 (40) and 0.06
    (400) of such effects specific.
    """
    random = np.random.default_rng(n_codes)
    shares = 1.0 / np.arange(1, n_codes + 1) ** zipf
    n_false = 0
    for _ in range(N_RUNS):
        codes = random.choice(n_codes, N_TEXTS, p=shares / shares.sum())
        of_codes = 0.10 * random.standard_normal(n_codes)[codes]
        of_documents = 0.05 * random.standard_normal(N_TEXTS)[DOCUMENTS]
        drop = of_codes + of_documents + 0.10 * random.standard_normal(N_TEXTS)
        result = judged({"centered": drop}, codes, smallest_effect=0.0)
        n_false += result.is_specific("probe", "centered")
    record_property("false", n_false / N_RUNS)
    assert n_false <= MOST_FALSE


@pytest.mark.slow
@pytest.mark.parametrize("n_codes", [10, 40])
def test_an_effect_that_all_codes_have_is_found(n_codes):
    random = np.random.default_rng(n_codes)
    n_found = 0
    for _ in range(100):
        codes = random.integers(0, n_codes, N_TEXTS)
        of_codes = 0.05 * random.standard_normal(n_codes)[codes]
        drop = 0.1 + of_codes + 0.10 * random.standard_normal(N_TEXTS)
        n_found += judged({"centered": drop}, codes).is_specific("probe", "centered")
    assert n_found >= 90
