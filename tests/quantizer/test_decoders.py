import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clvq_lens.config import CLVQConfig
from clvq_lens.errors import ConfigError
from clvq_lens.quantizer.attention import DecoderCache
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.decoders import (
    MLPDecoder,
    TableDecoder,
    TransformerDecoder,
    Units,
    default_heads,
)

D_SOURCE, D_TARGET, N_CODES = 5, 8, 7
KINDS = [
    pytest.param({"decoder": "transformer"}, id="transformer"),
    pytest.param({"decoder": "transformer", "decoder_memory": "encoder"}, id="with-memory"),
    pytest.param({"decoder": "mlp"}, id="mlp"),
    pytest.param({"decoder": "table"}, id="table"),
]
TRANSFORMERS = KINDS[:2]
CODES_ONLY = [KINDS[0], *KINDS[2:]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def lively(options: dict[str, Any], *, causal: bool = True) -> CrossLayerQuantizer:
    """A quantizer all of whose weights matter, as after a fit: at the start, blocks add zero."""
    config = CLVQConfig(n_codes=N_CODES, top_k=2, encoder="residual", **options)
    quantizer = CrossLayerQuantizer(config, D_SOURCE, D_TARGET, causal=causal)
    generator = seeded(1)
    with torch.no_grad():
        for parameter in quantizer.decoder.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    if isinstance(quantizer.decoder, TableDecoder):
        quantizer.decoder.set_(random(N_CODES, D_TARGET))
    else:
        quantizer.decoder.source_units.measure_(random(50, D_SOURCE) + 1)
        quantizer.decoder.target_units.measure_(3 * random(50, D_TARGET) - 1)
    return quantizer


def inputs(quantizer: CrossLayerQuantizer, n: int = 2, pos: int = 6) -> tuple[Tensor, Tensor]:
    """Code vectors and encoder outputs of some sequences."""
    encoded = random(n, pos, D_SOURCE, seed=2)
    return quantizer.codebook(quantizer.codebook.nearest(encoded)), encoded


# ---- who sees what -----------------------------------------------------------------------------


def influence(quantizer: CrossLayerQuantizer, pos: int, of: str) -> Tensor:
    """Largest absolute derivative of recon[t] by the input at s: [t, s]."""
    quantized, encoded = inputs(quantizer, n=1, pos=pos)

    def decode(x: Tensor) -> Tensor:
        parts = {"quantized": quantized, "encoded": encoded, of: x}
        return quantizer.decode(parts["quantized"], encoded=parts["encoded"])[0]

    start = quantized if of == "quantized" else encoded
    jacobian = torch.autograd.functional.jacobian(decode, start)
    return jacobian[:, :, 0].abs().amax((1, 3))


@pytest.mark.parametrize("options", TRANSFORMERS)
@pytest.mark.parametrize("of", ["quantized", "encoded"])
def test_a_causal_decoder_never_sees_a_later_position(options: dict[str, Any], of: str):
    seen = influence(lively(options), 5, of)
    assert seen.triu(1).eq(0).all()
    if of == "quantized" or "decoder_memory" in options:
        assert seen[torch.ones(5, 5).tril().bool()].gt(0).all()


@pytest.mark.parametrize("options", TRANSFORMERS)
def test_a_decoder_for_an_encoder_sees_every_position(options: dict[str, Any]):
    assert influence(lively(options, causal=False), 5, "quantized").gt(0).all()


def test_an_mlp_sees_one_token():
    seen = influence(lively({"decoder": "mlp"}), 4, "quantized")
    assert torch.equal(seen > 0, torch.eye(4).bool())


@pytest.mark.parametrize("options", CODES_ONLY)
def test_two_sources_with_the_same_codes_have_the_same_reconstruction(options: dict[str, Any]):
    quantizer, source = lively(options), random(3, 6, D_SOURCE, seed=2)
    near = source + 1e-3 * random(3, 6, D_SOURCE, seed=3)
    assert torch.equal(quantizer.assign(source), quantizer.assign(near))
    assert torch.equal(quantizer(source), quantizer(near))


@pytest.mark.parametrize("options", CODES_ONLY)
def test_encoder_outputs_do_not_reach_a_decoder_of_codes(options: dict[str, Any]):
    quantizer = lively(options)
    quantized, encoded = inputs(quantizer)
    recon = quantizer.decode(quantized, encoded=encoded)
    assert torch.equal(quantizer.decode(quantized, encoded=encoded + 9), recon)
    direct = quantizer.decoder(quantized, memory=encoded)  # a memory that nobody asked for
    assert torch.equal(direct, recon)


def test_encoder_outputs_reach_a_decoder_with_memory():
    quantizer = lively({"decoder_memory": "encoder"})
    quantized, encoded = inputs(quantizer)
    recon = quantizer.decode(quantized, encoded=encoded)
    assert not torch.allclose(quantizer.decode(quantized, encoded=encoded + 1), recon)


# ---- padding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_padded", [1, 3])
def test_left_padding_changes_nothing(options: dict[str, Any], causal: bool, n_padded: int):
    quantizer = lively(options, causal=causal)
    quantized, encoded = inputs(quantizer)
    bare = quantizer.decode(quantized, encoded=encoded)
    mask = torch.ones(2, n_padded + 6, dtype=torch.bool)
    mask[:, :n_padded] = False
    for seed in (5, 6):  # whatever stands on the padding
        pads = 50 * random(2, n_padded, D_SOURCE, seed=seed)
        recon = quantizer.decode(
            torch.cat([pads, quantized], dim=1),
            encoded=torch.cat([pads, encoded], dim=1),
            key_mask=mask,
        )
        torch.testing.assert_close(recon[:, n_padded:], bare, rtol=1e-4, atol=1e-4)
        assert recon.isfinite().all()


def test_padding_without_a_mask_would_change_something():
    quantizer = lively({})
    quantized, encoded = inputs(quantizer)
    padded = torch.cat([random(2, 3, D_SOURCE), quantized], dim=1)
    recon = quantizer.decode(padded, encoded=padded)[:, 3:]
    bare = quantizer.decode(quantized, encoded=encoded)
    assert not torch.allclose(recon, bare, atol=1e-2)


@pytest.mark.parametrize("options", TRANSFORMERS)
def test_right_padding_changes_nothing_without_a_causal_mask(options: dict[str, Any]):
    quantizer = lively(options, causal=False)
    quantized, encoded = inputs(quantizer)
    bare = quantizer.decode(quantized[:, :4], encoded=encoded[:, :4])
    mask = torch.arange(6).expand(2, 6) < 4
    recon = quantizer.decode(quantized, encoded=encoded, key_mask=mask)
    torch.testing.assert_close(recon[:, :4], bare, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("causal", [True, False])
def test_a_row_of_padding_has_no_nan(options: dict[str, Any], causal: bool):
    quantizer = lively(options, causal=causal)
    quantized, encoded = inputs(quantizer)
    mask = torch.tensor([[False] * 6, [True] * 6])
    recon = quantizer.decode(quantized, encoded=encoded, key_mask=mask)
    assert recon.isfinite().all()
    bare = quantizer.decode(quantized[1:], encoded=encoded[1:])
    torch.testing.assert_close(recon[1:], bare, rtol=1e-4, atol=1e-4)


# ---- generation --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("padded", [True, False])
def test_decoding_in_steps_equals_decoding_at_once(
    options: dict[str, Any], step: int, padded: bool
):
    quantizer = lively(options)
    quantized, encoded = inputs(quantizer, pos=7)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, :2] = False
    whole = quantizer.decode(quantized, encoded=encoded, key_mask=mask if padded else None)
    cache, parts = DecoderCache(), []
    for start in range(0, 7, step):
        now = slice(start, start + step)
        part = quantizer.decode(
            quantized[:, now],
            encoded=encoded[:, now],
            key_mask=mask[:, : start + step] if padded else None,
            cache=cache,
        )
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", TRANSFORMERS)
def test_a_forked_cache_leaves_the_original_unextended(options: dict[str, Any]):
    quantizer, cache = lively(options), DecoderCache()
    quantized, encoded = inputs(quantizer)
    quantizer.decode(quantized[:, :4], encoded=encoded[:, :4], cache=cache)
    expected = quantizer.decode(quantized, encoded=encoded)[:, 4:]
    for _ in range(2):  # each fork goes on from the same place
        fork = cache.fork()
        found = quantizer.decode(quantized[:, 4:], encoded=encoded[:, 4:], cache=fork)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert (fork.length, cache.length) == (6, 4)
        assert {layer.length for layer in cache.layers.values()} == {4}


# ---- the kinds ---------------------------------------------------------------------------------


def test_a_config_names_the_decoder():
    kinds = {"transformer": TransformerDecoder, "mlp": MLPDecoder, "table": TableDecoder}
    for name, kind in kinds.items():
        assert type(lively({"decoder": name}).decoder) is kind


def test_only_a_decoder_with_memory_has_weights_for_it():
    names = dict(lively({}).decoder.named_parameters())
    assert not any("memory" in name for name in names)


@pytest.mark.parametrize("options", KINDS[:3])
def test_a_decoder_starts_at_a_linear_map(options: dict[str, Any]):
    config = CLVQConfig(n_codes=N_CODES, top_k=2, encoder="residual", **options)
    quantizer = CrossLayerQuantizer(config, D_SOURCE, D_TARGET)
    quantized, encoded = inputs(quantizer)
    decoder = quantizer.decoder
    recon = quantizer.decode(quantized, encoded=encoded)
    torch.testing.assert_close(recon, decoder.skip(quantized))


@pytest.mark.parametrize("options", KINDS[:3])
def test_every_weight_of_a_decoder_matters(options: dict[str, Any]):
    quantizer = lively(options)
    quantized, encoded = inputs(quantizer)
    quantizer.requires_grad_(True)
    quantizer.decode(quantized, encoded=encoded).square().sum().backward()
    for name, parameter in quantizer.decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_acts_in_training_only():
    quantizer = lively({"decoder_dropout": 0.5})
    quantized, encoded = inputs(quantizer)
    first = quantizer.decode(quantized, encoded=encoded)
    assert torch.equal(quantizer.decode(quantized, encoded=encoded), first)
    with torch.random.fork_rng():
        quantizer.train()
        assert not torch.allclose(quantizer.decode(quantized, encoded=encoded), first)


@pytest.mark.parametrize("options", KINDS)
def test_decoding_is_in_float32_under_autocast(options: dict[str, Any]):
    quantizer = lively(options)
    quantized, encoded = inputs(quantizer)
    expected = quantizer.decode(quantized, encoded=encoded)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer.decode(quantized, encoded=encoded)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("d", "n_heads"), [(64, 2), (768, 12), (16, 2), (192, 3), (4, 2), (5, 1), (1, 1)]
)
def test_default_heads_divide_the_width_and_are_even(d: int, n_heads: int):
    assert default_heads(d) == n_heads


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(
        ConfigError, match="decoder_heads is 3, which does not divide the target width 8"
    ):
        CrossLayerQuantizer(CLVQConfig(decoder_heads=3), D_SOURCE, D_TARGET)


