"""Passes of every sort: with gradients or without, padded, stopped early, generating, in half."""

import pytest
import torch

import clvq_lens as cl
from tests.host.contract.checks import (
    CODES,
    codes_of,
    commonest,
    difference,
    next_code,
    on_causal_kinds,
    on_every_kind,
    on_one_of_each_sort,
)
from tests.hosts import text_of, words

QUANTIZED = "clvq.1-2.hook_quantized"


def padded(kind, model, rows, side):
    """Rows of tokens as one batch, and the options that tell the model about the padding."""
    n = max(len(row) for row in rows)
    tokens = torch.full((len(rows), n), model.tokenizer.pad_token_id)
    mask = torch.zeros(len(rows), n, dtype=torch.long)
    for index, row in enumerate(rows):
        places = slice(n - len(row), None) if side == "left" else slice(len(row))
        tokens[index, places], mask[index, places] = row, 1
    return tokens, mask.bool(), {kind.mask_option: mask}


def framed(model, row):
    """Tokens with what stands before and after a text."""
    tokenizer = model.tokenizer
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    first = tokenizer.bos_token_id if first is None else first
    last = tokenizer.eos_token_id if last is None else last
    return torch.cat([torch.tensor([first]), row, torch.tensor([last])]).unsqueeze(0)


# ---- gradients -----------------------------------------------------------------------------------


@on_every_kind
def test_gradients_at_the_code_vectors_are_those_of_the_logits(model, lens, tokens):
    gradients = []
    with model.hooks(bwd_hooks=[(QUANTIZED, lambda gradient, hook: gradients.append(gradient))]):
        difference(model(tokens)).backward()
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))

    def moved(step):
        def move(vectors, hook):
            change = torch.zeros_like(vectors)
            change[0, 5] = step * direction
            return vectors + change

        with torch.no_grad():
            return difference(model.run_with_hooks(tokens, fwd_hooks=[(QUANTIZED, move)])).item()

    slope = (moved(0.02) - moved(-0.02)) / 0.04
    assert slope != 0
    assert float(gradients[0][0, 5] @ direction) == pytest.approx(slope, rel=0.02, abs=1e-3)


def test_a_pass_with_gradients_has_the_same_bits(model, lens, tokens):
    plain = model(tokens)
    with model.hooks(bwd_hooks=[(QUANTIZED, lambda gradient, hook: None)]):
        assert torch.equal(model(tokens), plain)


def test_gradients_of_the_model_are_what_they_are_without_the_quantizer(model, lens, tokens):
    def gradients():
        model.zero_grad()
        difference(model(tokens)).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    attached = gradients()
    lens.remove()
    bare = gradients()
    assert len(attached) == len(bare) > 0
    assert all(torch.equal(one, other) for one, other in zip(attached, bare, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda m: m.__name__)
def test_edits_act_the_same_without_gradients(model, lens, tokens, mode):
    hooks = [(CODES, next_code)]
    expected = model.run_with_hooks(tokens, fwd_hooks=hooks)
    with mode():
        assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks), expected)
        with lens.splice():
            spliced = model(tokens)
    with lens.splice():
        assert torch.equal(model(tokens), spliced)


# ---- padding and special tokens ------------------------------------------------------------------


@on_every_kind
def test_a_padded_text_has_the_codes_and_the_spliced_logits_that_it_has_alone(kind, model, lens):
    short, long = words(5, seed=3), words(9, seed=4)
    codes = codes_of(model, short.unsqueeze(0))[0]
    with lens.splice():
        alone = model(short.unsqueeze(0))[0]
    for side in ("right", "left") if kind.causal else ("right",):
        batch, mask, options = padded(kind, model, [short, long], side)
        assert torch.equal(codes_of(model, batch, **options)[0, mask[0]], codes)
        with lens.splice():
            spliced = model(batch, **options)[0, mask[0]]
        torch.testing.assert_close(spliced, alone, atol=1e-4, rtol=1e-4)


