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
PEAK = """
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
"""Says the peak until here, in KiB; a script may say it in between, too."""
# Freed memory goes back to the system at once: what counts is what is held, and not how the
# allocator of glibc is fragmented, which alone comes to a tenth from one run to the next.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_kib(script: str, *arguments: object) -> int:
    """Peak memory in KiB of the whole process that runs a script with ``sys.argv``."""
    return peaks_kib(script, *arguments)[-1]


def peaks_kib(script: str, *arguments: object) -> list[int]:
    """The peaks that a script says with `PEAK`, and that of the whole process."""
    return _numbers(HEAD + script + PEAK, *arguments)


def _numbers(script: str, *arguments: object) -> list[int]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return list(map(int, done.stdout.split()))


ANONYMOUS = """
import threading, time
peak, done = [0], threading.Event()

def anonymous_kib():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1])

def watch():
    while not done.wait(0.01):
        peak[0] = max(peak[0], anonymous_kib())

watcher = threading.Thread(target=watch)
watcher.start()
"""
ANONYMOUS_TAIL = """
done.set()
watcher.join()
print(peak[0])
"""


def peak_anonymous_kib(script: str, *arguments: object) -> int:
    """The same without files that are mapped into memory, which the system takes back as it likes.

    Looked at a hundred times a second; on Linux only.
    """
    return _numbers(HEAD + ANONYMOUS + script + ANONYMOUS_TAIL, *arguments)[-1]
