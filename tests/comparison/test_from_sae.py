"""An SAE beside a lens, on the toy world: a baseline like any other."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import (
    ConfigError,
    HookNotFoundError,
    HostMismatchError,
    LayerOrderError,
    ShapeError,
    TooFewTokensError,
    UnsupportedSAEError,
)
from clvq_lens.quantizer.sae_codebook import SAECodebook
from clvq_lens.training.identity import quantizer_identity
from clvq_lens.training.kept_data import fit_identity
from tests.baselines.saes import N_FEATURES, OfSAELens, OfSparsify, real_sae_lens

FIT: dict[str, Any] = {"n_tokens": 6_000, "progress": False}
POINT = "blocks.1.hook_resid_post"


def of_the_toy_world(architecture: str = "jumprelu", **options: Any) -> OfSAELens:
    d = cl.toy.load(n_texts=1)[0].cfg.d_model
    return OfSAELens(architecture, d, **{"hook_name": POINT, **options})


@pytest.fixture(scope="module")
def lens(toy: Any):
    lens = toy.model.add_clvq(0, 2, n_codes=24, decoder="table", name="beside")
    lens.fit(toy.texts[:200], n_evaluations=1, **FIT)
    yield lens
    lens.remove()


@pytest.fixture(scope="module")
def baseline(lens: cl.Lens, toy: Any):
    sae = of_the_toy_world()
    baseline = cl.from_sae(sae, lens, toy.texts[:200], n_codes=N_FEATURES, **FIT)
    yield baseline
    baseline.remove()


def encoded(sae: Any, lens: cl.Lens, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the SAE says of each real token, and the codes of these tokens."""
    encoding = lens.encode(texts)
    _, cache = lens.model.run_with_cache(encoding.tokens)
    return sae.encode(cache[lens.source][encoding.mask]), encoding.codes[encoding.mask]


def test_codes_are_the_strongest_features_in_the_model(baseline: cl.Lens, toy: Any):
    assert baseline.name == "beside SAE"
    assert baseline.source == POINT
    activations, codes = encoded(of_the_toy_world(), baseline, toy.texts[:1])
    is_active = activations.amax(1) > 0
    assert is_active.any()
    assert torch.equal(codes[is_active], activations.argmax(1)[is_active])


def test_by_default_it_has_as_many_codes_as_the_lens(lens: cl.Lens, baseline: cl.Lens, toy: Any):
    few = cl.from_sae(of_the_toy_world(), lens, toy.texts[:200], name="few", **FIT)
    few.remove()
    features = few.quantizer.codebook.features
    assert few.config.n_codes == lens.config.n_codes
    # Those that the whole SAE uses most; the sample and the frozen pass see the same tokens.
    usage = baseline.quantizer.usage
    assert usage[features].sum() == usage.topk(lens.config.n_codes).values.sum()
    assert features.tolist() == sorted(features.tolist())


@pytest.mark.slow
def test_it_is_measured_as_every_other_method(lens: cl.Lens, baseline: cl.Lens, toy: Any):
    frame = cl.compare(
        [lens, baseline, "k-means"],
        toy.texts[200:230],
        train=toy.texts[:200],
        decoders=["table", "mlp"],
        bounds=False,
        n_seeds=2,
        config=lens.quantizer.fit_config.replace(n_evaluations=1),
        progress=False,
    )
    rows = frame.frame().set_index(["method", "decoder"])
    assert list(rows.index.unique(0)) == ["beside", "beside SAE", "k-means"]
    assert rows["fvu"].notna().all()
    assert (rows["fvu"] < 1).all()
    assert set(frame.fits.query("method == 'beside SAE'")["fit"]) == {0}  # nothing to fit again
    assert rows["stability"].isna().tolist() == [False, False, True, True, False, False]
    assert set(cl.clvqs(lens.model)) == {"beside", "beside SAE"}


def test_an_installed_sae_lens_is_compared(lens: cl.Lens, toy: Any):
    sae = real_sae_lens("topk", toy.model.cfg.d_model, hook_name=POINT)
    other = cl.from_sae(sae, lens, toy.texts[:200], name="topk", **FIT)
    try:
        texts = toy.texts[200:230]
        frame = cl.compare([lens, other], texts, bounds=False, progress=False).frame()
    finally:
        other.remove()
    assert frame["method"].tolist() == ["beside", "topk"]
    assert frame["fvu"].between(0, 1).all()


