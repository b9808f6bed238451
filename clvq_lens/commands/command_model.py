"""The model that a command names, and how it is loaded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clvq_lens import toy
from clvq_lens.commands.together import device_of_process, started_together
from clvq_lens.errors import ConfigError
from clvq_lens.host.loading import check_dtype, choose_bos_, load_pretrained
from clvq_lens.host.placement import DeviceMap, Placement


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model that a command names, and how it is loaded.

    Attributes:
        name: Name on the Hub, path of a folder, or "toy".
        device: Device of the model, such as "cuda"; None: chosen for the model.
        dtype: Type of its weights, such as "bfloat16"; None: float32.
        prepend_bos: Whether texts begin with BOS; None: as TransformerLens does for this model.
        device_map: Devices of its parts, such as "auto"; None: it has one device.
        quantize: Bits of its weights, "4bit" or "8bit"; None: they stay as they are.

    Raises:
        ConfigError: If an option is impossible.
        MissingDependencyError: If bitsandbytes is needed and not installed.
    """

    name: str
    device: str | None = None
    dtype: str | None = None
    prepend_bos: bool | None = None
    device_map: DeviceMap | None = None
    quantize: str | None = None

    def __post_init__(self) -> None:
        self._placement()  # checks them
        if self.dtype is not None:
            check_dtype(self.dtype)

    def _placement(self) -> Placement:
        return Placement(device=self.device, device_map=self.device_map, quantize=self.quantize)

    @property
    def lasting_name(self) -> str:
        """The name, with an absolute path: a later command may be called from another folder."""
        return str(Path(self.name).absolute()) if Path(self.name).is_dir() else self.name

    def of_process(self) -> "ModelChoice":
        """The same on the device of this process, where several work together.

        Raises:
            ConfigError: If no device is this process's alone.
        """
        if started_together() and self.device_map is not None:
            raise ConfigError(
                "--device-map spreads a model over all devices, and here each process has a model "
                "of its own. Leave it out, or start a single process without torchrun."
            )
        return replace(self, device=device_of_process(self.device))

    def load(self) -> Any:
        """The model.

        Raises:
            ConfigError: If an option is not one for the toy model.
            ModelLoadError: If the model cannot be loaded.
        """
        if self.name != "toy":
            return load_pretrained(
                self.name,
                self.device,
                dtype=self.dtype,
                prepend_bos=self.prepend_bos,
                device_map=self.device_map,
                quantize=self.quantize,
            )
        if not self._placement().is_plain:
            raise ConfigError(
                "The toy model is small: it is not spread over devices or quantized. Leave "
                "--device-map and --quantize out."
            )
        # Only the model is needed, and `toy.load` makes at least one text.
        model = toy.load(n_texts=1, device=self.device or "cpu").model
        if self.dtype is not None:
            model.to(check_dtype(self.dtype))
        choose_bos_(model, self.prepend_bos, None)
        return model
