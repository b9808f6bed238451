import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from clvq_lens.config import CLVQConfig
from clvq_lens.errors import NonFiniteError, NotFittedError, ShapeError, TooFewTokensError
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.decoders import TableDecoder
from clvq_lens.quantizer.hook_points import pass_through
from clvq_lens.quantizer.initialization import initialize

D_SOURCE, D_TARGET, N_CODES = 5, 8, 7
KINDS = [
    pytest.param({"decoder": "transformer"}, id="transformer"),
    pytest.param({"decoder": "transformer", "decoder_memory": "encoder"}, id="with-memory"),
    pytest.param({"decoder": "mlp"}, id="mlp"),
    pytest.param({"decoder": "table"}, id="table"),
]
METHODS = ["random", "kmeans++", "scaled_spherical"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def make(seed: int = 0, **options: Any) -> CrossLayerQuantizer:
    config = CLVQConfig(**{"n_codes": N_CODES, "top_k": 2, "encoder": "residual", **options})
    return CrossLayerQuantizer(config, D_SOURCE, D_TARGET, generator=seeded(seed))


def bits(quantizer: CrossLayerQuantizer) -> dict[str, Tensor]:
    return copy.deepcopy(quantizer.state_dict())


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def initialized(**options: Any) -> CrossLayerQuantizer:
    quantizer = make(**options)
    quantizer.initialize_(random(200, D_SOURCE), random(200, D_TARGET, seed=1), generator=seeded())
    return quantizer


# ---- making one --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS)
def test_making_a_quantizer_leaves_the_global_generator_alone(options: dict[str, Any]):
    state = torch.get_rng_state()
    make(**options)
    CrossLayerQuantizer(CLVQConfig(n_codes=8, **options), D_SOURCE, D_TARGET)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("options", KINDS)
def test_the_same_seed_makes_the_same_weights(options: dict[str, Any]):
    with torch.random.fork_rng():
        torch.manual_seed(123)  # whatever the global state is
        one = bits(make(seed=3, **options))
    assert not differing(one, bits(make(seed=3, **options)))
    assert "codebook.vectors" in differing(one, bits(make(seed=4, **options)))


def test_without_a_generator_the_weights_are_those_of_seed_zero():
    config = CLVQConfig(n_codes=N_CODES, top_k=2, encoder="residual")
    assert not differing(bits(make(seed=0)), bits(CrossLayerQuantizer(config, D_SOURCE, D_TARGET)))


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("shape", [(2, 6), (1, 1), (2, 0)])
def test_a_reconstruction_has_the_width_of_the_target(
    options: dict[str, Any], shape: tuple[int, int]
):
    assert make(**options)(random(*shape, D_SOURCE)).shape == (*shape, D_TARGET)


def test_a_quantizer_starts_in_eval_mode_with_five_hook_points():
    quantizer = make()
    names = ["hook_encoded", "hook_codes", "hook_quantized", "hook_recon", "hook_error"]
    assert list(quantizer.hooks) == names
    assert all(isinstance(hook, HookPoint) for hook in quantizer.hooks.values())
    assert not quantizer.training
    assert not any("hook" in name for name in quantizer.state_dict())


@pytest.mark.parametrize("options", KINDS)
def test_eval_mode_changes_no_state(options: dict[str, Any]):
    quantizer, source = initialized(**options), random(2, 6, D_SOURCE, seed=2)
    before, state = bits(quantizer), torch.get_rng_state()
    quantizer(source)
    quantizer.encode(source)
    quantizer.assign(source)
    found = quantizer.quantize(source)
    quantizer.decode(found.draft.vectors, encoded=found.draft.encoded)
    quantizer.codebook.sample(found.draft.encoded, generator=seeded())
    assert not differing(before, bits(quantizer))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("options", KINDS)
def test_a_copy_is_independent(options: dict[str, Any]):
    quantizer, source = initialized(**options), random(2, 6, D_SOURCE, seed=2)
    twin, expected = copy.deepcopy(quantizer), quantizer(source)
    twin.initialize_(
        random(50, D_SOURCE, seed=5), random(50, D_TARGET, seed=6), generator=seeded(7)
    )
    assert torch.equal(quantizer(source), expected)
    assert not torch.allclose(twin(source), expected)


# ---- encoding and assigning --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_encoder_outputs_are_float32_whatever_the_host_computes_in(dtype: torch.dtype):
    quantizer, source = make(), random(2, 6, D_SOURCE).to(dtype)
    expected = quantizer.encoder(source.float())
    assert torch.equal(quantizer.encode(source), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer.encode(source)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(), (6,), (2, 6)])