# ---- the table ---------------------------------------------------------------------------------


def test_a_table_gives_its_row_for_a_code_vector():
    quantizer = lively({"decoder": "table"})
    codes = torch.tensor([[3, 0, 6], [1, 1, 2]])
    vectors = quantizer.codebook(codes)
    recon = quantizer.decode(vectors, encoded=vectors)
    assert torch.equal(recon, quantizer.decoder.table[codes])


def test_a_table_gives_the_row_of_the_nearest_code_for_any_other_vector():
    quantizer, x = lively({"decoder": "table"}), random(2, 9, D_SOURCE, seed=4)
    codes = torch.cdist(x.double(), quantizer.codebook.vectors.double()).argmin(-1)
    recon = quantizer.decode(x, encoded=x)
    assert torch.equal(recon, quantizer.decoder.table[codes])


def test_a_table_has_no_weights_and_does_not_hold_the_codebook_twice():
    quantizer = lively({"decoder": "table"})
    assert not list(quantizer.decoder.parameters())
    assert list(quantizer.decoder.state_dict()) == ["table"]


def test_the_table_of_a_copy_asks_the_codebook_of_the_copy():
    quantizer = lively({"decoder": "table"})
    twin = copy.deepcopy(quantizer)
    twin.codebook.vectors.copy_(quantizer.codebook.vectors.flip(0))
    vectors = quantizer.codebook.vectors.unsqueeze(0)
    recon = twin.decode(vectors, encoded=vectors)
    assert torch.equal(recon[0], quantizer.decoder.table.flip(0))


