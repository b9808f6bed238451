"""Salience, against Captum, closed forms and sums that have to come out."""

import inspect
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients

import clvq_lens as cl
from clvq_lens.baselines.token_identity import token_embedding
from clvq_lens.data.tokens import one_batch
from clvq_lens.errors import (
    ConfigError,
    EmptyCorpusError,
    LayerOrderError,
    LengthMismatchError,
    ModeError,
    NonFiniteError,
    NothingChangesError,
    ShapeError,
)
from clvq_lens.host.host import Host
from clvq_lens.readouts.readout import answers, head, read_classes
from clvq_lens.readouts.salience import Salience, salience
from clvq_lens.readouts.salience_paths import MOST_POINTS, TOLERANCE
from tests.conftest import random_model
from tests.hosts import D_MODEL, KINDS, text_of, words

BY_NAME = {kind.name: kind for kind in KINDS}
W, B = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(5)), torch.arange(3.0)
TEXTS = [text_of(words(n, seed=n)) for n in (7, 3, 5)]


def salient(model, texts, layer, readout, **options):
    options = {"n_steps": 8, **options}
    return salience(model, texts, layer, readout, progress=False, **options)


@pytest.fixture(scope="module")
def encoder():
    return BY_NAME["bridge-bert"].model()


@pytest.fixture(scope="module")
def causal():
    return BY_NAME["bridge-gpt2"].model()


def streams(model, texts, layer=1):
    host = Host(model)
    batch, name = one_batch(host, texts), host.resolve(layer)
    return host, batch, host.activations(batch.tokens, batch.attended, [name])[name]


def mean_start(batch, values):
    """Where a path from the mean begins: special tokens, at the mean of their own kind."""
    begin = values[batch.mask].mean(0).expand_as(values).clone()
    for token in batch.tokens[batch.attended & ~batch.mask].unique():
        where = (batch.tokens == token) & batch.attended
        begin[where] = values[where].mean(0)
    return begin


# ---- what scores are -----------------------------------------------------------------------------


