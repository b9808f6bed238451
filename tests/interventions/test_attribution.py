"""Attribution: slopes against finite differences, sums against differences, truth beside both."""

import numpy as np
import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import ConfigError, MetricError
from tests.conftest import random_model
from tests.interventions.lenses import difference, fitted_lens


@pytest.fixture(scope="module", params=["transformer", "mlp", "table"])
def lens(request):
    return fitted_lens(random_model(), decoder=request.param)


def attributed(lens, tokens, metric=difference, **options):
    return cl.attribution(lens, tokens, metric, progress=False, **{"n_true": 40, **options})


def test_shapes_and_the_zero_effect_of_keeping_a_code(lens, tokens):
    found = attributed(lens, tokens[:2])
    codes = lens.encode(tokens[:2]).codes
    assert found.effects.shape == (2, 12, 12)
    assert found.integrated.shape == (2, 12)
    kept = np.take_along_axis(found.effects, codes.numpy()[..., None], axis=2)
    np.testing.assert_allclose(kept, 0, atol=1e-6)


def test_first_order_effects_are_the_slope_towards_the_other_code(tokens):
    """Finite differences, through a hook that moves a code vector a little, in the whole model."""
    lens = fitted_lens(random_model())
    effects = attributed(lens, tokens[:1]).effects
    codes, vectors = lens.encode(tokens[:1]).codes, lens.quantizer.codebook.vectors
    epsilon = 1e-3
    with torch.no_grad():
        plain = difference(lens.model(tokens[:1]).double())
        for position, code in ((0, 5), (4, 1), (11, 9)):

            def move(value, hook, p=position, k=code):
                moved = value.clone()
                moved[:, p] += epsilon * (vectors[k] - vectors[codes[0, p]])
                return moved

            hooks = [("clvq.1-2.hook_quantized", move)]
            changed = difference(lens.model.run_with_hooks(tokens[:1], fwd_hooks=hooks).double())
            slope = float((changed - plain) / epsilon)
            assert effects[0, position, code] == pytest.approx(slope, rel=0.05, abs=2e-3)


def test_first_order_effects_of_a_token_wise_decoder_are_the_slope_towards_its_output(tokens):
    lens = fitted_lens(random_model(), decoder="table")
    effects = attributed(lens, tokens[:1]).effects
    codes, table = lens.encode(tokens[:1]).codes, lens.quantizer.decoder.table
    with torch.no_grad():
        plain = difference(lens.model(tokens[:1]).double())
        for position, code in ((0, 5), (4, 1), (11, 9)):

            def move(value, hook, p=position, k=code):
                moved = value.clone()
                moved[:, p] += 1e-3 * (table[k] - table[codes[0, p]])
                return moved

            hooks = [("clvq.1-2.hook_recon", move)]
            changed = difference(lens.model.run_with_hooks(tokens[:1], fwd_hooks=hooks).double())
            slope = float((changed - plain) / 1e-3)
            assert effects[0, position, code] == pytest.approx(slope, rel=0.05, abs=2e-3)


def test_integrated_gradients_add_up_to_the_difference_from_the_mean_code(lens, tokens):
    found = attributed(lens, tokens[:2])
    with lens.edit(cl.Ablate(range(12), to="mean")):
        averaged = float(difference(lens.model(tokens[:2])).detach())
    assert found.value == pytest.approx(
        float(difference(lens.model(tokens[:2])).detach()), abs=1e-5
    )
    assert found.difference == pytest.approx(found.value - averaged, abs=1e-5)
    assert np.nansum(found.integrated) == pytest.approx(found.difference, rel=0.03)
    assert found.completeness_error < 0.03


def test_more_steps_add_up_better(tokens):
    lens = fitted_lens(random_model())
    coarse = attributed(lens, tokens[:2], n_steps=1)
    fine = attributed(lens, tokens[:2], n_steps=64)
    assert fine.completeness_error < coarse.completeness_error
    assert fine.completeness_error < 1e-3


def test_true_effects_are_those_of_edits(lens, tokens):
    found = attributed(lens, tokens[:2])
    plain = float(difference(lens.model(tokens[:2])).detach())
    for row in found.pairs.head(6).itertuples():
        at = torch.zeros(2, 12, dtype=torch.bool)
        at[row.text, row.position] = True
        with lens.edit(cl.Force(row.replaced_by, at=at)):
            changed = float(difference(lens.model(tokens[:2])).detach())
        assert row.true == pytest.approx(changed - plain, abs=2e-5)
    for row in found.positions.head(6).itertuples():
        at = torch.zeros(2, 12, dtype=torch.bool)
        at[row.text, row.position] = True
        with lens.edit(cl.Ablate(row.code, to="mean", at=at)):
            changed = float(difference(lens.model(tokens[:2])).detach())
        assert row.true == pytest.approx(plain - changed, abs=2e-5)


