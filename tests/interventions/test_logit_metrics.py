"""Metrics: hand-computed numbers, the positions they count, and what they refuse."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clvq_lens as cl
from clvq_lens.data.tokens import TokenBatch, one_batch
from clvq_lens.errors import DataError, MetricError, PositionError
from clvq_lens.host.host import Host
from clvq_lens.interventions.logit_metrics import Metric, Reference, bind, columns_of, name_of
from tests.conftest import random_model

HOST = Host(random_model())
LENGTHS = (5, 3)  # of the two texts in `BATCH`
PADDED = [[4, 0, 1, 2, 1], [4, 2, 0, 4, 4]]


def batch_of(tokens, lengths, special=()):
    tokens = torch.tensor(tokens)
    attended = torch.arange(tokens.shape[1]) < torch.tensor(lengths).unsqueeze(1)
    mask = attended & ~torch.isin(tokens, torch.tensor(special, dtype=torch.long))
    return TokenBatch(tokens, attended, mask, tuple(range(len(tokens))))


BATCH = batch_of(PADDED, LENGTHS, special=[4])  # 4 is BOS, and fills up


def reference(batch=BATCH, clean=None, columns=None, host=HOST):
    clean = torch.zeros(*batch.tokens.shape, 5) if clean is None else clean
    return Reference(host, batch, columns, clean)


def value(metric, logits, **options):
    return float(bind(metric, reference(**options))(logits))


def one_text(*rows):
    """Logits of one text, and the batch that it makes up."""
    return torch.tensor([rows]), batch_of([[0] * len(rows)], [len(rows)])


def numbered():
    """Logits whose first entry tells the position: 10 times the text plus the column."""
    logits = torch.zeros(2, 5, 3)
    logits[..., 0] = torch.arange(5) + 10 * torch.arange(2).unsqueeze(1)
    return logits


def from_probabilities(*probabilities):
    return torch.tensor(probabilities).log()


# ---- anchors -------------------------------------------------------------------------------------


def test_logit_diff_is_a_difference_of_logits():
    logits, batch = one_text([9.0, 9.0, 0.0], [2.5, -1.0, 4.0])
    assert value(cl.logit_diff(0, 1), logits, batch=batch) == 3.5
    assert value(cl.logit_diff(1, 0), logits, batch=batch) == -3.5
    assert value(cl.logit_diff(2, 2), logits, batch=batch) == 0.0
    assert value(cl.logit_diff(0, 1), logits + 7.0, batch=batch) == 3.5  # no probabilities


def test_probability_lies_between_none_and_all():
    for logits, expected in (
        ([0.0, 0.0, 0.0], 1 / 3),
        ([1e4, 0.0, 0.0], 1.0),
        ([0.0, 1e4, 0.0], 0.0),
        ([math.log(0.5), math.log(0.3), math.log(0.2)], 0.5),
    ):
        rows, batch = one_text([1.0, 2.0, 3.0], logits)
        assert value(cl.probability(0), rows, batch=batch) == pytest.approx(expected, abs=1e-6)


def test_probabilities_are_averaged_and_not_their_logarithms():
    logits = torch.stack(
        [from_probabilities([0.9, 0.05, 0.05]), from_probabilities([0.1] + [0.45] * 2)]
    )
    batch = batch_of([[0], [0]], [1, 1])
    assert value(cl.probability(0), logits, batch=batch) == pytest.approx(0.5)


def test_loss_of_a_perfect_an_ignorant_and_a_hand_computed_prediction():
    batch = batch_of([[0, 1, 2]], [3])
    perfect = torch.zeros(1, 3, 3)
    perfect[0, 0, 1] = perfect[0, 1, 2] = 1e4
    assert value(cl.loss(), perfect, batch=batch) == 0.0
    assert value(cl.loss(), torch.zeros(1, 3, 3), batch=batch) == pytest.approx(math.log(3))
    logits = from_probabilities([[0.25, 0.5, 0.25], [0.8, 0.1, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    expected = -(math.log(0.5) + math.log(0.1)) / 2
    assert value(cl.loss(), logits, batch=batch) == pytest.approx(expected)


def test_kl_of_equal_and_of_hand_computed_distributions():
    clean, batch = from_probabilities([[0.5, 0.5]]), batch_of([[0]], [1])
    other = from_probabilities([[0.25, 0.75]])
    measured = value(cl.kl(), other, batch=batch, clean=clean)
    assert measured == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    backwards = value(cl.kl(), clean, batch=batch, clean=other)
    assert backwards == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert value(cl.kl(), clean + 3.0, batch=batch, clean=clean) == pytest.approx(0.0, abs=1e-6)


def test_kl_is_that_of_torch_over_real_tokens():
    generator = torch.Generator().manual_seed(0)
    clean, edited = (torch.randn(2, 5, 5, generator=generator) for _ in range(2))
    expected = torch.nn.functional.kl_div(
        edited.log_softmax(-1)[BATCH.mask],
        clean.log_softmax(-1)[BATCH.mask],
        reduction="batchmean",
        log_target=True,
    )
    assert value(cl.kl(), edited, clean=clean) == pytest.approx(float(expected), abs=1e-6)


def test_kl_of_the_unedited_run_is_zero(tokens):
    logits = HOST.model(tokens).detach()
    batch = one_batch(HOST, tokens)
    assert value(cl.kl(), logits, batch=batch, clean=logits) == pytest.approx(0.0, abs=1e-7)


def test_half_precision_logits_are_measured_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    clean, edited = (torch.randn(2, 5, 5, generator=generator).bfloat16() for _ in range(2))
    for metric in (cl.kl(), cl.loss(), cl.probability(1)):
        exact = value(metric, edited.float(), clean=clean.float())
        assert value(metric, edited, clean=clean) == pytest.approx(exact, rel=1e-6)


# ---- the loss leaves out special tokens ----------------------------------------------------------


def test_loss_leaves_out_predictions_from_and_of_special_tokens():
    logits = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    batch = batch_of([[4, 0, 1, 2, 3], [4, 2, 1, 4, 4]], LENGTHS, special=[3, 4])  # 3 is EOS
    counted = [(0, 1, 1), (0, 2, 2), (1, 1, 1)]  # text, column, next token
    losses = [-float(logits[b, i].log_softmax(-1)[token]) for b, i, token in counted]
    assert value(cl.loss(), logits, batch=batch) == pytest.approx(sum(losses) / 3, abs=1e-6)
    first = value(cl.loss(at=1), logits, batch=batch)
    assert first == pytest.approx((losses[0] + losses[2]) / 2, abs=1e-6)


def test_loss_is_that_of_the_model_on_real_texts(toy):
    model, texts = toy
    host = Host(model)
    batch = one_batch(host, texts[:3])
    logits = model(batch.tokens).detach()
    losses = model.loss_fn(logits, batch.tokens, per_token=True)
    real = batch.mask[:, :-1] & batch.mask[:, 1:]
    assert 0 < real.sum() < batch.attended[:, 1:].sum()  # BOS predicts the first word
    expected = float(losses[real].mean())
    assert value(cl.loss(), logits, batch=batch, host=host) == pytest.approx(expected, abs=1e-5)
    everything = float(losses[batch.attended[:, 1:]].mean())
    assert abs(everything - expected) > 1e-3


# ---- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "counted"),
    [
        (0, [0, 10]),
        (2, [2, 12]),
        (-1, [4, 12]),
        (-3, [2, 10]),
        (slice(None), [0, 1, 2, 3, 4, 10, 11, 12]),
        (slice(-2, None), [3, 4, 11, 12]),
        (slice(3, None), [3, 4]),
        (slice(1, -1), [1, 2, 3, 11]),
        (slice(0, None, 2), [0, 2, 4, 10, 12]),
        (None, [1, 2, 3, 4, 11, 12]),
    ],
)
def test_positions_count_from_each_texts_own_ends(at, counted):
    expected = sum(counted) / len(counted)
    assert value(cl.logit_diff(0, 1, at=at), numbered()) == pytest.approx(expected)
    assert value(cl.logit_diff(1, 0, at=at), numbered()) == pytest.approx(-expected)


@pytest.mark.parametrize(
    ("metric", "at"),
    [
        (cl.logit_diff(0, 1), -1),
        (cl.probability(0), -1),
        (cl.loss(), None),
        (cl.kl(), None),
    ],
)
def test_without_positions_the_last_token_or_every_real_one_counts(metric, at):
    assert metric.at == at


@pytest.mark.parametrize("make", [lambda at: cl.logit_diff(0, 1, at=at), lambda at: cl.kl(at=at)])
@pytest.mark.parametrize(
    ("at", "message"),
    [
        (5, "position 5 lies beyond text 0, which has 5 tokens"),
        (3, "position 3 lies beyond text 1, which has 3 tokens"),
        (-4, "position -4 lies beyond text 1, which has 3 tokens"),
        (slice(5, 9), r"nothing to measure .* at=slice\(5, 9, None\)"),
    ],
)
def test_a_position_beyond_a_text_is_refused(make, at, message):
    with pytest.raises(PositionError, match=message):
        bind(make(at), reference())
    with pytest.raises(PositionError, match=message):
        columns_of(make(at), [BATCH])


@pytest.mark.parametrize(
    ("metric", "columns"),
    [
        (cl.logit_diff(0, 1), [2, 4]),
        (cl.probability(0, at=1), [1]),
        (cl.kl(), [1, 2, 3, 4]),
        (cl.kl(at=slice(None)), None),
        (cl.loss(), [1, 2, 3]),
        (cl.loss(at=slice(0, 2)), [1]),
        (lambda logits: logits.sum(), None),
    ],
)
def test_the_columns_that_a_metric_needs_are_those_that_count_in_some_text(metric, columns):
    found = columns_of(metric, [BATCH])
    assert (None if found is None else found.tolist()) == columns


def test_columns_of_several_batches_are_needed_in_any_of_them():
    other = batch_of([[0] * 5], [4])
    assert columns_of(cl.logit_diff(0, 1), [BATCH, other]).tolist() == [2, 3, 4]


ENDS = st.none() | st.integers(-3, 2)


@given(
    st.one_of(st.none(), st.integers(-3, 2), st.builds(slice, ENDS, ENDS)),
    st.sampled_from([cl.logit_diff(0, 1), cl.probability([0, 2]), cl.loss(), cl.kl()]),
)
def test_a_metric_is_the_same_from_the_columns_that_it_needs(at, metric):
    metric = type(metric)(**{**vars(metric), "at": at})
    try:
        columns = columns_of(metric, [BATCH])
    except PositionError:
        return  # an empty slice
    if columns is None or len(columns) == 0:
        return
    generator = torch.Generator().manual_seed(1)
    clean, edited = (torch.randn(2, 5, 5, generator=generator) for _ in range(2))
    whole = value(metric, edited, clean=clean)
    part = value(metric, edited[:, columns], clean=clean[:, columns], columns=columns)
    assert part == pytest.approx(whole, abs=1e-6)


# ---- tokens --------------------------------------------------------------------------------------


def test_each_text_may_have_tokens_of_its_own():
    logits = torch.arange(30.0).view(2, 5, 3)
    logits[0, 4] = torch.tensor([1.0, 2.0, 4.0])
    logits[1, 2] = torch.tensor([10.0, 20.0, 40.0])
    assert value(cl.logit_diff([2, 1], [0, 2]), logits) == ((4 - 1) + (20 - 40)) / 2
    assert value(cl.logit_diff([2, 1], 0), logits) == ((4 - 1) + (20 - 10)) / 2
    assert value(cl.logit_diff(2, 0), logits) == ((4 - 1) + (40 - 10)) / 2
    assert value(cl.logit_diff([2], [0]), logits) == ((4 - 1) + (40 - 10)) / 2
    uneven = from_probabilities([[0.5, 0.3, 0.2]] * 5, [[0.1, 0.6, 0.3]] * 5)
    assert value(cl.probability([0, 1]), uneven) == pytest.approx((0.5 + 0.6) / 2)


def test_tokens_may_be_strings_or_ids(toy):
    model, texts = toy
    host = Host(model)
    batch = one_batch(host, texts[:2])
    logits = model(batch.tokens).detach()
    bank, pool = model.to_single_token("bank"), model.to_single_token("pool")
    by_id = value(cl.logit_diff(bank, [pool, bank]), logits, batch=batch, host=host)
    by_string = value(cl.logit_diff("bank", ["pool", "bank"]), logits, batch=batch, host=host)
    ends = batch.attended.sum(1) - 1
    expected = (logits[0, ends[0], bank] - logits[0, ends[0], pool]) / 2
    assert by_string == by_id == pytest.approx(float(expected), abs=1e-6)
    probability = value(cl.probability("bank"), logits, batch=batch, host=host)
    at_ends = logits.softmax(-1)[torch.arange(2), ends, bank]
    assert probability == pytest.approx(float(at_ends.mean()), abs=1e-6)


@pytest.mark.parametrize("string", ["unheard-of", "bank pool", ""])
def test_a_string_that_is_not_one_token_is_refused(toy, string):
    host = Host(toy.model)
    batch = one_batch(host, toy.texts[:1])
    with pytest.raises(DataError, match=r"is not one token of this model.* Pass one token"):
        bind(cl.probability(string), reference(batch, host=host))


def test_a_string_needs_a_tokenizer():
    for metric in (cl.probability("he"), cl.logit_diff(0, "she")):
        with pytest.raises(DataError, match=r"no tokenizer, so '.*he' is unknown\. Pass an id"):
            bind(metric, reference())


@pytest.mark.parametrize("tokens", [[], [0, 1, 2]])
def test_another_number_of_tokens_than_texts_is_refused(tokens):
    message = rf"has {len(tokens)} tokens for 2 texts\. Pass one token, or one for each text"
    for metric in (cl.probability(tokens), cl.logit_diff(0, tokens), cl.logit_diff(tokens, 0)):
        with pytest.raises(MetricError, match=message):
            bind(metric, reference())


# ---- any function of logits ----------------------------------------------------------------------


def test_any_function_of_logits_to_one_number_is_a_metric():
    for function in (
        lambda logits: logits.sum(),
        lambda logits: logits.sum().reshape(1, 1),
        lambda logits: float(logits.sum()),
    ):
        found = bind(function, reference())(torch.ones(2, 5, 3))
        assert found.shape == ()
        assert found == 30.0


def test_a_metric_that_returns_no_single_number_is_refused():
    def at_each_position(logits):
        return logits[..., 0]

    with pytest.raises(
        MetricError,
        match=r"'at_each_position' returned shape \[2, 5\] for logits of shape \[2, 5, 3\]; .* Ave",
    ):
        bind(at_each_position, reference())(torch.zeros(2, 5, 3))


def test_metrics_keep_the_gradient():
    clean = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    for metric in (cl.logit_diff(0, 1), cl.probability(0), cl.loss(), cl.kl()):
        logits = (2 * clean).requires_grad_()
        bind(metric, reference(clean=clean))(logits).backward()
        where = metric.where(BATCH)
        assert (logits.grad.abs().sum(-1) > 0).equal(where), metric.name


def test_metrics_have_names_for_an_axis():
    def surprise(logits):
        return logits.sum()

    assert name_of(cl.logit_diff(" he", " she")) == "logit of ' he' less that of ' she'"
    assert name_of(cl.probability(" he")) == "probability of ' he'"
    assert name_of(cl.loss()) == "loss in nats per token"
    assert name_of(cl.kl()) == "KL(unedited || edited) in nats per token"
    assert name_of(surprise) == "surprise"


def test_metrics_are_compared_by_value():
    assert isinstance(cl.kl(), Metric)
    assert cl.kl() == cl.kl(at=None) != cl.kl(at=-1)
    assert cl.logit_diff(0, 1) != cl.logit_diff(1, 0)
    assert cl.probability(0, at=1) == cl.probability(0, at=1)


@pytest.mark.parametrize("metric", [cl.kl, cl.loss, cl.logit_diff, cl.probability])
def test_a_metric_that_was_not_called_is_refused(model, tokens, metric):
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(tokens.repeat(20, 1), n_tokens=600, held_out_fraction=0.0, progress=False)
    with pytest.raises(MetricError, match=rf"makes a metric .* Pass clvq_lens.{metric.__name__}"):
        cl.ablation_sweep(lens, tokens, metric, progress=False)


def test_the_loss_at_the_last_token_has_nothing_to_measure(model, tokens):
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(tokens.repeat(20, 1), n_tokens=600, held_out_fraction=0.0, progress=False)
    with pytest.raises(PositionError, match=r"nothing to measure for 'loss in nats"):
        cl.ablation_sweep(lens, tokens, cl.loss(at=-1), progress=False)


@pytest.mark.parametrize("token", [40, -1])
def test_a_token_id_outside_the_vocabulary_is_refused(model, tokens, token):
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(tokens.repeat(20, 1), n_tokens=600, held_out_fraction=0.0, progress=False)
    with pytest.raises(DataError, match=rf"no token {token}. Pass an id from 0 to 39"):
        cl.ablation_sweep(lens, tokens, cl.logit_diff(token, 1), progress=False)
