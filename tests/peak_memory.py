"""The peak memory of a script, in a process of its own."""

import os
import subprocess
import sys

HEAD = """
import resource, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import clvq_lens as cl
"""
TAIL = """
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
# Freed memory goes back to the system at once: what counts is what is held, and not how the
# allocator of glibc is fragmented, which alone comes to a tenth from one run to the next.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_kib(script: str, *arguments: object) -> int:
    """Peak memory in KiB of the whole process that runs a script with ``sys.argv``."""
    command = [sys.executable, "-c", HEAD + script + TAIL, *map(str, arguments)]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.split()[-1])
