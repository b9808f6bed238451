"""GPUs by name: what their data sheets say, without sparsity."""

from dataclasses import dataclass

from clvq_lens.errors import ConfigError


@dataclass(frozen=True)
class GPU:
    """A kind of GPU.

    Attributes:
        name: Its name.
        matrix_flops: Operations per second of dense matrix products in bfloat16, or in float16
            where there is no bfloat16.
        memory_bytes: Size of its memory.
        bytes_per_s: Bandwidth of its memory.
    """

    name: str
    matrix_flops: float
    memory_bytes: int
    bytes_per_s: float


# Data sheets of the vendor, SXM where there are several. TFLOPS of dense matrices, GiB, GB/s.
_SHEET = (
    ("V100", 125, 32, 900),
    ("T4", 65, 16, 320),
    ("A10", 125, 24, 600),
    ("A100-40GB", 312, 40, 1555),
    ("A100-80GB", 312, 80, 2039),
    ("L4", 121, 24, 300),
    ("L40S", 362, 48, 864),
    ("RTX 3090", 71, 24, 936),
    ("RTX 4090", 165, 24, 1008),
    ("H100", 989, 80, 3350),
    ("H200", 989, 141, 4800),
    ("B200", 2250, 180, 8000),
)
GPUS = {
    name: GPU(name, flops * 1e12, memory * 2**30, bandwidth * 1e9)
    for name, flops, memory, bandwidth in _SHEET
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