def test_codes_are_those_of_the_nearest_vectors(shape: tuple[int, ...]):
    quantizer, source = make(), random(*shape, D_SOURCE)
    z = quantizer.encode(source).reshape(-1, D_SOURCE).double()
    expected = torch.cdist(z, quantizer.codebook.vectors.double()).argmin(-1).view(shape)
    assert torch.equal(quantizer.assign(source), expected)


def test_without_hooks_nothing_is_changed():
    quantizer, source = make(), random(2, 6, D_SOURCE)
    found = quantizer.quantize(source)
    assert not found.changed
    assert torch.equal(found.codes, quantizer.assign(source))
    assert torch.equal(found.draft.encoded, quantizer.encode(source))
    assert torch.equal(found.clean_encoded, found.draft.encoded)
    assert torch.equal(found.draft.vectors, quantizer.codebook(found.codes))


# ---- hooks -------------------------------------------------------------------------------------

HookFunction = Callable[..., Tensor | None]


def hooked(name: str, function: HookFunction) -> tuple[CrossLayerQuantizer, Tensor]:
    quantizer = make()
    quantizer.hooks[name].add_hook(function)
    return quantizer, random(2, 6, D_SOURCE)


def in_place(change: Callable[[Tensor], Tensor]) -> HookFunction:
    def write(value: Tensor, hook: HookPoint) -> None:
        with torch.no_grad():
            value.copy_(change(value))

    return write


def returning(change: Callable[[Tensor], Tensor]) -> HookFunction:
    return lambda value, hook: change(value)


WAYS = [pytest.param(returning, id="returning"), pytest.param(in_place, id="in-place")]


@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_changes_encoder_outputs_changes_the_codes(way: Callable):
    quantizer, source = hooked("hook_encoded", way(lambda z: -z))
    found, z = quantizer.quantize(source), quantizer.encode(source)
    assert found.changed
    assert torch.equal(found.clean_encoded, z)
    assert torch.equal(found.draft.encoded, -z)
    assert torch.equal(found.codes, quantizer.codebook.nearest(z))
    assert torch.equal(found.draft.vectors, quantizer.codebook(quantizer.codebook.nearest(-z)))
    assert not torch.equal(found.draft.vectors, quantizer.codebook(found.codes))


@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_changes_codes_changes_the_code_vectors(way: Callable):
    quantizer, source = hooked("hook_codes", way(lambda codes: (codes + 1) % N_CODES))
    found, nearest = quantizer.quantize(source), quantizer.assign(source)
    assert found.changed
    assert torch.equal(found.codes, nearest)
    assert torch.equal(found.draft.vectors, quantizer.codebook((nearest + 1) % N_CODES))
    assert torch.equal(found.draft.encoded, quantizer.encode(source))


@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_changes_code_vectors_leaves_the_codebook_alone(way: Callable):
    quantizer, source = hooked("hook_quantized", way(lambda vectors: vectors + 1))
    before = bits(quantizer)
    found = quantizer.quantize(source)
    assert found.changed
    assert torch.equal(found.codes, quantizer.assign(source))
    assert torch.equal(found.draft.vectors, quantizer.codebook(found.codes) + 1)
    assert not differing(before, bits(quantizer))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["hook_encoded", "hook_codes", "hook_quantized"])
def test_a_hook_never_writes_into_the_source(way: Callable, name: str):
    quantizer, source = hooked(name, way(lambda value: value * 0))
    quantizer(source)
    assert torch.equal(source, random(2, 6, D_SOURCE))


