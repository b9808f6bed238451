"""GPUs by name: what their data sheets say, without sparsity. Imports nothing heavy."""

from dataclasses import dataclass

from clvq_lens.errors import ConfigError


@dataclass(frozen=True)
class GPU:
    """A kind of GPU.

    Attributes:
        name: Its name.
        half_flops: Operations per second of dense matrix products in bfloat16, or in float16 where
            there is no bfloat16.
        float32_flops: The same in float32, in which a quantizer computes.
        memory_bytes: Size of its memory.
    """

    name: str
    half_flops: float
    float32_flops: float
    memory_bytes: int

    def flops(self, item_bytes: int) -> float:
        """Operations per second of dense matrix products.

        Args:
            item_bytes: Size of a number, such as ``dtype.itemsize``.
        """
        return self.half_flops if item_bytes <= 2 else self.float32_flops


# Data sheets of the vendor, SXM where there are several. TFLOPS of dense matrices, GiB.
_SHEET = (
    ("V100", 125, 15.7, 32),
    ("T4", 65, 8.1, 16),
    ("A10", 125, 31.2, 24),
    ("A100-40GB", 312, 19.5, 40),
    ("A100-80GB", 312, 19.5, 80),
    ("L4", 121, 30.3, 24),
    ("L40S", 362, 91.6, 48),
    ("RTX 3090", 71, 35.6, 24),
    ("RTX 4090", 165, 82.6, 24),
    ("H100", 989, 67, 80),
    ("H200", 989, 67, 141),
    ("B200", 2250, 75, 180),
)
GPUS = {
    name: GPU(name, half * 1e12, float32 * 1e12, memory * 2**30)
    for name, half, float32, memory in _SHEET
}
"""All that are known, by name."""


def gpu_named(name: str) -> GPU:
    """A kind of GPU.

    Raises:
        ConfigError: If the name is unknown.
    """
    for known, gpu in GPUS.items():
        if known.lower() == name.lower():
            return gpu
    raise ConfigError(f"No GPU {name!r} is known. Pass one of: {', '.join(GPUS)}.")
