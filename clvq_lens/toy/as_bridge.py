"""The toy model as a Hugging Face GPT-2 in a bridge: what it is where HookedTransformer is not."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from clvq_lens.errors import FileFormatError
from clvq_lens.host.loading import from_hf
from clvq_lens.toy.architecture import Architecture

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def build_bridge(
    config: Architecture,
    tokenizer: PreTrainedTokenizerFast,
    weights: Mapping[str, Tensor],
    device: str | torch.device,
) -> "TransformerBridge":
    """A bridge with the weights of a HookedTransformer, in eval mode.

    Args:
        config: The architecture of the model.
        tokenizer: The tokenizer of the model.
        weights: The parameters of the HookedTransformer, by name.
        device: Where the model is put.

    Raises:
        FileFormatError: If a weight is missing.
    """
    try:
        renamed = gpt2_weights(weights, config["n_layers"])
    except KeyError as error:
        raise FileFormatError(
            f"The toy model's file has no {error}. Reinstall clvq-lens, or train the model again: "
            f"python -m clvq_lens.toy.train"
        ) from error
    # A new model draws random weights, although they are all replaced at once.
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(gpt2_config(config, tokenizer))
        # GPT-2's own head has no bias.
        model.lm_head = torch.nn.Linear(config["d_model"], config["d_vocab"])
    model.load_state_dict(renamed)
    torch.nn.Module.to(model, device)  # transformers' own `to` hides its types
    return from_hf(model.eval(), tokenizer, name=config["model_name"], prepend_bos=True)


def gpt2_config(config: Architecture, tokenizer: PreTrainedTokenizerFast) -> GPT2Config:
    """The architecture, and the ids of special tokens, in the words of Hugging Face."""
    ids = tokenizer.get_vocab()
    return GPT2Config(
        n_layer=config["n_layers"],
        n_embd=config["d_model"],
        n_head=config["n_heads"],
        n_inner=config["d_mlp"],
        n_positions=config["n_ctx"],
        vocab_size=config["d_vocab"],
        activation_function=config["act_fn"],
        tie_word_embeddings=False,
        # No dropout, as in a HookedTransformer: training mode computes the same.
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=ids[str(tokenizer.bos_token)],
        eos_token_id=ids[str(tokenizer.eos_token)],
        pad_token_id=ids[str(tokenizer.pad_token)],
    )


def gpt2_weights(weights: Mapping[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """The weights of a HookedTransformer under the names, and in the shapes, of GPT-2."""
    named = {
        "transformer.wte.weight": weights["embed.W_E"],
        "transformer.wpe.weight": weights["pos_embed.W_pos"],
        "transformer.ln_f.weight": weights["ln_final.w"],
        "transformer.ln_f.bias": weights["ln_final.b"],
        "lm_head.weight": weights["unembed.W_U"].T,
        "lm_head.bias": weights["unembed.b_U"],
    }
    for index in range(n_layers):
        for name, weight in gpt2_block(weights, f"blocks.{index}").items():
            named[f"transformer.h.{index}.{name}"] = weight
    return named


def gpt2_block(weights: Mapping[str, Tensor], block: str) -> dict[str, Tensor]:
    """The weights of one block."""
    # GPT-2 has one projection for queries, keys and values, without an axis for heads.
    w_qkv, b_qkv = [], []
    for name in ("Q", "K", "V"):
        w_qkv.append(side_by_side(weights[f"{block}.attn.W_{name}"]))
        b_qkv.append(weights[f"{block}.attn.b_{name}"].flatten())
    return {
        "ln_1.weight": weights[f"{block}.ln1.w"],
        "ln_1.bias": weights[f"{block}.ln1.b"],
        "attn.c_attn.weight": torch.cat(w_qkv, dim=1),
        "attn.c_attn.bias": torch.cat(b_qkv),
        "attn.c_proj.weight": weights[f"{block}.attn.W_O"].flatten(0, 1),
        "attn.c_proj.bias": weights[f"{block}.attn.b_O"],
        "ln_2.weight": weights[f"{block}.ln2.w"],
        "ln_2.bias": weights[f"{block}.ln2.b"],
        "mlp.c_fc.weight": weights[f"{block}.mlp.W_in"],
        "mlp.c_fc.bias": weights[f"{block}.mlp.b_in"],
        "mlp.c_proj.weight": weights[f"{block}.mlp.W_out"],
        "mlp.c_proj.bias": weights[f"{block}.mlp.b_out"],
    }


def side_by_side(heads: Float[Tensor, "head d d_head"]) -> Float[Tensor, "d head*d_head"]:
    """One matrix of the matrices of all heads."""
    return heads.movedim(0, 1).flatten(1)