@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_changes_the_reconstruction_is_heard(way: Callable):
    quantizer, source = hooked("hook_recon", way(lambda recon: recon * 0 + 3))
    assert torch.equal(quantizer(source), torch.full((2, 6, D_TARGET), 3.0))


@pytest.mark.parametrize("name", ["hook_encoded", "hook_codes", "hook_quantized"])
def test_hooks_that_change_nothing_are_seen_to_change_nothing(name: str):
    quantizer, source = hooked(name, lambda value, hook: None)
    clean = make().quantize(source)
    for again in (lambda value, hook: value, in_place(lambda value: value.clone())):
        found = quantizer.quantize(source)
        assert not found.changed
        assert torch.equal(found.draft.vectors, clean.draft.vectors)
        quantizer.hooks[name].add_hook(again)
    assert not quantizer.quantize(source).changed


@pytest.mark.parametrize("name", ["hook_encoded", "hook_codes", "hook_quantized"])
def test_an_equal_copy_counts_as_a_change_with_the_same_values(name: str):
    quantizer, source = hooked(name, lambda value, hook: value.clone())
    found, clean = quantizer.quantize(source), make().quantize(source)
    assert found.changed
    assert torch.equal(found.codes, clean.codes)
    assert torch.equal(found.clean_encoded, clean.clean_encoded)
    assert torch.equal(found.draft.encoded, clean.draft.encoded)
    assert not found.draft.differs_from(clean.draft).any()


def test_hooks_at_several_points_act_one_after_the_other():
    quantizer, source = make(), random(2, 6, D_SOURCE)
    seen = []
    for name, hook in quantizer.hooks.items():
        hook.add_hook(lambda value, hook, name=name: seen.append(name))
    quantizer.hook_encoded.add_hook(lambda z, hook: -z)
    quantizer.hook_codes.add_hook(lambda codes, hook: codes.flip(1))
    quantizer(source)
    assert seen == ["hook_encoded", "hook_codes", "hook_quantized", "hook_recon"]
    expected = quantizer.codebook(quantizer.codebook.nearest(-quantizer.encode(source)).flip(1))
    assert torch.equal(quantizer.quantize(source).draft.vectors, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.float(), r"torch.float32 of shape \[2, 6\]; expected torch.int64 of shape"),
        (lambda c: c > 0, r"returned torch.bool of shape \[2, 6\]"),
        (
            lambda c: c[:, :3],
            r"torch.int64 of shape \[2, 3\]; expected torch.int64 of shape \[2, 6\]",
        ),
        (lambda c: c * 0 + N_CODES, r"codes from 7 to 7; valid codes lie in \[0, 7\)"),
        (lambda c: c * 0 - 1, r"codes from -1 to -1; valid codes lie in \[0, 7\)"),
    ],
)
def test_impossible_codes_from_a_hook_are_refused(change: Callable, message: str):
    quantizer, source = hooked("hook_codes", returning(change))
    with pytest.raises(ShapeError, match=message):
        quantizer.quantize(source)


def test_impossible_codes_written_in_place_are_refused():
    quantizer, source = hooked("hook_codes", in_place(lambda codes: codes + 100))
    with pytest.raises(ShapeError, match=r"valid codes lie in \[0, 7\)"):
        quantizer.quantize(source)


def test_short_integers_from_a_hook_are_codes_too():
    quantizer, source = hooked("hook_codes", lambda codes, hook: codes.int())
    assert torch.equal(
        quantizer.quantize(source).draft.vectors, make().quantize(source).draft.vectors
    )


@pytest.mark.parametrize("options", KINDS[:3])
def test_a_backward_hook_on_code_vectors_receives_the_gradient(options: dict[str, Any]):
    quantizer, source, received = make(**options), random(2, 6, D_SOURCE), []
    quantizer.hook_quantized.add_hook(lambda grad, hook: received.append(grad.clone()), dir="bwd")
    quantizer(source).square().sum().backward()
    found = make(**options).quantize(source)
    vectors = found.draft.vectors.requires_grad_()
    make(**options).decode(vectors, encoded=found.draft.encoded).square().sum().backward()
    assert len(received) == 1
    torch.testing.assert_close(received[0], vectors.grad)


