"""An SAE beside a lens, on the toy world: a baseline like any other."""

from pathlib import Path
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import (
    ConfigError,
    HookNotFoundError,
    HostMismatchError,
    LayerOrderError,
    ShapeError,
    UnsupportedSAEError,
)
from clvq_lens.quantizer.sae_codebook import SAECodebook
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
