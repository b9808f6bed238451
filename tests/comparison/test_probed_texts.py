import numpy as np
import pytest
from tqdm.auto import tqdm

from clvq_lens.comparison.probed_texts import ProbedTexts, read_probed
from clvq_lens.faithfulness.tokenized_texts import TokenizedTexts

TEXTS = ["emma left the bank", "at dusk the car rolled here", "we", "the car we hit rolled indoors"]


@pytest.fixture(scope="module")
def lenses(toy):
    """Two that read different layers."""
    found = {}
    for source in (0, 1):
        lens = toy.model.add_clvq(source, 2, n_codes=16, decoder="table", name=f"from {source}")
        lens.fit(toy.texts[:60], n_tokens=1_000, n_evaluations=1, progress=False)
        found[lens.name] = lens
    yield found
    for lens in found.values():
        lens.remove()


def read(lenses, sentence: str) -> ProbedTexts:
    texts = TokenizedTexts(next(iter(lenses.values())).host, TEXTS, "truncate")
    with tqdm(disable=True) as bar:
        return read_probed(lenses, texts, sentence, bar)


def test_the_codes_of_a_text_are_the_shares_of_its_tokens(lenses):
    found = read(lenses, "mean")
    for name, lens in lenses.items():
        encoding = lens.encode(TEXTS, progress=False)
        for text, (codes, real) in enumerate(zip(encoding.codes, encoding.real, strict=True)):
            expected = np.bincount(codes[real].numpy(), minlength=16) / int(real.sum())
            assert found.codes[name][text] == pytest.approx(expected)


def test_the_code_of_a_text_read_at_its_end_is_that_of_its_last_token(lenses):
    found = read(lenses, "last")
    for name, lens in lenses.items():
        encoding = lens.encode(TEXTS, progress=False)
        for text, (codes, real) in enumerate(zip(encoding.codes, encoding.real, strict=True)):
            assert found.codes[name][text].argmax() == codes[real][-1]
        assert (found.codes[name].sum(1) == 1).all()


def test_activations_are_those_at_the_source_of_the_first_lens(lenses):
    first = lenses["from 0"]
    found = read(lenses, "mean")
    for text, words in enumerate(TEXTS):
        _, cache = first.model.run_with_cache(words)
        real = first.encode(words, progress=False).real[0]
        expected = cache[first.source][0][real].mean(0)
        assert found.activations[text] == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_model_reads_each_text_once_and_nothing_above_the_sources(lenses, toy):
    seen: list[str] = []
    handles = []
    for layer in range(4):
        block = toy.model.blocks[layer]
        handles.append(block.register_forward_hook(lambda *_, at=layer: seen.append(str(at))))
    read(lenses, "mean")
    for handle in handles:
        handle.remove()
    assert seen == ["0", "1"]