def test_a_backward_hook_counts_as_a_change_only_where_gradients_flow():
    quantizer, source = make(), random(2, 6, D_SOURCE)
    quantizer.hook_quantized.add_hook(lambda grad, hook: None, dir="bwd")
    assert quantizer.quantize(source).changed
    with torch.no_grad():
        found = quantizer.quantize(source)
    assert not found.changed
    assert not found.draft.vectors.requires_grad


def test_pass_through_keeps_what_was_there_before():
    hook, value = HookPoint(), torch.zeros(3)
    hook.add_hook(in_place(lambda x: x + 1))
    passed = pass_through(hook, value)
    assert (passed.before.tolist(), passed.after.tolist()) == ([0] * 3, [1] * 3)
    assert passed.changed
    assert not pass_through(HookPoint(), value).changed


# ---- initializing ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_next_lookup_uses_the_initialized_rows(method: str):
    source, target = 3 * random(200, D_SOURCE) + 1, random(200, D_TARGET, seed=1)
    quantizer = make(initialization=method)
    with torch.no_grad():  # not the identity, so that encoder outputs differ from the source
        quantizer.encoder.linear.weight.copy_(random(D_SOURCE, D_SOURCE, seed=2))
    z = quantizer.encode(source)
    clusters = initialize(z, N_CODES, method=method, generator=seeded(3))
    quantizer.initialize_(source, target, generator=seeded(3))
    assert torch.equal(quantizer.codebook.vectors, clusters.centroids)
    found = quantizer.quantize(source.unsqueeze(0))
    codes = torch.cdist(z.double(), clusters.centroids.double()).argmin(1)
    assert torch.equal(found.draft.vectors[0], clusters.centroids[codes])
    assert len(codes.unique()) == N_CODES


@pytest.mark.parametrize("options", KINDS)
def test_initializing_twice_from_the_same_seed_gives_the_same_bits(options: dict[str, Any]):
    assert not differing(bits(initialized(**options)), bits(initialized(**options)))


@pytest.mark.parametrize("options", KINDS)
def test_initializing_draws_from_the_given_generator_only(options: dict[str, Any]):
    state = torch.get_rng_state()
    initialized(**options)
    assert torch.equal(torch.get_rng_state(), state)


def test_initializing_measures_the_distance_to_the_nearest_code():
    quantizer = initialized()
    z = quantizer.encode(random(200, D_SOURCE)).double()
    expected = torch.cdist(z, quantizer.codebook.vectors.double()).square().amin(1).mean()
    assert quantizer.codebook.mean_distance.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_variance_of_the_target_is_summed_over_dimensions():
    quantizer, target = make(), 5 * random(200, D_TARGET, seed=1) + 3
    quantizer.initialize_(random(200, D_SOURCE), target, generator=seeded())
    expected = target.double().var(0, correction=0).sum()
    assert quantizer.target_variance.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("options", KINDS[:3])
def test_the_decoder_starts_at_the_least_squares_map_of_code_vectors(options: dict[str, Any]):
    quantizer, source = make(n_codes=30, **options), random(400, D_SOURCE)
    weight, bias = random(D_TARGET, D_SOURCE, seed=4), random(D_TARGET, seed=5)
    target = source @ weight.T + bias
    quantizer.initialize_(source, target, generator=seeded())
    with torch.no_grad():
        recon = quantizer(source.unsqueeze(0))[0]
        vectors = quantizer.codebook(quantizer.assign(source)).double()
    with_one = torch.cat([vectors, torch.ones(len(vectors), 1)], dim=1)
    best = with_one @ torch.linalg.lstsq(with_one, target.double()).solution
    torch.testing.assert_close(recon.double(), best, rtol=0, atol=0.02)  # the ridge