def test_an_edit_acts_on_a_padded_text_as_on_it_alone(kind, model, lens):
    short, long = words(5, seed=3), words(9, seed=4)
    with lens.edit(cl.Ablate(codes_of(model, short.unsqueeze(0))[0, :2].tolist())):
        alone = model(short.unsqueeze(0))[0]
        for side in ("right", "left") if kind.causal else ("right",):
            batch, mask, options = padded(kind, model, [short, long], side)
            edited = model(batch, **options)[0, mask[0]]
            torch.testing.assert_close(edited, alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(alone, model(short.unsqueeze(0))[0], atol=1e-3)


def test_splice_and_edits_leave_special_tokens_alone(kind, model, lens):
    row = framed(model, words(6, seed=5))
    target = kind.after(2)
    clean = model.run_with_cache(row)[1][target]
    for block in (lens.splice(), lens.edit(cl.Steer(3, 5.0))):
        with block:
            changed = model.run_with_cache(row)[1][target]
        differs = (changed != clean).any(-1)[0].tolist()
        assert differs == [False] + [True] * 6 + [False]


def test_special_tokens_and_padding_have_no_code(model, lens):
    texts = [text_of(words(3, seed=6)), text_of(words(6, seed=7))]
    encoding = lens.encode(texts)
    assert torch.equal(encoding.codes == -1, ~encoding.mask)
    assert encoding.tokens[0][encoding.mask[0]].tolist() == words(3, seed=6).tolist()
    assert encoding.tokens[1][encoding.mask[1]].tolist() == words(6, seed=7).tolist()


# ---- passes that end early, or go on -------------------------------------------------------------


@on_causal_kinds
def test_a_pass_that_stops_before_the_target_leaves_nothing_behind(kind, model, lens, tokens):
    plain = model(tokens)
    with lens.splice():
        spliced = model(tokens)
        model(tokens, stop_at_layer=2)
        model(tokens[:2], stop_at_layer=2)
        assert torch.equal(model(tokens), spliced)
    assert torch.equal(model(tokens), plain)


@on_causal_kinds
def test_codes_can_be_cached_in_a_pass_that_stops_after_the_source(kind, model, lens, tokens):
    expected = codes_of(model, tokens)
    assert torch.equal(codes_of(model, tokens, stop_at_layer=2), expected)


def generated(model, prompt, *, use_cache, **options):
    """What a model goes on with, and its logits at each step."""
    steps = []
    hook = ("unembed.hook_out", lambda logits, hook: steps.append(logits))
    with model.hooks(fwd_hooks=[hook]):
        found = model.generate(
            prompt,
            max_new_tokens=8,
            do_sample=False,
            use_past_kv_cache=use_cache,
            stop_at_eos=False,
            verbose=False,
            return_type="tokens",
            **options,
        )
    return found, torch.stack([logits[:, -1] for logits in steps]), [s.shape[1] for s in steps]


GENERATION_EDITS = {
    "splice": lambda lens, codes: lens.splice(),
    "ablate": lambda lens, codes: lens.edit(cl.Ablate(codes)),
    "force-in-the-prompt": lambda lens, codes: lens.edit(cl.Force(codes[0], at=[1, 3])),
    "force-what-comes-after": lambda lens, codes: lens.edit(cl.Force(codes[0], at=slice(7, None))),
    "splice-and-force-what-comes-after": lambda lens, codes: lens.edit(
        cl.Force(codes[0], at=slice(8, None)), error_term=False
    ),
    "function": lambda lens, codes: lens.edit(
        lambda now, tokens: torch.where(tokens % 2 == 0, codes[0], now)
    ),
}


@on_causal_kinds
@pytest.mark.parametrize("name", GENERATION_EDITS)
def test_generation_with_and_without_the_cache_agrees_under_an_edit(kind, model, lens, name):
    prompt = words(2, 6, seed=8)
    plain, plain_logits, lengths = generated(model, prompt, use_cache=True)
    assert lengths == ([6] + [1] * 7 if kind.has_cache else list(range(6, 14)))
    with GENERATION_EDITS[name](lens, commonest(lens, prompt)):
        cached, logits, _ = generated(model, prompt, use_cache=True)
        uncached, expected, _ = generated(model, prompt, use_cache=False)
    assert torch.equal(cached, uncached)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits, plain_logits, atol=1e-3)
    again, _, _ = generated(model, prompt, use_cache=True)
    assert torch.equal(again, plain)


@on_causal_kinds
def test_a_text_in_a_batch_is_generated_under_an_edit_as_it_is_alone(kind, model, lens):
    texts = [text_of(words(3, seed=9)), text_of(words(6, seed=10))]
    with lens.splice(), lens.edit(cl.Swap(*commonest(lens, words(4, 12)))):
        for use_cache in (True, False):
            both, logits, _ = generated(model, texts, use_cache=use_cache, padding_side="left")
            alone, expected, _ = generated(model, texts[:1], use_cache=use_cache)
            assert torch.equal(both[:1, -8:], alone[:, -8:])
            torch.testing.assert_close(logits[:, :1], expected, atol=1e-4, rtol=1e-4)


# ---- numbers -------------------------------------------------------------------------------------


def test_models_in_bfloat16_keep_their_dtype_and_bits(kind, tokens):
    check_half_precision(kind, torch.bfloat16, tokens)


@on_one_of_each_sort
def test_models_in_float16_keep_their_dtype_and_bits(kind, tokens):
    check_half_precision(kind, torch.float16, tokens)


def check_half_precision(kind, dtype, tokens):
    model = kind.model(dtype)
    plain = model(tokens)
    lens = model.add_clvq(1, 2, n_codes=12)
    lens.fit(words(20, 16, seed=2), n_tokens=300, batch_tokens=128, progress=False)
    logits, cache = model.run_with_cache(tokens)
    assert torch.equal(logits, plain)
    assert cache[kind.after(2)].dtype == dtype
    assert cache["clvq.1-2.hook_recon"].dtype == torch.float32
    with lens.splice():
        spliced, cache = model.run_with_cache(tokens)
    assert spliced.dtype == cache[kind.after(2)].dtype == dtype
    assert not torch.equal(spliced, plain)
    assert torch.equal(model(tokens), plain)


@on_every_kind
def test_a_single_token_and_a_full_context_are_passes_like_any_other(model, lens):
    for shape in ((1, 1), (2, 48)):
        tokens = words(*shape)
        assert codes_of(model, tokens).shape == shape
        with lens.splice():
            spliced = model(tokens)
        assert spliced.shape[:2] == shape
        assert not torch.allclose(spliced, model(tokens))
