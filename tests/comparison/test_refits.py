from typing import Any

import pytest
import torch

from clvq_lens.comparison.refits import refits
from clvq_lens.config import FitConfig
from clvq_lens.data.split import halves
from clvq_lens.errors import ConfigError, EmptyCorpusError, TooFewTokensError

DATA = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
FAST = {"n_tokens": 500, "batch_tokens": 256, "progress": False}


def state_of(model) -> tuple[list[str], list[str], int]:
    """Lenses, hook points, and hooks on them."""
    hooks = sum(len(point._forward_hooks) for point in model.hook_dict.values())
    return list(model.clvqs), list(model.hook_dict), hooks


def test_other_seeds_find_other_codes_with_the_same_options(fitted):
    before = fitted.quantizer.codebook.vectors.clone()
    with refits(fitted, DATA, **FAST) as others:
        assert len(others) == 3
        for other in others:
            assert other.config == fitted.config
            assert (other.source, other.target) == (fitted.source, fitted.target)
            assert other.quantizer.fitted
        codebooks = [lens.quantizer.codebook.vectors for lens in (fitted, *others)]
        for index, codebook in enumerate(codebooks):
            assert all(not torch.equal(codebook, other) for other in codebooks[:index])
    assert torch.equal(fitted.quantizer.codebook.vectors, before)


def test_the_first_seed_is_the_one_after_that_of_the_config(fitted):
    with refits(fitted, DATA, seeds=1, seed=4, **FAST) as [other]:
        fitted.fit(DATA, seed=5, **FAST)
        assert torch.equal(other.quantizer.codebook.vectors, fitted.quantizer.codebook.vectors)


def test_nothing_is_left_on_the_model(fitted):
    before = state_of(fitted.model)
    with refits(fitted, DATA, seeds=2, **FAST):
        assert list(fitted.model.clvqs) == ["1-2", "1-2 refit", "1-2 refit 2"]
    assert state_of(fitted.model) == before


def test_nothing_is_left_where_a_body_or_a_fit_raises(fitted):
    before = state_of(fitted.model)
    with pytest.raises(KeyError, match="mine"), refits(fitted, DATA, seeds=1, **FAST):
        raise KeyError("mine")
    assert state_of(fitted.model) == before
    with pytest.raises(TooFewTokensError), refits(fitted, DATA[:1, :3], seeds=2, **FAST):
        pass
    assert state_of(fitted.model) == before


def test_blocks_nest_and_names_stay_free(fitted):
    with (
        refits(fitted, DATA, seeds=1, **FAST) as [one],
        refits(one, DATA, seeds=1, **FAST) as [two],
    ):
        assert {one.name, two.name} == {"1-2 refit", "1-2 refit refit"}
        with refits(fitted, DATA, seeds=1, **FAST) as [three]:
            assert three.name == "1-2 refit 2"
    assert list(fitted.model.clvqs) == ["1-2"]


def test_halves_are_two_lenses_for_each_split(fitted):
    with refits(fitted, DATA, seeds=2, how="halves", **FAST) as others:
        assert len(others) == 4


def test_baselines_are_those_of_the_lens_itself(fitted):
    before = state_of(fitted.model)
    options = {"kind": "k-means", "n_tokens": 700, "progress": False}
    with refits(fitted, DATA, seeds=2, **options) as others:
        assert [other.name for other in others] == ["1-2 k-means", "1-2 k-means 2"]
        for seed, other in enumerate(others, 1):
            same = fitted.baseline("k-means", DATA, n_tokens=700, seed=seed, progress=False)
            assert torch.equal(other.quantizer.codebook.vectors, same.quantizer.codebook.vectors)
            same.remove()
    assert state_of(fitted.model) == before


def test_a_baseline_takes_the_whole_config_and_single_options_before_it(fitted, monkeypatch):
    calls = []

    def baseline(self, kind, data, config, *, progress, **options):
        calls.append((kind, len(data), config, options, progress))
        return self.model.add_clvq(1, 2, n_codes=8, name=f"{kind}-{len(calls)}")

    monkeypatch.setattr(type(fitted), "baseline", baseline)
    config = FitConfig(n_tokens=70, batch_tokens=35, long_texts="split", seed=3)
    with refits(fitted, DATA, seeds=1, kind="transcoder", config=config, n_active=4):
        pass
    with refits(fitted, DATA, seeds=1, kind="transcoder", config=config, n_tokens=90):
        pass
    assert calls == [
        ("transcoder", 60, config.replace(seed=4), {"n_active": 4}, True),
        ("transcoder", 60, config.replace(seed=4, n_tokens=90), {"n_active": 32}, True),
    ]


def test_an_option_or_a_baseline_that_does_not_exist_is_refused_at_once(fitted, as_for_a_user):
    before = state_of(fitted.model)
    with pytest.raises(ConfigError, match="no option 'n_token'"), refits(fitted, DATA, n_token=5):
        pass
    with (
        pytest.raises(ConfigError, match=r"baseline is 'k-meens'\. Closest: 'k-means'"),
        refits(fitted, DATA[:1], kind="k-meens", how="halves"),  # before data that cannot be split
    ):
        pass
    assert state_of(fitted.model) == before


def test_no_seed_is_refused(fitted):
    with (
        pytest.raises(ConfigError, match="seeds is 0; pass a whole number"),
        refits(fitted, DATA, seeds=0),
    ):
        pass


# ---- halves --------------------------------------------------------------------------------------


def contents(half: Any) -> list[Any]:
    return [document.content for document in half]


def test_halves_share_nothing_and_miss_nothing():
    texts = [f"text {number}" for number in range(200)]
    one, two = (contents(part) for part in halves(texts, seed=0))
    assert sorted(one + two) == sorted(texts)
    assert 70 < len(one) < 130
    assert one != contents(halves(texts, seed=1)[0])


def test_duplicates_stay_together():
    texts = ["a story", "a  story"] * 5 + [f"text {number}" for number in range(20)]
    parts = [contents(part) for part in halves(texts, seed=0)]
    assert {"a story", "a  story"} <= set(parts[0]) or {"a story", "a  story"} <= set(parts[1])


def test_halves_can_be_read_again_and_tokens_stay_tokens():
    [one, _] = halves((f"text {number}" for number in range(20)), seed=0)
    assert contents(one) == contents(one)
    rows = [row for part in halves(DATA, seed=0) for row in contents(part)]
    assert len(rows) == 60
    assert all(row.shape == (16,) for row in rows)


def test_a_text_alone_cannot_be_split():
    with pytest.raises(EmptyCorpusError, match="one half holds no document"):
        halves(["one text"], seed=0)
