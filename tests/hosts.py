"""Tiny random models, one of every kind of host, built offline and the same for the same seed.

All have 4 blocks of width 16 and a vocabulary of 40 ids: special ones below `FIRST_WORD`, and
words, which are called ``w5`` to ``w39``.
"""

import atexit
import copy
import functools
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

MAJOR = int(version("transformer-lens").split(".")[0])
N_LAYERS, D_MODEL, D_VOCAB, N_CONTEXT, FIRST_WORD = 4, 16, 40, 48, 5
_SPREAD = 0.3  # of weights: large enough that every block and every token matters


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of host.

    Attributes:
        name: Of the kind.
        build: Makes a model of a dtype.
        causal: Whether tokens see earlier tokens only.
        has_cache: Whether it generates with a key-value cache.
        stream: Hook point of the residual stream after a block.
        mask_option: What it calls the attention mask.
        majors: Versions of TransformerLens that have it.
        is_extra: Whether it is much like another kind, so that quick runs can do without it.
    """

    name: str
    build: Callable[[torch.dtype], Any]
    causal: bool = True
    has_cache: bool = True
    stream: str = "hook_resid_post"
    mask_option: str = "attention_mask"
    majors: tuple[int, ...] = (3, 4)
    is_extra: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def is_bridge(self) -> bool:
        """Whether it is a `TransformerBridge`."""
        return self.name.startswith("bridge")

    def after(self, layer: int) -> str:
        """The name of the residual stream after a block."""
        return f"blocks.{layer}.{self.stream}"

    def model(self, dtype: torch.dtype = torch.float32) -> Any:
        """A new model, always with the same weights."""
        return self.build(dtype).eval()


def words(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random ids of words, no special ones among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST_WORD, D_VOCAB, shape, generator=generator)


def text_of(tokens: torch.Tensor) -> str:
    """The text that becomes these tokens, but for the special ones that a tokenizer adds."""
    return " ".join(f"w{token}" for token in tokens.tolist())


# ---- tokenizers ----------------------------------------------------------------------------------


@functools.cache
def tokenizer(style: str) -> Any:
    """A word-level tokenizer: as of GPT-2 (no BOS by itself), of LLaMA (BOS) or of BERT."""
    named = {
        "gpt2": {"bos_token": "<|end|>", "eos_token": "<|end|>", "unk_token": "<|end|>"},
        "llama": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        "bert": {
            **{"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"},
            **{"sep_token": "[SEP]", "mask_token": "[MASK]"},
        },
    }[style]
    special = list(dict.fromkeys(named.values()))
    ids = {token: index for index, token in enumerate(special)}
    ids |= {f"w{index}": index for index in range(len(special), D_VOCAB)}
    backend = Tokenizer(models.WordLevel(ids, unk_token=named["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frame = {"gpt2": "$A", "llama": "<s> $A", "bert": "[CLS] $A [SEP]"}[style]
    added = [(token, ids[token]) for token in special if token in frame]
    if added:
        backend.post_processor = processors.TemplateProcessing(single=frame, special_tokens=added)
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * (style == "bert")
    # TransformerLens reads the folder again, which is why it stays until the end.
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    saved = PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **named)
    saved.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


# ---- weights -------------------------------------------------------------------------------------


@torch.no_grad()
def _filled(module: nn.Module) -> Any:
    """The module with random weights that depend on nothing but their shapes and order."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        norm = "norm" in type(part).__name__.lower()
        for name, parameter in part.named_parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator) * _SPREAD
            parameter.copy_(noise + 1.0 if norm and name in ("w", "weight") else noise)
    return module


# ---- HookedTransformer and HookedEncoder ---------------------------------------------------------


def _hooked_config(dtype: torch.dtype, **options: Any) -> Any:
    from transformer_lens import HookedTransformerConfig

    return HookedTransformerConfig(
        n_layers=N_LAYERS,
        n_heads=4,
        d_model=D_MODEL,
        d_head=4,
        d_mlp=32,
        n_ctx=N_CONTEXT,
        d_vocab=D_VOCAB,
        dtype=dtype,
        device="cpu",
        model_name="tiny",
        **options,
    )


