import math
from typing import Any

import pytest
import torch
from torch import Tensor

import clvq_lens as cl
from clvq_lens.errors import (
    ConfigError,
    DataError,
    DetachedError,
    EmptyCorpusError,
    NonFiniteError,
    NotFittedError,
    TextTooLongError,
)
from clvq_lens.evaluation import said
from clvq_lens.stats.estimates import Estimate
from clvq_lens.stats.metrics import fraction_of_variance_unexplained, perplexity
from tests.conftest import random_model

SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
TRAINING = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
DATA = torch.randint(0, 40, (20, 14), generator=torch.Generator().manual_seed(3))


def evaluate(lens: cl.Lens, data: Any = DATA, **options: Any) -> cl.Evaluation:
    return lens.evaluate(data, **{"progress": False, **options})


def fitted_lens(model: Any = None, **options: Any) -> cl.Lens:
    options = {"n_codes": 12, "top_k": 3, **options}
    lens = (model or random_model()).add_clvq(1, 2, **options)
    lens.fit(TRAINING, n_tokens=3_000, batch_tokens=256, n_evaluations=2, progress=False)
    return lens


@pytest.fixture(scope="module")
def ragged() -> list[Tensor]:
    """Rows of different length, as a batch from `model.to_tokens` would not be."""
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(2, 30, (25,), generator=generator).tolist()
    return [torch.randint(0, 40, (n,), generator=generator) for n in lengths]


# ---- every number against a straightforward computation ------------------------------------------


class Oracle:
    """The same numbers one text at a time, from hooks and concatenations."""

    @torch.no_grad()
    def __init__(self, lens: cl.Lens, rows: list[Tensor], special: Tensor) -> None:
        model, q = lens.model, lens.quantizer
        y, recon, encoded, self.codes = [], [], [], []
        self.ce: dict[str, list[Tensor]] = {}
        self.kl: dict[str, list[Tensor]] = {}
        mean = training_mean(lens)
        for row in rows:
            tokens, real = row.unsqueeze(0), ~torch.isin(row, special)
            logits, cache = model.run_with_cache(tokens)
            reconstruction = q(cache[SOURCE])
            y.append(cache[TARGET][0, real])
            encoded.append(q.encode(cache[SOURCE])[0, real])
            recon.append(reconstruction[0, real])
            self.codes.append(q.assign(cache[SOURCE])[0, real])
            counts = real[:-1] & real[1:]
            clean = logits[0, :-1].log_softmax(-1)
            replacements = {
                "spliced": reconstruction,
                "mean_ablated": mean.expand_as(reconstruction),
                "zero_ablated": torch.zeros_like(reconstruction),
            }
            if q.config.encoder == "predictive":
                replacements["unquantized"] = q.encode(cache[SOURCE])
            for name, value in replacements.items():

                def replace(before: Tensor, hook: Any, value=value, real=real) -> Tensor:
                    return torch.where(real[:, None], value, before)

                changed = model.run_with_hooks(tokens, fwd_hooks=[(TARGET, replace)])
                changed = changed[0, :-1].log_softmax(-1)
                self.ce.setdefault(name, []).append(nll(changed, row)[counts])
                divergence = (clean.exp() * (clean - changed)).sum(-1)
                self.kl.setdefault(name, []).append(divergence[counts])
            self.ce.setdefault("clean", []).append(nll(clean, row)[counts])
        self.fvu = fraction_of_variance_unexplained(torch.cat(y), torch.cat(recon))
        self.n_tokens = sum(map(len, y))
        self.fvu_unquantized = None
        if "unquantized" in self.ce:
            targets, predictions = torch.cat(y), torch.cat(encoded)
            self.fvu_unquantized = fraction_of_variance_unexplained(targets, predictions)

    def mean_ce(self, name: str) -> float:
        return float(torch.cat(self.ce[name]).double().mean())

    def mean_kl(self, name: str) -> float:
        return float(torch.cat(self.kl[name]).double().mean())

    def check(self, report: cl.Evaluation) -> None:
        clean, spliced, ablated, zero = map(
            self.mean_ce, ("clean", "spliced", "mean_ablated", "zero_ablated")
        )
        codes = torch.cat(self.codes)
        n_codes = report.n_codes
        expected = {
            "n_tokens": self.n_tokens,
            "fvu": self.fvu,
            "perplexity": perplexity(codes, n_codes=n_codes),
            "n_dead_codes": n_codes - len(codes.unique()),
            "ce_clean": clean,
            "ce_spliced": spliced,
            "ce_mean_ablated": ablated,
            "ce_zero_ablated": zero,
            "ce_loss_recovered": (ablated - spliced) / (ablated - clean),
            "ce_loss_recovered_zero": (zero - spliced) / (zero - clean),
            "kl": self.mean_kl("spliced"),
            "kl_mean_ablated": self.mean_kl("mean_ablated"),
        }
        if self.fvu_unquantized is not None:
            unquantized = self.mean_ce("unquantized")
            expected |= {
                "fvu_unquantized": self.fvu_unquantized,
                "ce_loss_recovered_unquantized": (ablated - unquantized) / (ablated - clean),
                "kl_unquantized": self.mean_kl("unquantized"),
            }
        for name, value in expected.items():
            assert float(getattr(report, name)) == pytest.approx(value, rel=2e-3, abs=1e-5), name


