"""Models by name, from a folder, and from memory; never from the network."""

import copy
import socket
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import clvq_lens as cl
from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.run_fit import run_fit
from clvq_lens.commands.run_report import run_report
from clvq_lens.errors import ConfigError, ModelLoadError, UnsupportedHostError
from clvq_lens.host import loading
from clvq_lens.host.loading import from_hf, hooked_class, load_pretrained
from clvq_lens.host.vocabulary import Vocabulary

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16, "vocab_size": 30}
needs_hooked = pytest.mark.skipif(
    hooked_class("HookedTransformer") is None, reason="TransformerLens 4 has no HookedTransformer"
)
TOKENS = torch.arange(5, 29).view(2, 12)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("somebody wants to connect")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def gpt2() -> transformers.GPT2LMHeadModel:
    config = transformers.GPT2Config(
        n_layer=2, n_head=4, n_embd=16, vocab_size=30, n_positions=32, bos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def llama() -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(**SIZES, intermediate_size=32, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config).eval()


def neox() -> transformers.GPTNeoXForCausalLM:
    return transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**SIZES, intermediate_size=32)
    ).eval()


def bert() -> transformers.BertForMaskedLM:
    return transformers.BertForMaskedLM(
        transformers.BertConfig(**SIZES, intermediate_size=32)
    ).eval()


def tokenizer(*special: str, frame: str = "$A", **named: str) -> PreTrainedTokenizerFast:
    """A tokenizer that was never on a disk: words w5 to w29 and some special tokens."""
    ids = {token: index for index, token in enumerate(special)}
    ids |= {f"w{index}": index for index in range(len(special), 30)}
    raw = Tokenizer(models.WordLevel(ids, unk_token=named["unk_token"]))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    added = [(token, ids[token]) for token in special if token in frame]
    if added:
        raw.post_processor = processors.TemplateProcessing(single=frame, special_tokens=added)
    return PreTrainedTokenizerFast(tokenizer_object=raw, **named)


def of_gpt2() -> PreTrainedTokenizerFast:
    return tokenizer("<end>", bos_token="<end>", eos_token="<end>", unk_token="<end>")


def of_llama() -> PreTrainedTokenizerFast:
    return tokenizer(
        *("<unk>", "<s>", "</s>"),
        frame="<s> $A",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )


