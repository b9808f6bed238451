"""Every edit gives the same tokens with the key-value cache and without, under any padding."""

import time

import pytest
import torch

import clvq_lens as cl
from tests.conftest import random_model
from tests.host.contract.checks import commonest
from tests.hosts import KINDS, words

EDITS = {
    "ablate": lambda codes: cl.Ablate(codes),
    "mean": lambda codes: cl.Ablate(codes, to="mean"),
    "resample": lambda codes: cl.Ablate(codes, to="resample"),
    "swap": lambda codes: cl.Swap(codes[0], codes[1]),
    "force-all": lambda codes: cl.Force(codes[0]),
    "force-last-of-prompt": lambda codes: cl.Force(codes[0], at=-1),
    "force-generated": lambda codes: cl.Force(codes[0], at=slice(7, 12, 2)),
    "restrict": lambda codes: cl.Restrict(codes),
    "patch": lambda codes: cl.Patch([codes[1]] * 6),
    "patch-first": lambda codes: cl.Patch([codes[1]] * 6, at=[1, 2]),
    "steer": lambda codes: cl.Steer(codes[0], 3.0),
    "by-token": lambda codes: cl.Force(codes[1], at=lambda tokens: tokens % 3 == 0),
    "function": lambda codes: lambda now, tokens: torch.where(tokens % 2 == 0, codes[0], now),
}


@pytest.fixture(scope="module", params=["transformer", "mlp", "table"])
def generating(request, toy):
    """A fitted lens with some decoder, and prompts of six tokens under either padding."""
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16, decoder=request.param)
    lens.fit(texts[:60], n_tokens=4_000, progress=False)
    yield lens, [" ".join(text.split()[:n]) for text, n in zip(texts[:3], (3, 5, 4), strict=True)]
    lens.remove()


def generate(lens, prompts, *, use_cache, padding_side, n=8):
    tokens = lens.model.to_tokens(prompts, padding_side=padding_side)
    if padding_side == "right":
        tokens = tokens[:, :4].repeat(1, 2)[:, :6]  # no padding inside
    assert tokens.shape[1] == 6
    generated = lens.model.generate(
        tokens,
        max_new_tokens=n,
        do_sample=False,
        use_past_kv_cache=use_cache,
        stop_at_eos=False,
        verbose=False,
        padding_side=padding_side,
    )
    return generated.clone()  # no inference tensor


def codes_of(lens, prompts):
    """The codes that the prompts use most, so that edits have something to change."""
    codes = lens.encode(prompts).codes
    return codes[codes >= 0].bincount().argsort(descending=True)[:4].tolist()


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("name", EDITS)
def test_generation_with_and_without_the_cache_agrees(generating, name, padding_side):
    lens, prompts = generating
    edit = EDITS[name](codes_of(lens, prompts))
    for error_term in (True, False):
        with lens.edit(edit, error_term=error_term):
            cached = generate(lens, prompts, use_cache=True, padding_side=padding_side)
            uncached = generate(lens, prompts, use_cache=False, padding_side=padding_side)
        assert torch.equal(cached, uncached)


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_changes_what_is_generated_or_its_logits(generating, name):
    lens, prompts = generating
    edit = EDITS[name](codes_of(lens, prompts))
    plain = generate(lens, prompts, use_cache=True, padding_side="left")
    with lens.edit(edit):
        tokens = generate(lens, prompts, use_cache=True, padding_side="left")
        logits = lens.model(plain[:, :6])
    assert not torch.equal(tokens, plain) or not torch.equal(logits, lens.model(plain[:, :6]))


def test_cached_logits_of_chunks_equal_those_of_the_whole_text(generating):
    from transformer_lens import TransformerLensKeyValueCache

    lens, _ = generating
    tokens = lens.model.to_tokens(cl.toy.generate(1, seed=5)[0])[:, :20]
    codes = lens.encode(tokens).codes[0, 1:].tolist()

    def after_a_certain_token(t):
        return torch.nn.functional.pad(t[:, :-1], (1, 0), value=-1) == tokens[0, 6]

    edits = [
        cl.Ablate(codes[3]),
        cl.Force(codes[0], at=after_a_certain_token),
        cl.Swap(*codes[:2]),
    ]
    with lens.edit(*edits):
        whole = lens.model(tokens)
        cache = TransformerLensKeyValueCache.init_cache(lens.model.cfg, "cpu", 1)
        parts = [
            lens.model(tokens[:, start:end], past_kv_cache=cache)
            for start, end in ((0, 7), (7, 8), (8, 12), (12, 13), (13, 20))
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)


