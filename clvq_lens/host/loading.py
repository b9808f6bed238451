"""Models to attach to: pretrained ones by name or folder, and live Hugging Face models."""

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from clvq_lens.arguments import check_is
from clvq_lens.errors import CLVQError, ConfigError, ModelLoadError, UnsupportedHostError
from clvq_lens.host.protocol.choice import protocol_of
from clvq_lens.host.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_log = logging.getLogger(__name__)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_LOADABLE = (
    "Pass the name of a language model on the Hugging Face hub, or a folder that has model and "
    "tokenizer, as their save_pretrained(folder) writes them."
)


def from_hf(
    hf_model: Any,
    tokenizer: Any = None,
    *,
    name: str | None = None,
    dtype: torch.dtype | str | None = None,
    prepend_bos: bool | None = None,
) -> "TransformerBridge":
    """A TransformerLens bridge of a Hugging Face model that you have in memory.

    Nothing is downloaded or moved: the bridge has the device and mode (train or eval) of the
    model, and a model without trainable parameters stays without.

    The bridge takes over ``hf_model`` in place. Its parameters stay the same tensors, and calling
    it gives the same logits up to rounding; but its modules are wrapped, so that hooks of the
    bridge also run when you call ``hf_model`` itself, the names in its ``state_dict()`` change,
    and saving it may fail. TransformerLens may add parameters: copies of the queries, keys and
    values of a joint projection, which are then used in its place, and a zero bias of the
    unembedding. Pass ``copy.deepcopy(hf_model)`` to keep yours as it was. The tokenizer is copied.

    Args:
        hf_model: A causal or masked language model of transformers.
        tokenizer: Its tokenizer; None: the bridge reads tokens only.
        name: What the bridge calls itself, which quantizers remember; None: the name that the
            model was loaded by, or else its class.
        dtype: That its weights are cast to, such as "float32"; None: they stay as they are, and
            the log says so once if they are in half precision, in which transformers loads many
            models and which is slow on a CPU.
        prepend_bos: Whether a causal model reads a beginning token (BOS) before each text; None:
            as TransformerLens does, and the log says so once if the tokenizer does not put one
            there by itself.

    Returns:
        The bridge; attach with ``.add_clvq(source, target)``.

    Raises:
        ConfigError: If there is no such dtype, or ``prepend_bos`` is passed for an encoder.
        UnsupportedHostError: If this is no such model or tokenizer, TransformerLens does not know
            the architecture, or a bridge has the model already.

    Example:
        >>> lens = cl.from_hf(hf_model, tokenizer).add_clvq(4, 8)  # doctest: +SKIP
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    _check_model(hf_model)
    wanted = None if dtype is None else check_dtype(dtype)
    copied = None if tokenizer is None else _copied(tokenizer)
    frozen = not any(parameter.requires_grad for parameter in hf_model.parameters())
    architecture = _architecture(hf_model)
    if wanted is not None:
        _cast_(hf_model, wanted)
    with torch.random.fork_rng(devices=[]):  # the bridge draws weights before it fills them
        bridge = build_bridge_from_module(
            hf_model,
            architecture,
            hf_config=hf_model.config,
            tokenizer=copied,
            model_name=name or hf_model.config.name_or_path or type(hf_model).__name__,
        )
    if frozen:
        for parameter in bridge.parameters():
            parameter.requires_grad_(False)  # those that were added, too
    _name_ends(bridge)
    choose_bos_(bridge, prepend_bos, tokenizer)
    used = bridge.cfg.dtype
    if wanted is None and used != torch.float32 and str(bridge.cfg.device) == "cpu":
        _log.warning(
            "%s stays in %s, as it is in memory. On a CPU float32 is several times as fast: pass "
            "dtype='float32', or dtype='%s' to keep it without this line.",
            *(bridge.cfg.model_name, _name_of(used), _name_of(used)),
        )
    else:
        _log.info("%s is in %s.", bridge.cfg.model_name, _name_of(used))
    return bridge


def load_pretrained(
    name: str | os.PathLike[str],
    device: str | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    prepend_bos: bool | None = None,
) -> Any:
    """A pretrained model, from the Hugging Face hub, its local cache, or a folder.

    Args:
        name: A name that TransformerLens or Hugging Face knows, or a folder with a Hugging Face
            model and its tokenizer.
        device: Where the model is put; None: TransformerLens' choice.
        dtype: Of its weights, such as "bfloat16"; None: float32, whatever it was saved in. The
            log says which.
        prepend_bos: As for `from_hf`.

    Returns:
        A `HookedTransformer`, or a `HookedEncoder` of a BERT-like model, where the installed
        TransformerLens has these and knows the name; else a `TransformerBridge`.

    Raises:
        ModelLoadError: If there is no such model.
        UnsupportedHostError: If a quantizer cannot be attached to it.
        ConfigError: If there is no such device or dtype, or ``prepend_bos`` is passed for an
            encoder.
    """
    check_device(device)
    check_is("The model", name, str | os.PathLike, "Pass a name, or a folder.")
    name = os.fspath(name)
    wanted = torch.float32 if dtype is None else check_dtype(dtype)
    with _load_errors(name):
        model = _load(name, device, wanted)
        own = _own_tokenizer(model, name)
    choose_bos_(model, prepend_bos, own)
    _log.info("%s is loaded in %s on %s.", name, _name_of(model.cfg.dtype), model.cfg.device)
    return model


def check_device(device: str | None) -> None:
    """Raises `ConfigError` unless torch can put something on the device."""
    if device is None:
        return
    try:
        torch.empty(1, device=device).tolist()  # "meta" holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ConfigError(
            f"device is {device!r}, where torch can put nothing here: {reason}. "
            f"Pass one that it can use, such as 'cpu'."
        ) from error


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The dtype of that name.

    Raises:
        ConfigError: If there is none for weights.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in _DTYPES:
        names = ", ".join(repr(_name_of(each)) for each in _DTYPES)
        raise ConfigError(f"dtype is {dtype!r}. Pass one of {names}.")
    return found


def choose_bos_(model: Any, prepend_bos: bool | None, tokenizer: Any) -> None:
    """Makes a model read BOS before each text, or not; says so if nobody chose it.

    Args:
        model: A causal model; an encoder's tokenizer knows by itself.
        prepend_bos: Whether it does; None: as it is.
        tokenizer: The model's own, as it was before TransformerLens changed it; None: none.

    Raises:
        ConfigError: If it is chosen for an encoder.
    """
    if not protocol_of(model).causal:
        if prepend_bos is not None:
            raise ConfigError(
                f"prepend_bos is {prepend_bos}, but the tokenizer of an encoder decides what "
                f"stands around a text. Leave it out."
            )
        return
    if prepend_bos is not None:
        model.cfg.default_prepend_bos = prepend_bos
    elif tokenizer is not None:
        read = Vocabulary(model).tokenize(["a"])[0].tolist()
        if len(read) > len(tokenizer("a")["input_ids"]):
            _log.warning(
                "%s: %r is put before each text, as TransformerLens does by default; the "
                "tokenizer by itself does not. Pass prepend_bos=False to leave it out, or "
                "prepend_bos=True to keep it without this line.",
                *(model.cfg.model_name, model.tokenizer.decode(read[:1])),
            )


def _load(name: str, device: str | None, dtype: torch.dtype) -> Any:
    if Path(name).is_dir() or hooked_class("HookedTransformer") is None:
        return _boot(name, device, dtype)
    from transformer_lens import loading_from_pretrained as known
    from transformer_lens.utilities.architectures import MASKED_LM_ARCHITECTURES

    try:
        known.get_official_model_name(name)
    except ValueError:
        return _boot(name, device, dtype)
    architecture = str(known.get_pretrained_model_config(name, device="cpu").original_architecture)
    _check_architecture(architecture, name)
    encoder = architecture in MASKED_LM_ARCHITECTURES
    host: Any = hooked_class("HookedEncoder" if encoder else "HookedTransformer")
    with warnings.catch_warnings():  # the newest versions point to the bridge
        warnings.filterwarnings(
            "ignore", message="Hooked.* is deprecated", category=DeprecationWarning
        )
        return host.from_pretrained(name, device=device, dtype=dtype)


def hooked_class(name: str) -> type | None:
    """A class of TransformerLens, or None where the installed version has it no longer."""
    import transformer_lens

    try:
        return getattr(transformer_lens, name)
    except (AttributeError, ImportError):  # version 4 raises the latter for classes it removed
        return None


def _boot(name: str, device: str | None, dtype: torch.dtype) -> "TransformerBridge":
    """A bridge of a model by name or folder."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        name, device=device, dtype=dtype, tokenizer=_encoder_tokenizer(name)
    )
    _name_ends(bridge)
    if len(bridge.tokenizer) <= len(set(bridge.tokenizer.all_special_ids)):
        raise ModelLoadError(f"The tokenizer of {name!r} knows no words. {_LOADABLE}")
    return bridge