def of_bert() -> PreTrainedTokenizerFast:
    return tokenizer(
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        frame="[CLS] $A [SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


# ---- a live model --------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [gpt2, llama, neox, bert])
def test_the_bridge_computes_what_the_model_computed(build):
    hf_model = build()
    with torch.no_grad():
        before = hf_model(TOKENS).logits
        torch.testing.assert_close(from_hf(hf_model)(TOKENS), before, atol=1e-5, rtol=0)
        torch.testing.assert_close(hf_model(TOKENS).logits, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", [gpt2, llama, neox, bert])
@pytest.mark.parametrize("frozen", [True, False])
def test_what_was_frozen_stays_frozen_and_parameters_stay_the_same_tensors(build, frozen):
    hf_model = build().requires_grad_(not frozen)
    before = {id(parameter) for parameter in hf_model.parameters()}
    bridge = from_hf(hf_model)
    assert before <= {id(parameter) for parameter in hf_model.parameters()}
    assert {p.requires_grad for p in hf_model.parameters()} == {not frozen}
    assert {p.requires_grad for p in bridge.parameters()} == {not frozen}


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_stays(training):
    bridge = from_hf(gpt2().train(training))
    assert {module.training for module in bridge.modules()} == {training}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_device_are_those_of_the_model(dtype):
    bridge = from_hf(llama().to(dtype))
    assert bridge.cfg.dtype == dtype == bridge(TOKENS).dtype
    assert str(bridge.cfg.device) == "cpu"


def test_building_is_silent_and_draws_nothing_from_the_global_generator():
    hf_model, before = gpt2(), torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_hf(hf_model, of_gpt2())
    assert torch.equal(before, torch.random.get_rng_state())


def test_hooks_of_the_bridge_run_when_the_model_itself_is_called():
    hf_model, seen = gpt2(), []
    from_hf(hf_model).add_hook("blocks.0.hook_out", lambda x, hook: seen.append(x.shape))
    hf_model(TOKENS)
    assert seen == [(2, 12, 16)]


def test_the_bridge_is_called_what_the_model_was_loaded_by():
    named = gpt2()
    named.config._name_or_path = "user/tiny"
    assert from_hf(named).cfg.model_name == "user/tiny"
    assert from_hf(gpt2()).cfg.model_name == "GPT2LMHeadModel"
    assert from_hf(gpt2(), name="mine").cfg.model_name == "mine"


def test_a_class_derived_from_a_known_one_is_known():
    class Mine(transformers.GPT2LMHeadModel):
        pass

    assert from_hf(Mine(gpt2().config).eval())(TOKENS).shape == (2, 12, 30)


def test_a_quantizer_is_added_in_one_line():
    lens = cl.from_hf(gpt2(), of_gpt2()).add_clvq(0, 1, n_codes=8, top_k=2)
    assert isinstance(lens, cl.Lens)


# ---- its tokenizer -------------------------------------------------------------------------------


def test_bos_is_put_before_a_text_once_whoever_puts_it_there():
    assert from_hf(gpt2(), of_gpt2()).to_tokens("w5 w6").tolist() == [[0, 5, 6]]
    assert from_hf(llama(), of_llama()).to_tokens("w5 w6").tolist() == [[1, 5, 6]]


def test_an_encoder_reads_cls_and_sep_which_are_its_beginning_and_end():
    bridge = from_hf(bert(), of_bert())
    assert bridge.to_tokens(["w5 w6"]).tolist() == [[2, 5, 6, 3]]
    assert bridge.to_tokens(["w5 w6", "w7"]).tolist() == [[2, 5, 6, 3], [2, 7, 3, 0]]
    assert bridge.tokenizer.bos_token_id == 2
    assert bridge.tokenizer.eos_token_id == 3  # and not the unknown token
    assert bridge.cfg.tokenizer_prepends_bos
    assert not bridge.cfg.tokenizer_appends_eos


def test_an_end_that_the_tokenizer_names_itself_is_not_stripped_from_an_encoders_texts():
    like_roberta = tokenizer(
        *("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        frame="<s> $A </s>",
        **{"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"},
        **{"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"},
    )
    assert from_hf(bert(), like_roberta).to_tokens(["w5 w6"]).tolist() == [[0, 5, 6, 2]]


@pytest.mark.parametrize(("build", "make"), [(gpt2, of_gpt2), (llama, of_llama), (bert, of_bert)])
def test_the_tokenizer_is_not_changed(build, make):
    mine, untouched = make(), make()
    mine.padding_side = untouched.padding_side = "left"
    assert from_hf(build(), mine).tokenizer is not mine
    assert mine.init_kwargs == untouched.init_kwargs
    assert mine.special_tokens_map == untouched.special_tokens_map
    assert mine.padding_side == "left"
    assert mine("w5 w6") == untouched("w5 w6")


def test_words_added_to_the_tokenizer_are_kept(tmp_path):
    of_gpt2().save_pretrained(tmp_path)
    mine = transformers.AutoTokenizer.from_pretrained(tmp_path)
    mine.add_tokens(["extra"])  # which the folder that it came from does not know
    hf_model = gpt2()
    hf_model.resize_token_embeddings(31, mean_resizing=False)
    assert from_hf(hf_model, mine).to_tokens("w5 extra").tolist() == [[0, 5, 30]]


def test_without_a_tokenizer_the_bridge_reads_tokens_only():
    bridge = from_hf(gpt2())
    assert bridge.tokenizer is None
    assert bridge(TOKENS).shape == (2, 12, 30)


# ---- dtype and BOS -------------------------------------------------------------------------------


def notices(caplog) -> list[str]:
    """What the log shows to somebody who has set up nothing."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("dtype", [torch.float32, "float32", "torch.float32"])
def test_a_model_in_half_precision_is_cast_where_that_is_asked_for(dtype, caplog):
    hf_model = llama().to(torch.bfloat16)
    before = {id(parameter) for parameter in hf_model.parameters()}
    bridge = from_hf(hf_model, dtype=dtype)
    assert bridge.cfg.dtype == torch.float32 == bridge(TOKENS).dtype == bridge.W_E.dtype
    assert before <= {id(parameter) for parameter in hf_model.parameters()}
    assert notices(caplog) == []


def test_casting_leaves_rotary_frequencies_as_they_are():
    hf_model = llama()
    from_hf(hf_model, dtype="bfloat16")
    assert {p.dtype for p in hf_model.parameters()} == {torch.bfloat16}
    assert hf_model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_half_precision_that_nobody_asked_for_is_said_once(caplog):
    bridge = from_hf(llama().to(torch.bfloat16))
    bridge(TOKENS)
    (line,) = notices(caplog)
    assert "stays in bfloat16, as it is in memory" in line
    assert "pass dtype='float32'" in line
    from_hf(llama().to(torch.bfloat16), dtype=torch.bfloat16)
    assert len(notices(caplog)) == 1


@pytest.mark.parametrize("dtype", ["float33", "int64", torch.int8, "nn", "float64"])
def test_what_is_no_dtype_of_weights_is_refused_before_the_model_is_touched(dtype):
    hf_model = gpt2()
    with pytest.raises(ConfigError, match=r"dtype is .*Pass one of 'float32', 'bfloat16'"):
        from_hf(hf_model, dtype=dtype)
    from_hf(hf_model)


def test_bos_that_the_tokenizer_does_not_put_there_is_said_once(caplog):
    from_hf(gpt2(), of_gpt2())
    (line,) = notices(caplog)
    assert "GPT2LMHeadModel: '<end>' is put before each text" in line
    assert "prepend_bos=False" in line


def test_bos_that_the_tokenizer_puts_there_itself_is_not_worth_a_word(caplog):
    from_hf(llama(), of_llama())
    from_hf(gpt2())  # reads tokens only
    from_hf(bert(), of_bert())
    assert notices(caplog) == []


@pytest.mark.parametrize(("build", "make"), [(gpt2, of_gpt2), (llama, of_llama)])
@pytest.mark.parametrize("prepend_bos", [True, False])
def test_bos_is_a_choice_which_the_lens_follows(build, make, prepend_bos, caplog):
    bridge = from_hf(build(), make(), prepend_bos=prepend_bos)
    expected = [make().bos_token_id] * prepend_bos + [5, 6]
    assert bridge.to_tokens("w5 w6").tolist() == [expected]
    assert Vocabulary(bridge).tokenize(["w5 w6"])[0].tolist() == expected
    assert notices(caplog) == []


def test_bos_cannot_be_chosen_for_an_encoder():
    with pytest.raises(ConfigError, match=r"the tokenizer of an encoder decides"):
        from_hf(bert(), of_bert(), prepend_bos=True)


# ---- what is refused -----------------------------------------------------------------------------


def t5() -> transformers.PreTrainedModel:
    config = transformers.T5Config(d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


def vit() -> transformers.PreTrainedModel:
    return transformers.ViTModel(
        transformers.ViTConfig(num_hidden_layers=1, num_attention_heads=4, hidden_size=16)
    )


def headless() -> transformers.PreTrainedModel:
    return transformers.GPT2Model(gpt2().config)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: torch.nn.Linear(2, 2),
            r"Linear is not a Hugging Face model\. Pass a",
        ),
        (lambda: "gpt2", r"str is not a Hugging Face model\. Pass a transformers"),
        (t5, r"T5ForConditionalGeneration is an encoder-decoder, .* Pass a decoder"),
        (vit, r"ViTModel reads pixel_values, not tokens\. Pass a language model"),
        (headless, r"no bridge for GPT2Model\. Load the model with its language-model head"),
    ],
)
def test_what_is_no_language_model_is_refused_with_the_remedy(build, message):
    with pytest.raises(UnsupportedHostError, match=message):
        from_hf(build())


def test_a_model_is_taken_over_only_once():
    hf_model = gpt2()
    from_hf(hf_model)
    with pytest.raises(UnsupportedHostError, match=r"taken over this GPT2LMHeadModel .* load"):
        from_hf(hf_model)


def test_what_is_no_tokenizer_is_refused_before_the_model_is_touched():
    hf_model = gpt2()
    with pytest.raises(UnsupportedHostError, match=r"str is not a Hugging Face tokenizer\. Pass"):
        from_hf(hf_model, "gpt2")
    from_hf(hf_model)


# ---- by name -------------------------------------------------------------------------------------


def saved(folder: Path, hf_model, its_tokenizer) -> str:
    hf_model.save_pretrained(folder)
    its_tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_folder_with_a_trained_model_is_loaded_as_a_bridge(shared, stories):
    folder = str(shared / "models/stories260K/hf")
    bridge = load_pretrained(folder, "cpu")
    assert type(bridge).__name__ == "TransformerBridge"
    assert not bridge.training
    tokens = bridge.to_tokens(stories[0])[:, :64]
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(bridge(tokens), hf_model(tokens).logits, atol=1e-4, rtol=0)
        assert bridge(tokens, return_type="loss") < 2  # nats; a model without weights has 6.2


def test_a_folder_in_half_precision_is_loaded_in_float32_and_the_log_says_so(tmp_path, caplog):
    caplog.set_level("INFO", "clvq_lens")
    folder = saved(tmp_path, llama().to(torch.bfloat16), of_llama())
    assert load_pretrained(folder, "cpu").W_E.dtype == torch.float32
    assert f"{folder} is loaded in float32 on cpu." in caplog.messages
    assert load_pretrained(folder, "cpu", dtype="bfloat16").W_E.dtype == torch.bfloat16
    assert f"{folder} is loaded in bfloat16 on cpu." in caplog.messages


def test_what_transformer_lens_puts_before_the_texts_of_a_folder_is_said(tmp_path, caplog):
    folder = saved(tmp_path, gpt2(), of_gpt2())
    assert load_pretrained(folder, "cpu").to_tokens("w5 w6").tolist() == [[0, 5, 6]]
    (line,) = notices(caplog)
    assert "'<end>' is put before each text" in line
    bridge = load_pretrained(folder, "cpu", prepend_bos=False)
    assert Vocabulary(bridge).tokenize(["w5 w6"])[0].tolist() == [5, 6]
    assert len(notices(caplog)) == 1


@pytest.mark.parametrize("device", ["cuda:99", "cupboard"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(device):
    with pytest.raises(ConfigError, match=rf"device is '{device}', .* such as 'cpu'"):
        load_pretrained("nowhere", device)


def test_a_damaged_folder_is_our_error(tmp_path):
    folder = saved(tmp_path, gpt2(), of_gpt2())
    (tmp_path / "model.safetensors").write_bytes(b"half of it")
    with pytest.raises(ModelLoadError, match=r"cannot load .* save_pretrained"):
        load_pretrained(folder, "cpu")


def test_a_folder_is_a_name_for_the_commands(shared):
    folder = str(shared / "models/stories260K/hf")
    model = ModelChoice(name=folder, device="cpu").load()
    assert model.cfg.n_layers == 5


def test_a_folder_with_an_encoder_reads_texts_as_from_memory(tmp_path):
    bridge = load_pretrained(saved(tmp_path, bert(), of_bert()), "cpu")
    live = from_hf(bert(), of_bert())
    assert bridge.to_tokens(["w5 w6"]).tolist() == [[2, 5, 6, 3]]
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(bridge.tokenizer, name) == getattr(live.tokenizer, name)
    for name in ("tokenizer_prepends_bos", "tokenizer_appends_eos", "default_prepend_bos"):
        assert getattr(bridge.cfg, name) == getattr(live.cfg, name)


def test_a_folder_with_an_encoder_decoder_is_refused(tmp_path):
    name = saved(tmp_path, t5(), of_bert())
    with pytest.raises(UnsupportedHostError, match=r"is an encoder-decoder, .* Pass a decoder"):
        load_pretrained(name, "cpu")


def test_a_folder_without_a_model_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ModelLoadError, match=r"cannot load .* save_pretrained"):
        load_pretrained(str(tmp_path), "cpu")


def test_a_folder_without_a_tokenizer_is_refused_with_the_remedy(tmp_path):
    gpt2().save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"knows no words\. Pass .* and tokenizer"):
        load_pretrained(str(tmp_path), "cpu")


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, str, str | None]]:
    """Which classes are asked to load what; nothing is loaded."""
    from transformer_lens.model_bridge import TransformerBridge

    asked = []

    def load(cls, name, device=None, dtype=None):
        warnings.warn(f"{cls.__name__}.from_pretrained is deprecated", DeprecationWarning, 2)
        asked.append((cls.__name__, name, device))
        return from_hf(gpt2(), of_gpt2())

    def boot(cls, name, device=None, dtype=None, tokenizer=None):
        asked.append((cls.__name__, name, device))
        return from_hf(gpt2(), of_gpt2())

    monkeypatch.setattr(loading, "_own_tokenizer", lambda model, name: of_gpt2())
    monkeypatch.setattr(TransformerBridge, "boot_transformers", classmethod(boot))
    for host in filter(None, map(hooked_class, ("HookedTransformer", "HookedEncoder"))):
        monkeypatch.setattr(host, "from_pretrained", classmethod(load))
    return asked


@pytest.fixture
def known(monkeypatch) -> None:
    """Architectures of models on the hub, as TransformerLens 3 would look them up."""
    from transformer_lens import loading_from_pretrained

    architectures = {
        "gpt2": "GPT2LMHeadModel",
        "google-bert/bert-base-uncased": "BertForMaskedLM",
        "google-t5/t5-small": "T5ForConditionalGeneration",
    }

    def config(name, **options):
        return types.SimpleNamespace(original_architecture=architectures[name])

    monkeypatch.setattr(loading_from_pretrained, "get_pretrained_model_config", config)


@needs_hooked
@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("gpt2", "HookedTransformer"),
        ("google-bert/bert-base-uncased", "HookedEncoder"),
        ("somebody/something-new", "TransformerBridge"),
    ],
)
def test_a_name_is_loaded_by_the_host_that_knows_it(asked, known, name, host):
    load_pretrained(name, "cpu")
    assert asked == [(host, name, "cpu")]


@pytest.mark.parametrize("name", ["gpt2", "google-bert/bert-base-uncased"])
def test_without_hooked_transformer_every_name_becomes_a_bridge(asked, monkeypatch, name):
    monkeypatch.setattr(loading, "hooked_class", lambda name: None)
    load_pretrained(name)
    assert asked == [("TransformerBridge", name, None)]


@needs_hooked
def test_the_name_of_an_encoder_decoder_is_refused_before_it_is_loaded(asked, known):
    with pytest.raises(UnsupportedHostError, match=r"t5-small is an encoder-decoder"):
        load_pretrained("google-t5/t5-small")
    assert asked == []


def test_a_class_that_transformer_lens_removed_is_none(monkeypatch):
    class Removed(types.ModuleType):
        def __getattr__(self, name):
            raise ImportError(f"{name} was removed")

    monkeypatch.setitem(sys.modules, "transformer_lens", Removed("transformer_lens"))
    assert hooked_class("HookedTransformer") is None
    monkeypatch.setitem(sys.modules, "transformer_lens", types.ModuleType("transformer_lens"))
    assert hooked_class("HookedTransformer") is None


def test_a_copy_of_the_model_stays_as_it_was():
    hf_model = gpt2()
    names = list(hf_model.state_dict())
    from_hf(copy.deepcopy(hf_model))
    assert list(hf_model.state_dict()) == names


@pytest.mark.slow
def test_a_run_on_a_folder_remembers_where_the_folder_was(shared, stories, tmp_path, monkeypatch):
    data = tmp_path / "texts.txt"
    data.write_text("\n".join(" ".join(story.split())[:200] for story in stories[:40]))
    monkeypatch.chdir(shared / "models/stories260K")
    options = {"n_codes": 8, "decoder": "table"}
    fit = {"n_tokens": 1_000, "batch_tokens": 256}
    model = ModelChoice(name="hf")
    run_fit(*(model, 1, 3, data, tmp_path / "run"), held_out=None, options=options, fit_options=fit)
    monkeypatch.chdir(tmp_path)
    assert run_report(tmp_path / "run").written.is_file()
