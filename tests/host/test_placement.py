"""Models over several devices, and with weights of fewer bits."""

import copy
import importlib.util
import inspect
import socket
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

import clvq_lens as cl
from clvq_lens.errors import ConfigError, HostMismatchError, MissingDependencyError
from clvq_lens.host.host import Host
from clvq_lens.host.loading import from_hf, load_pretrained
from clvq_lens.host.placement import Placement, quantization_of
from tests.hosts import D_VOCAB, KINDS, tokenizer, words

LLAMA = {
    **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"hidden_size": 64, "intermediate_size": 128, "vocab_size": D_VOCAB},
    "max_position_embeddings": 48,
}
FOUR, EIGHT = "bitsandbytes 4-bit", "bitsandbytes 8-bit"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("somebody wants to connect")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def bitsandbytes_is_there(monkeypatch):
    """As far as anybody asks before the model is loaded."""
    before = importlib.util.find_spec

    def find_spec(name: str, *arguments: Any) -> Any:
        return object() if name == "bitsandbytes" else before(name, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def llama() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()


@pytest.fixture
def folder(tmp_path) -> str:
    llama().save_pretrained(tmp_path)
    tokenizer("llama").save_pretrained(tmp_path)
    return str(tmp_path)


# ---- over devices --------------------------------------------------------------------------------


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}])
def test_a_model_with_a_device_map_is_the_same_model(folder, device_map):
    plain, mapped = load_pretrained(folder, "cpu"), load_pretrained(folder, device_map=device_map)
    tokens = words(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(mapped(tokens), plain(tokens))
    lens = plain.add_clvq(1, 2, n_codes=8)
    lens.fit(words(40, 16), n_tokens=500, batch_tokens=128, progress=False)
    lens.remove()
    other = mapped.add_clvq(quantizer=lens.quantizer)
    assert torch.isfinite(other.encode(tokens).codes.float()).all()


def test_a_model_in_memory_says_over_how_many_devices_it_lies():
    hf_model = llama()
    assert from_hf(copy.deepcopy(hf_model)).cfg.n_devices == 1
    hf_model.lm_head.to("meta")
    assert from_hf(hf_model).cfg.n_devices == 2


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu", "device_map": "auto"},
        {"device_map": "auto", "n_devices": 1},
        {"device": "cpu", "n_devices": 1},
    ],
)
def test_only_one_option_says_where_the_model_goes(options):
    with pytest.raises(ConfigError, match=r" and .* both say where the model goes\. Pass one"):
        Placement(**options)


def test_more_gpus_than_there_are_is_refused():
    n_there = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=rf"n_devices is 99, but there are {n_there} GPUs"):
        load_pretrained("nowhere", n_devices=99)
    with pytest.raises(ConfigError, match="n_devices"):
        load_pretrained("nowhere", n_devices=0)


@pytest.mark.usefixtures("as_for_a_user")
def test_a_device_map_of_another_type_is_refused():
    with pytest.raises(ConfigError, match=r"device_map is of type int\. Pass 'auto', a device"):
        Placement(device_map=3)


# ---- what arrives where --------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch) -> dict[str, dict[str, Any]]:
    """What the two loaders of other packages were asked; each by the names of its own arguments."""
    from transformer_lens.model_bridge import TransformerBridge

    asked: dict[str, dict[str, Any]] = {}
    boot = inspect.signature(TransformerBridge.boot_transformers)
    bridge = from_hf(llama(), tokenizer("llama"))

    def boot_transformers(cls: type, *arguments: Any, **options: Any) -> Any:
        asked["boot"] = boot.bind(*arguments, **options).arguments
        return bridge

    def from_pretrained(cls: type, name: str, **options: Any) -> Any:
        asked["hf"] = {"name": name, **options}
        return llama()

    monkeypatch.setattr(TransformerBridge, "boot_transformers", classmethod(boot_transformers))
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModelForMaskedLM):
        monkeypatch.setattr(auto, "from_pretrained", classmethod(from_pretrained))
    return asked