def test_table_updates_are_those_of_a_loop_over_the_codes():
    decoder = lively({"decoder": "table"}).decoder
    assert isinstance(decoder, TableDecoder)
    expected = decoder.table.double()
    for seed in range(4):
        codes = torch.randint(0, N_CODES - 1, (20,), generator=seeded(seed))
        target = random(20, D_TARGET, seed=seed)
        decoder.update_(codes, target, decay=0.9)
        for code in codes.unique().tolist():
            members = target[codes == code].double()
            kept = 0.9 ** len(members)  # each member moves the mean once
            expected[code] = kept * expected[code] + (1 - kept) * members.mean(0)
    torch.testing.assert_close(decoder.table.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_table_update_without_decay_takes_the_means():
    decoder = lively({"decoder": "table"}).decoder
    assert isinstance(decoder, TableDecoder)
    kept = decoder.table[1:].clone()
    decoder.update_(torch.zeros(4).long(), random(4, D_TARGET, seed=8), decay=0.0)
    torch.testing.assert_close(decoder.table[0], random(4, D_TARGET, seed=8).mean(0))
    assert torch.equal(decoder.table[1:], kept)


# ---- units -------------------------------------------------------------------------------------


def test_units_make_a_sample_of_order_one():
    x = 30 * random(200, 4) + torch.tensor([1.0, -500.0, 0.0, 7.0])
    x[:, 2] *= 10  # one scale for all dimensions: their proportions stay
    units = Units(4)
    units.measure_(x)
    stripped = units.strip(x)
    torch.testing.assert_close(stripped.mean(0), torch.zeros(4), rtol=0, atol=1e-4)
    assert stripped.square().mean().item() == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(stripped.std(0) * units.scale, x.std(0))
    torch.testing.assert_close(units.restore(stripped), x, rtol=1e-5, atol=1e-3)


def test_units_start_as_the_identity():
    x = random(3, 4)
    assert torch.equal(Units(4).strip(x), x)
    assert torch.equal(Units(4).restore(x), x)


def test_units_of_a_constant_stay_finite():
    x = torch.full((9, 4), 3.0)
    units = Units(4)
    units.measure_(x)
    assert units.strip(x).isfinite().all()
    torch.testing.assert_close(units.restore(units.strip(x)), x)


def test_units_are_state_and_no_weights():
    assert not list(Units(4).parameters())
    assert isinstance(Units(4), nn.Module)
    assert set(Units(4).state_dict()) == {"mean", "scale"}
