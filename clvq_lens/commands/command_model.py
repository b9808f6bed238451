"""The model that a command names."""

from typing import Any

from clvq_lens import toy
from clvq_lens.errors import ConfigError
from clvq_lens.host.loading import check_dtype, choose_bos_, load_pretrained
from clvq_lens.host.placement import DeviceMap, Placement


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    prepend_bos: bool | None = None,
    device_map: DeviceMap | None = None,
    quantize: str | None = None,
) -> Any:
    """A pretrained model by its name or folder, or the toy model.

    Args:
        name: Name on the Hub, path of a folder, or "toy".
        device: Device of the model, such as "cuda"; None: chosen for the model.
        dtype: Type of its weights, such as "bfloat16"; None: float32.
        prepend_bos: Whether texts begin with BOS; None: as TransformerLens does for this model.
        device_map: Devices of its parts, such as "auto"; None: it has one device.
        quantize: Bits of its weights, "4bit" or "8bit"; None: they stay as they are.

    Raises:
        ConfigError: If an option is impossible, or not one for the toy model.
        MissingDependencyError: If bitsandbytes is needed and not installed.
        ModelLoadError: If the model cannot be loaded.
    """
    if name != "toy":
        return load_pretrained(
            name,
            device,
            dtype=dtype,
            prepend_bos=prepend_bos,
            device_map=device_map,
            quantize=quantize,
        )
    if not Placement(device=device, device_map=device_map, quantize=quantize).is_plain:
        raise ConfigError(
            "The toy model is small: it is not spread over devices or quantized. Leave "
            "--device-map and --quantize out."
        )
    # Only the model is needed, and `toy.load` makes at least one text.
    model = toy.load(n_texts=1, device=device or "cpu").model
    if dtype is not None:
        model.to(check_dtype(dtype))
    choose_bos_(model, prepend_bos, None)
    return model