def test_scores_are_those_of_captum():
    """The same function written with TransformerLens alone, and integrated by Captum."""
    model = random_model()
    tokens = torch.randint(0, 40, (2, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        values = model.run_with_cache(tokens)[1]["blocks.1.hook_resid_post"]
    start = values.mean((0, 1))

    def classes(replaced):
        hooks = [("blocks.1.hook_resid_post", lambda value, hook: replaced)]
        logits = model.run_with_hooks(tokens.repeat(len(replaced) // 2, 1), fwd_hooks=hooks)[:, -1]
        return torch.stack([logits[:, 7], logits[:, [9, 11]].logsumexp(1)], 1)

    found = salient(model, tokens, 1, answers([7, [9, 11]]))
    expected = IntegratedGradients(classes).attribute(
        values,
        baselines=start.expand_as(values).clone(),
        target=classes(values).argmax(1),
        n_steps=8,
        method="gausslegendre",
    )
    np.testing.assert_allclose(found.scores, expected.sum(-1).detach(), atol=1e-5)
    assert np.abs(found.scores).max() > 0.01


@pytest.mark.parametrize("start", ["mean", "zero", "vector"])
def test_scores_of_a_linear_readout_at_the_layer_itself_are_a_dot_product(encoder, start):
    _, batch, values = streams(encoder, TEXTS)
    vector = torch.arange(D_MODEL) / 8
    begin = {
        "mean": mean_start(batch, values),
        "zero": torch.zeros_like(values),
        "vector": vector.expand_as(values),
    }[start]
    given = vector if start == "vector" else start
    found = salient(
        encoder, TEXTS, 1, head(W, B, layer=1), start=given, classes=[2, 0, 1], n_steps=1
    )
    on_cls = ((values - begin)[:, 0] * W[[2, 0, 1]]).sum(1)
    np.testing.assert_allclose(found.scores[:, 0], on_cls, atol=1e-5)
    assert np.nansum(np.abs(found.scores[:, 1:])) == 0
    averaged = salient(
        encoder, TEXTS, 1, head(W, B, layer=1, sentence="mean"), start=given, n_steps=1
    )
    each = ((values - begin) * W[averaged.classes][:, None]).sum(-1) / batch.mask.sum(1)[:, None]
    expected = np.where(batch.mask, each, 0)
    np.testing.assert_allclose(np.nan_to_num(averaged.scores), expected, atol=1e-5)


@pytest.fixture(params=["bridge-bert", "bridge-gpt2", "hooked-encoder", "hooked-gpt2"])
def read_model(request):
    """A model and what it says of a text."""
    if request.param not in BY_NAME:
        pytest.skip("this version of TransformerLens has no such model")
    kind = BY_NAME[request.param]
    return kind.model(), answers(["w7", "w9"]) if kind.causal else head(W, layer=3)


def test_scores_add_up_to_the_difference_the_better_the_more_steps(read_model):
    model, readout = read_model
    coarse, fine = (salient(model, TEXTS, 0, readout, n_steps=n) for n in (1, 12))
    assert fine.completeness_error < 1e-3 < coarse.completeness_error
    np.testing.assert_array_equal(coarse.differences, fine.differences)
    np.testing.assert_allclose(np.nansum(fine.scores, 1), fine.differences, atol=1e-3)


def test_scores_of_token_embeddings_add_up(read_model):
    model, readout = read_model
    found = salient(model, TEXTS, token_embedding(Host(model)), readout, n_steps=32)
    assert found.completeness_error < 1e-3
    assert np.abs(found.differences).min() > 1e-3


def test_differences_are_between_the_run_and_the_start_everywhere(causal):
    host, batch, values = streams(causal, TEXTS)
    mean = mean_start(batch, values)
    readout = answers(["w7", "w9"])
    found = salient(causal, TEXTS, 1, readout)
    clean = read_classes(host, readout, batch)
    with causal.hooks(fwd_hooks=[(host.resolve(1), lambda value, hook: mean)]):
        averaged = read_classes(host, readout, batch)
    np.testing.assert_array_equal(found.predicted, clean.argmax(1))
    rows = np.arange(3)
    np.testing.assert_allclose(found.values, clean[rows, found.predicted], atol=1e-5)
    expected = (clean - averaged)[rows, found.predicted]
    np.testing.assert_allclose(found.differences, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["hooked-gpt2", "bridge-gpt2", "bridge-bert"])
@pytest.mark.parametrize("point", ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"])
def test_hooks_of_the_user_act_once(name, point):
    """Values are those of the model as it runs with the user's hooks at the very layer."""
    if name not in BY_NAME:
        pytest.skip(f"{name} is a host of the other version")
    model = BY_NAME[name].model()
    host, batch = Host(model), one_batch(Host(model), TEXTS)
    readout = head(W, B, layer=host.n_layers - 1, sentence="last")
    point = host.resolve(point)
    shift = torch.linspace(-3, 3, D_MODEL)
    with model.hooks(fwd_hooks=[(point, lambda value, hook: value + shift)]):
        said = read_classes(host, readout, batch).max(1).values
        found = salient(model, TEXTS, point, readout)
    assert (said - read_classes(host, readout, batch).max(1).values).abs().min() > 0.01
    torch.testing.assert_close(torch.tensor(found.values).to(said), said)


def test_the_completeness_error_is_relative_to_the_mean_difference():
    found = Salience(
        layer="blocks.1.hook_resid_post",
        quantity="logit",
        tokens=(("a", "b"), ("c",)),
        scores=np.array([[1.0, 2.0], [-0.5, np.nan]]),
        real=np.array([[True, True], [True, False]]),
        predicted=np.array([0, 1]),
        classes=np.array([0, 1]),
        values=np.array([5.0, 5.0]),
        differences=np.array([3.5, -0.5]),
        n_points=np.array([8, 8]),
    )
    np.testing.assert_allclose(found.completeness_errors, [0.25, 0])  # |3 - 3.5| / mean(3.5, 0.5)
    assert found.completeness_error == pytest.approx(0.125)


def test_a_probability_is_among_the_classes(causal):
    readout = answers(["w7", "w9", "w11"])
    found = salient(causal, TEXTS, 1, readout, quantity="probability", n_steps=12)
    host, batch, _ = streams(causal, TEXTS)
    expected = read_classes(host, readout, batch).softmax(1).max(1).values
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.completeness_error < 1e-3
    assert found.quantity == "probability"


def test_the_class_measured_is_the_predicted_one_unless_one_is_given(encoder):
    readout = head(W, B, layer=3)
    found = salient(encoder, TEXTS, 1, readout)
    np.testing.assert_array_equal(found.classes, found.predicted)
    other = (found.predicted + 1) % 3
    given = salient(encoder, TEXTS, 1, readout, classes=other)
    np.testing.assert_array_equal(given.predicted, found.predicted)
    np.testing.assert_array_equal(given.classes, other)
    again = salient(encoder, TEXTS, 1, readout, classes=found.predicted.tolist())
    np.testing.assert_array_equal(again.scores, found.scores)
    assert np.nanmax(np.abs(given.scores - found.scores)) > 0.01


# ---- points on the paths -------------------------------------------------------------------------


def test_points_are_added_until_the_scores_of_each_text_add_up(read_model):
    model, readout = read_model
    found = salient(model, TEXTS, 0, readout, n_steps=None)
    errors = np.abs(np.nansum(found.scores, 1) - found.differences) / np.abs(found.differences)
    assert ((errors < TOLERANCE) | (found.n_points >= MOST_POINTS - 1)).all()
    assert (found.n_points >= 9).all()
    fine = salient(model, TEXTS, 0, readout, n_steps=200)
    np.testing.assert_allclose(found.differences, fine.differences, atol=1e-5)
    largest = np.nanmax(np.abs(fine.scores))
    np.testing.assert_allclose(found.scores, fine.scores, atol=0.02 * largest)


def test_texts_whose_scores_add_up_are_not_looked_at_again(causal, monkeypatch):
    readout = answers(["w7", "w9"])
    monkeypatch.setattr("clvq_lens.readouts.salience_paths.TOLERANCE", 1e-5)
    found = salient(causal, TEXTS, 0, readout, n_steps=None)
    assert len(set(found.n_points.tolist())) > 1
    for row, text in enumerate(TEXTS):
        options = {"start": "zero", "n_steps": None, "classes": found.classes[row : row + 1]}
        alone = salient(causal, [text], 0, readout, **options)
        beside = salient(causal, TEXTS, 0, readout, **options | {"classes": found.classes})
        assert alone.n_points[0] == beside.n_points[row]


def test_a_given_number_of_points_is_kept_to(causal):
    found = salient(causal, TEXTS, 0, answers(["w7", "w9"]), n_steps=5)
    assert found.n_points.tolist() == [5, 5, 5]


def test_points_and_texts_fill_passes_together(causal, monkeypatch):
    """Eight points of a text of 8 tokens, in passes of at most 40 positions: 5 points and 3."""
    monkeypatch.setattr("clvq_lens.readouts.salience.Host", partial(Host, positions_per_pass=40))
    shapes = []
    logits_with = Host.logits_with

    def noting(self, name, value, *args, **options):
        if torch.is_grad_enabled():
            shapes.append(tuple(value.shape[:2]))
        return logits_with(self, name, value, *args, **options)

    monkeypatch.setattr(Host, "logits_with", noting)
    readout = answers(["w7", "w9"])
    few = salient(causal, TEXTS[:1], 1, readout, start="zero", n_steps=8)
    assert shapes == [(5, 8), (3, 8)]
    monkeypatch.undo()
    np.testing.assert_allclose(
        few.scores, salient(causal, TEXTS[:1], 1, readout, start="zero").scores, atol=1e-5
    )


def test_answers_take_logits_at_one_position_of_each_text(causal, monkeypatch):
    shapes = []
    handle = causal.unembed.register_forward_hook(lambda *args: shapes.append(args[2].shape[:2]))
    try:
        salient(causal, TEXTS, 1, answers(["w7", "w9"]), n_steps=2)
    finally:
        handle.remove()
    assert {shape[1] for shape in shapes} == {1}


def test_no_weight_has_a_part_in_the_gradients(causal, monkeypatch):
    """Gradients are asked for at the activations alone, whatever else could have one."""
    asked = []
    grad = torch.autograd.grad

    def noting(outputs, inputs, **options):
        asked.append(inputs)
        return grad(outputs, inputs, **options)

    monkeypatch.setattr(torch.autograd, "grad", noting)
    salient(causal, TEXTS, 1, answers(["w7", "w9"]), n_steps=2)
    assert all(isinstance(inputs, torch.Tensor) and inputs.ndim == 3 for inputs in asked)


# ---- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_a_text_has_the_same_scores_alone_as_beside_longer_ones(kind, request):
    model = request.getfixturevalue(kind)
    readout = head(W, layer=3, sentence="mean")
    beside = salient(model, TEXTS, 1, readout, start="zero", n_steps=4)
    for row, text in enumerate(TEXTS):
        alone = salient(model, [text], 1, readout, start="zero", n_steps=4)
        n = alone.scores.shape[1]
        np.testing.assert_allclose(beside.scores[row, :n], alone.scores[0], atol=1e-5)
        assert np.isnan(beside.scores[row, n:]).all()
        assert beside.tokens[row] == alone.tokens[0]


def test_results_are_in_the_order_of_the_data_however_batches_are_made(causal, monkeypatch):
    readout, classes = answers(["w7", "w9"]), [1, 0, 1]
    whole = salient(causal, TEXTS, 1, readout, classes=classes, n_steps=2)
    few_positions = partial(Host, positions_per_pass=14)
    monkeypatch.setattr("clvq_lens.readouts.salience.Host", few_positions)
    passes = []
    monkeypatch.setattr(Host, "activations", _counted(Host.activations, passes))
    apart = salient(causal, TEXTS, 1, readout, classes=classes, n_steps=2)
    assert len(passes) == 4  # two batches, for the mean and for the paths
    np.testing.assert_allclose(apart.scores, whole.scores, atol=1e-5)
    assert apart.classes.tolist() == classes
    assert ["".join(tokens[1:]).strip() for tokens in apart.tokens]  # after BOS == TEXTS


def _counted(function, calls):
    def counting(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    return counting


def test_one_pass_of_texts_is_enough(encoder):
    readout = head(W, layer=3)
    once = salient(encoder, iter(TEXTS), 1, readout, n_steps=2)
    np.testing.assert_array_equal(
        once.scores, salient(encoder, TEXTS, 1, readout, n_steps=2).scores
    )


def test_long_texts_may_be_cut(causal):
    long = text_of(words(60))
    found = salient(causal, [long], 1, answers(["w7", "w9"]), long_texts="truncate", n_steps=2)
    assert found.scores.shape == (1, 48)


def test_no_gradient_is_left_and_none_needs_to_be_wanted(causal):
    with torch.no_grad():
        found = salient(causal, TEXTS[:1], 1, answers(["w7", "w9"]), n_steps=2)
    assert np.nanmax(np.abs(found.scores)) > 0
    assert all(parameter.grad is None for parameter in causal.parameters())


def test_half_precision_is_integrated_in_full():
    """A gradient comes back in the model's precision; what is added up from it is exact."""
    model = BY_NAME["bridge-gpt2"].model(torch.bfloat16)
    found = salient(model, TEXTS, 1, head(W, layer=1, sentence="last"), start="zero")
    _, _, values = streams(model, TEXTS)
    each = (values.float() * W.bfloat16().float()[found.classes][:, None]).sum(-1)
    for row, text in enumerate(found.tokens):
        assert found.scores[row, len(text) - 1] == pytest.approx(
            float(each[row, len(text) - 1]), abs=1e-5
        )


# ---- tables --------------------------------------------------------------------------------------


def made(scores, real):
    scores, real = np.array(scores, dtype=float), np.array(real, dtype=bool)
    n = len(scores)
    return Salience(
        layer="blocks.1.hook_resid_post",
        quantity="logit",
        tokens=tuple(tuple("abcd"[: int((~np.isnan(row)).sum())]) for row in scores),
        scores=scores,
        real=real,
        predicted=np.zeros(n, dtype=int),
        classes=np.ones(n, dtype=int),
        values=np.ones(n),
        differences=np.ones(n),
        n_points=np.ones(n, dtype=int),
    )


FOUND = made([[9, 1, -3, 2], [0.5, -2, 0.1, np.nan]], [[0, 1, 1, 1], [0, 1, 1, 0]])


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ({}, [2, 1]),
        ({"signed": True}, [3, 2]),
        ({"special": True}, [0, 1]),
        ({"special": True, "signed": True}, [0, 0]),
    ],
)
def test_the_most_salient_token_is_a_real_one_of_either_sign_unless_asked(options, positions):
    top = FOUND.top(**options)
    assert top["position"].tolist() == positions
    assert top["text"].tolist() == [0, 1]
    assert top["token"].tolist() == ["abcd"[at] for at in positions]
    assert top["score"].tolist() == [FOUND.scores[row, at] for row, at in enumerate(positions)]


def test_the_table_has_a_row_for_each_token_and_none_for_padding():
    frame = FOUND.frame()
    assert list(frame.columns) == ["text", "position", "token", "special", "score"]
    assert len(frame) == 7
    assert frame["special"].tolist() == [True, False, False, False, True, False, False]
    assert frame.query("text == 1")["token"].tolist() == ["a", "b", "c"]


def test_special_tokens_have_scores_but_are_not_real(encoder):
    frame = salient(encoder, TEXTS, 1, head(W, layer=3), n_steps=2).frame()
    special = frame.query("special and text == 0")
    assert special["token"].str.strip().tolist() == ["[CLS]", "[SEP]"]
    assert (special["score"] != 0).all()


def test_a_special_token_that_is_the_same_in_all_texts_does_not_move(causal):
    """Without it, attention would have no sink at the start of a path."""
    host = Host(causal)
    special = host.vocabulary.special.tolist()
    _, batch, _ = streams(causal, TEXTS)
    assert batch.tokens[0, 0] in special
    frame = salient(causal, TEXTS, 1, answers(["w7", "w9"])).frame()
    assert frame.query("position == 0")["score"].abs().max() < 1e-5
    moved = salient(causal, TEXTS, 1, answers(["w7", "w9"]), start="zero").frame()
    assert moved.query("position == 0")["score"].abs().min() > 1e-4


def test_the_picture_is_of_one_text_without_its_padding():
    figure = FOUND.plot(1)
    assert list(figure.data[-1].text) == ["a", "b", "c"]
    assert "logit of class 1" in figure.layout.title.text


def test_a_result_is_printed_in_one_line_and_shown_as_a_table_without_markup_of_data():
    line = repr(FOUND)
    assert line == (
        "Salience(2 texts, logit of a class from blocks.1.hook_resid_post, completeness error "
        f"{FOUND.completeness_error:.1%})"
    )
    hostile = replace(FOUND, tokens=(("<b>\n", "b", "c", "d"), ("a", "b", "c")))
    html = hostile._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>\n" not in html
    assert html.count("<tr") == 1 + 7


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"quantity": "odds"},
            ConfigError,
            "quantity is 'odds'. Pass one of 'logit', 'probability'",
        ),
        ({"start": "median"}, ConfigError, "start, .* is 'median'. Closest: 'mean'"),
        ({"start": torch.zeros(3)}, ShapeError, r"start has shape \[3\].* width 16"),
        ({"n_steps": 0}, ConfigError, "n_steps is 0"),
        ({"classes": "gold"}, ConfigError, "classes is 'gold'. Pass 'predicted'"),
        ({"classes": [1]}, LengthMismatchError, "1 classes for 3 texts"),
        ({"classes": [0, -1, 0]}, ConfigError, r"classes are \[0, -1, 0\]"),
        ({"classes": [0.5, 1.0, 0.0]}, ConfigError, r"classes are \[0.5, 1.0, 0.0\]"),
        ({"classes": [0, 3, 0]}, ShapeError, "Class 3 is asked for.* classes 0 to 2"),
        ({"layer": 3}, LayerOrderError, "comes before 'blocks.3"),
    ],
)
def test_impossible_options_are_refused(encoder, options, error, message):
    options = {"layer": 1, "readout": head(W, layer=2), "progress": False, **options}
    with pytest.raises(error, match=message):
        inspect.unwrap(salience)(encoder, TEXTS, **options)