def test_a_table_starts_at_the_mean_targets():
    source, target = random(200, D_SOURCE), random(200, D_TARGET, seed=1)
    quantizer = make(decoder="table")
    quantizer.initialize_(source, target, generator=seeded())
    codes = quantizer.assign(source)
    for code in range(N_CODES):
        mean = target[codes == code].mean(0)
        torch.testing.assert_close(quantizer.decoder.table[code], mean, rtol=1e-4, atol=1e-5)


def test_too_few_tokens_to_initialize_are_refused():
    with pytest.raises(TooFewTokensError, match="7"):
        make().initialize_(random(3, D_SOURCE), random(3, D_TARGET), generator=seeded())


def test_nan_in_the_sample_is_refused():
    source = random(20, D_SOURCE)
    source[3, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        make().initialize_(source, random(20, D_TARGET), generator=seeded())


# ---- the frozen pass ---------------------------------------------------------------------------


def recorded(**options: Any) -> tuple[CrossLayerQuantizer, Tensor, Tensor, Tensor]:
    """A quantizer after the frozen pass over some tokens, with codes 5 and 6 unused."""
    quantizer = initialized(**options)
    codes = torch.randint(0, N_CODES - 2, (90,), generator=seeded(4))
    encoded, target = random(90, D_SOURCE, seed=5), random(90, D_TARGET, seed=6) + 2
    quantizer.record_(
        codes.bincount(minlength=N_CODES),
        torch.zeros(N_CODES, D_SOURCE).double().index_add_(0, codes, 2 * encoded.double()),
        torch.zeros(N_CODES, D_SOURCE).double().index_add_(0, codes, encoded.double()),
        torch.zeros(N_CODES, D_TARGET).double().index_add_(0, codes, target.double()),
    )
    return quantizer, codes, encoded, target


@pytest.mark.parametrize("options", KINDS)
def test_the_frozen_pass_is_remembered(options: dict[str, Any]):
    quantizer, codes, encoded, target = recorded(**options)
    for code in range(N_CODES):
        members = codes == code
        assert quantizer.usage[code] == members.sum()
        assert quantizer.shares[code].item() == pytest.approx(members.float().mean().item())
        if members.any():
            mean = encoded[members].mean(0)
            torch.testing.assert_close(quantizer.mean_encoded[code], mean, rtol=1e-5, atol=1e-5)
            mean = target[members].mean(0)
            torch.testing.assert_close(quantizer.mean_target[code], mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quantizer.target_mean, target.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quantizer.source_mean, 2 * encoded.mean(0), rtol=1e-5, atol=1e-5)
    assert quantizer.shares.sum().item() == pytest.approx(1)
    assert quantizer.fitted


def test_unused_codes_of_a_table_get_the_overall_mean():
    quantizer, codes, _, target = recorded(decoder="table")
    assert isinstance(quantizer.decoder, TableDecoder)
    table = quantizer.decoder.table
    torch.testing.assert_close(table[5], target.mean(0), rtol=1e-5, atol=1e-5)
    assert torch.equal(table[5], table[6])
    assert torch.equal(table[:5], quantizer.mean_target[:5])
    assert len(codes.unique()) == 5


def test_codes_mean_nothing_before_the_frozen_pass():
    quantizer = initialized()
    assert not quantizer.fitted
    with pytest.raises(NotFittedError, match=r"has not been fitted.*Call lens.fit\(data\) first"):
        quantizer.require_fitted()
    recorded()[0].require_fitted()


# ---- starting again ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS)
def test_a_second_fit_does_not_remember_the_first(options: dict[str, Any]):
    used, fresh = recorded(**options)[0], make(seed=9, **options)
    used.measure_norms_(random(60, D_SOURCE, seed=7), random(60, D_TARGET, seed=8))
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.add_(1)
    for quantizer in (used, fresh):
        generator = seeded(5)
        quantizer.reset_(generator)
        assert not quantizer.fitted
        source, target = random(60, D_SOURCE, seed=7), random(60, D_TARGET, seed=8)
        quantizer.initialize_(source, target, generator=generator)
    assert set(differing(bits(used), bits(fresh))) <= {"mean_encoded", "mean_target", "source_mean"}
