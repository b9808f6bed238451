"""Sweeps give the numbers that edits give one by one, and those of transformer_lens.patching."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens import patching

import clvq_lens as cl
from clvq_lens.errors import (
    CodeRangeError,
    DetachedError,
    LengthMismatchError,
    MetricError,
    NotFittedError,
    SpliceConflictError,
    TextTooLongError,
)
from tests.conftest import random_model
from tests.interventions.lenses import CODES, difference, fitted_lens


def patch(codes, index, clean):
    codes[:, index[1]] = clean[:, index[1]]
    return codes


@pytest.fixture(scope="module", params=["transformer", "mlp", "table"])
def lens(request):
    return fitted_lens(random_model(), decoder=request.param)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)


# ---- ablation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["nearest", "mean", "resample"])
def test_an_ablation_sweep_gives_what_each_ablation_gives(lens, tokens, to):
    sweep = cl.ablation_sweep(lens, tokens, difference, to=to, progress=False)
    assert sweep.unedited == pytest.approx(float(difference(lens.model(tokens)).detach()), abs=1e-5)
    active = lens.encode(tokens).codes.unique().tolist()
    assert sorted(sweep.codes) == active
    for code, value in zip(sweep.codes, sweep.values, strict=True):
        with lens.edit(cl.Ablate(code, to)):
            close(value, float(difference(lens.model(tokens)).detach()))


def test_an_ablation_sweep_by_position_gives_what_each_ablation_gives(lens, tokens):
    sweep = cl.ablation_sweep(lens, tokens[:2], difference, by_position=True, progress=False)
    codes = lens.encode(tokens[:2]).codes
    frame = sweep.frame()
    assert len(frame) == sum(len(column.unique()) for column in codes.T)
    for row in frame.head(8).itertuples():
        assert row.n_tokens == (codes[:, row.position] == row.code).sum()
        with lens.edit(cl.Ablate(row.code, at=row.position)):
            close(row.value, float(difference(lens.model(tokens[:2])).detach()))
    assert frame["effect"].abs().is_monotonic_decreasing


def test_controls_by_position_are_the_same_ablation_of_other_codes_nearest_there(lens, tokens):
    """In one text all ablations change one token, so position decides."""
    frame = cl.ablation_sweep(lens, tokens[0], difference, by_position=True, progress=False).frame()
    assert (frame["n_tokens"] == 1).all()
    for row in frame.itertuples():
        others = frame[frame["code"] != row.code]
        apart = (others["position"] - row.position).abs()
        farthest = apart.sort_values().iloc[4]
        certain = others.loc[apart < farthest, "effect"]
        # Of two positions equally far away, one before and one after, either may be the fifth.
        fifth = others.loc[apart == farthest, "effect"]
        possible = [(certain.sum() + effect) / 5 for effect in fifth]
        if len(certain) < 4:
            possible = [(certain.sum() + fifth.sum()) / 5]
        assert min(abs(mean - row.control) for mean in possible) < 1e-9


def test_controls_by_position_change_as_many_tokens_before_they_are_near(lens, tokens):
    frame = cl.ablation_sweep(lens, tokens, difference, by_position=True, progress=False).frame()
    several = frame[frame["n_tokens"] > 1]
    assert len(several) > 6
    for row in several.itertuples():
        alike = several[(several["code"] != row.code) & (several["n_tokens"] == row.n_tokens)]
        if len(alike) < 5:
            continue
        assert alike["effect"].min() - 1e-9 <= row.control <= alike["effect"].max() + 1e-9


def test_no_control_by_position_is_the_same_code_elsewhere(lens):
    """A text of one code: each ablation would be the nearest control of the next."""
    tokens = torch.zeros(1, 6, dtype=torch.long)
    with lens.edit(cl.Force(3)):
        sweep = cl.ablation_sweep(lens, tokens, difference, by_position=True, progress=False)
    assert sweep.codes == (3,) * 6
    assert np.isnan(sweep.controls).all()


def test_by_position_effects_and_controls_are_equally_large_on_average(lens, tokens):
    """One kind of replacement for both: random codes changed three times as much."""
    frame = cl.ablation_sweep(lens, tokens, cl.kl(), by_position=True, progress=False).frame()
    assert frame["control"].mean() == pytest.approx(frame["effect"].mean(), rel=0.2)
    assert (frame["control"] > frame["effect"]).mean() < 0.7


def test_the_seed_draws_what_is_resampled(lens, tokens):
    def values(seed: int) -> tuple[float, ...]:
        options = {"to": "resample", "by_position": True, "progress": False}
        return cl.ablation_sweep(lens, tokens[0], difference, seed=seed, **options).values

    assert values(1) == values(1) != values(2)


def test_controls_are_the_effects_of_the_five_codes_nearest_in_usage_by_ratio(lens):
    # Many tokens: of few, many codes have as many.
    tokens = torch.randint(0, 40, (30, 15), generator=torch.Generator().manual_seed(1))
    frame = cl.ablation_sweep(lens, tokens, difference, progress=False).frame()
    n_unlike = 0
    for row in frame.itertuples():
        others = frame[frame["code"] != row.code]
        ratio = np.maximum(others["n_tokens"], row.n_tokens) / np.minimum(
            others["n_tokens"], row.n_tokens
        )
        nearest = others[ratio <= ratio.sort_values().iloc[4] + 1e-9]
        assert nearest["effect"].min() - 1e-6 <= row.control <= nearest["effect"].max() + 1e-6
        if len(nearest) > 5:
            continue  # ties
        assert row.control == pytest.approx(nearest["effect"].mean(), abs=1e-6)
        difference_in_tokens = (others["n_tokens"] - row.n_tokens).abs()
        by_difference = others.loc[difference_in_tokens.sort_values(kind="stable").index[:5]]
        n_unlike += abs(by_difference["effect"].mean() - row.control) > 1e-4
    assert n_unlike > 0  # a ratio is not a difference


def test_an_ablation_sweep_inside_hooks_of_the_user_gives_what_ablations_give_there(lens, tokens):
    """A hook at the target acts on what an edit wrote, and once."""
    halved = [(lens.target, lambda value, hook: value / 2)]
    with lens.model.hooks(fwd_hooks=halved), torch.no_grad():
        sweep = cl.ablation_sweep(lens, tokens, difference, progress=False)
        for code, value in zip(sweep.codes, sweep.values, strict=True):
            with lens.edit(cl.Ablate(code)):
                close(value, float(difference(lens.model(tokens))))
    assert abs(sweep.unedited - float(difference(lens.model(tokens)).detach())) > 1e-3


def test_only_the_codes_asked_for_are_ablated_and_inactive_ones_have_no_effect(lens, tokens):
    active = set(lens.encode(tokens[:1]).codes.unique().tolist())
    inactive = next(code for code in range(12) if code not in active)
    codes = [inactive, min(active)]
    sweep = cl.ablation_sweep(lens, tokens[:1], difference, codes=codes, progress=False)
    assert sweep.codes == tuple(codes)
    assert np.isnan(sweep.values[0])
    assert sweep.values[1] != sweep.unedited
    assert sweep.n_tokens[0] == 0


def test_texts_that_an_edit_leaves_alone_are_not_computed_again(lens, tokens, monkeypatch):
    rows = []
    original = lens.host.logits_with
    monkeypatch.setattr(
        lens.host,
        "logits_with",
        lambda n, v, *a, **k: rows.append(len(v)) or original(n, v, *a, **k),
    )
    cl.ablation_sweep(lens, tokens, cl.kl(), progress=False)
    codes = lens.encode(tokens).codes
    assert sum(rows) == sum((codes == code).any(1).sum() for code in codes.unique())
    assert len(rows) < len(codes.unique())  # many edits in one batch


def test_only_the_layers_above_the_target_are_computed_again(lens, tokens):
    passes = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: passes.append(i))
        for i, block in enumerate(lens.model.blocks)
    ]
    cl.ablation_sweep(lens, tokens, cl.kl(), progress=False)
    for handle in handles:
        handle.remove()
    assert passes.count(0) == passes.count(2) == 1  # the run itself
    assert passes.count(3) > 1


def test_a_sweep_inside_an_edit_or_a_splice_starts_from_what_they_leave(lens, tokens):
    for outer in (
        lens.edit(cl.Swap(0, 1)),
        lens.splice(),
        lens.edit(cl.Force(2), error_term=False),
    ):
        with outer:
            sweep = cl.ablation_sweep(lens, tokens, difference, codes=[1, 2, 3], progress=False)
            close(sweep.unedited, float(difference(lens.model(tokens)).detach()))
            for code, value in zip(sweep.codes, sweep.values, strict=True):
                with lens.edit(cl.Ablate(code)):
                    expected = float(difference(lens.model(tokens)).detach())
                # Where the outer block left no such code there is nothing to ablate.
                close(sweep.unedited if np.isnan(value) else value, expected)


def test_a_sweep_sees_other_quantizers_and_the_users_hooks_above_the_target(tokens):
    model = random_model()
    first, second = fitted_lens(model), fitted_lens(model, 2, 3)
    hook = ("blocks.3.hook_mlp_out", lambda value, hook: value * 0.5)
    by_token = cl.Force(4, at=lambda tokens: tokens % 3 == 0)
    with model.hooks(fwd_hooks=[hook]), second.edit(by_token, cl.Ablate(1)):
        sweep = cl.ablation_sweep(first, tokens, difference, progress=False)
        for code, value in zip(sweep.codes, sweep.values, strict=True):
            with first.edit(cl.Ablate(code)):
                close(value, float(difference(model(tokens)).detach()))


@pytest.mark.parametrize("points", [("blocks.1.mlp.hook_post", "blocks.2.mlp.hook_post"), (1, 1)])
def test_sweeps_work_between_any_two_points(tokens, points):
    model = random_model()
    lens = fitted_lens(model, *points)
    sweep = cl.ablation_sweep(lens, tokens, difference, progress=False)
    for code, value in zip(sweep.codes, sweep.values, strict=True):
        with lens.edit(cl.Ablate(code)):
            close(value, float(difference(model(tokens)).detach()))


def test_a_sweep_leaves_the_model_as_it_was(lens, tokens):
    plain = lens.model(tokens)
    cl.ablation_sweep(lens, tokens, cl.kl(), progress=False)
    with pytest.raises(ZeroDivisionError):
        cl.ablation_sweep(lens, tokens, lambda logits: 1 / 0, progress=False)
    assert torch.equal(lens.model(tokens), plain)
    assert not lens.attachment.blocks._listeners


def test_sweep_tables_and_pictures(lens, tokens):
    names = {code: f"<b>{code}</b>" for code in range(12)}
    for by_position in (False, True):
        sweep = cl.ablation_sweep(
            lens, tokens[0], cl.loss(), by_position=by_position, progress=False
        )
        frame = sweep.frame(names)
        assert isinstance(frame, pd.DataFrame)
        assert frame["name"].str.startswith("<b>").all()
        figure = sweep.plot(names, n_codes=5)
        assert "&lt;b&gt;" in str(figure.data[0].y)  # text from data is no markup
        assert figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text


# ---- patching ------------------------------------------------------------------------------------


def test_concept_patching_gives_the_numbers_of_transformer_lens(lens, tokens):
    clean, corrupted = tokens[:1], tokens[1:2]
    found = cl.concept_patching(lens, clean, corrupted, difference, progress=False)
    _, cache = lens.model.run_with_cache(clean, names_filter=CODES)
    index = pd.DataFrame({"layer": [None] * 12, "pos": range(12)})
    expected = patching.generic_activation_patch(
        lens.model, corrupted, cache, difference, patch, CODES, index_df=index
    )
    close(found.values, expected.numpy())


def test_concept_patching_gives_the_numbers_of_the_edit_and_of_a_hook(lens, tokens):
    clean, corrupted = tokens[:2], tokens[2:4]
    found = cl.concept_patching(lens, clean, corrupted, difference, progress=False)
    codes = lens.encode(clean).codes
    for position in range(12):

        def hook(value, hook, p=position):
            return torch.cat([value[:, :p], codes[:, p : p + 1], value[:, p + 1 :]], dim=1)

        with lens.edit(cl.Patch(codes, at=position)):
            edited = lens.model(corrupted)
        hooked = lens.model.run_with_hooks(corrupted, fwd_hooks=[(CODES, hook)])
        assert torch.equal(edited, hooked)
        close(found.values[position], float(difference(edited).detach()))


def test_effects_are_zero_where_nothing_differs_and_one_when_all_is_patched(lens, tokens):
    clean, corrupted = tokens[:1].clone(), tokens[:1].clone()
    corrupted[0, 7:] = (corrupted[0, 7:] + 5) % 40
    metric = cl.logit_diff(3, 5)
    found = cl.concept_patching(lens, clean, corrupted, metric, progress=False)
    frame = found.frame()
    assert (frame["effect"][:7] == 0).all()  # before the first change codes are the same
    assert found.clean == pytest.approx(float(difference(lens.model(clean)).detach()), abs=1e-5)
    same = frame["clean_code"] == frame["corrupted_code"]
    assert (frame["effect"][same] == 0).all()
    everything = lens.encode(clean).codes
    with lens.splice(), lens.edit(cl.Patch(everything)):  # codes carry all there is
        spliced = float(difference(lens.model(corrupted)).detach())
    with lens.splice():
        assert spliced == pytest.approx(float(difference(lens.model(clean)).detach()), abs=0.5)


def test_controls_patch_random_codes_at_the_same_positions(lens, tokens):
    options = {"metric": difference, "progress": False}
    first = cl.concept_patching(lens, tokens[:1], tokens[1:2], seed=0, **options)
    again = cl.concept_patching(lens, tokens[:1], tokens[1:2], seed=0, **options)
    other = cl.concept_patching(lens, tokens[:1], tokens[1:2], seed=1, **options)
    none = cl.concept_patching(lens, tokens[:1], tokens[1:2], control=False, **options)
    assert first.controls == again.controls != other.controls
    assert none.controls is None
    assert "control" not in none.frame()
    assert none.values == first.values == other.values


def test_patching_names_tokens_and_codes_and_draws_them(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=64)
    try:
        lens.fit(texts[:60], n_tokens=4_000, progress=False)
        words = texts[0].split()[:8]
        clean, corrupted = (
            " ".join(words),
            " ".join([*words[:4], "weavers", *reversed(words[5:])]),
        )
        found = cl.concept_patching(lens, clean, corrupted, cl.probability(words[7], at=-2))
        names = lens.concepts(texts[:30], progress=False).names()
    except Exception:
        lens.remove()
        raise
    lens.remove()
    frame = found.frame(names)
    assert [token.strip() for token in frame["clean_token"][1:]] == words
    assert frame["corrupted_token"][5].strip() == "weavers"
    assert frame["clean_code"][0] == -1  # BOS takes no part
    assert frame["effect"][0] == 0
    assert frame["clean_name"][1] == names[frame["clean_code"][1]]
    figure = found.plot(names)
    assert list(figure.data[0].y) == ["clean run's code", "a random code"]
    assert "weavers" in figure.data[0].x[5]


def test_an_ablation_sweep_names_the_tokens_of_each_code_and_a_place(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=2_000, progress=False)
        words = texts[0].split()[:12]
        sweep = cl.ablation_sweep(lens, " ".join(words), cl.kl(), progress=False)
        codes = lens.encode(" ".join(words)).codes[0].tolist()[1:]  # without BOS
    finally:
        lens.remove()
    frame = sweep.frame()
    for code, tokens, context in zip(frame["code"], frame["tokens"], frame["context"], strict=True):
        first = codes.index(code)
        marked = [*words[max(0, first - 4) : first + 5]]
        marked[min(first, 4)] = f"[{words[first]}]"
        assert context.strip() == " ".join(marked)
        mine = {word for word, found in zip(words, codes, strict=True) if found == code}
        assert set(tokens.replace("full-stop", ".").replace("comma", ",").split()) <= mine


# ---- errors --------------------------------------------------------------------------------------


def test_texts_of_different_lengths_are_refused_and_say_which(lens, tokens):
    plain = lens.model(tokens)
    with pytest.raises(LengthMismatchError, match=r"Text 0 has 12 tokens clean and 9 corrupted"):
        cl.concept_patching(lens, tokens[:1], tokens[:1, :9], difference)
    with pytest.raises(LengthMismatchError, match=r"2 clean and 1 corrupted texts.* in pairs"):
        cl.concept_patching(lens, tokens[:2], tokens[:1], difference)
    assert torch.equal(lens.model(tokens), plain)


def test_a_metric_that_is_the_same_for_both_runs_is_refused(lens, tokens):
    with pytest.raises(MetricError, match=r"clean and for the corrupted run.* Choose a metric"):
        cl.concept_patching(lens, tokens[:1], tokens[:1], difference)


def test_a_metric_that_gives_no_number_is_refused(lens, tokens):
    with pytest.raises(MetricError, match=r"returned shape \[4\].* expected one number"):
        cl.ablation_sweep(lens, tokens, lambda logits: logits[:, -1, 0], progress=False)


def test_codes_beyond_the_codebook_are_refused(lens, tokens):
    with pytest.raises(CodeRangeError, match=r"names code 12. Pass codes of .* 0 to 11"):
        cl.ablation_sweep(lens, tokens, difference, codes=[3, 12])


def test_codes_that_do_not_occur_are_no_controls(lens, tokens):
    text = tokens[:1, :6]
    codes = lens.encode(text).codes.unique().tolist()
    missing = [code for code in range(12) if code not in codes]
    options = {"to": "mean", "progress": False}
    sweep = cl.ablation_sweep(lens, text, difference, codes=codes, **options)
    with_missing = cl.ablation_sweep(lens, text, difference, codes=[*missing, *codes], **options)
    close(with_missing.controls[len(missing) :], sweep.controls)
    assert np.isfinite(sweep.controls).all()


def test_a_text_beyond_the_context_is_refused(lens):
    with pytest.raises(TextTooLongError, match="context is 48"):
        cl.ablation_sweep(lens, torch.zeros(1, 49, dtype=torch.long), difference)


def test_an_unfitted_or_removed_lens_is_refused(model, tokens):
    lens = model.add_clvq(1, 2, n_codes=12)
    for call in (
        lambda: cl.ablation_sweep(lens, tokens, difference),
        lambda: cl.concept_patching(lens, tokens, tokens, difference),
        lambda: cl.attribution(lens, tokens, difference),
    ):
        with pytest.raises(NotFittedError, match="has not been fitted"):
            call()
    lens.remove()
    lens = fitted_lens(model)
    lens.remove()
    with pytest.raises(DetachedError, match="was removed"):
        cl.ablation_sweep(lens, tokens, difference)


def test_another_quantizer_at_work_on_the_same_target_is_refused(tokens):
    model = random_model()
    lens, other = fitted_lens(model), fitted_lens(model, 0, 2)
    with (
        other.edit(cl.Ablate(3)),
        pytest.raises(SpliceConflictError, match=r"Another quantizer .* Close its block first"),
    ):
        cl.ablation_sweep(lens, tokens, difference, progress=False)
    cl.ablation_sweep(lens, tokens, difference, progress=False)
