from dataclasses import replace

import numpy as np
import pytest
import torch

from clvq_lens.comparison.collapse import Collapse, collapse
from clvq_lens.errors import ConfigError, DataError, NotFittedError, TooFewTokensError
from tests.comparison.shown import HOSTILE, assert_harmless
from tests.conftest import random_model

TRAIN = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
HELD_OUT = torch.randint(0, 40, (40, 16), generator=torch.Generator().manual_seed(3))
OPTIONS = {"progress": False}


@pytest.fixture(scope="module")
def found() -> Collapse:
    lens = random_model().add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(TRAIN, n_tokens=3_000, batch_tokens=256, progress=False)
    return collapse(lens, TRAIN, held_out=HELD_OUT, **OPTIONS)


def of(found: Collapse, method: str):
    return found.frame().set_index("method").loc[method]


def test_every_method_is_compared_with_every_layer(found):
    frame = found.frame()
    assert frame["method"].unique().tolist() == [
        "codes",
        "k-means of the source",
        "k-means of all layers",
        "k-means of the same layer",
        "codes, shuffled",
    ]
    assert len(frame) == 5 * 2
    assert found.layers == ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    assert (found.n_tokens, found.n_held_out) == (60 * 16, 40 * 16)


def test_shuffled_codes_are_chance(found):
    chance = of(found, "codes, shuffled")
    assert chance["ami"].abs().max() < 0.05
    assert (chance["fvu"] > 0.97).all()
    assert (chance["own_needed"] < 1.5).all()
    assert (chance["h_cluster_normalized"] > 0.9).all()
    assert (of(found, "codes")["ami"] > 0.3).all()


def test_own_clusters_need_about_as_many_for_their_own_fvu(found):
    same = of(found, "k-means of the same layer")
    assert same["own_needed"].to_numpy() == pytest.approx(12, rel=0.25)
    [saved] = found.summary().set_index("method").loc[["k-means of the same layer"], "saved"]
    assert saved == pytest.approx(2, rel=0.25)  # the number of layers


def test_k_means_of_the_source_is_that_of_the_same_layer_there(found):
    source = of(found, "k-means of the source").iloc[0]
    same = of(found, "k-means of the same layer").iloc[0]
    assert source.drop("layer").tolist() == same.drop("layer").tolist()


def test_codes_that_are_the_clusters_of_a_layer_gather_one_cluster_each(fitted):
    """Perfect collapse by hand: code vectors put where k-means of the source has its means."""
    from sklearn.cluster import KMeans

    source = fitted.host.activations(TRAIN, TRAIN >= 0, [fitted.source])[fitted.source]
    quantizer = fitted.quantizer
    with torch.no_grad():
        quantizer.encoder.linear.weight.copy_(torch.eye(16))
        z = quantizer.encode(source).flatten(0, 1)
        means = KMeans(12, n_init=1, random_state=0, max_iter=50).fit(z.numpy()).cluster_centers_
        quantizer.codebook.vectors.copy_(torch.from_numpy(means))
    found = collapse(fitted, TRAIN, held_out=HELD_OUT, **OPTIONS)
    at_source = of(found, "codes").iloc[0]
    ceiling = of(found, "k-means of the same layer").iloc[0]
    assert at_source["ami"] > ceiling["ami"] - 0.15
    assert at_source["clusters_per_code"] < 1.5 * ceiling["clusters_per_code"]
    assert of(found, "codes, shuffled")["clusters_per_code"].min() > 9


def test_gathered_clusters_of_codes_have_the_geometric_mean_of_the_table(found):
    codes = found.codes()
    assert codes["n_tokens"].sum() == found.n_held_out
    assert codes["n_tokens"].is_monotonic_decreasing
    expected = of(found, "codes").set_index("layer")["clusters_per_code"]
    for layer in found.layers:
        mean = np.exp(np.average(np.log(codes[layer]), weights=codes["n_tokens"]))
        assert mean == pytest.approx(expected[layer])
    assert codes["mean"].tolist() == pytest.approx(codes[list(found.layers)].mean(axis=1).tolist())


def test_the_grid_begins_with_the_mean_and_falls(found):
    grid = found.grid()
    assert grid["n_clusters"].unique().tolist() == [1, 2, 3, 6, 12, 24]
    for _, rows in grid.groupby("layer"):
        assert rows["fvu"].iloc[0] == pytest.approx(1.0, abs=0.05)
        assert rows["fvu"].is_monotonic_decreasing


def test_intervals_hold_the_values(found):
    frame = found.frame()
    for metric in ("ami", "fvu"):
        assert (frame[f"{metric}_low"] <= frame[metric]).all()
        assert (frame[metric] <= frame[f"{metric}_high"]).all()


def test_fvu_is_of_held_out_tokens(fitted):
    """The common wrong variant: as many clusters as training tokens leave nothing of those."""
    options = {**OPTIONS, "n_clusters": 192, "n_tokens": 960}
    found = collapse(fitted, TRAIN, held_out=HELD_OUT, **options)
    assert (of(found, "k-means of the same layer")["fvu"] > 0.05).all()


def test_layers_clusters_and_tokens_can_be_chosen(fitted):
    found = collapse(fitted, TRAIN, layers=[3, 0], n_clusters=5, n_tokens=200, **OPTIONS)
    assert found.layers == ("blocks.3.hook_resid_post", "blocks.0.hook_resid_post")
    assert found.sizes == (1, 2, 5, 10)
    assert found.n_tokens == 200
    assert found.n_held_out <= 200  # a fifth of the documents
    assert of(found, "k-means of all layers")["n_used"].tolist() == [5, 5]