def test_with_the_decoder_exact_a_linear_model_above_is_predicted_exactly(tokens):
    """Above the last block only the final norm is not linear; without it nothing is left."""
    model = random_model(normalization_type=None)
    for decoder in ("transformer", "table"):
        lens = fitted_lens(model, 2, 3, decoder=decoder)
        found = attributed(lens, tokens[:1], exact_decoder=True)
        np.testing.assert_allclose(found.pairs["exact_decoder"], found.pairs["true"], atol=1e-4)
        pairs = found.pairs
        index = tuple(pairs[column] for column in ("text", "position", "replaced_by"))
        np.testing.assert_allclose(found.effects[index], pairs["exact_decoder"], atol=1e-5)
        correlations = found.correlations().set_index("prediction")
        assert correlations.loc["exact_decoder", "all"] > 0.999
        lens.remove()


def test_token_wise_decoders_are_always_decoded_exactly(tokens):
    for decoder in ("mlp", "table"):
        found = attributed(fitted_lens(random_model(), decoder=decoder), tokens[:1])
        np.testing.assert_allclose(
            found.pairs["first_order"], found.pairs["exact_decoder"], atol=1e-5
        )


def test_the_largest_effects_come_first(lens, tokens):
    found = attributed(lens, tokens[:2])
    top = found.top(5)
    assert top["effect"].abs().is_monotonic_decreasing
    assert top["effect"].abs().iloc[0] == pytest.approx(np.nanmax(np.abs(found.effects)))
    codes = lens.encode(tokens[:2]).codes
    for row in top.itertuples():
        assert row.code == codes[row.text, row.position] != row.replaced_by


def test_the_same_seed_draws_the_same_replacements(lens, tokens):
    first, again = (attributed(lens, tokens[:1], seed=3).pairs for _ in range(2))
    other = attributed(lens, tokens[:1], seed=4).pairs
    assert first.equals(again)
    assert not first["replaced_by"].equals(other["replaced_by"])
    assert (first["code"] != first["replaced_by"]).all()


def test_special_tokens_take_no_part(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=4_000, progress=False)
        found = cl.attribution(lens, texts[:2], cl.loss(), n_true=20, progress=False)
    finally:
        lens.remove()
    assert np.isnan(found.effects[:, 0]).all()
    assert np.isnan(found.integrated[:, 0]).all()
    assert (found.pairs["position"] > 0).all()
    assert list(found.frame().columns) == [
        "text",
        "position",
        "token",
        "code",
        "integrated",
        "true",
    ]


def test_an_open_edit_counts_as_part_of_the_run(lens, tokens):
    with lens.edit(cl.Force(3, at=2), cl.Steer(3, 0.5)):
        found = attributed(lens, tokens[:1])
        assert found.value == pytest.approx(
            float(difference(lens.model(tokens[:1])).detach()), abs=1e-5
        )
        assert found.frame()["code"].iloc[2] == 3
        assert np.nansum(found.integrated) == pytest.approx(found.difference, abs=1e-3)


def test_gradients_are_left_to_nobody(lens, tokens):
    lens.quantizer.zero_grad()
    attributed(lens, tokens[:1])
    assert all(parameter.grad is None for parameter in lens.model.parameters())
    assert all(parameter.grad is None for parameter in lens.quantizer.parameters())


def test_a_metric_without_a_gradient_is_refused(lens, tokens):
    with pytest.raises(MetricError, match=r"'<lambda>' has no gradient.* without .item"):
        attributed(lens, tokens[:1], lambda logits: float(logits[0, -1, 3].detach()))


def test_the_picture_shows_each_prediction_against_the_truth(lens, tokens):
    found = attributed(lens, tokens[:1])
    figure = found.plot()
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert [len(trace.x) for trace in points] == [40, 40, 12]
    np.testing.assert_allclose(points[0].y, found.pairs["true"])
    texts = " ".join(annotation.text for annotation in figure.layout.annotations)
    assert f"{found.rank_correlation:.2f}" in texts
    assert f"{found.completeness_error:.1%}" in figure.layout.xaxis3.title.text


def test_a_path_without_points_is_refused(lens, tokens):
    with pytest.raises(ConfigError, match="n_steps is 0; pass a whole number from 1"):
        attributed(lens, tokens[:1], n_steps=0)
