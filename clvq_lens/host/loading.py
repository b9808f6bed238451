"""Models to attach to: pretrained ones by name or folder, and live Hugging Face models."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from safetensors import SafetensorError

from clvq_lens.arguments import check_is
from clvq_lens.config import DtypeName
from clvq_lens.errors import CLVQError, ConfigError, ModelLoadError
from clvq_lens.host.placement import DeviceMap, Placement, quantization_of
from clvq_lens.host.protocol.choice import protocol_of
from clvq_lens.host.supported import (
    architecture_of,
    check_architecture,
    checked_model,
    checked_tokenizer,
    copied_tokenizer,
    is_encoder,
)
from clvq_lens.host.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase
    from transformers.utils.quantization_config import QuantizationConfigMixin

_log = logging.getLogger(__name__)
_DTYPES = tuple(getattr(torch, name) for name in get_args(DtypeName))  # of weights
_REMEDY = (
    "Pass the name of a language model on the Hugging Face hub, or a folder that has model and "
    "tokenizer, as their save_pretrained(folder) writes them."
)


def from_hf(
    hf_model: object,
    tokenizer: object = None,
    *,
    name: str | None = None,
    dtype: torch.dtype | str | None = None,
    prepend_bos: bool | None = None,
) -> "TransformerBridge":
    """A TransformerLens bridge of a Hugging Face model that you have in memory.

    Nothing is downloaded or moved: the bridge has the device and the mode (train or eval) of the
    model, and a model without trainable parameters stays one without.

    The bridge takes over ``hf_model`` in place. Its parameters stay the same tensors, and calling
    it gives the same logits up to rounding; but its modules are wrapped, so that hooks of the
    bridge also run when you call ``hf_model`` itself, the names in its ``state_dict()`` change,
    and saving it may fail. TransformerLens may add parameters: copies of the queries, keys and
    values of a joint projection, which are then used in its place, and a zero bias of the
    unembedding. Pass ``copy.deepcopy(hf_model)`` to keep yours as it was. The tokenizer is copied.

    A model that ``from_pretrained(..., device_map=, quantization_config=)`` spread over devices or
    quantized stays so.

    Args:
        hf_model: A causal or masked language model of transformers.
        tokenizer: Its tokenizer; None: the bridge reads tokens only.
        name: Name of the bridge, which quantizers remember; None: the name that the model was
            loaded by, or else its class.
        dtype: Weights are cast to it, such as "float32". None: they stay as they are, and the log
            says so once if that is half precision, in which transformers loads many models and
            which is slow on a CPU.
        prepend_bos: Whether a causal model reads a beginning token (BOS) before each text. None:
            as TransformerLens decides, and the log says so once if the tokenizer does not put one
            there by itself.

    Returns:
        The bridge; attach with ``.add_clvq(source, target)``.

    Raises:
        ConfigError: If the dtype is unknown, or passed for quantized weights; or if
            ``prepend_bos`` is passed for an encoder.
        UnsupportedHostError: If model or tokenizer are something else, TransformerLens does not
            know the architecture, or the model has a bridge already.

    Example:
        >>> lens = cl.from_hf(hf_model, tokenizer).add_clvq(4, 8)  # doctest: +SKIP
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    # Everything is checked before anything is done to the model.
    model = checked_model(hf_model)
    wanted_dtype = None if dtype is None else check_dtype(dtype)
    quantization = quantization_of(model.config)
    if wanted_dtype is not None and quantization is not None:
        raise ConfigError(
            f"dtype is {dtype!r}, but the weights of this model are quantized ({quantization}) and "
            f"cannot be cast. Leave dtype out here, and pass it to from_pretrained."
        )
    own_tokenizer = None if tokenizer is None else checked_tokenizer(tokenizer)
    copied = None if own_tokenizer is None else copied_tokenizer(own_tokenizer)
    architecture = architecture_of(model)
    was_frozen = not any(parameter.requires_grad for parameter in model.parameters())
    if wanted_dtype is not None:
        _cast_(model, wanted_dtype)
    with torch.random.fork_rng(devices=[]):  # the bridge draws weights before it fills them
        bridge = build_bridge_from_module(
            model,
            architecture,
            hf_config=model.config,
            tokenizer=copied,
            model_name=name or model.config.name_or_path or type(model).__name__,
        )
    if was_frozen:
        for parameter in bridge.parameters():  # also those that the bridge has added
            parameter.requires_grad_(False)
    # TransformerLens sets it for models that it loads, and moves tokens and caches by it.
    bridge.cfg.n_devices = len({parameter.device for parameter in model.parameters()})
    _name_ends(bridge)
    choose_bos_(bridge, prepend_bos, own_tokenizer)
    _say_dtype(bridge, was_chosen=wanted_dtype is not None)
    return bridge


