"""Memory does not grow with the corpus."""

import os
import subprocess
import sys

import pytest

# A process of its own: peak memory is that of the whole process.
FIT = """
import resource, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import clvq_lens as cl

model, _ = cl.toy.load(n_texts=1)
lens = model.add_clvq(0, 1, n_codes=32, decoder="mlp", decoder_layers=1)
options = dict(buffer_tokens=2**11, n_evaluations=4, progress=False)
lens.fit(sys.argv[1], n_tokens=int(sys.argv[2]), **options)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(path, n_tokens) -> int:
    command = [sys.executable, "-c", FIT, str(path), str(n_tokens)]
    # Freed memory goes back to the system at once: what counts is what is held, and not how the
    # allocator of glibc is fragmented, which alone comes close to a tenth after many steps.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = {**os.environ, **allocator}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_ten_times_the_corpus_takes_at_most_a_tenth_more_memory(toy, tmp_path):
    import clvq_lens as cl

    texts = cl.toy.generate(4_000, seed=7)
    n_tokens = sum(len(text.split()) for text in texts)
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("\n".join(texts[:400]))
    large.write_text("\n".join(texts))
    assert peak_kib(large, n_tokens) <= 1.1 * peak_kib(small, n_tokens // 10)