def test_no_other_seed_finds_other_features(baseline: cl.Lens, toy: Any):
    with (
        pytest.raises(ConfigError, match=r"'beside SAE' are features of an SAE.*Leave it out"),
        cl.refits(baseline, toy.texts[:50], progress=False),
    ):
        pass


def test_every_verb_of_a_lens_works(baseline: cl.Lens, toy: Any, tmp_path: Path):
    texts = toy.texts[:20]
    code = int(baseline.quantizer.usage.argmax())
    table = baseline.concepts(texts, progress=False)
    assert len(table) == N_FEATURES
    with baseline.edit(cl.Ablate(code)):
        _, cache = baseline.model.run_with_cache(texts[0])
    assert not (cache[f"clvq.{baseline.name}.hook_codes"] == code).any()
    baseline.save(tmp_path)
    loaded = cl.load(tmp_path)
    assert type(loaded.codebook) is SAECodebook
    for name, value in baseline.quantizer.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_vectors_of_an_autoencoder_are_its_own_directions(baseline: cl.Lens):
    sae, quantizer = of_the_toy_world(), baseline.quantizer
    added = quantizer.codebook.vectors - sae.b_dec
    cosines = torch.cosine_similarity(added, sae.W_dec, dim=1)
    torch.testing.assert_close(cosines.abs(), torch.ones(N_FEATURES))
    other = cl.from_sae(
        of_the_toy_world("transcoder"), baseline, cl.toy.generate(50, seed=3), name="t", **FIT
    )
    other.remove()
    used = other.quantizer.usage > 0
    mean = other.quantizer.mean_encoded
    torch.testing.assert_close(other.quantizer.codebook.vectors[used], mean[used])


def test_an_sae_of_sparsify_reads_the_point_that_is_named(lens: cl.Lens, toy: Any):
    sae = OfSparsify()
    with pytest.raises(ConfigError, match=r"does not say which hook point it reads.*hook_point="):
        cl.from_sae(sae, lens, toy.texts[:50], **FIT)
    with pytest.raises(HostMismatchError, match=r"SAE reads vectors of width 16, and those at"):
        cl.from_sae(sae, lens, toy.texts[:50], hook_point=1, **FIT)


class SaysSomethingElse(OfSAELens):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return super().encode(-x)


def test_an_sae_that_says_something_else_than_its_weights_is_refused(lens: cl.Lens, toy: Any):
    sae = SaysSomethingElse("standard", toy.model.cfg.d_model, hook_name=POINT)
    with pytest.raises(UnsupportedSAEError, match=r"SaysSomethingElse.encode has another strong"):
        cl.from_sae(sae, lens, toy.texts[:50], **FIT)
    assert "beside SAE 2" not in cl.clvqs(lens.model)


# ---- several features of a token ----------------------------------------------------------------


@pytest.fixture(scope="module")
def top(lens: cl.Lens, toy: Any):
    top = cl.from_sae(of_the_toy_world(), lens, toy.texts[:200], n_active=3, **FIT)
    yield top
    top.remove()