def _hooked(style: str, dtype: torch.dtype, **options: Any) -> Any:
    from transformer_lens import HookedTransformer

    cfg = _hooked_config(dtype, **options)
    model = HookedTransformer(cfg, tokenizer=tokenizer(style), default_padding_side="right")
    return _filled(model)


def _hooked_gpt2(dtype: torch.dtype) -> Any:
    return _hooked("gpt2", dtype, act_fn="gelu_new", normalization_type="LN")


def _hooked_llama(dtype: torch.dtype) -> Any:
    return _hooked(
        "llama",
        dtype,
        act_fn="silu",
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=4,
        n_key_value_heads=2,
        gated_mlp=True,
        final_rms=True,
    )


def _hooked_encoder(dtype: torch.dtype) -> Any:
    from transformer_lens import HookedEncoder

    cfg = _hooked_config(dtype, act_fn="gelu", attention_dir="bidirectional")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedEncoder is deprecated", DeprecationWarning)
        return _filled(HookedEncoder(cfg, tokenizer=tokenizer("bert")))


# ---- TransformerBridge ---------------------------------------------------------------------------


def _bridge(
    architecture: str, style: str, config: Any, dtype: torch.dtype, *, compatible: bool = False
) -> Any:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    config._attn_implementation = "eager"
    hf_model = _filled(getattr(transformers, architecture)(config)).to(dtype).eval()
    bridge = build_bridge_from_module(
        hf_model,
        architecture,
        hf_config=config,
        tokenizer=copy.deepcopy(tokenizer(style)),  # TransformerLens changes it
        model_name="tiny",
    )
    if compatible:
        bridge.enable_compatibility_mode()
    return bridge


def _bridge_gpt2(dtype: torch.dtype, **options: Any) -> Any:
    config = transformers.GPT2Config(
        **{"n_layer": N_LAYERS, "n_head": 4, "n_embd": D_MODEL, "n_inner": 32},
        **{"vocab_size": D_VOCAB, "n_positions": N_CONTEXT, "bos_token_id": 0, "eos_token_id": 0},
    )
    return _bridge("GPT2LMHeadModel", "gpt2", config, dtype, **options)


_LIKE_LLAMA = {
    **{"num_hidden_layers": N_LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"hidden_size": D_MODEL, "intermediate_size": 32, "vocab_size": D_VOCAB, "head_dim": 4},
    **{"max_position_embeddings": N_CONTEXT, "bos_token_id": 1, "eos_token_id": 2},
}


def _bridge_llama(dtype: torch.dtype, **options: Any) -> Any:
    config = transformers.LlamaConfig(**_LIKE_LLAMA)
    return _bridge("LlamaForCausalLM", "llama", config, dtype, **options)


def _bridge_mistral(dtype: torch.dtype) -> Any:
    config = transformers.MistralConfig(**_LIKE_LLAMA, sliding_window=None)
    return _bridge("MistralForCausalLM", "llama", config, dtype)


def _bridge_qwen2(dtype: torch.dtype) -> Any:
    config = transformers.Qwen2Config(**_LIKE_LLAMA)
    return _bridge("Qwen2ForCausalLM", "gpt2", config, dtype)


def _bridge_gemma2(dtype: torch.dtype) -> Any:
    config = transformers.Gemma2Config(**_LIKE_LLAMA, query_pre_attn_scalar=4)
    return _bridge("Gemma2ForCausalLM", "llama", config, dtype)


def _bridge_neox(dtype: torch.dtype) -> Any:
    config = transformers.GPTNeoXConfig(
        **{"num_hidden_layers": N_LAYERS, "num_attention_heads": 4, "hidden_size": D_MODEL},
        **{"intermediate_size": 32, "vocab_size": D_VOCAB, "rotary_pct": 0.5},
        **{"max_position_embeddings": N_CONTEXT, "bos_token_id": 0, "eos_token_id": 0},
    )
    return _bridge("GPTNeoXForCausalLM", "gpt2", config, dtype)


