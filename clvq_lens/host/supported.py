"""Which Hugging Face models and tokenizers a bridge can be made of."""

import copy
from typing import TYPE_CHECKING

from clvq_lens.errors import UnsupportedHostError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def checked_model(hf_model: object) -> "PreTrainedModel":
    """The model itself.

    Raises:
        UnsupportedHostError: If it is not a language model of transformers, or has a bridge.
    """
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
    from transformers import PreTrainedModel

    kind = type(hf_model).__name__
    if not isinstance(hf_model, PreTrainedModel):
        raise UnsupportedHostError(
            f"{kind} is not a Hugging Face model. Pass a transformers model, such as "
            f"AutoModelForCausalLM.from_pretrained(name); a TransformerLens model has add_clvq "
            f"itself."
        )
    if hf_model.config.is_encoder_decoder:
        _refuse_encoder_decoder(kind)
    if hf_model.main_input_name != "input_ids":
        raise UnsupportedHostError(
            f"{kind} reads {hf_model.main_input_name}, not tokens. Pass a language model, such as "
            f"AutoModelForCausalLM.from_pretrained(name)."
        )
    if any(isinstance(module, GeneralizedComponent) for module in hf_model.modules()):
        raise UnsupportedHostError(
            f"A bridge has taken over this {kind} already. Use that bridge, or load the model "
            f"again."
        )
    return hf_model


def architecture_of(hf_model: object) -> str:
    """TransformerLens' name for the model's class, or for the class that it was derived from.

    Raises:
        UnsupportedHostError: If TransformerLens does not know the class.
    """
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    for parent in type(hf_model).__mro__:
        if parent.__name__ in SUPPORTED_ARCHITECTURES:
            return parent.__name__
    raise UnsupportedHostError(
        f"TransformerLens has no bridge for {type(hf_model).__name__}. Load the model with its "
        f"language-model head: AutoModelForCausalLM or AutoModelForMaskedLM.from_pretrained(name); "
        f"a newer transformer-lens may know it: pip install -U transformer-lens."
    )


def check_architecture(architecture: str, name: str) -> None:
    """Raises `UnsupportedHostError` for an encoder-decoder.

    Args:
        architecture: Name of the model's class.
        name: Name of the model, for the message.
    """
    from transformer_lens.utilities.architectures import SEQ2SEQ_ARCHITECTURES

    if architecture in SEQ2SEQ_ARCHITECTURES:
        _refuse_encoder_decoder(name)


def is_encoder(architecture: str) -> bool:
    """Whether models of that architecture read a whole text at once, as BERT does."""
    from transformer_lens.utilities.architectures import MASKED_LM_ARCHITECTURES

    return architecture in MASKED_LM_ARCHITECTURES


def _refuse_encoder_decoder(name: str) -> None:
    raise UnsupportedHostError(
        f"{name} is an encoder-decoder, which has two residual streams. Pass a decoder such as "
        f"GPT-2, or an encoder such as BERT."
    )


def checked_tokenizer(tokenizer: object) -> "PreTrainedTokenizerBase":
    """The tokenizer itself.

    Raises:
        UnsupportedHostError: If it is not a tokenizer of transformers.
    """
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UnsupportedHostError(
            f"{type(tokenizer).__name__} is not a Hugging Face tokenizer. Pass one, such as "
            f"AutoTokenizer.from_pretrained(name), or None."
        )
    return tokenizer


def copied_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """A copy that TransformerLens takes as it is, instead of loading it again by its name."""
    tokenizer = copy.deepcopy(tokenizer)  # a bridge changes padding side and special tokens
    # TransformerLens loads a tokenizer again that does not say that it adds BOS. Where this one
    # does not add it, the bridge does.
    tokenizer.init_kwargs |= {"name_or_path": tokenizer.name_or_path, "add_bos_token": True}
    return tokenizer
