import numpy as np
import pytest
import torch

from clvq_lens.comparison import layer_tokens
from clvq_lens.comparison.layer_tokens import LayerOutliers, residual_points, sample_tokens
from clvq_lens.data.documents import open_documents
from clvq_lens.errors import EmptyCorpusError

DATA = torch.randint(0, 40, (50, 12), generator=torch.Generator().manual_seed(5))


def sampled(lens, n_tokens: int, seed: int = 0, data: torch.Tensor = DATA):
    return sample_tokens(
        {"codes": lens},
        [lens.source, lens.target],
        list(open_documents(data)),
        n_tokens=n_tokens,
        generator=np.random.default_rng(seed),
        long_texts="error",
        progress=False,
    )


def test_layers_go_from_the_source_over_every_block_to_the_target(model):
    lens = model.add_clvq("blocks.0.hook_resid_mid", "blocks.3.hook_resid_mid", n_codes=8)
    assert residual_points(lens.host, lens.source, lens.target) == [
        "blocks.0.hook_resid_mid",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_post",
        "blocks.2.hook_resid_post",
        "blocks.3.hook_resid_mid",
    ]
    assert residual_points(lens.host, lens.source, lens.source) == [lens.source]


def test_all_tokens_have_their_own_activations_code_and_document(fitted):
    found = sampled(fitted, 10_000)
    assert len(found) == 600
    _, cache = fitted.model.run_with_cache(DATA)
    codes = fitted.encode(DATA).codes
    order = np.lexsort((np.arange(600), found.documents))
    source = torch.from_numpy(found.layers[fitted.source])
    for document in (0, 17, 49):
        rows = order[found.documents[order] == document]
        here = cache[fitted.source][document]
        place = torch.cdist(source[rows], here).argmin(1)
        assert sorted(place.tolist()) == list(range(12))
        torch.testing.assert_close(source[rows], here[place])
        target = torch.from_numpy(found.layers[fitted.target][rows])
        torch.testing.assert_close(target, cache[fitted.target][document][place])
        assert found.codes["codes"][rows].tolist() == codes[document][place].tolist()


def test_a_sample_is_uniform_over_all_of_the_data_and_no_larger_than_asked(fitted):
    """Not the first tokens: every document is drawn from alike."""
    drawn = [sampled(fitted, 100, seed).documents for seed in range(20)]
    assert {len(documents) for documents in drawn} == {100}
    counts = np.bincount(np.concatenate(drawn), minlength=50)
    assert counts.sum() == 2_000
    assert counts.min() > 15  # 40 each but for chance
    assert counts.max() < 70


def test_the_seed_decides_the_sample(fitted):
    assert (
        sampled(fitted, 50).codes["codes"].tolist() == sampled(fitted, 50).codes["codes"].tolist()
    )
    assert sampled(fitted, 50).documents.tolist() != sampled(fitted, 50, seed=1).documents.tolist()


def test_data_without_a_token_are_refused(fitted, monkeypatch):
    with pytest.raises(EmptyCorpusError, match="no text at all"):
        sampled(fitted, 50, data=DATA[:0])
    monkeypatch.setattr(layer_tokens, "token_batches", lambda *args, **options: iter([]))
    with pytest.raises(EmptyCorpusError, match="The data hold no real token"):
        sampled(fitted, 50)


def test_a_token_is_an_outlier_if_it_is_at_any_layer(fitted):
    """As the first token of a text in SmolLM2: long between source and target, and only there."""
    middle = "blocks.3.hook_resid_post"
    found = sample_tokens(
        {"codes": fitted},
        [fitted.source, fitted.target, middle],
        list(open_documents(DATA)),
        n_tokens=10_000,
        generator=np.random.default_rng(0),
        long_texts="error",
        progress=False,
    )
    assert not LayerOutliers(fitted, found).among(found).any()
    for place, point in enumerate(found.layers):
        found.layers[point][place] *= 100
    outliers = LayerOutliers(fitted, found)
    assert np.flatnonzero(outliers.among(found)).tolist() == [0, 1, 2]
    rest = found.without(outliers.among(found))
    assert len(rest) == len(found) - 3
    assert rest.documents.tolist() == found.documents[3:].tolist()
    assert rest.codes["codes"].tolist() == found.codes["codes"][3:].tolist()
    assert (rest.layers[middle] == found.layers[middle][3:]).all()
    assert not outliers.among(rest).any()


def test_a_lens_that_was_fitted_with_outliers_keeps_them_everywhere(model):
    lens = model.add_clvq(1, 3, n_codes=8)
    lens.fit(DATA, n_tokens=600, keep_outliers=True, progress=False)
    found = sampled(lens, 10_000)
    found.layers[lens.target][0] *= 1_000
    assert not LayerOutliers(lens, found).among(found).any()