def test_a_hook_that_detaches_is_named(causal):
    detach = [(BY_NAME["bridge-gpt2"].after(2), lambda value, hook: value.detach())]
    with causal.hooks(fwd_hooks=detach), pytest.raises(ModeError, match="may have detached it"):
        salience(causal, ["w7 w9 w8"], 1, answers(["w7", "w9"]), progress=False)


def test_texts_without_real_tokens_are_refused(encoder):
    specials = torch.tensor([[2, 3, 3], [2, 7, 3]])  # [CLS] [SEP] [SEP]; [CLS] w7 [SEP]
    with pytest.raises(EmptyCorpusError, match="Text 0 has no real token"):
        salient(encoder, specials, 1, head(W, layer=2), start="zero")
    with pytest.raises(NothingChangesError, match="one real token, which is the mean itself"):
        salient(encoder, specials, 1, head(W, layer=2))
    with pytest.raises(EmptyCorpusError, match="hold no real token"):
        salient(encoder, specials[:1], 1, head(W, layer=2))


def test_activations_that_are_not_finite_are_refused():
    model = BY_NAME["bridge-gpt2"].model()
    with torch.no_grad():
        model.W_E[7] = torch.nan
    with pytest.raises(NonFiniteError, match="hold NaN or infinity"):
        salient(model, torch.tensor([[9, 7]]), 1, answers(["w7", "w9"]))


@pytest.mark.parametrize(
    ("verb", "default"), [(cl.salience, None), (cl.Lens.faithfulness, None), (cl.attribution, 32)]
)
def test_points_of_paths_by_default(verb, default):
    assert inspect.signature(verb).parameters["n_steps"].default is default
