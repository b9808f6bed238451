"""Where the weights of a model go, and in how many bits they are kept."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from clvq_lens.arguments import check_is, check_positive
from clvq_lens.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

DeviceMap = str | Mapping[str, str | int]
"""A device for each module, by its name; or a word of accelerate that chooses them."""
_BITS = ("4bit", "8bit")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the weights of a model go, and in how many bits they are kept.

    Attributes:
        device: One device for the whole model; None: TransformerLens decides.
        device_map: A device for each part, as `transformers` takes it: "auto", "balanced", a
            device, or devices by the names of modules.
        n_devices: How many GPUs to spread the model over evenly.
        quantize: "4bit" (NF4) or "8bit", with bitsandbytes; or a quantization config of
            `transformers`.
    """

    device: str | None = None
    device_map: DeviceMap | None = None
    n_devices: int | None = None
    quantize: "str | QuantizationConfigMixin | None" = None

    def __post_init__(self) -> None:
        check_device(self.device)
        remedy = "Pass 'auto', a device, or a mapping from names of modules to devices."
        check_is("device_map", self.device_map, str | Mapping | None, remedy)
        places = {
            "device": self.device,
            "device_map": self.device_map,
            "n_devices": self.n_devices,
        }
        given = [name for name, value in places.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(
                f"{' and '.join(given)} both say where the model goes. Pass one of them."
            )
        self._check_n_devices()
        self._check_quantize()

    def _check_n_devices(self) -> None:
        if self.n_devices is None:
            return
        check_positive("n_devices", self.n_devices, whole=True)
        if self.quantize is not None:
            raise ConfigError(
                "n_devices spreads weights as they are, and not quantized ones. Pass "
                "device_map='balanced' instead."
            )
        n_there = torch.cuda.device_count()
        if self.n_devices > max(1, n_there):
            raise ConfigError(
                f"n_devices is {self.n_devices}, but there are {n_there} GPUs. Pass at most as "
                f"many, or device_map=."
            )

    def _check_quantize(self) -> None:
        if self.quantize is None:
            return
        from transformers import BitsAndBytesConfig
        from transformers.utils.quantization_config import QuantizationConfigMixin

        is_word = self.quantize in _BITS
        if not is_word and not isinstance(self.quantize, QuantizationConfigMixin):
            raise ConfigError(
                f"quantize is {self.quantize!r}. Pass '4bit', '8bit' or a quantization config of "
                f"transformers, such as BitsAndBytesConfig(load_in_4bit=True)."
            )
        needs_package = is_word or isinstance(self.quantize, BitsAndBytesConfig)
        if needs_package and importlib.util.find_spec("bitsandbytes") is None:
            raise MissingDependencyError(
                "Weights in 4 or 8 bits need bitsandbytes, which is not installed. Run: "
                "pip install bitsandbytes"
            )

    @property
    def is_plain(self) -> bool:
        """Whether the model is on one device, with weights as they are."""
        return self.device_map is None and self.n_devices is None and self.quantize is None

    @property
    def boot_options(self) -> dict[str, Any]:
        """What `TransformerBridge.boot_transformers` takes of it."""
        options: dict[str, Any] = {"device": self.device}
        if self.device_map is not None:
            options["device_map"] = _as_given(self.device_map)
        if self.n_devices is not None:
            options["n_devices"] = self.n_devices
        return options

    def quantized_model(self, name: str, dtype: torch.dtype) -> "PreTrainedModel | None":
        """The Hugging Face model with quantized weights; None if they stay as they are.

        TransformerLens loads none itself, and takes one that is loaded.

        Args:
            name: Name or folder of the model.
            dtype: Of all that is not quantized, and of computations.
        """
        if self.quantize is None:
            return None
        from transformer_lens.model_bridge.sources import transformers as source
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(name)
        architecture = source.determine_architecture_from_hf_config(config)
        model_class = source.get_hf_model_class_for_architecture(architecture)
        device_map = self.device_map if self.device is None else {"": self.device}
        return model_class.from_pretrained(
            name,
            dtype=dtype,
            quantization_config=self._quantization_config(dtype),
            device_map=None if device_map is None else _as_given(device_map),
            attn_implementation="eager",  # as TransformerLens loads models, for its hook points
        )

    def _quantization_config(self, dtype: torch.dtype) -> Any:
        from transformers import BitsAndBytesConfig

        if self.quantize == "4bit":
            return BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        if self.quantize == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True)
        return self.quantize


def check_device(device: str | None) -> None:
    """Raises `ConfigError` unless torch can put something on the device."""
    if device is None:
        return
    try:
        torch.empty(1, device=device).tolist()  # on "meta", tensors can be made but hold no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ConfigError(
            f"device is {device!r}, where torch can put nothing here: {reason}. "
            f"Pass one that it can use, such as 'cpu'."
        ) from error


def quantization_of(hf_config: object) -> str | None:
    """How the weights of a Hugging Face model are quantized, such as "bitsandbytes 4-bit".

    Args:
        hf_config: The configuration of the model.

    Returns:
        Method and bits, as far as they are known; None if the weights are not quantized.
    """
    config = getattr(hf_config, "quantization_config", None)
    if config is None:
        return None
    options: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    method = options.get("quant_method")
    words = [str(getattr(method, "value", method or "quantized"))]
    bits = options.get("bits")
    for n_bits in (4, 8):
        if options.get(f"load_in_{n_bits}bit") or options.get(f"_load_in_{n_bits}bit"):
            bits = n_bits
    if bits is not None:
        words.append(f"{bits}-bit")
    return " ".join(words)


def _as_given(device_map: DeviceMap) -> DeviceMap:
    return device_map if isinstance(device_map, str) else dict(device_map)