def test_a_frozen_cache_of_a_shared_beginning_serves_many_ends(generating):
    from transformer_lens import TransformerLensKeyValueCache

    lens, _ = generating
    tokens = lens.model.to_tokens(cl.toy.generate(1, seed=5)[0])[:, :12]
    codes = lens.encode(tokens).codes[0, 1:].tolist()
    ends = [tokens[:, 8:9], tokens[:, 8:12], tokens[:, 3:4], tokens[:, 4:6]]
    with lens.edit(cl.Force(codes[0], at=slice(6, 10)), cl.Ablate(codes[2])):
        cache = TransformerLensKeyValueCache.init_cache(lens.model.cfg, "cpu", 1)
        lens.model(tokens[:, :8], past_kv_cache=cache)
        cache.freeze()
        for end in ends:
            found = lens.model(end, past_kv_cache=cache)
            whole = lens.model(torch.cat([tokens[:, :8], end], dim=1))[:, 8:]
            torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_an_edit_that_begins_in_the_middle_of_a_generation_edits_what_comes_after(generating):
    from transformer_lens import TransformerLensKeyValueCache

    lens, _ = generating
    tokens = lens.model.to_tokens(cl.toy.generate(1, seed=5)[0])[:, :12]
    cache = TransformerLensKeyValueCache.init_cache(lens.model.cfg, "cpu", 1)
    lens.model(tokens[:, :8], past_kv_cache=cache)
    with lens.edit(cl.Force(3)):
        found = lens.model(tokens[:, 8:], past_kv_cache=cache)
    with lens.edit(cl.Force(3, at=slice(8, None))):
        whole = lens.model(tokens)[:, 8:]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_a_mask_is_one_of_the_prompt_also_when_a_generation_goes_on_with_several_tokens(generating):
    from transformer_lens import TransformerLensKeyValueCache

    lens, _ = generating
    tokens = lens.model.to_tokens(cl.toy.generate(1, seed=5)[0])[:, :12]
    last = [False, False, False, False, True]
    with lens.edit(cl.Force(3, at=last)):
        cache = TransformerLensKeyValueCache.init_cache(lens.model.cfg, "cpu", 1)
        lens.model(tokens[:, :5], past_kv_cache=cache)
        for position in (5, 6):
            lens.model(tokens[:, position : position + 1], past_kv_cache=cache)
        found = lens.model(tokens[:, 7:], past_kv_cache=cache)
    with lens.edit(cl.Force(3, at=4)):
        whole = lens.model(tokens)[:, 7:]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_token_costs_no_more_work_at_position_900_than_at_position_10(monkeypatch):
    model = random_model(n_ctx=1_024, positional_embedding_type="rotary", rotary_dim=4)
    lens = model.add_clvq(1, 2, n_codes=12)
    corpus = torch.randint(0, 40, (20, 64), generator=torch.Generator().manual_seed(2))
    lens.fit(corpus, n_tokens=1_000, batch_tokens=256, progress=False)
    decoded = []
    original = lens.quantizer.decode

    def counting(vectors, **options):
        start = time.perf_counter()
        result = original(vectors, **options)
        decoded.append((vectors.shape[1], time.perf_counter() - start))
        return result

    monkeypatch.setattr(lens.quantizer, "decode", counting)
    with lens.edit(cl.Ablate(3), cl.Force(5, at=2)):
        model.generate(
            corpus[:1, :8], max_new_tokens=900, do_sample=False, stop_at_eos=False, verbose=False
        )
    lengths = [length for length, _ in decoded]
    assert lengths[:2] == [8, 8]  # the prompt, with clean and with edited codes
    assert set(lengths[2:]) == {1}  # then one position at a time
    assert len(lengths) == 2 * 900


# ---- every change, every decoder, every way to generate ------------------------------------------