def nll(log_probabilities: Tensor, row: Tensor) -> Tensor:
    return -log_probabilities.gather(1, row[1:, None])[:, 0]


def training_mean(lens: cl.Lens) -> Tensor:
    """The mean that the quantizer keeps; `test_fit` compares it with the training tokens."""
    q = lens.quantizer
    return (q.usage[:, None] * q.mean_target).sum(0) / q.usage.sum()


@pytest.mark.parametrize("decoder", ["transformer", "mlp", "table"])
def test_every_number_of_the_report_is_right(decoder: str):
    lens = fitted_lens(decoder=decoder)
    report = evaluate(lens)
    assert report.n_documents == 20
    assert report.n_tokens == 280
    Oracle(lens, list(DATA), torch.tensor([])).check(report)


def test_numbers_of_the_prediction_before_quantization_are_right():
    lens = fitted_lens(encoder="predictive")
    report = evaluate(lens)
    assert report.fvu_unquantized is not None
    Oracle(lens, list(DATA), torch.tensor([])).check(report)
    report = evaluate(fitted_lens(encoder="residual"))
    assert report.fvu_unquantized is None
    assert report.kl_unquantized is None


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["residual", "predictive"])
def test_what_a_readout_says_with_the_target_replaced(encoder: str):
    """On an encoder, where there is no next token that could be predicted."""
    lens = fitted_lens(random_model(attention_dir="bidirectional"), encoder=encoder)
    model, q = lens.model, lens.quantizer
    weight = torch.randn(3, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    readout = cl.head(weight, torch.zeros(3), layer=3, sentence="mean")
    report = evaluate(lens, readout=readout)
    read_point = "blocks.3.hook_resid_post"
    clean, cache = model.run_with_cache(DATA)
    clean = (cache[read_point].mean(1) @ weight.T).log_softmax(-1)
    replacements = {
        "readout_kl": q(cache[SOURCE]),
        "readout_kl_mean_ablated": training_mean(lens).expand_as(cache[TARGET]),
        "readout_kl_unquantized": q.encode(cache[SOURCE]),
    }
    for name, activations in replacements.items():
        with model.hooks(fwd_hooks=[(TARGET, lambda before, hook, new=activations: new)]):
            _, changed = model.run_with_cache(DATA)
        said = (changed[read_point].mean(1) @ weight.T).log_softmax(-1)
        expected = (clean.exp() * (clean - said)).sum(-1).mean()
        if name == "readout_kl_unquantized" and encoder == "residual":
            assert report.readout_kl_unquantized is None
        else:
            assert float(getattr(report, name)) == pytest.approx(float(expected), rel=1e-3)
    assert report.kl is None
    assert evaluate(lens).readout_kl is None


def test_logits_of_an_encoder_are_not_computed():
    """They say nothing about its layers, and over a real vocabulary cost more than those do."""
    model = random_model(attention_dir="bidirectional")
    lens, calls = fitted_lens(model), []
    model.unembed.register_forward_hook(lambda *_: calls.append("unembed"))
    weight = torch.eye(3, model.cfg.d_model)
    evaluate(lens, readout=cl.head(weight, torch.zeros(3), layer=3, sentence="mean"))
    assert calls == []


@pytest.mark.usefixtures("as_for_a_user")
def test_a_readout_of_another_kind_is_refused(fitted):
    with pytest.raises(ConfigError, match=r"Pass clvq_lens.head\(...\) or answers\(...\)"):
        evaluate(fitted, readout="head")


def test_every_number_is_right_with_padding_and_special_tokens(stories_model, stories):
    texts = [story[:150] for story in stories[:40]]
    texts[3] = texts[3][:40] + "</s><s>" + texts[3][40:]
    lens = stories_model.add_clvq(1, 2, n_codes=20, decoder="transformer")
    try:
        lens.fit(texts[10:], n_tokens=3_000, batch_tokens=500, progress=False)
        report = evaluate(lens, texts[:10])
        rows = [stories_model.to_tokens(text)[0] for text in texts[:10]]
        Oracle(lens, rows, lens.host.vocabulary.special).check(report)
        assert report.n_tokens == sum(len(row) - 1 for row in rows) - 2
        assert report.ce_spliced > report.ce_clean
    finally:
        lens.remove()


def test_numbers_do_not_depend_on_the_batches():
    lens = fitted_lens()
    rows = DATA.clone()
    whole = evaluate(lens, rows)
    lens.host.positions_per_pass = 30
    small = evaluate(lens, rows)
    for metric, one, other in zip(
        whole.frame()["metric"], whole.frame()["value"], small.frame()["value"], strict=True
    ):
        if metric != "fvu_random_codes":  # these are drawn batch by batch
            assert other == pytest.approx(one, rel=1e-4), metric
    assert (small.fvu.low, small.fvu.high) == pytest.approx(
        (whole.fvu.low, whole.fvu.high), rel=1e-3
    )
    assert small.fvu_random_codes == pytest.approx(whole.fvu_random_codes, rel=0.2)


def test_numbers_do_not_depend_on_the_pieces_in_which_logits_are_read(fitted, ragged, monkeypatch):
    whole = evaluate(fitted, ragged)
    monkeypatch.setattr(said, "_AT_ONCE_CPU", 7 * 40)  # seven tokens
    monkeypatch.setattr(said, "_PIECE_CPU", 3 * 40)  # of these, three
    assert evaluate(fitted, ragged).frame()["value"].to_numpy() == pytest.approx(
        whole.frame()["value"].to_numpy(), rel=1e-6
    )


def test_the_fvu_is_that_of_all_tokens_and_not_the_mean_over_documents():
    lens = fitted_lens()
    each = [float(evaluate(lens, row).fvu) for row in DATA[:6]]
    together = evaluate(lens, DATA[:6]).fvu
    assert together == pytest.approx(Oracle(lens, list(DATA[:6]), torch.tensor([])).fvu, rel=1e-4)
    assert abs(sum(each) / len(each) - together) > 0.005


@pytest.mark.parametrize("decoder", ["transformer", "mlp", "table"])
def test_random_codes_are_worse_than_the_real_ones(decoder: str):
    report = evaluate(fitted_lens(decoder=decoder))
    assert report.fvu < 1
    assert report.fvu_random_codes > 1 > report.fvu


def test_random_codes_are_drawn_by_their_shares():
    lens = fitted_lens(decoder="table")
    report = evaluate(
        lens, torch.randint(0, 40, (300, 16), generator=torch.Generator().manual_seed(5))
    )
    q, rows = (
        lens.quantizer,
        torch.randint(0, 40, (300, 16), generator=torch.Generator().manual_seed(5)),
    )
    y = lens.model.run_with_cache(rows)[1][TARGET].flatten(0, 1).double()
    table, shares = q.decoder.table.double(), q.shares.double()
    pairs = (y[:, None] - table).square().sum(-1)  # the expectation over codes, exactly
    expected = (pairs @ shares).sum() / (y - y.mean(0)).square().sum()
    assert report.fvu_random_codes == pytest.approx(float(expected), rel=0.03)


def test_only_a_decoder_with_memory_has_the_control_for_it():
    with_memory = evaluate(fitted_lens(decoder_memory="encoder"))
    assert with_memory.fvu_shuffled_memory is not None
    assert with_memory.fvu_shuffled_memory > with_memory.fvu
    assert evaluate(fitted_lens()).fvu_shuffled_memory is None


def test_a_model_that_predicts_no_next_token_has_no_numbers_for_it():
    lens = fitted_lens(random_model(attention_dir="bidirectional"))
    report = evaluate(lens)
    assert report.fvu < 1
    assert report.ce_clean is report.ce_spliced is report.kl is report.ce_loss_recovered is None
    assert "kl" not in report.frame()["metric"].tolist()


def test_intervals_contain_the_number_and_shrink_with_documents(fitted):
    data = torch.randint(0, 40, (200, 16), generator=torch.Generator().manual_seed(6))
    few, many = (evaluate(fitted, data[:n]) for n in (10, 200))
    for report in few, many:
        for name in ("fvu", "ce_clean", "kl"):
            estimate = getattr(report, name)
            assert isinstance(estimate, Estimate)
            assert estimate.low < estimate < estimate.high
    assert many.ce_clean.high - many.ce_clean.low < (few.ce_clean.high - few.ce_clean.low) / 2


def test_the_same_seed_gives_the_same_report(fitted):
    assert evaluate(fitted) == evaluate(fitted)
    assert repr(evaluate(fitted)) == repr(evaluate(fitted))
    other = evaluate(fitted, seed=1)
    assert other.fvu_random_codes != evaluate(fitted).fvu_random_codes
    assert other.fvu.low == evaluate(fitted).fvu.low  # intervals draw nothing


def test_a_text_in_pieces_is_one_document(fitted):
    long = torch.randint(0, 40, (3, 120), generator=torch.Generator().manual_seed(7))
    report = evaluate(fitted, long)
    assert (report.n_documents, report.n_tokens) == (3, 360)
    with pytest.raises(TextTooLongError, match="120 tokens"):
        evaluate(fitted, long, long_texts="error")


def test_evaluating_changes_nothing(fitted):
    q, model = fitted.quantizer, fitted.model
    before = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    random, logits = torch.get_rng_state(), model(DATA)
    q.train()
    evaluate(fitted)
    assert not q.training
    assert all(torch.equal(before[name], tensor) for name, tensor in q.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(model(DATA), logits)
    assert all(
        not point._forward_hooks for name, point in model.hook_dict.items() if "resid_pre" in name
    )


# ---- concept recovery ----------------------------------------------------------------------------


def labels_of(rows: Tensor) -> list[list[str]]:
    return [[f"concept {token % 4}" for token in row] for row in rows.tolist()]


def test_labels_add_concept_recovery_with_its_baselines():
    lens = random_model(d_vocab=12).add_clvq(1, 2, n_codes=12, top_k=3)
    data = TRAINING[:40] % 12
    lens.fit(data, n_tokens=2_000, batch_tokens=256, progress=False)
    recovery = evaluate(lens, data, token_labels=labels_of(data)).recovery
    rows = {row.method: row for row in recovery.rows if row.tokens == "all"}
    assert rows["token identity"].purity == 1
    assert rows["codes"].n_tokens == data.numel()
    assert rows["codes, labels shuffled"].nmi < 0.05
    assert rows["codes"].nmi > 2 * rows["codes, labels shuffled"].nmi
    assert evaluate(lens, data).recovery is None


def test_labels_belong_to_documents_in_whatever_order_they_are_batched(fitted, ragged):
    """Labels are the tokens themselves: any mix-up would make token identity impure."""

    class Rows:
        def __iter__(self):
            return iter(ragged)

    labels = [[str(token) for token in row.tolist()] for row in ragged]
    recovery = evaluate(fitted, Rows(), token_labels=labels, long_texts="error").recovery
    rows = {row.method: row for row in recovery.rows}
    assert rows["token identity"].purity == 1
    assert rows["token identity"].nmi == pytest.approx(1)


@pytest.mark.parametrize("change", [lambda names: names[:-1], lambda names: [*names, "one more"]])
def test_labels_that_do_not_match_the_tokens_are_refused(fitted, change):
    labels = labels_of(DATA)
    labels[4] = change(labels[4])
    with pytest.raises(DataError, match=r"Document 4 has 14 real tokens and 1[35] labels"):
        evaluate(fitted, token_labels=labels)


def test_labels_for_too_few_documents_are_refused(fitted):
    with pytest.raises(DataError, match="Document 19 has 14 real tokens and 0 labels"):
        evaluate(fitted, token_labels=labels_of(DATA)[:19])


def test_labels_for_too_many_documents_are_refused(fitted):
    with pytest.raises(DataError, match="22 documents, but the data have no document 20"):
        evaluate(fitted, token_labels=labels_of(DATA) + labels_of(DATA[:2]))


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("seed", 2**70), ("seed", -3)])
def test_impossible_options_are_refused_before_the_model_runs(fitted, name: str, value: int):
    fitted.model.blocks[0].register_forward_pre_hook(lambda *_: pytest.fail("the model runs"))
    with pytest.raises(ConfigError, match=f"{name} is {value}; pass a whole number"):
        evaluate(fitted, **{name: value})


