"""The memory of a concept table does not grow with the corpus."""

import subprocess
import sys

import pytest

import clvq_lens as cl

# A process of its own: peak memory is that of the whole process.
TABLE = """
import resource, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import clvq_lens as cl

model, texts = cl.toy.load(n_texts=100)
lens = model.add_clvq(0, 1, n_codes=32, decoder="mlp", decoder_layers=1)
lens.fit(texts, n_tokens=4_000, n_evaluations=1, progress=False)
lens.concepts(sys.argv[1], progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(path) -> int:
    command = [sys.executable, "-c", TABLE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_ten_times_the_corpus_takes_at_most_a_tenth_more_memory(tmp_path):
    texts = cl.toy.generate(5_000, seed=7)
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("\n".join(texts[:500]))
    large.write_text("\n".join(texts))
    assert peak_kib(large) <= 1.1 * peak_kib(small)