@contextmanager
def _load_errors(name: str) -> Iterator[None]:
    """Turns what Hugging Face and TransformerLens say of a name or folder into our error."""
    try:
        yield
    except CLVQError:
        raise
    except Exception as error:
        is_theirs = isinstance(error, OSError | ValueError | SafetensorError)
        if not is_theirs and not os.path.isdir(name):  # files of a folder may be anything
            raise
        raise ModelLoadError(
            f"TransformerLens cannot load {name!r}: {' '.join(str(error).split())} {_LOADABLE}"
        ) from error


def _own_tokenizer(model: Any, name: str) -> Any:
    """The tokenizer as it is without TransformerLens, which asks it to put BOS before texts."""
    from transformers import AutoTokenizer

    if not protocol_of(model).causal:
        return None
    return AutoTokenizer.from_pretrained(getattr(model.cfg, "tokenizer_name", None) or name)


def _encoder_tokenizer(name: str) -> Any:
    """The tokenizer of an encoder, as it is; None: TransformerLens is to load one with BOS.

    Asked to add BOS, transformers makes some tokenizers forget that they add SEP.
    """
    from transformer_lens.model_bridge.sources import transformers as source
    from transformer_lens.utilities.architectures import MASKED_LM_ARCHITECTURES
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(name)
    except OSError:
        return None  # a name that only TransformerLens knows, or one that it will complain of
    architecture = source.determine_architecture_from_hf_config(config)
    _check_architecture(architecture, name)
    if architecture not in MASKED_LM_ARCHITECTURES:
        return None
    return _copied(AutoTokenizer.from_pretrained(name))


