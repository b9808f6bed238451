"""How many floating-point operations something takes, and how fast bare products are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.timing import device
from clvq_lens.training.loop import Training
from clvq_lens.training.prediction import EncoderTraining

_Shape = tuple[int, ...]


def _attention(query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: _Shape, query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# Attention on the CPU, which torch does not count by itself.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def flops_of(work: Callable[[], object]) -> int:
    """Floating-point operations of all matrix products in some work, which is done once."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        work()
    return counter.get_total_flops()


class StepFlops:
    """Floating-point operations of all steps of a fit: of its encoder, codes and decoder."""

    def __init__(self) -> None:
        self.n = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """While open, steps are counted, which makes them slower."""
        steps = EncoderTraining._learn_from, Training.train_step
        EncoderTraining._learn_from = self._counted(steps[0])
        Training.train_step = self._counted(steps[1])
        try:
            yield
        finally:
            EncoderTraining._learn_from, Training.train_step = steps

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            results: list[Any] = []
            self.n += flops_of(lambda: results.append(step(*arguments)))
            return results[0]

        return counted


class BareProduct:
    """A product of about the size that a layer of a quantizer has: tokens by width by 4 x width.

    Args:
        n_tokens: Tokens of a step.
        width: Width of the activations.
        least_flops: It is repeated until it has as many, or one could not be timed.
    """

    def __init__(self, n_tokens: int, width: int, least_flops: float = 2e10) -> None:
        generator = torch.Generator(device()).manual_seed(0)
        self._a = torch.randn(n_tokens, width, generator=generator, device=device())
        self._b = torch.randn(width, 4 * width, generator=generator, device=device())
        of_one = 2 * n_tokens * width * 4 * width
        self._n_times = max(1, round(least_flops / of_one))
        self.flops = of_one * self._n_times

    def __call__(self) -> None:
        for _ in range(self._n_times):
            self._a @ self._b