@pytest.mark.parametrize("options", [{"device_map": "auto"}, {"device_map": {"": 0}}])
def test_a_device_map_goes_to_transformer_lens(calls, folder, options):
    load_pretrained(folder, dtype="bfloat16", **options)
    asked = calls["boot"]
    assert asked["device_map"] == options["device_map"]
    assert asked["device"] is None
    assert asked["dtype"] == torch.bfloat16
    assert "hf" not in calls


def test_the_number_of_gpus_goes_to_transformer_lens(calls, folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    load_pretrained(folder, n_devices=3)
    assert calls["boot"]["n_devices"] == 3
    assert "device_map" not in calls["boot"]


@pytest.mark.usefixtures("bitsandbytes_is_there")
@pytest.mark.parametrize(
    ("options", "device_map"),
    [({}, None), ({"device": "cpu"}, {"": "cpu"}), ({"device_map": "auto"}, "auto")],
)
def test_four_bits_are_asked_of_transformers_and_the_model_goes_to_transformer_lens(
    calls, folder, options, device_map
):
    load_pretrained(folder, quantize="4bit", **options)
    asked = calls["hf"]
    assert asked["name"] == folder
    assert asked["device_map"] == device_map
    assert asked["dtype"] == torch.bfloat16
    assert asked["attn_implementation"] == "eager"
    config = asked["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert isinstance(calls["boot"]["hf_model"], transformers.LlamaForCausalLM)
    assert calls["boot"]["device"] == "cpu"  # where the model lies
    assert "device_map" not in calls["boot"]


@pytest.mark.usefixtures("bitsandbytes_is_there")
def test_eight_bits_and_configs_of_transformers_are_asked_for(calls, folder):
    load_pretrained(folder, "cpu", quantize="8bit", dtype="float16")
    assert calls["hf"]["quantization_config"].load_in_8bit
    assert calls["hf"]["dtype"] == torch.float16
    mine = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)
    load_pretrained(folder, "cpu", quantize=mine)
    assert calls["hf"]["quantization_config"] is mine


def test_what_is_asked_of_transformers_is_among_what_it_reads():
    """`from_pretrained` takes any keyword, and reads these from them."""
    source = inspect.getsource(transformers.PreTrainedModel.from_pretrained)
    for name in ("dtype", "quantization_config", "device_map", "attn_implementation"):
        assert f'"{name}"' in source or f"{name}:" in source, name


@pytest.mark.parametrize("quantize", ["4bit", "8bit", BitsAndBytesConfig(load_in_8bit=True)])
def test_without_bitsandbytes_the_error_says_how_to_install_it(monkeypatch, quantize):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="Run: pip install bitsandbytes"):
        load_pretrained("nowhere", quantize=quantize)


@pytest.mark.usefixtures("bitsandbytes_is_there")
def test_impossible_quantization_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match=r"quantize is '3bit'\. Pass '4bit', '8bit' or a"):
        load_pretrained("nowhere", quantize="3bit")
    with pytest.raises(ConfigError, match=r"n_devices spreads .* Pass device_map='balanced'"):
        load_pretrained("nowhere", quantize="4bit", n_devices=1)


# ---- quantized weights ---------------------------------------------------------------------------


