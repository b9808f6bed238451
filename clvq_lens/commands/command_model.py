"""The model that a command names."""

from typing import Any

from clvq_lens import toy
from clvq_lens.host.loading import check_device, check_dtype, choose_bos_, load_pretrained


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    prepend_bos: bool | None = None,
) -> Any:
    """A pretrained model by its name or folder, or the toy model.

    Args:
        name: Name on the Hub, path of a folder, or "toy".
        device: Device of the model, such as "cuda"; None: chosen for the model.
        dtype: Type of its weights, such as "bfloat16"; None: float32.
        prepend_bos: Whether texts begin with BOS; None: as TransformerLens does for this model.

    Raises:
        ConfigError: If the device or the dtype does not exist.
        ModelLoadError: If the model cannot be loaded.
    """
    if name != "toy":
        return load_pretrained(name, device, dtype=dtype, prepend_bos=prepend_bos)
    check_device(device)
    # Only the model is needed, and `toy.load` makes at least one text.
    model = toy.load(n_texts=1, device=device or "cpu").model
    if dtype is not None:
        model.to(check_dtype(dtype))
    choose_bos_(model, prepend_bos, None)
    return model
