from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

import clvq_lens as cl
from clvq_lens.data.documents import open_documents
from clvq_lens.data.split import Split
from clvq_lens.errors import (
    ConfigError,
    EmptyCorpusError,
    NonFiniteError,
    TextTooLongError,
    TooFewTokensError,
)
from clvq_lens.training.fitting import Fit
from clvq_lens.training.loop import Training, make_optimizer
from clvq_lens.training.schedule import peak_learning_rate, schedule
from tests.conftest import random_model

SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
DATA = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
DECODERS = ("transformer", "mlp", "table")


def new_lens(model: HookedTransformer | None = None, **options: Any) -> cl.Lens:
    options = {"n_codes": 12, "top_k": 3, "decoder": "mlp", **options}
    return (model or random_model()).add_clvq(1, 2, **options)


def fit(lens: cl.Lens, data: Any = DATA, **options: Any) -> cl.History:
    """A fit of about twelve steps."""
    options = {
        **{"n_tokens": 3_000, "batch_tokens": 256, "n_evaluations": 4, "held_out_fraction": 0.1},
        **options,
    }
    return lens.fit(data, progress=False, **options)


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def halves(data: Tensor = DATA, fraction: float = 0.1) -> tuple[Tensor, Tensor]:
    """Training and held-out rows."""
    split = Split(open_documents(data), fraction)
    training = [document.content for document in split.training()]
    return torch.stack(training), torch.stack([doc.content for doc in split.held_out()])  # type: ignore


def hook_counts(model: HookedTransformer) -> dict[str, tuple[int, ...]]:
    return {
        name: (
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
        )
        for name, module in model.named_modules()
    }


def interrupt_at(
    monkeypatch: pytest.MonkeyPatch,
    n_step: int,
    error: BaseException,
    look: Callable[[cl.CrossLayerQuantizer], None] = lambda _: None,
) -> None:
    """Raises instead of making a step; ``look`` sees the quantizer just before."""
    original, steps = Training.train_step, []

    def train_step(self: Training, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == n_step:
            look(self.quantizer)
            raise error
        return original(self, *args)

    monkeypatch.setattr(Training, "train_step", train_step)


# ---- it learns -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story_tokens(stories_model, stories) -> Tensor:
    """Beginnings of real stories."""
    rows = [stories_model.to_tokens(story)[0, :40] for story in stories[:250]]
    return torch.stack([row for row in rows if len(row) == 40])


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_fit_reduces_the_held_out_fvu_on_a_trained_model(stories_model, story_tokens, decoder):
    lens = stories_model.add_clvq(1, 3, n_codes=48, decoder=decoder)
    try:
        history = lens.fit(
            story_tokens,
            **{"n_tokens": 60_000, "batch_tokens": 800, "n_evaluations": 15, "patience": 15},
            progress=False,
        )
    finally:
        lens.remove()
    frame = history.frame()
    assert frame["held_out_fvu"].min() < 0.6
    if decoder == "transformer":  # the others start at about their best
        assert frame["held_out_fvu"].min() < 0.95 * frame["held_out_fvu"].iloc[0]


def test_training_on_the_kl_reduces_it(stories_model, story_tokens):
    lens = stories_model.add_clvq(1, 3, n_codes=48, decoder="mlp")
    try:
        history = lens.fit(
            story_tokens[:60],
            **{"n_tokens": 15_000, "batch_tokens": 800, "n_evaluations": 5, "kl_weight": 1.0},
            progress=False,
        )
    finally:
        lens.remove()
    frame = history.frame()
    assert frame["kl"].iloc[-1] < 0.8 * frame["kl"].iloc[0]
    assert frame["held_out_kl"].iloc[-1] < 0.98 * frame["held_out_kl"].iloc[0]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ["predictive", "residual"])
def test_learning_moves_every_part(encoder: str, decoder: str):
    lens = new_lens(encoder=encoder, decoder=decoder)
    before = state(lens.quantizer)
    fit(lens)
    after = lens.quantizer.state_dict()
    parts = ["codebook.vectors", "usage", "mean_encoded", "mean_target", "codebook.mean_distance"]
    parts += ["decoder.table"] if decoder == "table" else ["decoder.out.weight"]
    if encoder == "predictive":
        parts += ["mean_source", "encoder.linear.weight", "encoder.hidden.0.weight"]
    elif decoder != "table":
        parts += ["encoder.mix_logit", "encoder.linear.weight"]
    for part in parts:
        assert not torch.equal(before[part], after[part]), part