def _check_model(hf_model: Any) -> None:
    """Raises `UnsupportedHostError` unless this is a language model without a bridge."""
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
    from transformers import PreTrainedModel

    kind = type(hf_model).__name__
    if not isinstance(hf_model, PreTrainedModel):
        raise UnsupportedHostError(
            f"{kind} is no Hugging Face model. Pass a transformers model, such as "
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


def _architecture(hf_model: Any) -> str:
    """What TransformerLens calls the model's class, or the class that it was derived from."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    for parent in type(hf_model).__mro__:
        if parent.__name__ in SUPPORTED_ARCHITECTURES:
            return parent.__name__
    raise UnsupportedHostError(
        f"TransformerLens has no bridge for {type(hf_model).__name__}. Load the model with its "
        f"language-model head: AutoModelForCausalLM or AutoModelForMaskedLM.from_pretrained(name); "
        f"a newer transformer-lens may know it: pip install -U transformer-lens."
    )


def _check_architecture(architecture: str, name: str) -> None:
    """Raises `UnsupportedHostError` for an encoder-decoder."""
    from transformer_lens.utilities.architectures import SEQ2SEQ_ARCHITECTURES

    if architecture in SEQ2SEQ_ARCHITECTURES:
        _refuse_encoder_decoder(name)


def _refuse_encoder_decoder(name: str) -> None:
    raise UnsupportedHostError(
        f"{name} is an encoder-decoder, which has two residual streams. Pass a decoder such as "
        f"GPT-2, or an encoder such as BERT."
    )


def _copied(tokenizer: Any) -> Any:
    """A copy that TransformerLens takes as it is, instead of loading it again by its name."""
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UnsupportedHostError(
            f"{type(tokenizer).__name__} is no Hugging Face tokenizer. Pass one, such as "
            f"AutoTokenizer.from_pretrained(name), or None."
        )
    tokenizer = copy.deepcopy(tokenizer)
    # Where a tokenizer does not put BOS before a text, the bridge does.
    tokenizer.init_kwargs |= {"name_or_path": tokenizer.name_or_path, "add_bos_token": True}
    return tokenizer


def _cast_(hf_model: Any, dtype: torch.dtype) -> None:
    """Casts parameters and no buffers: transformers keeps rotary frequencies in float32, too."""
    for parameter in hf_model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _name_ends(bridge: "TransformerBridge") -> None:
    """Makes CLS and SEP the beginning and end of an encoder's texts.

    TransformerLens names an end that BERT has not, which then stands for the unknown token; and
    it strips an end that it knows, which an encoder was trained to see.
    """
    from transformer_lens.utilities.architectures import MASKED_LM_ARCHITECTURES

    tokenizer = bridge.tokenizer
    if tokenizer is None or bridge.cfg.architecture not in MASKED_LM_ARCHITECTURES:
        return
    if tokenizer.cls_token is not None and tokenizer.sep_token is not None:
        tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    bridge.cfg.tokenizer_prepends_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    bridge.cfg.tokenizer_appends_eos = False
