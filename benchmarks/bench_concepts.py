"""The concept table over a million tokens, beside the bare passes to the target layer."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.timing import Row, device, interleaved, rows
from clvq_lens.add import add_clvq
from clvq_lens.training.documents import open_documents
from clvq_lens.training.tokens import TokenBatch, token_batches

N_TOKENS, SOURCE, TARGET, N_CODES = 1_000_000, 1, 3, 400
SHARED = Path(os.environ.get("CLVQ_SHARED", Path(__file__).parents[2] / "shared"))


def stories_model() -> Any:
    """stories260K: LLaMA-like, 5 layers of width 64, really trained."""
    from safetensors.torch import load_file
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformers import AutoTokenizer

    folder = SHARED / "models" / "stories260K"
    options = json.loads((folder / "hooked" / "cfg.json").read_text())
    cfg = HookedTransformerConfig(**options, device=str(device()))
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    model = HookedTransformer(cfg, tokenizer=tokenizer, default_padding_side="right")
    model.load_state_dict(load_file(folder / "hooked" / "model.safetensors"), strict=False)
    return model.eval()


def run(repetitions: int = 1) -> list[Row]:
    model = stories_model()
    stories = SHARED / "data" / "tinystories" / "tinystories_917_ascii.json"
    texts = json.loads(stories.read_text())
    lens = add_clvq(model, SOURCE, TARGET, n_codes=N_CODES)
    lens.fit(texts, n_tokens=100_000, long_texts="split", progress=False)
    corpus, n_tokens = corpus_of(lens.host, texts)

    def passes(point: str) -> None:
        for batch in token_batches(lens.host, open_documents(corpus), long_texts="split"):
            tokens, attended = batch.tokens.to(device()), batch.attended.to(device())
            lens.host.activations(tokens, attended, [point])

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


def corpus_of(host: Any, texts: list[str]) -> tuple[list[str], int]:
    """The texts, again and again, until there are enough tokens."""
    batches: list[TokenBatch] = list(token_batches(host, texts, long_texts="split"))
    per_pass = sum(int(batch.mask.sum()) for batch in batches)
    whole, rest = divmod(N_TOKENS, per_pass)
    n_more = min(len(texts), round(1.3 * len(texts) * rest / per_pass))  # texts differ in length
    corpus = texts * whole + texts[:n_more]
    found = token_batches(host, corpus, long_texts="split")
    return corpus, sum(int(batch.mask.sum()) for batch in found)