def test_a_table_learns_without_gradients():
    lens = new_lens(encoder="residual", decoder="table")
    before = state(lens.quantizer.encoder)
    fit(lens)
    assert same(before, lens.quantizer.encoder.state_dict())
    assert all(parameter.grad is None for parameter in lens.quantizer.parameters())


# ---- which documents -----------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
@pytest.mark.parametrize("buffer_tokens", [2**28, 270])
def test_held_out_documents_are_not_trained_on(monkeypatch, decoder: str, buffer_tokens: int):
    model = random_model(d_vocab=960)
    data = torch.arange(960).view(60, 16)  # every token tells its document
    training, held_out = halves(data)
    original, trained_on = Training.train_step, set()

    def train_step(self: Training, batch: Any, *args: Any) -> Any:
        trained_on.update(batch.tokens[batch.mask].tolist())
        return original(self, batch, *args)

    monkeypatch.setattr(Training, "train_step", train_step)
    history = fit(
        new_lens(model, decoder=decoder), data, buffer_tokens=buffer_tokens, n_tokens=6_000
    )
    assert trained_on == set(training.flatten().tolist())
    assert (history.n_training_documents, history.n_held_out_documents) == (54, 6)
    assert len(held_out) == 6


def test_initialization_sees_training_documents_only(monkeypatch):
    model = random_model(d_vocab=960)
    data = torch.arange(960).view(60, 16)
    training, _ = halves(data)
    rows: list[Tensor] = []
    original = cl.CrossLayerQuantizer.initialize_

    def initialize_(self: Any, source: Tensor, target: Tensor, **options: Any) -> None:
        rows.append(source.clone())
        original(self, source, target, **options)

    monkeypatch.setattr(cl.CrossLayerQuantizer, "initialize_", initialize_)
    fit(new_lens(model), data)
    expected = model.run_with_cache(training)[1][SOURCE].flatten(0, 1)
    assert len(rows) == 1
    assert len(rows[0]) == training.numel()  # all of them: fewer than 128 for each code
    assert torch.cdist(rows[0], expected).amin(1).max() < 0.02


def test_without_held_out_documents_the_last_weights_are_kept():
    history = fit(new_lens(), held_out_fraction=0.0)
    assert history.best_step == history.records[-1].step
    assert history.frame()["held_out_fvu"].isna().all()
    assert (history.n_training_documents, history.n_held_out_documents) == (60, 0)


def test_single_tokens_are_mixed_unless_something_reads_sequences(monkeypatch):
    shapes: list[int] = []
    original = Training.train_step

    def train_step(self: Training, batch: Any, *args: Any) -> Any:
        shapes.append(batch.tokens.shape[1])
        return original(self, batch, *args)

    monkeypatch.setattr(Training, "train_step", train_step)
    for decoder, kl_weight, width in (("mlp", 0.0, 1), ("mlp", 1.0, 16), ("transformer", 0.0, 16)):
        shapes.clear()
        fit(new_lens(decoder=decoder), kl_weight=kl_weight)
        assert set(shapes) == {width}


# ---- best weights, early stopping ----------------------------------------------------------------


def destructive(**options: Any) -> dict[str, Any]:
    """A learning rate that rises until everything gets worse."""
    fitting = {"learning_rate": 0.3, "warmup_fraction": 1.0, "max_grad_norm": 1e6}
    return {**fitting, "n_evaluations": 12, "patience": 100, **options}


@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
def test_the_weights_of_the_best_step_are_kept_and_not_the_last_ones(decoder: str):
    lens = new_lens(decoder=decoder)
    history = fit(lens, **destructive())
    frame = history.frame().set_index("step")
    assert history.best_step == frame["held_out_fvu"].idxmin()
    assert history.best_step < frame.index[-1]
    best, last = frame["held_out_fvu"][history.best_step], frame["held_out_fvu"].iloc[-1]
    assert last > 1.05 * best
    _, held_out = halves()
    assert lens.evaluate(held_out, progress=False).fvu == pytest.approx(best, rel=1e-4)


