"""The memory of a concept table does not grow with the corpus."""

import pytest

import clvq_lens as cl
from tests.peak_memory import PEAK, peaks_kib

# One process for both: a second one would import everything and fit again.
TABLES = f"""
model, texts = cl.toy.load(n_texts=100)
lens = model.add_clvq(0, 1, n_codes=32, decoder="mlp", decoder_layers=1)
lens.fit(texts, n_tokens=4_000, n_evaluations=1, progress=False)
lens.concepts(sys.argv[1], progress=False)
{PEAK}
lens.concepts(sys.argv[2], progress=False)
"""


@pytest.mark.slow
def test_ten_times_the_corpus_takes_at_most_a_tenth_more_memory(tmp_path):
    # The smaller one fills a window of documents already, whose batches are the widest.
    texts = cl.toy.generate(10_000, seed=7)
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("\n".join(texts[:1_000]))
    large.write_text("\n".join(texts))
    of_small, of_both = peaks_kib(TABLES, small, large)
    assert of_both <= 1.1 * of_small
