"""Baselines are lenses: every verb works on every kind, on a model that is left as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

import clvq_lens as cl
from clvq_lens.baselines.baseline import attach_baseline
from clvq_lens.baselines.clusterings import CLUSTERINGS
from clvq_lens.baselines.kinds import BASELINES
from clvq_lens.baselines.token_identity import token_embedding
from clvq_lens.errors import (
    ConfigError,
    EmptyCorpusError,
    HookNotFoundError,
    NameTakenError,
    NotFittedError,
    TooFewTokensError,
)
from clvq_lens.host.host import Host
from tests.hosts import KINDS, Kind, text_of, words

OPTIONS: dict[str, Any] = {"n_tokens": 3_000, "batch_tokens": 256, "progress": False}


def corpus(seed: int = 2) -> torch.Tensor:
    """What the `fitted` lens was fitted on."""
    return torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(seed))


def hooks_of(model: Any) -> dict[str, Any]:
    return {
        name: (len(point.fwd_hooks), len(point._forward_hooks), len(point._forward_pre_hooks))
        for name, point in model.hook_dict.items()
    }


@pytest.mark.parametrize("kind", BASELINES)
def test_every_verb_works_on_every_kind(fitted: cl.Lens, kind: Any):
    model, held_out = fitted.model, corpus(3)[:20]
    before, clean = hooks_of(model), model(held_out)
    state = {name: value.clone() for name, value in fitted.quantizer.state_dict().items()}
    lens = fitted.baseline(kind, corpus(), **OPTIONS)
    try:
        assert lens.name == f"1-2 {kind}"
        assert model.clvqs[lens.name] is lens
        assert lens.target == fitted.target
        assert torch.equal(model(held_out), clean)
        codes = lens.encode(held_out).codes
        cached = model.run_with_cache(held_out)[1][f"clvq.{lens.name}.hook_codes"]
        assert torch.equal(cached, codes)
        report = lens.evaluate(held_out, progress=False)
        assert report.fvu < 1.0 < report.fvu_random_codes
        code = int(codes.mode().values[0])
        with lens.edit(cl.Ablate(code)):
            edited, cache = model.run_with_cache(held_out)
        assert not (cache[f"clvq.{lens.name}.hook_codes"] == code).any()
        assert not torch.equal(edited, clean)
        table = lens.concepts(held_out, progress=False)
        assert table[code].usage == int((codes == code).sum())
        with lens.project_out(code):
            assert not torch.equal(model(held_out), clean)
    finally:
        lens.remove()
    assert torch.equal(model(held_out), clean)
    assert hooks_of(model) == before
    assert list(model.clvqs) == ["1-2"]
    assert all(torch.equal(state[n], v) for n, v in fitted.quantizer.state_dict().items())


@pytest.fixture(scope="module")
def lens() -> cl.Lens:
    """On a model of its own, which all tests of this module share."""
    lens = cl.add_clvq(KINDS[0].model(), 0, 2, n_codes=12, top_k=3)
    lens.fit(words(60, 16), **OPTIONS)
    return lens


@pytest.fixture(scope="module")
def baselines(lens: cl.Lens) -> dict[str, cl.Lens]:
    """All kinds, side by side on that model."""
    return {kind: lens.baseline(kind, words(60, 16), **OPTIONS) for kind in BASELINES}


@pytest.mark.parametrize("kind", BASELINES)
def test_the_same_seed_gives_the_same_bits(lens: cl.Lens, baselines: Any, kind: Any):
    one, same = baselines[kind].quantizer, lens.baseline(kind, words(60, 16), **OPTIONS)
    assert same.name == f"0-2 {kind} 2"
    same.remove()
    theirs = same.quantizer.state_dict()
    assert all(torch.equal(mine, theirs[name]) for name, mine in one.state_dict().items())


@pytest.mark.parametrize("kind", ["k-means", "random codes", "transcoder"])
def test_another_seed_gives_other_codes(lens: cl.Lens, baselines: Any, kind: Any):
    other = lens.baseline(kind, words(60, 16), seed=1, **OPTIONS)
    other.remove()
    mine, theirs = baselines[kind].quantizer.codebook, other.quantizer.codebook
    assert not torch.equal(mine.vectors, theirs.vectors)


@pytest.mark.parametrize("kind", BASELINES)
def test_codes_are_recorded_over_the_training_tokens_of_the_lens(
    lens: cl.Lens, baselines: Any, kind: Any
):
    quantizer, like = baselines[kind].quantizer, lens.quantizer
    assert int(quantizer.usage.sum()) == int(like.usage.sum())
    torch.testing.assert_close(quantizer.target_mean, like.target_mean)
    assert quantizer.target_variance == like.target_variance
    assert quantizer.config.n_codes == like.config.n_codes
    assert quantizer.codebook.mean_distance > 0
    used = quantizer.usage > 0
    table = quantizer.decoder(quantizer.codebook.vectors.unsqueeze(0))[0]
    torch.testing.assert_close(table[used], quantizer.mean_target[used])


@pytest.mark.parametrize("kind", [kind for kind in BASELINES if kind != "single-layer VQ-VAE"])
def test_the_encoder_changes_no_bit(baselines: Any, kind: str):
    x = 10 * torch.randn(50, 16, generator=torch.Generator().manual_seed(4))
    x[:, 0], x[:, 1] = 1e6, 1e-12  # where the slightest part of a normalized vector would show
    assert torch.equal(baselines[kind].quantizer.encode(x), x)


def test_clusters_reconstruct_better_than_random_codes(baselines: Any):
    fvu = {
        kind: float(baselines[kind].evaluate(words(60, 16), progress=False).fvu)
        for kind in CLUSTERINGS
    }
    assert max(fvu, key=lambda kind: fvu[kind]) == "random codes"


def test_a_clustering_says_what_it_is_at_work_on(fitted: cl.Lens, capsys: Any):
    fitted.baseline("k-means", corpus(), **OPTIONS | {"progress": True}).remove()
    assert "k-means, 912 tokens into 12 codes: 100%" in capsys.readouterr().err


def test_token_identity_gives_each_token_a_code(lens: cl.Lens):
    """Ten token types for twelve codes."""
    few = 5 + words(60, 16) % 10
    baseline = lens.baseline("token identity", few, **OPTIONS)
    baseline.remove()
    assert baseline.config.n_codes == 10
    usage = baseline.quantizer.usage.tolist()
    assert usage == sorted(usage, reverse=True)
    again = cl.add_clvq(lens.model, quantizer=baseline.quantizer)
    encoding = again.encode(few)
    again.remove()
    pairs = set(
        zip(encoding.tokens.flatten().tolist(), encoding.codes.flatten().tolist(), strict=True)
    )
    assert len(pairs) == 10
    assert {code for _, code in pairs} == set(range(10))


def test_rare_tokens_go_to_the_code_of_the_nearest_embedding(lens: cl.Lens, baselines: Any):
    baseline, embeddings = baselines["token identity"], lens.model.W_E.detach()
    chosen = torch.cdist(baseline.quantizer.codebook.vectors, embeddings).argmin(1)
    tokens = torch.arange(5, 40).view(5, 7)
    nearest = torch.cdist(embeddings[tokens.flatten()], embeddings[chosen]).argmin(1)
    encoding = baseline.encode(tokens)
    assert torch.equal(encoding.codes[encoding.mask], nearest)


def test_a_single_layer_vq_vae_learns_other_codes_than_a_residual_lens(
    lens: cl.Lens, baselines: Any
):
    alone = baselines["single-layer VQ-VAE"].quantizer
    options = {"n_codes": 12, "top_k": 3, "encoder": "residual", "name": "residual"}
    other = cl.add_clvq(lens.model, 0, 2, **options)
    try:
        other.fit(words(60, 16), **OPTIONS)
    finally:
        other.remove()
    assert not torch.equal(alone.codebook.vectors, other.quantizer.codebook.vectors)
    assert not torch.equal(alone.encoder.mix, other.quantizer.encoder.mix)
    assert 0 < alone.encoder.mix < 0.5


def test_a_transcoder_learns_other_features_than_an_autoencoder(lens: cl.Lens):
    """Both start alike, at the same tokens."""
    weights = []
    for kind in ("sparse autoencoder", "transcoder"):
        baseline = lens.baseline(kind, words(60, 16), **{**OPTIONS, "n_tokens": 30_000})
        baseline.remove()
        weights.append(baseline.quantizer.codebook.weights)
    one, other = weights
    assert not torch.allclose(F.normalize(one), F.normalize(other), atol=0.05)


def test_n_active_changes_the_features(lens: cl.Lens, baselines: Any):
    few = lens.baseline("transcoder", words(60, 16), n_active=1, **OPTIONS)
    few.remove()
    mine, theirs = few.quantizer.codebook, baselines["transcoder"].quantizer.codebook
    assert not torch.equal(mine.weights, theirs.weights)


@pytest.mark.parametrize("banned", [1, 2])
def test_where_features_are_ablated_the_next_strongest_takes_over(baselines: Any, banned: int):
    baseline, tokens = baselines["sparse autoencoder"], words(1, 12, seed=3)
    name = f"clvq.{baseline.name}.hook_codes"
    _, cache = baseline.model.run_with_cache(tokens)
    activations = baseline.quantizer.codebook.activations(cache[baseline.source])[0, 5]
    order = activations.argsort(descending=True)
    with baseline.edit(cl.Ablate(order[:banned].tolist())):
        _, cache = baseline.model.run_with_cache(tokens)
    assert cache[name][0, 5] == order[banned]


@pytest.mark.parametrize("kind", ["k-means", "token identity", "sparse autoencoder", "transcoder"])
def test_a_saved_baseline_is_as_before(lens: cl.Lens, baselines: Any, kind: str, tmp_path: Path):
    baseline = baselines[kind]
    baseline.save(tmp_path / "baseline")
    again = cl.add_clvq(lens.model, quantizer=cl.load(tmp_path / "baseline"), name="again")
    assert cl.load(tmp_path / "baseline").origin.name == baseline.name
    assert torch.equal(again.encode(words(9, 9)).codes, baseline.encode(words(9, 9)).codes)
    assert type(again.quantizer.codebook) is type(baseline.quantizer.codebook)
    assert again.source == baseline.source
    x = torch.randn(1, 5, 16)
    assert torch.equal(again.quantizer.encode(x), x)
    assert torch.equal(again.quantizer(x), baseline.quantizer(x))
    again.remove()


@pytest.mark.parametrize("kind", ["token identity", "single-layer VQ-VAE"])
def test_texts_that_can_be_read_once_are_enough(lens: cl.Lens, baselines: Any, kind: Any):
    texts = [text_of(row) for row in words(60, 16)]
    once = lens.baseline(kind, iter(texts), **OPTIONS)
    once.remove()
    assert int(once.quantizer.usage.sum()) == int(baselines[kind].quantizer.usage.sum())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_host_has_a_point_of_embeddings(kind: Kind):
    host, tokens = Host(kind.model()), words(4, 12)
    point = token_embedding(host)
    found = host.activations(tokens, tokens > 0, [point])[point]
    for token in tokens.unique():
        vectors = found[tokens == token]
        assert torch.equal(vectors, vectors[:1].expand_as(vectors))
    assert len(found.flatten(0, 1).unique(dim=0)) == len(tokens.unique())


@pytest.mark.parametrize("name", ["hooked-encoder", "bridge-bert"])
def test_token_identity_works_on_encoders(name: str):
    kind = next((kind for kind in KINDS if kind.name == name), None)
    if kind is None:
        pytest.skip(f"this TransformerLens has no {name}")
    lens = cl.add_clvq(kind.model(), 1, 2, n_codes=12, top_k=3)
    lens.fit(words(30, 12), **OPTIONS)
    clean = lens.model(words(4, 12))
    baseline = lens.baseline("token identity", words(30, 12), **OPTIONS)
    codes = baseline.encode(words(4, 12)).codes
    assert torch.equal(lens.model(words(4, 12)), clean)
    with baseline.edit(cl.Ablate(int(codes[0, 1]))):
        assert not torch.equal(lens.model(words(4, 12)), clean)


# ---- what is refused -----------------------------------------------------------------------------


def test_an_unknown_kind_is_refused_with_the_closest(fitted: cl.Lens, as_for_a_user: None):
    given = (fitted.attachment, "kmeans", corpus(), cl.FitConfig())
    options = {"name": None, "n_active": 4, "progress": False}
    with pytest.raises(ConfigError, match=r"baseline is 'kmeans'\. Closest: 'k-means'\..*transco"):
        attach_baseline(*given, **options)


def test_a_lens_that_was_not_fitted_has_no_baseline(model: Any):
    with pytest.raises(NotFittedError, match="has not been fitted"):
        cl.add_clvq(model, 1, 2).baseline("k-means", corpus())


@pytest.mark.parametrize(
    "kind", ["k-means", "random codes", "single-layer VQ-VAE", "sparse autoencoder"]
)
def test_too_few_tokens_are_refused_and_nothing_is_attached(fitted: cl.Lens, kind: Any):
    repeated = torch.full((20, 1), 7)  # twenty tokens that are all the same
    with pytest.raises(TooFewTokensError, match=r"of the rows differ from each other"):
        fitted.baseline(kind, repeated, **OPTIONS)
    assert list(fitted.model.clvqs) == ["1-2"]


def test_a_name_that_is_taken_is_refused(fitted: cl.Lens):
    lens = fitted.baseline("random codes", corpus(), name="chance", **OPTIONS)
    assert lens.name == "chance"
    with pytest.raises(NameTakenError, match="already has a quantizer named 'chance'"):
        fitted.baseline("random codes", corpus(), name="chance", **OPTIONS)


@pytest.mark.parametrize("n_active", [0, 2.0, True])
def test_an_impossible_number_of_active_features_is_refused(
    fitted: cl.Lens, n_active: Any, as_for_a_user: None
):
    given = (fitted.attachment, "transcoder", corpus(), cl.FitConfig())
    options = {"name": None, "n_active": n_active, "progress": False}
    with pytest.raises(ConfigError, match=r"n_active is .*pass a whole number from 1"):
        attach_baseline(*given, **options)


@pytest.mark.parametrize("kind", ["k-means", "token identity"])
def test_data_without_a_real_token_are_refused(kind: Any):
    hooked = next(kind for kind in KINDS if kind.name == "bridge-llama")
    lens = cl.add_clvq(hooked.model(), 1, 2, n_codes=12, top_k=3)
    lens.fit(words(30, 12), **OPTIONS)
    with pytest.raises(EmptyCorpusError, match="The data hold no real token"):
        lens.baseline(kind, torch.ones(3, 4, dtype=torch.long), **OPTIONS)  # nothing but BOS


def test_a_model_without_a_point_of_embeddings_is_refused(model: Any, monkeypatch: Any):
    monkeypatch.delitem(model.hook_dict, "hook_embed")
    with pytest.raises(HookNotFoundError, match=r"carries the embedding of the token alone: hook"):
        token_embedding(Host(model))


@pytest.mark.parametrize("kind", ["k-means", "single-layer VQ-VAE", "token identity", "transcoder"])
def test_a_decoder_is_trained_on_codes_that_stay_what_they_are(kind: Any):
    model, texts = cl.toy.load(n_texts=60)
    lens = model.add_clvq(1, 2, n_codes=16, decoder="transformer", decoder_layers=1)
    lens.fit(texts[:50], n_tokens=8_000, n_evaluations=2, progress=False)
    table = lens.baseline(kind, texts[:50], name="table", progress=False)
    learned = lens.baseline(kind, texts[:50], decoder="transformer", name="learned", progress=False)
    assert learned.config.decoder == "transformer"
    assert learned.config.d_decoder_mlp == lens.config.d_decoder_mlp
    assert torch.equal(table.encode(texts[50:]).codes, learned.encode(texts[50:]).codes)
    assert torch.equal(table.quantizer.usage, learned.quantizer.usage)
    fvu = [float(one.evaluate(texts[50:], progress=False).fvu) for one in (table, learned)]
    assert fvu[1] < fvu[0]  # attention to earlier codes tells more than the code alone
    assert not any(p.requires_grad for p in learned.quantizer.parameters())


def test_a_decoder_that_does_not_exist_is_refused(fitted: cl.Lens, as_for_a_user: None):
    with pytest.raises(ConfigError, match="decoder is 'lstm'"):
        fitted.baseline("k-means", corpus(), decoder="lstm", **OPTIONS)  # type: ignore[arg-type]
    assert list(fitted.model.clvqs) == ["1-2"]


@pytest.mark.parametrize("kind", ["k-means", "single-layer VQ-VAE", "transcoder"])
def test_a_lens_that_predicts_has_baselines_that_read_the_source(kind: Any):
    model = cl.toy.load(n_texts=1)[0]
    texts = cl.toy.generate(50, seed=4)
    lens = model.add_clvq(1, 2, n_codes=16, encoder="predictive", decoder="mlp")
    lens.fit(texts, n_tokens=4_000, n_evaluations=2, progress=False)
    baseline = lens.baseline(kind, texts, progress=False)
    assert baseline.config.encoder == "residual"
    assert baseline.evaluate(texts[:10], progress=False).fvu < 1


@pytest.mark.parametrize(("decoder", "memory"), [("transformer", "encoder"), ("mlp", "codes")])
def test_dropout_and_memory_of_a_trained_decoder_are_those_of_the_lens(decoder, memory):
    model = cl.toy.load(n_texts=1)[0]
    texts = cl.toy.generate(50, seed=4)
    options = {"decoder_memory": "encoder", "decoder_layers": 1, "decoder_dropout": 0.5}
    lens = model.add_clvq(1, 2, n_codes=16, **options)
    lens.fit(texts, n_tokens=4_000, n_evaluations=2, progress=False)
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # of the user, which decides nothing
        before = torch.get_rng_state()
        baseline = lens.baseline("k-means", texts, decoder=decoder, progress=False)
        assert torch.equal(torch.get_rng_state(), before)
        assert baseline.config.decoder_memory == memory
        states.append(baseline.quantizer.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