def test_a_fit_without_improvement_stops_early():
    lens = new_lens()
    history = fit(lens, **destructive(patience=3))
    assert history.stop == "early"
    steps = history.frame()["step"].tolist()
    assert len(steps) - 1 - steps.index(history.best_step) == 3
    assert len(steps) < 12
    assert lens.quantizer.fitted


def test_with_kl_the_best_step_is_chosen_by_what_is_trained_on():
    history = fit(new_lens(), **destructive(kl_weight=2.0, recon_weight=0.5))
    frame = history.frame().set_index("step")
    score = 0.5 * frame["held_out_fvu"] + 2.0 * frame["held_out_kl"]
    assert history.best_step == score.idxmin()


def test_a_fit_ends_when_its_tokens_are_spent():
    history = fit(new_lens(), n_tokens=5_000, n_evaluations=1)
    assert history.stop == "finished"
    assert len(history.records) == 1
    assert 5_000 <= history.records[0].n_tokens < 5_000 + 256


# ---- interruption and errors ---------------------------------------------------------------------


def test_ctrl_c_keeps_what_was_learned(monkeypatch):
    lens, seen = new_lens(), {}
    interrupt_at(monkeypatch, 6, KeyboardInterrupt(), lambda q: seen.update(state(q)))
    history = fit(lens, n_evaluations=1)
    assert history.stop == "interrupted"
    assert history.records == []
    learned = {name for name in seen if name.startswith(("encoder", "decoder", "codebook"))}
    after = lens.quantizer.state_dict()
    assert all(torch.equal(seen[name], after[name]) for name in learned)
    assert not torch.equal(seen["encoder.linear.weight"], torch.eye(16))


def test_ctrl_c_after_validations_keeps_the_best_of_them(monkeypatch):
    lens = new_lens()
    interrupt_at(monkeypatch, 10, KeyboardInterrupt())
    history = fit(lens, **destructive())
    best = history.frame().set_index("step")["held_out_fvu"]
    assert history.stop == "interrupted"
    assert history.best_step == best.idxmin() < 9
    _, held_out = halves()
    assert lens.evaluate(held_out, progress=False).fvu == pytest.approx(best.min(), rel=1e-4)


def test_after_ctrl_c_in_the_model_codes_have_their_meaning_and_no_hook_is_left(model):
    lens = new_lens(model)
    before, n_passes = hook_counts(model), 0

    def interrupt(*_: Any) -> None:
        nonlocal n_passes
        n_passes += 1
        if n_passes == 14:
            raise KeyboardInterrupt

    handle = model.blocks[3].register_forward_hook(interrupt)  # above the target: only for KL
    history = fit(lens, kl_weight=1.0)
    handle.remove()
    assert history.stop == "interrupted"
    assert 0 < history.best_step < 12
    assert int(lens.quantizer.usage.sum()) == halves()[0].numel()
    assert not lens.quantizer.training
    assert hook_counts(model) == before


@pytest.mark.parametrize("fitted_before", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError("full"), SystemExit(3)])
def test_any_other_error_restores_the_quantizer(monkeypatch, error, fitted_before: bool):
    lens = new_lens()
    if fitted_before:
        fit(lens)
    before = state(lens.quantizer)
    interrupt_at(monkeypatch, 5, error)
    with pytest.raises(type(error)) as raised:
        fit(lens, seed=7)
    assert raised.value is error
    assert same(before, lens.quantizer.state_dict())
    assert lens.quantizer.fitted == fitted_before
    assert not lens.quantizer.training