def _bridge_gptj(dtype: torch.dtype) -> Any:
    config = transformers.GPTJConfig(
        **{"n_layer": N_LAYERS, "n_head": 4, "n_embd": D_MODEL, "n_inner": 32, "rotary_dim": 2},
        **{"vocab_size": D_VOCAB, "n_positions": N_CONTEXT, "bos_token_id": 0, "eos_token_id": 0},
    )
    return _bridge("GPTJForCausalLM", "gpt2", config, dtype)


def _bridge_bloom(dtype: torch.dtype) -> Any:
    config = transformers.BloomConfig(
        **{"n_layer": N_LAYERS, "n_head": 4, "hidden_size": D_MODEL, "vocab_size": D_VOCAB},
        **{"seq_length": N_CONTEXT, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
    )
    return _bridge("BloomForCausalLM", "llama", config, dtype)


def _bridge_opt(dtype: torch.dtype) -> Any:
    config = transformers.OPTConfig(
        **{"num_hidden_layers": N_LAYERS, "num_attention_heads": 4, "hidden_size": D_MODEL},
        **{"ffn_dim": 32, "vocab_size": D_VOCAB, "max_position_embeddings": N_CONTEXT},
        **{"word_embed_proj_dim": D_MODEL, "bos_token_id": 1, "eos_token_id": 2},
        **{"pad_token_id": 2},
    )
    return _bridge("OPTForCausalLM", "llama", config, dtype)


def _bridge_bert(dtype: torch.dtype) -> Any:
    config = transformers.BertConfig(
        **{"num_hidden_layers": N_LAYERS, "num_attention_heads": 4, "hidden_size": D_MODEL},
        **{"intermediate_size": 32, "vocab_size": D_VOCAB, "pad_token_id": 0},
        **{"max_position_embeddings": N_CONTEXT},
    )
    return _bridge("BertForMaskedLM", "bert", config, dtype)


def _bridge_native(dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    config = {
        **{"n_layers": N_LAYERS, "n_heads": 4, "d_model": D_MODEL, "d_head": 4, "d_mlp": 32},
        **{"n_ctx": N_CONTEXT, "d_vocab": D_VOCAB, "act_fn": "gelu", "seed": 0},
    }
    bridge = TransformerBridge.boot_native(config, tokenizer=tokenizer("gpt2"), dtype=dtype)
    _filled(bridge.original_model)
    return bridge


ALL_KINDS = (
    Kind(name="hooked-gpt2", build=_hooked_gpt2, majors=(3,)),
    Kind(name="hooked-llama", build=_hooked_llama, majors=(3,)),
    Kind(
        name="hooked-encoder",
        build=_hooked_encoder,
        causal=False,
        has_cache=False,
        stream="hook_normalized_resid_post",
        mask_option="one_zero_attention_mask",
        majors=(3,),
    ),
    Kind(name="bridge-gpt2", build=_bridge_gpt2),
    Kind(name="bridge-gpt2-compat", build=functools.partial(_bridge_gpt2, compatible=True)),
    Kind(name="bridge-llama", build=_bridge_llama),
    Kind(name="bridge-llama-compat", build=functools.partial(_bridge_llama, compatible=True)),
    Kind(name="bridge-neox", build=_bridge_neox),
    Kind(name="bridge-bloom", build=_bridge_bloom),
    Kind(name="bridge-bert", build=_bridge_bert, causal=False, has_cache=False),
    Kind(name="bridge-native", build=_bridge_native, has_cache=False),
    Kind(name="bridge-gptj", build=_bridge_gptj, is_extra=True),
    Kind(name="bridge-opt", build=_bridge_opt, is_extra=True),
    Kind(name="bridge-mistral", build=_bridge_mistral, is_extra=True),
    Kind(name="bridge-qwen2", build=_bridge_qwen2, is_extra=True),
    Kind(name="bridge-gemma2", build=_bridge_gemma2, is_extra=True),
)
KINDS = tuple(kind for kind in ALL_KINDS if MAJOR in kind.majors)
