"""Codes of a really trained model against parts of speech of real sentences."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import clvq_lens as cl

N_SENTENCES = 600


def sentences(path: Path) -> Iterator[tuple[str, list[tuple[int, int, str]]]]:
    """Text and labeled spans of each sentence of a CoNLL-U file."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = block.splitlines()
        text = next((line[9:] for line in lines if line.startswith("# text = ")), None)
        if text is None:
            continue
        spans, cursor = [], 0
        for line in lines:
            number, form, _, part_of_speech, *_ = (*line.split("\t"), "", "", "")
            if number.isdecimal() and text.find(form, cursor) >= 0:
                start = text.index(form, cursor)
                cursor = start + len(form)
                spans.append((start, cursor, part_of_speech))
        yield text, spans


@pytest.mark.slow
def test_codes_agree_with_parts_of_speech_far_more_than_shuffled_ones(
    stories_model, stories, shared, record_property
):
    found = list(sentences(shared / "data" / "ud_ewt" / "en_ewt-ud-dev.conllu"))[:N_SENTENCES]
    texts, spans = zip(*found, strict=True)
    labels = cl.token_labels(stories_model, texts, spans)
    lens = stories_model.add_clvq(1, 3, n_codes=200, decoder="table", name="parts-of-speech")
    try:
        lens.fit(stories[:300], n_tokens=150_000, long_texts="split", progress=False)
        table = lens.concepts(list(texts), token_labels=labels, progress=False)
    finally:
        lens.remove()
    agreement = table.agreement
    record_property("agreement", repr((agreement, table.token_identity)))
    assert agreement.n_labels >= 15
    assert agreement.nmi > 3 * agreement.nmi_shuffled
    assert agreement.purity > agreement.purity_shuffled + 0.1