def test_the_same_seed_gives_the_same_numbers(fitted):
    frames = [
        collapse(fitted, TRAIN, n_tokens=300, seed=seed, **OPTIONS).frame() for seed in (0, 0, 1)
    ]
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])


def test_several_lenses_stand_beside_the_same_clusters(fitted):
    other = fitted.model.add_clvq(1, 2, n_codes=7, name="other")
    other.fit(TRAIN, n_tokens=3_000, batch_tokens=256, progress=False)
    both = collapse({"ours": fitted, "theirs": other}, TRAIN, held_out=HELD_OUT, **OPTIONS)
    assert both.frame()["method"].unique()[:3].tolist() == [
        "ours",
        "theirs",
        "k-means of the source",
    ]
    alone = collapse({"ours": fitted}, TRAIN, held_out=HELD_OUT, **OPTIONS)
    shared = both.frame()[both.frame()["method"] != "theirs"]
    assert shared.reset_index(drop=True).equals(alone.frame())
    codes = both.codes()
    assert codes.groupby("method")["n_tokens"].sum().to_dict() == {"ours": 640, "theirs": 640}
    assert codes[codes["method"] == "theirs"]["code"].max() < 7
    as_first = collapse(other, TRAIN, held_out=HELD_OUT, n_clusters=12, **OPTIONS)
    values = ["ami", "fvu", "clusters_per_code", "n_used"]
    assert of(as_first, "codes")[values].to_numpy() == pytest.approx(
        of(both, "theirs")[values].to_numpy()
    )
    assert "ours " in repr(both)
    assert "theirs " in repr(both)


def test_lenses_that_read_something_else_or_are_called_a_baseline_are_refused(fitted):
    other = fitted.model.add_clvq(0, 2, n_codes=7, name="elsewhere")
    other.fit(TRAIN, n_tokens=2_000, batch_tokens=256, progress=False)
    with pytest.raises(ConfigError, match=r"'elsewhere' reads blocks\.0\.hook_resid_post, and "):
        collapse({"ours": fitted, "theirs": other}, TRAIN, **OPTIONS)
    with pytest.raises(DataError, match="call none of them by the name of a baseline: 'k-means"):
        collapse({"k-means of the source": fitted}, TRAIN, **OPTIONS)


def test_a_list_of_lenses_is_refused(fitted, as_for_a_user):
    with pytest.raises(ConfigError, match=r"lenses.*Pass a lens, or \{name: lens"):
        collapse([fitted], TRAIN, **OPTIONS)


def test_it_says_in_one_line_what_codes_and_baselines_save(found):
    saved = found.summary().set_index("method")["saved"]
    assert repr(found) == (
        f"Collapse(codebooks saved over 2 layers: codes {saved['codes']:.2f}, k-means of the "
        f"source {saved['k-means of the source']:.2f}, k-means of the same layer "
        f"{saved['k-means of the same layer']:.2f}; 960 tokens clustered, 640 held out)"
    )
    assert found._repr_html_().count("<tr") == 1 + 5
    hostile = [replace(agreement, method=HOSTILE) for agreement in found.agreements[:2]]
    assert_harmless(replace(found, agreements=(*found.agreements, *hostile)))


def test_outliers_between_source_and_target_are_left_out_and_told_of():
    model = random_model()
    lens = model.add_clvq(0, 3, n_codes=12)
    lens.fit(TRAIN, n_tokens=3_000, batch_tokens=256, progress=False)
    clean = collapse(lens, TRAIN, held_out=HELD_OUT, **OPTIONS)
    assert clean.n_outliers == 0

    def lengthen(resid, hook):
        resid[:, 0] += 1_000.0 if hook.name.startswith("blocks.1") else -1_000.0
        return resid

    model.add_perma_hook("blocks.1.hook_resid_post", lengthen)
    # Before block 3 reads it, so that the target is as long as ever.
    model.add_perma_hook("blocks.3.hook_resid_pre", lengthen)
    found = collapse(lens, TRAIN, held_out=HELD_OUT, **OPTIONS)
    assert found.n_outliers == len(TRAIN) + len(HELD_OUT)
    assert (found.n_tokens, found.n_held_out) == (60 * 15, 40 * 15)
    assert repr(found).endswith("900 tokens clustered, 600 held out, 100 outliers left out)")
    assert (of(found, "k-means of the same layer")["fvu"] < 0.9).all()


def test_the_plot_has_a_line_for_each_method_but_chance(found):
    names = {trace.name for trace in found.plot().data}
    assert names == {
        "codes",
        "k-means of the source",
        "k-means of all layers",
        "k-means of the same layer",
    }


def test_too_few_tokens_or_clusters_and_unfitted_lenses_are_refused(fitted):
    with pytest.raises(TooFewTokensError, match="59 training tokens for 12 clusters"):
        collapse(fitted, TRAIN, held_out=HELD_OUT, n_tokens=59, **OPTIONS)
    with pytest.raises(ConfigError, match="n_clusters is 1; pass a whole number from 2"):
        collapse(fitted, TRAIN, n_clusters=1, **OPTIONS)
    unfitted = fitted.model.add_clvq(0, 1, n_codes=8)
    with pytest.raises(NotFittedError):
        collapse(unfitted, TRAIN, **OPTIONS)
