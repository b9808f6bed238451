"""Memory does not grow with the corpus."""

import pytest

import clvq_lens as cl
from tests.peak_memory import peak_kib

FIT = """
model, _ = cl.toy.load(n_texts=1)
lens = model.add_clvq(0, 1, n_codes=32, decoder="mlp", decoder_layers=1)
options = dict(buffer_tokens=2**11, n_evaluations=4, progress=False)
lens.fit(sys.argv[1], n_tokens=int(sys.argv[2]), **options)
"""


@pytest.mark.slow
def test_ten_times_the_corpus_takes_at_most_a_tenth_more_memory(tmp_path):
    texts = cl.toy.generate(4_000, seed=7)
    n_tokens = sum(len(text.split()) for text in texts)
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("\n".join(texts[:400]))
    large.write_text("\n".join(texts))
    assert peak_kib(FIT, large, n_tokens) <= 1.1 * peak_kib(FIT, small, n_tokens // 10)
