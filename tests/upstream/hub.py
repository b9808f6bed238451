"""Stand-ins for the models of the Hub that TransformerLens' tests load, in a cache of its layout.

Tiny, with random weights and GPT-2's own tokenizer: most tests of hooks ask no more of a model.
Those that do (known logits, known widths) fail without clvq_lens too, and do not count.
"""

import json
import shutil
import string
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformer_lens
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

_COMMIT = "0" * 40  # any name of a commit will do
_WORDS = 50_257
_IDS = {"vocab_size": _WORDS, "bos_token_id": _WORDS - 1, "eos_token_id": _WORDS - 1}
_LIVELY = 0.2  # spread of the weights; with the usual 0.02 every logit would be about the same


def _gpt2(n_layers: int) -> Callable[[], Any]:
    options = {"n_layer": n_layers, "n_head": 12, "n_embd": 48, "n_positions": 1024, "n_ctx": 1024}
    return lambda: GPT2LMHeadModel(GPT2Config(**options, **_IDS, initializer_range=_LIVELY))


def _neox() -> Any:
    layers = {"num_hidden_layers": 6, "num_attention_heads": 8, "hidden_size": 64}
    sizes = {"intermediate_size": 128, "max_position_embeddings": 256}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**layers, **sizes, **_IDS))


def _neo() -> Any:
    layers = {"num_layers": 8, "attention_types": [[["global", "local"], 4]], "num_heads": 16}
    sizes = {"hidden_size": 64, "intermediate_size": 256, "max_position_embeddings": 512}
    return GPTNeoForCausalLM(GPTNeoConfig(**layers, **sizes, **_IDS, initializer_range=_LIVELY))


def _opt() -> Any:
    layers = {"num_hidden_layers": 4, "num_attention_heads": 12, "hidden_size": 48}
    sizes = {"ffn_dim": 96, "word_embed_proj_dim": 48, "max_position_embeddings": 256}
    return OPTForCausalLM(OPTConfig(**layers, **sizes, **_IDS, pad_token_id=1))


def _bert() -> Any:
    layers = {"num_hidden_layers": 3, "num_attention_heads": 12, "hidden_size": 48}
    sizes = {"intermediate_size": 96, "max_position_embeddings": 512}
    return BertForPreTraining(BertConfig(**layers, **sizes, vocab_size=len(_pieces())))


def _pieces() -> list[str]:
    """A vocabulary of single characters, at the beginning of words and inside them."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*marks, *string.printable.strip(), *(f"##{c}" for c in string.printable.strip())]


_MODELS: dict[Callable[[], Any], tuple[str, ...]] = {
    _gpt2(12): ("gpt2", "openai-community/gpt2"),
    _gpt2(6): ("distilgpt2", "distilbert/distilgpt2"),
    _gpt2(2): ("sshleifer/tiny-gpt2", "hf-internal-testing/tiny-random-gpt2"),
    _neox: ("EleutherAI/pythia-14m", "EleutherAI/pythia-70m"),
    _neo: ("roneneldan/TinyStories-1M",),
    _opt: ("facebook/opt-125m",),
}
_TOKENIZERS = ("NeelNanda/gpt-neox-tokenizer-digits", "EleutherAI/gpt-neo-125M")
_BERT = ("bert-base-cased", "google-bert/bert-base-cased")


def build(cache: Path, tokenizer: Path) -> Path:
    """Fills a folder that the Hub's client takes for its cache.

    Args:
        cache: A new folder, for ``HF_HUB_CACHE``.
        tokenizer: The folder with GPT-2's tokenizer.
    """
    torch.manual_seed(0)
    for make, names in _MODELS.items():
        files = _repository(cache, names[0], tokenizer)
        make().eval().save_pretrained(files)
        for name in names[1:]:
            _repository(cache, name, files)
    for name in _TOKENIZERS:
        (_repository(cache, name, tokenizer) / "config.json").write_text('{"model_type": "gpt2"}')
    for name in _BERT:
        files = _repository(cache, name)
        model = _bert().eval()
        model.save_pretrained(files)
        model.config.architectures = ["BertForMaskedLM"]  # as the original calls itself
        model.config.save_pretrained(files)
        vocabulary = {piece: i for i, piece in enumerate(_pieces())}
        BertTokenizerFast(vocab=vocabulary, do_lower_case=False).save_pretrained(files)
    if version("transformer-lens").startswith("3."):
        for n_layers in (1, 2, 3):
            _solu(cache, n_layers)
    return cache


def _solu(cache: Path, n_layers: int) -> None:
    """A model that was trained in TransformerLens itself and is kept as it keeps its own."""
    files = _repository(cache, f"NeelNanda/SoLU_{n_layers}L512W_C4_Code")
    options = {
        **{"n_layers": n_layers, "d_model": 64, "n_heads": 8, "d_head": 8, "d_mlp": 128},
        **{"n_ctx": 1024, "d_vocab": _WORDS, "act_fn": "solu_ln", "attn_only": False},
        "normalization_type": "LN",
    }
    (files / "config.json").write_text(json.dumps({**options, "tokenizer_name": _TOKENIZERS[0]}))
    config = transformer_lens.HookedTransformerConfig(**options, seed=n_layers, device="cpu")
    model = transformer_lens.HookedTransformer(config)
    torch.save(model.state_dict(), files / "model_final.pth")


def _repository(cache: Path, name: str, content: Path | None = None) -> Path:
    """The folder of a model's only version, with the content of another folder."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(_COMMIT)
    snapshot = repository / "snapshots" / _COMMIT
    snapshot.mkdir(parents=True)
    for file in content.iterdir() if content else ():
        shutil.copyfile(file, snapshot / file.name)
    return snapshot