CODES, QUANTIZED = "clvq.1-2.hook_codes", "clvq.1-2.hook_quantized"
HOSTS = [
    kind
    for kind in KINDS
    if kind.name in ("hooked-gpt2", "hooked-llama", "bridge-gpt2", "bridge-llama")
]
DECODERS = {
    "transformer": {"decoder": "transformer"},
    "memory": {"decoder": "transformer", "decoder_memory": "encoder"},
    "mlp": {"decoder": "mlp"},
    "table": {"decoder": "table"},
}
N_PROMPT, N_NEW = 6, 6


def hooked(point, change):
    """A block in which a hook of the user changes what passes one of the quantizer's points."""
    return lambda lens, codes: lens.model.hooks(
        fwd_hooks=[(point, lambda value, hook: change(value, codes))]
    )


def in_place(value, codes):
    value[value == codes[0]] = codes[1]


def scaled_in_place(value, codes):
    value.mul_(1.5)


def in_place_at_the_third(value, codes):
    """In the prompt only: later passes with a cache are of one token."""
    if value.shape[1] >= N_PROMPT:
        value[:, 2] = codes[0]


def returned_at_the_third(value, codes):
    if value.shape[1] < N_PROMPT:
        return None
    return torch.cat([value[:, :2], torch.full_like(value[:, :1], codes[0]), value[:, 3:]], dim=1)


CHANGES = {
    "splice": lambda lens, codes: lens.splice(),
    **{
        f"edit-{name}": lambda lens, codes, edit=edit: lens.edit(edit(codes))
        for name, edit in EDITS.items()
    },
    **{
        f"spliced-edit-{name}": lambda lens, codes, edit=EDITS[name]: lens.edit(
            edit(codes), error_term=False
        )
        for name in ("ablate", "force-last-of-prompt", "steer")
    },
    **{
        f"project-{place}": lambda lens, codes, place=place: lens.project_out(
            codes[:2], place=place
        )
        for place in ("source", "target")
    },
    "hook-returned": hooked(
        CODES, lambda value, codes: torch.where(value == codes[0], codes[1], value)
    ),
    "hook-in-place": hooked(CODES, in_place),
    "hook-vectors": hooked(QUANTIZED, lambda value, codes: value * 1.5),
    "hook-vectors-in-place": hooked(QUANTIZED, scaled_in_place),
    "hook-returned-in-the-prompt": hooked(CODES, returned_at_the_third),
    "hook-in-place-in-the-prompt": hooked(CODES, in_place_at_the_third),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (kind, decoder), marks=[pytest.mark.slow] * (not quick), id=f"{kind}-{decoder}"
        )
        for kind in HOSTS
        for decoder in DECODERS
        # A decoder knows no host: all of them on one host, and one of them on all hosts.
        if decoder == "transformer" or kind.name == "bridge-gpt2"
        for quick in [decoder == "transformer" and kind.name == "bridge-gpt2"]
    ],
)
def matrix_lens(request):
    """A fitted lens, on hosts that generate with a cache."""
    kind, decoder = request.param
    lens = kind.model().add_clvq(1, 2, n_codes=12, top_k=3, **DECODERS[decoder])
    lens.fit(words(60, 16, seed=2), n_tokens=2_000, batch_tokens=256, progress=False)
    return lens


def generated_by(lens, how, prompts, *, use_cache):
    """Tokens that a way to generate finds, the same whenever the logits are."""
    torch.manual_seed(0)
    options = {"max_new_tokens": N_NEW, "stop_at_eos": False, "use_past_kv_cache": use_cache}
    if how == "beam":
        return lens.model.hf_generate(
            prompts, do_sample=False, num_beams=4, use_cache=use_cache, **options
        ).clone()
    return lens.model.generate(prompts, do_sample=how == "sample", verbose=False, **options).clone()


@pytest.mark.parametrize("name", CHANGES)
def test_every_way_to_generate_gives_the_same_with_the_cache_and_without(matrix_lens, name):
    prompts = words(3, N_PROMPT, seed=8)
    codes = commonest(matrix_lens, prompts)
    ways = ["greedy", "sample"] + ["beam"] * hasattr(matrix_lens.model, "hf_generate")
    if name == "edit-resample":
        ways = ["greedy", "sample"]  # draws belong to a row, and a beam search moves texts
    for how in ways:
        with CHANGES[name](matrix_lens, codes):
            cached = generated_by(matrix_lens, how, prompts, use_cache=True)
            uncached = generated_by(matrix_lens, how, prompts, use_cache=False)
        assert torch.equal(cached, uncached), how