class _EightBits(nn.Module):
    """A linear layer with whole numbers as weights, as bitsandbytes has them."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        matrix = linear.weight.T if isinstance(linear, Conv1D) else linear.weight
        self.scale = matrix.detach().abs().max() / 127
        rounded = (matrix.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.in_features, self.out_features = matrix.shape[1], matrix.shape[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype))


def quantized(config: Any) -> transformers.LlamaForCausalLM:
    """A model all of whose blocks have such layers, with what transformers writes down of them."""
    hf_model = llama()
    for layer in hf_model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, _EightBits(linear))
    hf_model.config.quantization_config = config
    return hf_model


def fitted_on(model: Any, **options: Any) -> cl.Lens:
    lens = model.add_clvq(1, 2, n_codes=8)
    options = {"n_tokens": 600, "batch_tokens": 128, "progress": False, **options}
    lens.fit(words(40, 16, seed=2), **options)
    return lens


CONFIG_8BIT = BitsAndBytesConfig(load_in_8bit=True)
CONFIG_4BIT = BitsAndBytesConfig(load_in_4bit=True)


def test_a_fit_through_quantized_weights_asks_no_gradient_of_them():
    bridge = from_hf(quantized(CONFIG_8BIT))
    lens = fitted_on(bridge, kl_weight=1.0)
    assert lens.evaluate(words(20, 16, seed=3), progress=False).kl > 0
    whole = [p for p in bridge.parameters() if not p.is_floating_point()]
    assert len(whole) >= 4 * 7
    assert all(p.grad is None for p in bridge.parameters())
    assert not any(p.requires_grad for p in whole)


@pytest.mark.parametrize(
    ("config", "other", "words_of_it"),
    [
        (None, CONFIG_8BIT, r"dtype: 'float32', not 'float32, bitsandbytes 8-bit'"),
        (CONFIG_8BIT, None, r"dtype: 'float32, bitsandbytes 8-bit', not 'float32'"),
        (CONFIG_8BIT, CONFIG_4BIT, r"'float32, bitsandbytes 8-bit', not 'float32, bitsandbytes 4-"),
    ],
)
def test_codes_of_quantized_weights_fit_these_alone(config, other, words_of_it):
    def model(config: Any) -> Any:
        return from_hf(llama() if config is None else quantized(config))

    quantizer = fitted_on(model(config)).quantizer
    with pytest.raises(HostMismatchError, match=words_of_it) as error:
        model(other).add_clvq(quantizer=quantizer)
    assert "the weights are the same" not in str(error.value)  # which nobody knows


def test_codes_of_quantized_weights_fit_the_same_weights():
    lens = fitted_on(from_hf(quantized(CONFIG_8BIT)))
    lens.remove()
    again = from_hf(quantized(CONFIG_8BIT)).add_clvq(quantizer=lens.quantizer)
    assert "bitsandbytes 8-bit" in repr(again.quantizer.origin)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, None),
        (CONFIG_4BIT, FOUR),
        (CONFIG_8BIT, EIGHT),
        (CONFIG_4BIT.to_dict(), FOUR),
        ({"quant_method": "gptq", "bits": 4}, "gptq 4-bit"),
        ({"quant_method": "fp8"}, "fp8"),
        ({}, "quantized"),
    ],
)
def test_quantization_is_called_by_its_method_and_bits(config, expected):
    hf_config = transformers.LlamaConfig()
    if config is not None:
        hf_config.quantization_config = config
    assert quantization_of(hf_config) == expected


def test_no_model_without_quantization_is_said_to_have_some():
    for kind in KINDS:
        host = Host(kind.model())
        assert host.protocol.quantization is None
        assert host.identity(["blocks.1.hook_in"] if kind.is_bridge else [kind.after(1)]).dtype == (
            "float32"
        )


def test_a_hooked_transformer_says_when_its_weights_have_four_bits():
    host = Host(next(kind for kind in KINDS if kind.causal).model())
    host.cfg.load_in_4bit = True
    if host.protocol.kind == "HookedTransformer":
        assert host.protocol.quantization == FOUR


def test_quantized_weights_are_not_cast():
    hf_model = quantized(CONFIG_8BIT)
    with pytest.raises(ConfigError, match=r"quantized \(bitsandbytes 8-bit\) and cannot be cast"):
        from_hf(hf_model, dtype="bfloat16")
    assert hf_model.lm_head.weight.dtype == torch.float32  # nothing was done to it
    from_hf(hf_model)


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="there is no bitsandbytes"
)
@pytest.mark.parametrize(("quantize", "dtype"), [("4bit", torch.uint8), ("8bit", torch.int8)])
def test_bitsandbytes_itself(folder, quantize, dtype):
    model = load_pretrained(folder, "cpu", quantize=quantize, dtype="float32")
    assert dtype in {parameter.dtype for parameter in model.parameters()}
    # On some CPUs its kernel for four bits has no gradient, as torch then says.
    assert fitted_on(model, kl_weight=1.0 if quantize == "8bit" else 0.0).quantizer.fitted