def test_recovery_is_measured_on_a_fair_draw_of_tokens(fitted, monkeypatch):
    """Short documents come first in a window, and only some tokens are kept."""
    from clvq_lens.evaluation import recovery as module

    monkeypatch.setattr(module, "_MOST_TOKENS", 60)
    fitted.host.positions_per_pass = 14  # a document at a time
    labels = [[f"document {row}" for _ in range(14)] for row in range(20)]
    drawn: list[list[str]] = []
    original = module.concept_recovery

    def concept_recovery(codes: Any, source: Any, tokens: Any, names: list[str], **options: Any):
        drawn.append(names)
        return original(codes, source, tokens, names, **options)

    monkeypatch.setattr(module, "concept_recovery", concept_recovery)
    evaluate(fitted, token_labels=labels)
    assert len(drawn[0]) == 60
    assert len(set(drawn[0])) > 15  # the first sixty would be of five


def test_an_unfitted_quantizer_is_refused(model):
    with pytest.raises(NotFittedError, match=r"lens\.fit"):
        evaluate(model.add_clvq(1, 2, n_codes=12))


def test_a_removed_quantizer_is_refused(fitted):
    fitted.remove()
    with pytest.raises(DetachedError, match="was removed"):
        evaluate(fitted)


def test_data_of_nothing_but_special_tokens_are_refused(stories_model, stories):
    lens = stories_model.add_clvq(1, 2, n_codes=4, top_k=2, decoder="mlp")
    bos = stories_model.tokenizer.bos_token_id
    try:
        lens.fit([s[:60] for s in stories[:20]], n_tokens=500, batch_tokens=200, progress=False)
        with pytest.raises(EmptyCorpusError, match="no real token: only special"):
            evaluate(lens, torch.full((3, 4), bos))
    finally:
        lens.remove()


def test_activations_that_are_not_finite_are_refused(fitted):
    with torch.no_grad():
        fitted.model.blocks[2].mlp.b_out[0] = math.nan
    with pytest.raises(NonFiniteError, match=TARGET):
        evaluate(fitted)


def test_progress_is_shown_only_if_asked_for(fitted, capsys):
    evaluate(fitted)
    assert capsys.readouterr() == ("", "")
    evaluate(fitted, progress=True)
    assert "evaluate" in capsys.readouterr().err
