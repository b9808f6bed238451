"""Memory does not grow with the corpus."""

import pytest

import clvq_lens as cl
from tests.peak_memory import PEAK, peaks_kib

# One process for both: a second one would import everything again.
FITS = f"""
model, _ = cl.toy.load(n_texts=1)
lens = model.add_clvq(0, 1, n_codes=32, decoder="mlp", decoder_layers=1)
options = dict(buffer_tokens=2**11, n_evaluations=4, progress=False)
lens.fit(sys.argv[1], n_tokens=int(sys.argv[2]), **options)
{PEAK}
lens.fit(sys.argv[3], n_tokens=int(sys.argv[4]), **options)
"""


@pytest.mark.slow
def test_ten_times_the_corpus_takes_at_most_a_tenth_more_memory(tmp_path):
    texts = cl.toy.generate(4_000, seed=7)
    n_tokens = sum(len(text.split()) for text in texts)
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("\n".join(texts[:400]))
    large.write_text("\n".join(texts))
    of_small, of_both = peaks_kib(FITS, small, n_tokens // 10, large, n_tokens)
    assert of_both <= 1.1 * of_small