def _say_dtype(bridge: "TransformerBridge", *, was_chosen: bool) -> None:
    """Says in the log which dtype a bridge has, and that half precision is slow on a CPU."""
    name, dtype = bridge.cfg.model_name, _name_of(bridge.cfg.dtype)
    is_slow = bridge.cfg.dtype != torch.float32 and str(bridge.cfg.device) == "cpu"
    if is_slow and not was_chosen:
        _log.warning(
            "%s stays in %s, as it is in memory. On a CPU float32 is several times as fast: pass "
            "dtype='float32', or dtype='%s' to keep it without this line.",
            *(name, dtype, dtype),
        )
    else:
        _log.info("%s is in %s.", name, dtype)


def load_pretrained(
    name: str | os.PathLike[str],
    device: str | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    prepend_bos: bool | None = None,
    device_map: DeviceMap | None = None,
    n_devices: int | None = None,
    quantize: "str | QuantizationConfigMixin | None" = None,
) -> Any:
    """A pretrained model, from the Hugging Face hub, its local cache, or a folder.

    A model that is spread over devices or quantized is always a `TransformerBridge`.

    Args:
        name: A name that TransformerLens or Hugging Face knows, or a folder with a Hugging Face
            model and its tokenizer.
        device: Device for the model; None: TransformerLens decides.
        dtype: Dtype for its weights, such as "bfloat16", which the log repeats; None: float32,
            whatever it was saved in, and bfloat16 beside quantized weights.
        prepend_bos: As for `from_hf`.
        device_map: A device for each part, as `transformers` takes it: "auto", "balanced", or
            devices by the names of modules.
        n_devices: How many GPUs to spread the model over evenly.
        quantize: "4bit" (NF4) or "8bit", with bitsandbytes; or a quantization config of
            `transformers`. Codes that were fitted on quantized weights fit these alone.

    Returns:
        A `HookedTransformer`, or a `HookedEncoder` for a BERT-like model, where the installed
        TransformerLens has these and knows the name; else a `TransformerBridge`.

    Raises:
        ModelLoadError: If the model cannot be found or read.
        UnsupportedHostError: If a quantizer cannot be attached to it.
        ConfigError: If an option is impossible, two of them say where the model goes, or
            ``prepend_bos`` is passed for an encoder.
        MissingDependencyError: If bitsandbytes is needed and not installed.
    """
    placement = Placement(
        device=device, device_map=device_map, n_devices=n_devices, quantize=quantize
    )
    check_is("The model", name, str | os.PathLike, "Pass a name, or a folder.")
    name = os.fspath(name)
    default = torch.float32 if quantize is None else torch.bfloat16
    wanted_dtype = default if dtype is None else check_dtype(dtype)
    with _load_errors(name):
        model = _load_by_name(name, placement, wanted_dtype)
        own_tokenizer = _own_tokenizer(model, name)
    choose_bos_(model, prepend_bos, own_tokenizer)
    _log.info("%s is loaded in %s on %s.", name, _name_of(model.cfg.dtype), model.cfg.device)
    return model


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The dtype that a name stands for.

    Raises:
        ConfigError: If models cannot have weights of that dtype.
    """
    named: object = dtype
    if isinstance(dtype, str):
        named = getattr(torch, dtype.removeprefix("torch."), None)  # torch has other things, too
    if not isinstance(named, torch.dtype) or named not in _DTYPES:
        names = ", ".join(repr(_name_of(known)) for known in _DTYPES)
        raise ConfigError(f"dtype is {dtype!r}. Pass one of {names}.")
    return named


def choose_bos_(
    model: Any, prepend_bos: bool | None, tokenizer: "PreTrainedTokenizerBase | None"
) -> None:
    """Decides whether a model reads BOS before each text; the log says so if the user did not.

    Args:
        model: A causal model; the tokenizer of an encoder decides by itself.
        prepend_bos: Whether the model reads BOS; None: it goes on as it does.
        tokenizer: The model's own tokenizer, as it was before TransformerLens changed it; None:
            the model has none.

    Raises:
        ConfigError: If ``prepend_bos`` is given for an encoder.
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
        # The tokenizer adds BOS by itself if it makes as many tokens as the model reads.
        read = Vocabulary(model).tokenize(["a"])[0].tolist()
        if len(read) > len(tokenizer("a")["input_ids"]):
            _log.warning(
                "%s: %r is put before each text, as TransformerLens does by default; the "
                "tokenizer by itself does not. Pass prepend_bos=False to leave it out, or "
                "prepend_bos=True to keep it without this line.",
                *(model.cfg.model_name, model.tokenizer.decode(read[:1])),
            )


