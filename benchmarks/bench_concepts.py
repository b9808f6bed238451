"""The concept table over a million tokens, beside the bare passes to the target layer."""

import json
from functools import partial

from benchmarks.stories import SHARED, stories_model
from benchmarks.timing import Row, device, interleaved, rows
from clvq_lens.add import add_clvq
from clvq_lens.data.documents import open_documents
from clvq_lens.data.tokens import token_batches
from clvq_lens.host.host import Host

N_TOKENS, SOURCE, TARGET, N_CODES = 1_000_000, 1, 3, 400


def run(repetitions: int = 1) -> list[Row]:
    """The table beside passes that read a layer and do nothing with it."""
    model = stories_model(device())
    stories = SHARED / "data" / "tinystories" / "tinystories_917_ascii.json"
    texts = json.loads(stories.read_text())
    lens = add_clvq(model, SOURCE, TARGET, n_codes=N_CODES)
    lens.fit(texts, n_tokens=100_000, long_texts="split", progress=False)
    corpus, n_tokens = corpus_of(lens.host, texts)

    def passes(point: str) -> None:
        for batch in token_batches(lens.host, open_documents(corpus), long_texts="split"):
            lens.host.activations(*batch.on(device()), [point])

    target = "bare passes to the target layer"
    medians = interleaved(
        {
            target: partial(passes, lens.target),
            "bare passes to the source layer": partial(passes, lens.source),
            "lens.concepts": partial(lens.concepts, corpus, long_texts="split", progress=False),
        },
        repetitions=repetitions,
    )
    return rows(f"stories260K, {n_tokens:,} tokens, {N_CODES} codes", medians, target)


def corpus_of(host: Host, texts: list[str]) -> tuple[list[str], int]:
    """The texts, again and again, until there are enough tokens."""
    per_pass = _n_tokens(host, texts)
    whole, rest = divmod(N_TOKENS, per_pass)
    # Texts differ in length, so a few more of them than their mean length asks for.
    n_more = min(len(texts), round(1.3 * len(texts) * rest / per_pass))
    corpus = texts * whole + texts[:n_more]
    return corpus, _n_tokens(host, corpus)


def _n_tokens(host: Host, texts: list[str]) -> int:
    """Real tokens of some texts."""
    batches = token_batches(host, texts, long_texts="split")
    return sum(int(batch.mask.sum()) for batch in batches)