def ends_of(lens: cl.Lens, texts: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and target of each real token."""
    encoding = lens.encode(texts)
    _, cache = lens.model.run_with_cache(encoding.tokens)
    return cache[lens.source][encoding.mask], cache[lens.target][encoding.mask]


def sum_of_strongest(sae: Any, x: torch.Tensor, n_active: int) -> torch.Tensor:
    """What the SAE's own decoder makes of its strongest features."""
    activations = sae.encode(x)
    strongest = activations.topk(n_active, dim=1)
    kept = torch.zeros_like(activations).scatter(1, strongest.indices, strongest.values)
    return sae.decode(kept)


def test_codes_are_clusters_of_what_several_features_say_of_the_target(
    lens: cl.Lens, top: cl.Lens, toy: Any
):
    assert top.name == "beside SAE top 3"
    assert (top.source, top.target) == (POINT, lens.target)
    assert top.config.n_codes == lens.config.n_codes
    quantizer = top.quantizer
    x, y = ends_of(top, toy.texts[:100])
    sums = sum_of_strongest(of_the_toy_world(), x, 3)
    z = quantizer.encode(x)
    # The prediction is a linear map of the sum, about as good as least squares on these tokens,
    # which are some of those that it was fitted on.
    inputs = torch.cat([sums, torch.ones(len(sums), 1)], dim=1).double()
    solution = torch.linalg.lstsq(inputs, y.double(), driver="gelsd").solution
    best = (y - inputs @ solution).square().sum()
    assert best <= (y - z).square().sum() < 1.05 * best
    refound = torch.linalg.lstsq(inputs, z.double(), driver="gelsd").solution
    torch.testing.assert_close((inputs @ refound).float(), z, rtol=1e-3, atol=1e-3)
    # k-means: each vector is about the mean of the tokens that are nearest to it.
    encoding = top.encode(toy.texts[:100])
    codes = encoding.codes[encoding.mask]
    assert torch.equal(codes, torch.cdist(z, quantizer.codebook.vectors).argmin(1))
    used = quantizer.usage > 20
    error = (quantizer.mean_encoded - quantizer.codebook.vectors)[used].norm(dim=1)
    assert (error < 0.2 * z.std(0).norm()).all()


def test_what_several_features_keep_is_reported(lens: cl.Lens, top: cl.Lens, toy: Any):
    texts = toy.texts[200:210]
    found = top.evaluate(texts, metrics=["fvu"], progress=False)
    x, y = ends_of(top, texts)
    residual = (y - top.quantizer.encode(x)).square().sum()
    expected = residual / (y - y.mean(0)).square().sum()
    assert found.fvu_unquantized is not None
    assert float(found.fvu_unquantized) == pytest.approx(float(expected), rel=1e-3)
    assert float(found.fvu_unquantized) < float(found.fvu)
    one = cl.from_sae(of_the_toy_world(), lens, toy.texts[:200], n_active=1, name="one", **FIT)
    try:
        other = one.evaluate(texts, metrics=["fvu"], progress=False)
    finally:
        one.remove()
    assert float(found.fvu_unquantized) < float(other.fvu_unquantized)


def test_it_reads_the_source_of_the_lens_as_the_lens_does(lens: cl.Lens, toy: Any):
    other = cl.from_sae(
        of_the_toy_world(hook_name=None),
        lens,
        iter(toy.texts[:100]),
        hook_point=0,
        n_active=2,
        n_codes=2 * N_FEATURES,
        decoder="mlp",
        name="two",
        **FIT,
    )
    other.remove()
    assert other.config.n_codes == 2 * N_FEATURES  # more than features: codes are clusters
    assert other.config.decoder == "mlp"
    assert torch.equal(other.quantizer.max_source_norm, lens.quantizer.max_source_norm)


def test_a_transcoder_has_several_features_too(lens: cl.Lens, toy: Any):
    sae = of_the_toy_world("transcoder", normalize_activations="layer_norm")
    other = cl.from_sae(sae, lens, toy.texts[:100], n_active=4, name="t", **FIT)
    x, _ = ends_of(other, toy.texts[:5])
    encoder: Any = other.quantizer.encoder
    other.remove()
    expected = sum_of_strongest(sae, x, 4)
    torch.testing.assert_close(encoder.summed(x), expected, rtol=1e-3, atol=1e-3)


def test_every_verb_works_on_several_features(top: cl.Lens, toy: Any, tmp_path: Path):
    texts = toy.texts[:20]
    assert len(top.concepts(texts, progress=False)) == top.config.n_codes
    code = int(top.quantizer.usage.argmax())
    with top.edit(cl.Ablate(code)):
        codes = top.encode(texts[:1])
        _, cache = top.model.run_with_cache(codes.tokens)
    assert (codes.codes[codes.mask] == code).any()
    assert not (cache[f"clvq.{top.name}.hook_codes"][codes.mask] == code).any()
    top.save(tmp_path)
    again = cl.add_clvq(top.model, quantizer=cl.load(tmp_path), name="again")
    codes = again.encode(texts).codes
    again.remove()
    assert torch.equal(codes, top.encode(texts).codes)
    assert again.quantizer.encoder.options == top.quantizer.encoder.options
    for name, value in top.quantizer.state_dict().items():
        assert torch.equal(value, again.quantizer.state_dict()[name]), name


def test_another_seed_finds_other_clusters_of_the_same_features(top: cl.Lens, toy: Any):
    with cl.refits(top, toy.texts[:200], seeds=2, progress=False) as others:
        for other in others:
            assert other.source == POINT
            assert other.config == top.config
            assert other.quantizer.encoder.options == top.quantizer.encoder.options
            for name in ("weights", "bias", "threshold", "center", "directions", "output_bias"):
                mine, theirs = (each.quantizer.encoder for each in (top, other))
                assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
            fitted = other.quantizer.fit_config.n_tokens
            assert fitted == top.quantizer.fit_config.n_tokens
        first, second = others
        assert not torch.equal(first.quantizer.codebook.vectors, second.quantizer.codebook.vectors)
        values = [float(o.evaluate(toy.texts[200:220], progress=False).fvu) for o in others]
    assert values[0] == pytest.approx(values[1], rel=0.3)
    assert "beside SAE top 3 refit" not in cl.clvqs(top.model)


def test_how_many_features_stand_for_a_token_belongs_to_its_identity(lens: cl.Lens, top: cl.Lens):
    assert quantizer_identity(top.attachment)["sae"]["n_active"] == 3
    assert fit_identity(top.attachment, cl.FitConfig())["sae"]["n_active"] == 3
    assert "sae" not in quantizer_identity(lens.attachment)


def test_the_same_seed_gives_the_same_bits(lens: cl.Lens, top: cl.Lens, toy: Any):
    again = cl.from_sae(of_the_toy_world(), lens, toy.texts[:200], n_active=3, name="b", **FIT)
    again.remove()
    for name, value in top.quantizer.state_dict().items():
        assert torch.equal(value, again.quantizer.state_dict()[name]), name


def test_a_lens_may_learn_codes_of_what_several_features_say(
    top: cl.Lens, toy: Any, tmp_path: Path
):
    top.save(tmp_path)
    own = cl.add_clvq(top.model, quantizer=cl.load(tmp_path), name="own")
    before = own.quantizer.encoder.summed(ends_of(own, toy.texts[:2])[0])
    own.fit(toy.texts[:200], n_evaluations=1, **FIT)
    own.remove()
    after = own.quantizer.encoder.summed(ends_of(top, toy.texts[:2])[0])
    assert torch.equal(before, after)
    assert not torch.equal(own.quantizer.codebook.vectors, top.quantizer.codebook.vectors)
    assert own.quantizer.encoder.linear.weight.abs().sum() > 0


@pytest.mark.slow
def test_several_features_are_compared_with_every_seed_and_decoder(
    lens: cl.Lens, top: cl.Lens, toy: Any, tmp_path: Path
):
    options: dict[str, Any] = {
        "train": toy.texts[:200],
        "decoders": ["table", "mlp"],
        "n_seeds": 2,
        "config": lens.quantizer.fit_config.replace(n_evaluations=1),
        "checkpoint": tmp_path / "kept",
        "progress": False,
    }
    attached = set(cl.clvqs(lens.model))
    first = cl.compare([lens, top, "k-means"], toy.texts[200:230], **options)
    rows = first.frame().set_index(["method", "decoder"])
    assert rows.loc["beside SAE top 3", "stability"].notna().all()
    assert rows.loc["beside SAE top 3", "fvu"].between(0, 1).all()
    # Fit -1 is what all fits have together, such as their stability.
    assert set(first.fits.query("method == 'beside SAE top 3'")["fit"]) == {-1, 0, 1}
    # Nothing is fitted again, and what was saved is loaded.
    again = cl.compare([lens, top, "k-means"], toy.texts[200:230], resume=True, **options)
    pd.testing.assert_frame_equal(again.frame(), first.frame())
    assert set(cl.clvqs(lens.model)) == attached


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated", "transcoder"])
def test_an_installed_sae_lens_adds_up_its_features(lens: cl.Lens, toy: Any, architecture: str):
    sae = real_sae_lens(architecture, toy.model.cfg.d_model, hook_name=POINT)
    other = cl.from_sae(sae, lens, toy.texts[:100], n_active=3, name="real", **FIT)
    try:
        x, _ = ends_of(other, toy.texts[200:205])
        found = other.quantizer.encoder.summed(x)
        fvu = other.evaluate(toy.texts[200:205], metrics=["fvu"], progress=False).fvu
    finally:
        other.remove()
    torch.testing.assert_close(found, sum_of_strongest(sae, x, 3), rtol=1e-3, atol=1e-3)
    assert 0 < float(fvu) < 1


def test_more_features_than_there_are_are_refused(lens: cl.Lens, toy: Any):
    def with_active(n_active: Any, sae: Any = None, **options: Any) -> None:
        sae = sae or of_the_toy_world()
        cl.from_sae(sae, lens, toy.texts[:20], n_active=n_active, **FIT, **options)

    with pytest.raises(ConfigError, match=r"n_active is 49, and the SAE has 48 features"):
        with_active(N_FEATURES + 1)
    with pytest.raises(ConfigError, match=r"n_active is 5, and the SAE keeps 4 features of a tok"):
        with_active(5, of_the_toy_world("topk"))
    for impossible in (0, -1, True):
        with pytest.raises(ConfigError, match=r"n_active is .*pass a whole number from 1"):
            with_active(impossible)
    with pytest.raises(ConfigError, match=r"n_codes is 0; pass a whole number"):
        with_active(2, n_codes=0)
    with pytest.raises(TooFewTokensError, match=r"200"):
        with_active(2, n_codes=2_000)
    assert not [name for name in cl.clvqs(lens.model) if name.endswith("SAE top 2")]


def test_features_without_a_decoder_are_codes_and_no_sums(lens: cl.Lens, toy: Any):
    sae = OfSparsify(d=toy.model.cfg.d_model)
    sae.W_dec = None
    with pytest.raises(UnsupportedSAEError, match=r"no decoder \(its W_dec is missing\).*n_active"):
        cl.from_sae(sae, lens, toy.texts[:50], hook_point=1, n_active=2, **FIT)
    strongest = cl.from_sae(sae, lens, toy.texts[:50], hook_point=1, name="codes", **FIT)
    strongest.remove()
    assert type(strongest.quantizer.codebook) is SAECodebook


class DecodesSomethingElse(OfSAELens):
    def decode(self, activations: torch.Tensor) -> torch.Tensor:
        return -super().decode(activations)


def test_a_decoder_that_says_something_else_is_refused(lens: cl.Lens, toy: Any):
    d = toy.model.cfg.d_model
    decodes = DecodesSomethingElse("standard", d, hook_name=POINT)
    with pytest.raises(UnsupportedSAEError, match=r"DecodesSomethingElse.decode gives something"):
        cl.from_sae(decodes, lens, toy.texts[:50], n_active=2, **FIT)
    encodes = SaysSomethingElse("standard", d, hook_name=POINT)
    with pytest.raises(UnsupportedSAEError, match=r"SaysSomethingElse.encode has other active"):
        cl.from_sae(encodes, lens, toy.texts[:50], n_active=2, **FIT)


# ---- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_codes": N_FEATURES + 1}, ConfigError, r"n_codes is 49, and the SAE has 48 features"),
        ({"n_codes": 0}, ConfigError, r"n_codes is 0; pass a whole number"),
        ({"decoder": "lstm"}, ConfigError, r"decoder is 'lstm'"),
        ({"hook_point": 3}, LayerOrderError, r"comes before the source 'blocks.3.hook_resid_post'"),
        ({"hook_point": "blocks.1.hook_post"}, HookNotFoundError, r"No hook point 'blocks.1.hook"),
        ({"hook_point": "blocks.1.attn.hook_z"}, ShapeError, r"hook_z"),
    ],
)
def test_what_cannot_be_is_refused(lens, toy, options, error, message, as_for_a_user):
    with pytest.raises(error, match=message):
        cl.from_sae(of_the_toy_world(), lens, toy.texts[:20], **FIT, **options)


def test_an_sae_of_centered_weights_does_not_fit_others(lens: cl.Lens, toy: Any):
    is_centered = lens.quantizer.origin.weights_centered
    for wanted, fits in ((is_centered, True), (not is_centered, False)):
        kwargs = {"center_writing_weights": wanted}
        sae = of_the_toy_world(model_from_pretrained_kwargs=kwargs)
        if fits:
            cl.from_sae(sae, lens, toy.texts[:50], **FIT).remove()
            continue
        with pytest.raises(HostMismatchError, match=r"was trained on a model whose writing weigh"):
            cl.from_sae(sae, lens, toy.texts[:50], **FIT)