def _load_by_name(name: str, placement: Placement, dtype: torch.dtype) -> Any:
    """A model by name or folder: a hooked class where TransformerLens has one, else a bridge."""
    has_hooked = hooked_class("HookedTransformer") is not None
    if Path(name).is_dir() or not has_hooked or not placement.is_plain:
        return _boot(name, placement, dtype)
    from transformer_lens import loading_from_pretrained as known

    try:
        known.get_official_model_name(name)
    except ValueError:
        return _boot(name, placement, dtype)
    # Refused from its configuration alone, before any weights are downloaded.
    architecture = str(known.get_pretrained_model_config(name, device="cpu").original_architecture)
    check_architecture(architecture, name)
    host: Any = hooked_class("HookedEncoder" if is_encoder(architecture) else "HookedTransformer")
    with warnings.catch_warnings():  # the newest versions point to the bridge
        warnings.filterwarnings(
            "ignore", message="Hooked.* is deprecated", category=DeprecationWarning
        )
        return host.from_pretrained(name, device=placement.device, dtype=dtype)


def hooked_class(name: str) -> type | None:
    """A class of TransformerLens; None where the installed version no longer has it."""
    import transformer_lens

    try:
        return getattr(transformer_lens, name)
    except (AttributeError, ImportError):  # version 4 raises the latter for classes it removed
        return None


def _boot(name: str, placement: Placement, dtype: torch.dtype) -> "TransformerBridge":
    """A bridge of a model by name or folder."""
    from transformer_lens.model_bridge import TransformerBridge

    # First, because it refuses what is no such model before weights are downloaded.
    tokenizer = _encoder_tokenizer(name)
    options = placement.boot_options
    quantized = placement.quantized_model(name, dtype)
    if quantized is not None:  # which lies where it was put
        options = {"hf_model": quantized, "device": str(next(quantized.parameters()).device)}
    bridge = TransformerBridge.boot_transformers(name, dtype=dtype, tokenizer=tokenizer, **options)
    _name_ends(bridge)
    # From a folder without a tokenizer, transformers makes one that has special tokens only.
    if len(bridge.tokenizer) <= len(set(bridge.tokenizer.all_special_ids)):
        raise ModelLoadError(f"The tokenizer of {name!r} knows no words. {_REMEDY}")
    return bridge


@contextmanager
def _load_errors(name: str) -> Iterator[None]:
    """Turns errors of Hugging Face and TransformerLens about a name or folder into ours."""
    try:
        yield
    except CLVQError:
        raise
    except Exception as error:
        is_expected = isinstance(error, OSError | ValueError | SafetensorError)
        # Files of a folder may hold anything, and so raise anything.
        if not is_expected and not os.path.isdir(name):
            raise
        reason = " ".join(str(error).split())
        raise ModelLoadError(f"TransformerLens cannot load {name!r}: {reason} {_REMEDY}") from error


def _own_tokenizer(model: Any, name: str) -> "PreTrainedTokenizerBase | None":
    """The tokenizer as transformers loads it; TransformerLens asks it to put BOS before texts."""
    from transformers import AutoTokenizer

    if not protocol_of(model).causal:
        return None
    return AutoTokenizer.from_pretrained(getattr(model.cfg, "tokenizer_name", None) or name)


def _encoder_tokenizer(name: str) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of an encoder, unchanged; None for other models.

    TransformerLens would ask transformers to add BOS, and then some tokenizers no longer add SEP.
    """
    from transformer_lens.model_bridge.sources import transformers as source
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(name)
    except OSError:
        return None  # a name that only TransformerLens knows, or that it will refuse itself
    architecture = source.determine_architecture_from_hf_config(config)
    check_architecture(architecture, name)
    if not is_encoder(architecture):
        return None
    return copied_tokenizer(AutoTokenizer.from_pretrained(name))


def _cast_(hf_model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Casts parameters but no buffers: transformers also keeps rotary frequencies in float32."""
    for parameter in hf_model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _name_ends(bridge: "TransformerBridge") -> None:
    """Makes CLS and SEP the beginning and end of an encoder's texts.

    TransformerLens names an end token that BERT does not have, so that it becomes the unknown
    token; and it strips an end token that it knows, which an encoder was trained to see.
    """
    tokenizer = bridge.tokenizer
    if tokenizer is None or not is_encoder(str(bridge.cfg.architecture)):
        return
    if tokenizer.cls_token is not None and tokenizer.sep_token is not None:
        tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    bridge.cfg.tokenizer_prepends_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    bridge.cfg.tokenizer_appends_eos = False