def test_ctrl_c_before_the_first_step_or_in_the_frozen_pass_restores_the_quantizer(monkeypatch):
    lens = new_lens()
    fit(lens)
    before = state(lens.quantizer)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for name in ("start", "give_meaning"):
        with monkeypatch.context() as patched:
            patched.setattr(Fit, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                fit(lens, seed=7)
        assert same(before, lens.quantizer.state_dict())


# ---- refusals ------------------------------------------------------------------------------------


def test_a_table_cannot_be_trained_on_the_kl():
    with pytest.raises(ConfigError, match="kl_weight needs a decoder that learns by gradients"):
        fit(new_lens(decoder="table"), kl_weight=1.0)


def test_an_encoder_has_no_next_token_to_train_on():
    lens = new_lens(random_model(attention_dir="bidirectional"))
    with pytest.raises(ConfigError, match="kl_weight needs a causal model"):
        fit(lens, kl_weight=1.0)
    fit(lens)
    assert lens.quantizer.fitted


def test_an_unknown_option_is_refused_with_the_closest_one():
    with pytest.raises(
        ConfigError, match=r"FitConfig has no option 'n_token'. Closest: 'n_tokens'"
    ):
        fit(new_lens(), n_token=3)


def test_more_codes_than_tokens_are_refused():
    with pytest.raises(TooFewTokensError, match="12 codes"):
        fit(new_lens(), torch.tensor([[1, 2, 3], [4, 5, 6]]))


def test_fewer_distinct_tokens_than_codes_are_refused():
    with pytest.raises(TooFewTokensError, match="12"):
        fit(new_lens(random_model(n_ctx=4)), torch.ones(50, 4, dtype=torch.long))


def test_data_of_nothing_but_special_tokens_are_refused(stories_model):
    lens = stories_model.add_clvq(1, 3, n_codes=4, top_k=2)
    bos = stories_model.tokenizer.bos_token_id
    try:
        with pytest.raises(EmptyCorpusError, match="no real token: only special tokens"):
            lens.fit(torch.full((6, 3), bos), progress=False)
    finally:
        lens.remove()


@pytest.mark.parametrize("data", [[], [""], torch.empty(0, 4, dtype=torch.long)])
def test_empty_data_are_refused(data: Any):
    with pytest.raises(EmptyCorpusError, match="no text at all"):
        fit(new_lens(), data)


def test_a_text_that_is_too_long_is_split_unless_told_what_to_do():
    long = torch.randint(0, 40, (4, 200), generator=torch.Generator().manual_seed(0))
    lens = new_lens()
    with pytest.raises(TextTooLongError, match="200 tokens"):
        fit(lens, long, long_texts="error")
    fit(lens, long, held_out_fraction=0.0)
    assert int(lens.quantizer.usage.sum()) == 800
    fit(lens, long, long_texts="truncate", held_out_fraction=0.0)
    assert int(lens.quantizer.usage.sum()) == 4 * 48


def test_activations_that_are_not_finite_are_refused(model):
    with torch.no_grad():
        model.blocks[2].mlp.b_out[0] = torch.nan
    with pytest.raises(NonFiniteError, match=TARGET):
        fit(new_lens(model))


# ---- the same again ------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_same_seed_gives_the_same_bits(decoder: str):
    one, other = new_lens(decoder=decoder), new_lens(decoder=decoder)
    histories = [fit(lens, seed=3).frame().drop(columns="wall_s") for lens in (one, other)]
    assert same(one.quantizer.state_dict(), other.quantizer.state_dict())
    assert histories[0].equals(histories[1])


def test_the_same_seed_gives_the_same_bits_whatever_the_global_one():
    one, other = new_lens(decoder="transformer"), new_lens(decoder="transformer")
    torch.manual_seed(1)
    fit(one)
    torch.manual_seed(2)
    fit(other)
    assert same(one.quantizer.state_dict(), other.quantizer.state_dict())


def test_the_same_seed_gives_the_same_bits_when_not_all_fits_the_buffer():
    lenses = [new_lens(), new_lens()]
    for lens in lenses:
        fit(lens, buffer_tokens=270)
    assert same(lenses[0].quantizer.state_dict(), lenses[1].quantizer.state_dict())


def test_another_seed_gives_another_codebook():
    one, other = new_lens(), new_lens()
    fit(one, seed=3)
    fit(other, seed=4)
    assert not torch.equal(one.quantizer.codebook.vectors, other.quantizer.codebook.vectors)


@pytest.mark.parametrize("decoder", DECODERS)
def test_fitting_again_starts_anew(decoder: str):
    again, fresh = new_lens(decoder=decoder), new_lens(decoder=decoder)
    fit(again, DATA.flip(0)[:40], seed=9, **destructive())
    fit(again)
    fit(fresh)
    assert same(again.quantizer.state_dict(), fresh.quantizer.state_dict())


# ---- what a fit leaves alone ---------------------------------------------------------------------


@pytest.mark.parametrize("kl_weight", [0.0, 1.0])
def test_the_model_keeps_its_bits_its_gradients_and_its_hooks(model, kl_weight: float):
    model.W_U.requires_grad_(False)
    calls: list[str] = []
    model.add_hook(SOURCE, lambda value, hook: calls.append(hook.name))
    lens = new_lens(model)
    parameters, hooks = state(model), hook_counts(model)
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    fit(lens, kl_weight=kl_weight)
    assert same(parameters, model.state_dict())
    assert hook_counts(model) == hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
    assert not model.training
    calls.clear()
    model(DATA[:2])
    assert calls == [SOURCE]


def test_after_a_fit_the_quantizer_is_in_eval_mode():
    lens = new_lens(decoder_dropout=0.5, decoder="transformer")
    fit(lens)
    assert not any(module.training for module in lens.quantizer.modules())


def test_a_fit_leaves_the_global_random_state_and_grad_mode_alone():
    for context, enabled in ((nullcontext(), True), (torch.no_grad(), False)):
        with context:
            lens = new_lens()
            before = torch.get_rng_state()
            fit(lens)
            assert torch.is_grad_enabled() == enabled
            assert torch.equal(torch.get_rng_state(), before)


def test_a_fit_under_no_grad_learns_the_same():
    one, other = new_lens(), new_lens()
    fit(one, kl_weight=1.0)
    with torch.no_grad():
        fit(other, kl_weight=1.0)
    assert same(one.quantizer.state_dict(), other.quantizer.state_dict())


def test_dropout_draws_from_the_seed_of_the_fit_and_not_from_the_global_state():
    lenses = [new_lens(decoder="transformer", decoder_dropout=0.3) for _ in range(2)]
    for seed, lens in enumerate(lenses):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        fit(lens)
        assert torch.equal(torch.get_rng_state(), before)
    assert same(lenses[0].quantizer.state_dict(), lenses[1].quantizer.state_dict())


def test_without_progress_nothing_is_printed(capsys):
    fit(new_lens())
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_over_tokens(capsys):
    new_lens().fit(DATA, n_tokens=2_000, batch_tokens=256, progress=True)
    shown = capsys.readouterr().err
    assert "fvu=" in shown
    assert "frozen pass" in shown


# ---- the frozen pass -----------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("buffer_tokens", [2**28, 270])
def test_the_frozen_pass_records_what_nearest_codes_say(decoder: str, buffer_tokens: int):
    model = random_model()
    lens = new_lens(model, decoder=decoder)
    fit(lens, buffer_tokens=buffer_tokens)
    q, (training, _) = lens.quantizer, halves()
    cache = model.run_with_cache(training)[1]
    codes = lens.encode(training).codes.flatten()
    z = q.encode(cache[SOURCE]).detach().flatten(0, 1)
    y = cache[TARGET].flatten(0, 1)
    assert int(q.usage.sum()) == training.numel()
    assert torch.equal(q.usage, torch.bincount(codes, minlength=12))
    torch.testing.assert_close(q.source_mean, cache[SOURCE].flatten(0, 1).mean(0))
    for code in range(12):
        if (codes == code).any():
            torch.testing.assert_close(q.mean_encoded[code], z[codes == code].mean(0))
            torch.testing.assert_close(q.mean_target[code], y[codes == code].mean(0))
    torch.testing.assert_close(q.target_mean, y.mean(0), rtol=1e-4, atol=1e-5)


def test_usage_counts_nearest_codes_and_not_sampled_ones():
    lens = new_lens(top_k=12, temperature=1e6)  # sampling is all but uniform
    fit(lens)
    codes = lens.encode(halves()[0]).codes.flatten()
    assert torch.equal(lens.quantizer.usage, torch.bincount(codes, minlength=12))


def test_special_tokens_and_padding_do_not_count(stories_model, stories):
    lens = stories_model.add_clvq(1, 3, n_codes=8, decoder="mlp")
    texts = [story[:60] for story in stories[:30]]
    try:
        lens.fit(texts, n_tokens=2_000, batch_tokens=200, held_out_fraction=0.0, progress=False)
        n_real = sum(stories_model.to_tokens(text).shape[1] - 1 for text in texts)
        assert int(lens.quantizer.usage.sum()) == n_real
    finally:
        lens.remove()


@pytest.mark.parametrize("used_all", [True, False])
def test_after_a_fit_a_table_holds_the_mean_target_of_each_code(used_all: bool):
    model = random_model()
    lens = new_lens(model, decoder="table", dead_after_tokens=10**9)
    fit(lens, n_tokens=3_000 if used_all else 300)
    q, (training, _) = lens.quantizer, halves()
    y = model.run_with_cache(training)[1][TARGET].flatten(0, 1)
    codes = lens.encode(training).codes.flatten()
    if not used_all:  # a code without a token has the mean of all
        usage = q.usage.clone().index_fill_(0, torch.tensor([3]), 0)
        sums = (y.sum(0).repeat(12, 1) / 11).index_fill_(0, torch.tensor([3]), 0.0)
        q.record_(usage, q.mean_encoded, q.mean_encoded, sums)
        torch.testing.assert_close(q.decoder.table[3], y.sum(0) / usage.sum())
        return
    for code in codes.unique().tolist():
        torch.testing.assert_close(q.decoder.table[code], y[codes == code].mean(0))


def test_a_long_corpus_is_frozen_on_as_many_tokens_as_were_trained_on():
    lens = new_lens()
    fit(lens, n_tokens=300, batch_tokens=64, held_out_fraction=0.0)
    assert 300 <= int(lens.quantizer.usage.sum()) < 60 * 16


# ---- parts ---------------------------------------------------------------------------------------


def test_the_schedule_rises_and_falls():
    assert schedule(0.0, 0.1) == 0.01
    assert schedule(0.05, 0.1) == pytest.approx(0.5)
    assert schedule(0.1, 0.1) == pytest.approx(1.0)
    assert schedule(0.55, 0.1) == pytest.approx(0.05 + 0.95 / 2)
    assert schedule(1.0, 0.1) == pytest.approx(0.05)
    assert schedule(1.2, 0.1) == pytest.approx(0.05)  # the last batch goes a little beyond
    assert schedule(0.0, 0.0) == 1.0
    assert schedule(1.0, 1.0) == pytest.approx(1.0)


def test_the_learning_rate_falls_with_the_width_unless_it_was_chosen():
    default, chosen = cl.FitConfig(), cl.FitConfig(learning_rate=0.01)
    assert peak_learning_rate(default, 16) == 2 * peak_learning_rate(default, 64) == 0.0125
    assert peak_learning_rate(chosen, 16) == peak_learning_rate(chosen, 64) == 0.01


def test_only_weight_matrices_of_the_decoder_decay():
    lens = new_lens(decoder="transformer")
    groups = make_optimizer(lens.quantizer, cl.FitConfig(weight_decay=0.3)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert sum(len(group["params"]) for group in groups) == len(list(lens.quantizer.parameters()))
    for name, parameter in lens.quantizer.named_parameters():
        wanted = name.startswith("decoder") and parameter.ndim == 2
        assert (id(parameter) in decayed) == wanted, name


def test_a_loss_that_is_not_finite_ends_the_fit_and_leaves_the_quantizer_as_it_was(model):
    lens = model.add_clvq(1, 2, n_codes=12)
    before = {name: tensor.clone() for name, tensor in lens.quantizer.state_dict().items()}
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    options = {"learning_rate": 1e30, "warmup_fraction": 0.0, "max_grad_norm": 1e30}
    with pytest.raises(NonFiniteError, match="Pass a smaller learning_rate"):
        lens.fit(data, n_tokens=3_000, batch_tokens=256, progress=False, **options)
    after = lens.quantizer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
