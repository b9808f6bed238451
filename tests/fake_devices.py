"""A second device that needs no hardware: CPU tensors that refuse to be mixed with others.

While `second_device` is open, ``tensor.to(SECOND)`` and ``torch.zeros(..., device=SECOND)`` give
tensors whose ``.device`` is `SECOND`. Their numbers are computed on the CPU, by the same kernels
in the same order, so results have the same bits as without it; but an operation on tensors of
both devices fails as torch's own do, in backward passes too. As in torch, indices and single
numbers may lie on the CPU. It does not notice a generator of another device.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

FIRST, SECOND = torch.device("cpu"), torch.device("cpu", 1)
_aten = torch.ops.aten
_COPIES = {_aten.copy_, _aten._copy_from}
_TAKES_INDICES = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}


class _TypeOfTensor(type(Tensor)):
    """Equal to `torch.Tensor`: on other devices that is the type of tensors, as some check."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is Tensor

    __hash__ = type.__hash__


class _Tensor(Tensor, metaclass=_TypeOfTensor):
    """A tensor on the second device, around the CPU tensor that has its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "_Tensor":
        with torch.inference_mode(inner.is_inference()):  # views of weights are none in there
            tensor = Tensor._make_wrapper_subclass(
                cls,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=SECOND,
            )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Fails: numpy has no other devices."""
        raise TypeError(f"can't convert {self.device} device type tensor to numpy.")

    __array__ = numpy

    def tolist(self) -> Any:
        """Numbers come from any device."""
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"{self.inner!r} on {self.device}"


class _Generator(torch.Generator):
    """Says of what device it is; draws what one of the CPU would draw."""

    place: torch.device

    def __new__(cls, device: torch.device | str = FIRST) -> "_Generator":
        generator = super().__new__(cls)
        generator.place = torch.device(device)
        return generator

    @property
    def device(self) -> torch.device:
        return self.place


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with self:  # under inference_mode, operations arrive that are made of others
            found = function.decompose(*args, **(kwargs or {}))
        return _run(function, args, kwargs or {}) if found is NotImplemented else found


@contextmanager
def second_device() -> Iterator[None]:
    """While open, there is a second device."""
    future = torch.__future__
    replaced = future.get_overwrite_module_params_on_conversion()
    # Into a parameter that is there, torch would copy a tensor's address, which has no content.
    future.set_overwrite_module_params_on_conversion(True)
    with (
        mock.patch.object(torch, "Generator", _Generator),
        mock.patch.object(torch, "tensor", _made_there(torch.tensor)),
        mock.patch.object(torch, "as_tensor", _made_there(torch.as_tensor)),
        _Watch(),
    ):
        try:
            yield
        finally:
            future.set_overwrite_module_params_on_conversion(replaced)


def _made_there(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """These two copy data behind the back of everything that listens to operations."""

    def make_there(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        made = make(*args, **kwargs)
        return made if device is None else made.to(device)

    return make_there


def _run(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the CPU; its results are where torch would put them."""
    device = _place(function, args, kwargs)
    inner_args, inner_kwargs = tree_map_only(_Tensor, lambda t: t.inner, (tuple(args), kwargs))
    if "device" in kwargs:
        inner_kwargs["device"] = FIRST
    found = function(*inner_args, **inner_kwargs)
    if torch.Tag.inplace_view in function.tags and device == SECOND:
        with torch._C._DisableTorchDispatch():  # the outer tensor has a shape of its own
            function(*args, **kwargs)
    if function._schema.is_mutable and isinstance(found, Tensor):
        return kwargs.get("out", args[0])
    return tree_map_only(Tensor, _Tensor, found) if device == SECOND else found


def _place(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> torch.device:
    """Where the result of an operation is.

    Raises:
        RuntimeError: If its tensors are on two devices.
    """
    operation, operands = function.overloadpacket, [*args, *kwargs.values()]
    if operation in _TAKES_INDICES:
        indices = [t.device for t in tree_leaves(operands.pop(1)) if isinstance(t, Tensor)]
        if not {FIRST, args[0].device}.issuperset(indices):
            raise RuntimeError(
                f"indices should be either on cpu or on the same device as the indexed tensor "
                f"({args[0].device})"
            )
    if operation in _COPIES:
        return args[0].device
    tensors = [value for value in tree_leaves(operands) if isinstance(value, Tensor)]
    places = {t.device for t in tensors if t.ndim or t.device == SECOND}
    if len(places) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{FIRST} and {SECOND}! (in {function})"
        )
    return kwargs.get("device") or next(iter(places), FIRST)


def moved(value: Any, device: torch.device) -> Any:
    """Every tensor in a nest of tuples, lists and dicts, on a device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


def move_inputs(module: torch.nn.Module, device: torch.device) -> Any:
    """From now on a module's inputs come to its device, as accelerate does it."""

    def move(module: Any, args: Any, kwargs: Any) -> Any:
        return moved((args, kwargs), device)

    return module.register_forward_pre_hook(move, with_kwargs=True)
